"""Every way in which SLURM ends a job: the point goes on where it was, and ends with the weights of one left alone.

All of it happens at the same time on one cluster; the checkout that the jobs were submitted from is spoiled meanwhile.
"""

import json
import os
import signal
import sys
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
    """The sweeps after everything that was done to them."""

    ends: SweepFolder
    nodes: SweepFolder
    limit: SweepFolder
    tracked: SweepFolder
    runs: list[str]  # MLflow's ids of the tracked points before they were preempted
    states: dict[str, str]  # SLURM's of the jobs
    report: str

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.ends.path / str(POINTS.index(name)))


@pytest.fixture(scope="module")
def story(project) -> Story:
    _write_points(project.folder)
    nap = "+model.kwargs.nap=1.2"  # the points must not be through before the last of these sweeps is submitted
    # so that only the two-node job, and on n5 the tracked sweep, is in the way of a job that preempts
    here, there = "launcher.exclude='n[3-5]'", ["launcher.partition=low", "+launcher.sbatch={nodelist:n5}"]
    ends = _submit(project, "ablation=ends", "name=ends", nap, here)
    two = ["recipe.batch_size=16", "launcher.nodes=2", "launcher.tasks=2", "launcher.cpus=2", "launcher.partition=low"]
    two.append("launcher.exclude=n5")
    nodes = _submit(project, "name=nodes", nap, *two)
    limit = _submit(
        project,
        "name=limit",
        "+model.kwargs.nap=2.2",
        "launcher.time=2",
        "launcher.warning=20",
        here,
        *_container(project),
    )
    tracked = _submit(project, "-m", "seed=1,2", "name=tracked", "+model.kwargs.nap=1.5", "tracking=mlflow", *there)
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
    _reaches(nodes.path, 7)
    os.kill(_process(nodes.path, rank=3), signal.SIGKILL)
    urgent = ["sbatch", "--partition=high", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 1"]
    points = [tracked.run(line) for line in tracked.latest().values()]
    _until(lambda: all(list(point.records()) and "run_id" in point.mlflow.read_text() for point in points))
    runs = [_run_id(point) for point in points]
    say(*urgent, "--nodelist=n5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", f"{project.cluster.environment['CLUSTER_DIR']}/slurm.conf")
        _until(lambda: _states(ends)["cancelled"] == "killed")
    resumed = project.sweep("resume", str(ends.path))
    assert resumed.returncode == 0, resumed.stderr
    _reaches(nodes.path, 20)
    say(*urgent, "--nodes=2", "--exclude=n[1-2],n5")
    for sweep in (ends, nodes, limit, tracked):
        project.sweep("wait", str(sweep.path))
    states = dict(line.split("|") for line in say("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T").splitlines())
    return Story(ends, nodes, limit, tracked, runs, states, (ends.path / "report" / "report.md").read_text())


def _container(project) -> list[str]:
    """Words for a job with set-up lines, variables and an interpreter of its own, which notes what it was given."""
    python = project.folder / "container.sh"
    python.write_text(f'#!/bin/sh\necho "$FROM_SETUP $FROM_ENV" >>{project.folder}/given\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    setup = "launcher.setup=['export FROM_SETUP=\"two words\"']"
    return [setup, "+launcher.env={FROM_ENV: three}", f"launcher.python={python}"]


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


def _until(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def _process(path: Path, rank: int) -> int:
    """The Python of a rank of the job that runs in a folder: the one that listens to no other and says so itself."""
    wanted = {f"SLURM_PROCID={rank}", f"SLURM_JOB_NAME={path.name}"}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, env = (process / "cmdline").read_bytes().decode(), (process / "environ").read_bytes().decode()
        except OSError:
            continue
        if words.split("\0")[1:4] == ["-u", "-m", "submitit.core._submit"] and wanted <= set(env.split("\0")):
            return int(process.name)
    raise AssertionError(f"rank {rank} of {path.name} does not run")


def _run_id(point: RunFolder) -> str:
    (state,) = json.loads(point.mlflow.read_text())["stores"].values()
    return state["run_id"]


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


def test_two_nodes_of_two_processes_killed_and_preempted_compute_what_one_process_does(story):
    status = RunFolder(story.nodes.path).read_status()
    assert status["state"] == "finished" and status["preempted"] >= 2  # a rank was killed before
    ours, whole = last(story.nodes.path)["model"], last(story.run("whole").path)["model"]
    for key in whole:
        torch.testing.assert_close(ours[key], whole[key], atol=2e-4, rtol=2e-3)
    assert json.loads((story.nodes.path / "manifest.json").read_text())["world_size"] == 4
    assert steps(story.nodes.path) == steps(story.run("whole").path)


@pytest.mark.parametrize(("name", "times"), [("whole", 0), ("requeued", 1), ("signalled", 1), ("killed", 1)])
def test_interruptions_are_counted(story, name, times):
    assert story.run(name).read_status().get("preempted", 0) == times


def test_the_time_limit_is_an_interruption_like_another(story):
    status = RunFolder(story.limit.path).read_status()
    assert status["state"] == "finished" and status["preempted"] >= 1


def test_a_job_has_its_set_up_its_variables_and_its_interpreter(project, story):
    given = set((project.folder / "given").read_text().splitlines())
    assert given == {"two words three"}


def test_an_array_is_split_above_slurms_limit(story):
    jobs = [line["job"] for line in story.ends.submissions() if line["attempt"] == 1]
    assert [job.partition("_")[2] for job in jobs] == ["0", "1", "2", "3", "4", ""]


def test_a_resume_takes_what_was_cancelled_and_nothing_that_came_back_by_itself(story):
    attempts = {name: story.ends.latest()[number]["attempt"] for number, name in enumerate(POINTS)}
    assert attempts["cancelled"] == 2
    assert all(attempts[name] == 1 for name in ("whole", "requeued", "signalled", "killed"))


def test_preempted_points_keep_their_runs_in_mlflow_and_tell_no_step_twice(story):
    from mlflow import MlflowClient

    ((uri, parent),) = story.tracked.read_info()["stores"].items()
    client = MlflowClient(uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "vmamba"]
    everything = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_id: run for run in everything if run.info.run_id != parent}
    assert sorted(runs) == sorted(story.runs) and len(everything) == 3
    assert {run.info.status for run in everything} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent}
    folders = [story.tracked.run(line) for line in story.tracked.latest().values()]
    assert all(folder.read_status()["preempted"] >= 1 for folder in folders)
    for folder, run in zip(folders, story.runs, strict=True):
        told = [(metric.step, metric.value) for metric in client.get_metric_history(run, "train/loss")]
        kept = [(r["step"], r["metrics"]["train/loss"]) for r in folder.records() if "train/loss" in r["metrics"]]
        assert sorted(told) == kept and [step for step, _ in kept] == list(range(1, len(kept) + 1))


def test_a_failed_point_stops_no_other_and_slurm_shows_it(story):
    assert story.run("broken").read_status()["state"] == "failed"
    assert story.states[story.ends.latest()[POINTS.index("broken")]["job"]] == "FAILED"
    assert story.states[story.ends.latest()[POINTS.index("whole")]["job"]] == "COMPLETED"


def test_the_report_names_the_failed_point_and_why(story):
    assert "6 runs: 5 finished, 1 failed" in story.report
    assert "a point of its own making" in story.report.split("## Not finished")[1]
