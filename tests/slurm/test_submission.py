"""What a submission that SLURM does not take costs: a line, and nothing left behind. And the script's own sake."""

import shutil
import subprocess
from pathlib import Path

import pytest
from test_interruptions import WORDS

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_a_dead_controller_is_one_line_and_leaves_nothing(cluster, project):
    before = set(project.folder.rglob("*"))
    cluster.script("stop", "slurmctld")
    try:
        done = project.vmamba(*WORDS, "model.d_state=1,2", "-m")
    finally:
        cluster.script("up")
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "nothing was submitted" in line
    assert {path for path in set(project.folder.rglob("*")) - before if "__pycache__" not in path.parts} <= {
        project.folder / "outputs"
    }


def test_a_partition_that_is_not_there_is_slurms_own_word(project):
    done = project.vmamba(*WORDS, "launcher.partition=nowhere")
    assert done.returncode == 2
    assert "invalid partition" in done.stderr and "nothing was submitted" in done.stderr


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_the_script_passes_shellcheck():
    done = subprocess.run(["shellcheck", Path(__file__).with_name("cluster.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
