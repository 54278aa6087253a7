"""Composing, printing and completing import no torch; the console script does what ``python -m vmamba.run`` does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = [sys.executable, "-m", "vmamba.run"]
SCRIPT = [str(Path(sys.executable).parent / "vmamba")]
HEAVY = "{'torch', 'timm', 'mlflow', 'numba'}"


def python(code: str, **env) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env})


@pytest.mark.parametrize(
    "words", [["--cfg", "job"], ["--help"], ["--cfg", "job", "model=tiny", "experiment=imagenet_tiny"]]
)
def test_no_torch_before_the_job(words):
    done = python(
        f"import sys; sys.argv = ['vmamba', *{words}]\n"
        "import vmamba.run\n"
        "try: vmamba.run.main()\n"
        f"finally: assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    assert "forward_type" in done.stdout


def test_completion_offers_groups_and_choices():
    line = "vmamba model=tin"
    done = subprocess.run(
        [*SCRIPT, "-sc", "query=bash"],
        capture_output=True,
        text=True,
        env={**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))},
    )
    assert "model=tiny" in done.stdout.split(), done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "vmamba.run"], [str(Path(sys.executable).parent / "vmamba")]]
)
def test_a_mistake_leaves_with_2_and_one_line(command, tmp_path):
    done = subprocess.run([*command, "model=smal"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("vmamba: model=smal: there is no model 'smal'. Did you mean 'small'?")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
