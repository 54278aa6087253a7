"""Every way in which SLURM ends a job: the point goes on where it was, and ends with the weights of one left alone.

All of it happens at the same time on one cluster; the checkout that the jobs were submitted from is spoiled meanwhile.
"""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from vmamba.engine import checkpoint
from vmamba.launch.folder import SweepFolder
from vmamba.tracking.folder import RunFolder

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
WORDS = [
    "task.entry=slow_task:Slow", "model.depths=[1,1]", "model.dims=[8,16]", "data.img_size=16", "recipe.epochs=2",
    "scan=naive", "log_every=1", "checkpoint.every_steps=5", "tracking=none", "device=cpu", "launcher=slurm",
    "launcher.gpus=0", "launcher.cpus=1", "launcher.memory=1",
]  # fmt: skip
POINTS = ("whole", "requeued", "signalled", "killed", "cancelled", "broken")


@dataclass
class Story:
    """The three sweeps after everything that was done to them."""

    ends: SweepFolder
    nodes: SweepFolder
    limit: SweepFolder
    states: dict[str, str]  # SLURM's of the jobs
    report: str

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.ends.path / str(POINTS.index(name)))


@pytest.fixture(scope="module")
def story(project) -> Story:
    _write_points(project.folder)
    nap = "+model.kwargs.nap=0.15"
    here = "launcher.exclude='n[3-4]'"  # so that only the two-node job is in the way of the one that preempts
    ends = _submit(project, "ablation=ends", "name=ends", nap, here)
    two = ["recipe.batch_size=32", "launcher.nodes=2", "launcher.cpus=4", "launcher.partition=low"]
    nodes = _submit(project, "name=nodes", nap, *two)
    limit = _submit(project, "name=limit", "+model.kwargs.nap=2.0", "launcher.time=2", "launcher.warning=20", here)
    _spoil(project.checkout)
    jobs = {name: ends.latest()[number]["job"] for number, name in enumerate(POINTS)}
    say = project.cluster.say

    def run(name: str) -> Path:
        return ends.path / str(POINTS.index(name))

    _reaches(run("requeued"), 6)
    say("scontrol", "requeue", jobs["requeued"])
    _reaches(run("signalled"), 8)
    say("scancel", "--signal=USR2", jobs["signalled"])
    _reaches(run("killed"), 10)
    os.kill(RunFolder(run("killed")).read_status()["pid"], signal.SIGKILL)
    _reaches(run("cancelled"), 12)
    say("scancel", jobs["cancelled"])
    _reaches(nodes.path, 10)
    say("sbatch", "--partition=high", "--nodes=2", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", f"{project.cluster.environment['CLUSTER_DIR']}/slurm.conf")
        _until(lambda: [_states(ends)[name] for name in ("killed", "cancelled")] == ["killed", "killed"])
    resumed = project.sweep("resume", str(ends.path))
    assert resumed.returncode == 0, resumed.stderr
    for sweep in (ends, nodes, limit):
        project.sweep("wait", str(sweep.path))
    states = dict(line.split("|") for line in say("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T").splitlines())
    return Story(ends, nodes, limit, states, (ends.path / "report" / "report.md").read_text())


def _write_points(folder: Path) -> None:
    lines = [f"      - tracking.run_name={name}" for name in POINTS[:-1]]
    lines += ["      - tracking.run_name=broken +model.kwargs.boom=true"]
    path = folder / "sweeps" / "ablation" / "ends.yaml"
    path.parent.mkdir(parents=True)
    head = "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    points:\n"
    path.write_text(head + "\n".join(lines) + "\n")


def _submit(project, *words: str) -> SweepFolder:
    before = set(project.folder.glob("outputs/*"))
    done = project.vmamba(*WORDS, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = [path for path in set(project.folder.glob("outputs/*")) - before if path.is_dir()]
    assert "python -m vmamba.sweep status" in done.stdout
    return SweepFolder(path)


def _spoil(checkout: Path) -> None:
    for name in ("vmamba/job.py", "vmamba/engine/loop.py", "tasks/vmamba_tasks/classification/task.py"):
        (checkout / name).write_text("raise RuntimeError('edited after the submission')\n")
    (checkout / "conf/model/nano.yaml").write_text("depths: edited\n")


def _reaches(path: Path, step: int) -> None:
    _until(lambda: any(record["step"] >= step for record in RunFolder(path).records()))


def _until(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def _states(sweep: SweepFolder) -> dict[str, str]:
    from vmamba.launch.points import points

    return {POINTS[point.number]: point.state for point in points(sweep.path)}


def last(path: Path) -> dict:
    return checkpoint.load_newest(path / "checkpoints")[1]


def steps(path: Path) -> list[int]:
    """Of every record: one an update, one more an evaluation."""
    return [record["step"] for record in RunFolder(path).records()]


@pytest.mark.parametrize("name", ["requeued", "signalled", "killed", "cancelled", "limit"])
def test_ends_with_the_weights_of_the_run_left_alone(story, name):
    path = story.limit.path if name == "limit" else story.run(name).path
    ours, whole = last(path)["model"], last(story.run("whole").path)["model"]
    assert all(torch.equal(ours[key], whole[key]) for key in whole)
    assert steps(path) == steps(story.run("whole").path)
    assert RunFolder(path).read_status()["state"] == "finished"


def test_two_nodes_preempted_on_the_way_compute_what_one_process_does(story):
    status = RunFolder(story.nodes.path).read_status()
    assert status["state"] == "finished" and status["preempted"] >= 1
    ours, whole = last(story.nodes.path)["model"], last(story.run("whole").path)["model"]
    for key in whole:
        torch.testing.assert_close(ours[key], whole[key], atol=2e-4, rtol=2e-3)
    assert json.loads((story.nodes.path / "manifest.json").read_text())["world_size"] == 2
    assert steps(story.nodes.path) == steps(story.run("whole").path)


@pytest.mark.parametrize(("name", "times"), [("whole", 0), ("requeued", 1), ("signalled", 1)])
def test_interruptions_are_counted(story, name, times):
    assert story.run(name).read_status().get("preempted", 0) == times


def test_the_time_limit_is_an_interruption_like_another(story):
    status = RunFolder(story.limit.path).read_status()
    assert status["state"] == "finished" and status["preempted"] >= 1


def test_a_resume_takes_what_was_killed_and_nothing_else(story):
    attempts = {name: story.ends.latest()[number]["attempt"] for number, name in enumerate(POINTS)}
    assert attempts["killed"] == attempts["cancelled"] == 2
    assert attempts["whole"] == attempts["requeued"] == attempts["signalled"] == 1


def test_a_failed_point_stops_no_other_and_slurm_shows_it(story):
    assert story.run("broken").read_status()["state"] == "failed"
    assert story.states[story.ends.latest()[POINTS.index("broken")]["job"]] == "FAILED"
    assert story.states[story.ends.latest()[POINTS.index("whole")]["job"]] == "COMPLETED"


def test_the_report_names_the_failed_point_and_why(story):
    assert "6 runs: 5 finished, 1 failed" in story.report
    assert "a point of its own making" in story.report.split("## Not finished")[1]
