"""Sweeps as a user types them, without SLURM: what they leave, how they fail, and how they go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmamba.config.compose import compose
from vmamba.launch import submit
from vmamba.launch.folder import SweepFolder
from vmamba.launch.points import points
from vmamba.launch.settings import plain
from vmamba.sweep import main, resume
from vmamba.tracking.folder import RunFolder

MODEL = ["model.depths=[1,1]", "model.dims=[8,16]", "data.img_size=16", "data.workers=0", "device=cpu", "scan=naive"]
TINY = [*MODEL, "tracking=none", "limit.train_steps=3", "limit.eval_batches=1", "log_every=1"]
LONG = [*MODEL, "tracking=none", "recipe.epochs=3", "recipe.warmup=1", "log_every=1", "checkpoint.every_steps=2"]


def python(cwd: Path, *words: str) -> subprocess.CompletedProcess:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", *words], cwd=cwd, capture_output=True, text=True, env=env, timeout=120)


def only(cwd: Path) -> SweepFolder:
    (folder,) = (cwd / "outputs").iterdir()
    return SweepFolder(folder)


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


@pytest.mark.parametrize("kind", ["local", "subprocess"])
def test_one_bad_point_stops_no_other(kind, tmp_path, capsys):
    lr = "recipe.lr=1e30,1e-3"  # the first one's loss is not finite
    done = python(tmp_path, "vmamba.run", "-m", *TINY, lr, "precision=fp32", f"launcher={kind}", "launcher.parallel=2")
    assert done.returncode == 1, done.stdout + done.stderr
    sweep = only(tmp_path)
    first, second = points(sweep.path)
    assert (first.state, second.state) == ("failed", "finished") and second.value is not None
    assert first.overrides == ["recipe.lr=1e+30"] and first.last
    assert "2 points: 1 finished, 1 failed" in done.stdout and "Traceback" not in done.stderr
    report = (sweep.path / "report" / "report.md").read_text()
    assert "2 runs: 1 finished, 1 failed" in report and first.last[:40] in report
    assert f"report: {(sweep.path / 'report' / 'report.html').relative_to(tmp_path)}" in done.stdout
    assert main(["status", str(sweep.path)]) == 1 and first.last[:40] in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["local", "subprocess"])
def test_a_bad_point_refuses_the_whole_sweep(kind, tmp_path):
    done = python(tmp_path, "vmamba.run", *TINY, "-m", "model.d_state=1,0", f"launcher={kind}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "point 1 (model.d_state=0)" in done.stderr
    assert not list((tmp_path / "outputs").glob("*"))


def test_cancelled_killed_and_resumed(tmp_path, capsys):
    done = python(
        tmp_path, "vmamba.run", "-m", *LONG, "seed=1,2,3", "launcher=subprocess", "launcher.parallel=2",
        "launcher.wait=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = only(tmp_path)
    runs = [sweep.run(line) for line in sweep.latest().values()]
    until(lambda: all(run.metrics.is_file() and run.metrics.read_text().count("\n") > 4 for run in runs[:2]))
    os.kill(runs[0].read_status()["pid"], signal.SIGKILL)
    until(lambda: runs[0].read_status().get("preempted") == 1 or runs[0].read_status()["state"] == "finished")
    assert main(["cancel", str(sweep.path)]) == 0, capsys.readouterr()
    until(lambda: not any(row.state in ("running", "queued") for row in points(sweep.path)))
    assert any(row.state == "killed" for row in points(sweep.path))
    both = [
        subprocess.Popen([sys.executable, "-m", "vmamba.sweep", "resume", str(sweep.path), "launcher.parallel=2"])
        for _ in range(2)
    ]
    assert {process.wait(100) for process in both} == {0}
    assert main(["wait", str(sweep.path), "--seconds", "0.5"]) == 0, capsys.readouterr()
    rows = points(sweep.path)
    assert [row.state for row in rows] == ["finished"] * 3 and max(row.attempt for row in rows) == 2
    for run in runs:
        steps = [record["step"] for record in run.records() if "train/loss" in record["metrics"]]
        assert steps == list(range(1, len(steps) + 1))


def test_a_resume_that_waits_leaves_the_sweep_to_others(tmp_path, monkeypatch):
    def followed(sweep, process, tables):
        seen.append(sweep.busy())
        return {}

    sweep, seen = SweepFolder(tmp_path), []
    sweep.write_info({"launcher": plain(compose(["launcher=subprocess"])[0].launcher)})
    RunFolder(tmp_path / "0").create().write_status("failed")
    line = {"point": 0, "attempt": 1, "launcher": "subprocess", "job": "1.0", "overrides": [], "folder": "0"}
    sweep.submitted([line | {"log": "logs/0.log"}])
    monkeypatch.setattr(submit.pool, "submit", lambda sweep, lines, launcher: (None, [line | {"log": "logs/0.log"}]))
    monkeypatch.setattr(submit.pool, "begin", lambda *_: None)
    monkeypatch.setattr(submit, "_followed", followed)
    resume(tmp_path, [])
    assert seen == [False]


def test_ctrl_c_before_anything_is_submitted_leaves_nothing(tmp_path, monkeypatch, capsys):
    def pressed(self, first):
        assert sweep.run({"folder": first}).config.is_file()
        raise KeyboardInterrupt

    run, cfg = compose([*TINY, "launcher=subprocess", "launcher.snapshot=false"])
    sweep = SweepFolder(tmp_path / "run")
    monkeypatch.setattr(submit.Store, "make", pressed)
    with pytest.raises(SystemExit) as left:
        submit.single(cfg, run, sweep.path, [])
    assert left.value.code == 130 and "nothing was started" in capsys.readouterr().err
    assert not sweep.path.exists()


def test_a_single_run_goes_elsewhere_too(tmp_path):
    done = python(tmp_path, "vmamba.run", *TINY, "launcher=subprocess")
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = only(tmp_path)
    assert (sweep.path / "result.json").is_file() and (sweep.path / "jobs.jsonl").is_file()
    (row,) = points(sweep.path)
    assert row.state == "finished" and row.folder == sweep.path
    assert json.loads((sweep.path / "manifest.json").read_text())["command"][0]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["status", "{tmp}/none"], "no such folder"),
        (["resume", "{tmp}"], "not a sweep folder"),
        (["stop"], "--help"),
        (["wait", "{tmp}", "--seconds=-1"], "-1: it must be a number of seconds above 0"),
        (["wait", "{tmp}", "--seconds=nan"], "nan: it must be a number of seconds above 0"),
    ],
)
def test_a_mistake_is_one_line(words, part, tmp_path, capsys):
    try:
        code = main([word.format(tmp=tmp_path) for word in words])
    except SystemExit as left:  # argparse's
        code = left.code
    said = capsys.readouterr().err
    assert code == 2 and part in said and said.count("\n") == 1
