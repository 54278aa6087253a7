"""What status and wait print: how a point stands, why some did not finish, and how they go on."""

from dataclasses import replace
from pathlib import Path

import pytest

from vmamba.launch import table
from vmamba.launch.points import Point, points

POINT = Point(
    0, "finished", 1, 0, "77.0", ["norm=ln"], Path("/s/0"), Path("/s/logs/0.log"), "", "val/acc1", 90.5, None, 1.0, 61.0
)


def failed(number: int) -> Point:
    folder = Path(f"/s/{number}")
    why = f"not finite: the batch is in /where/it/was{folder}/nan"
    return replace(POINT, number=number, state="failed", folder=folder, last=why, value=None, so_far=41.0)


def test_points_that_ended_alike_are_told_of_once(capsys):
    table.show([POINT, failed(1), failed(2)], Path("/s"))
    said = capsys.readouterr().out
    assert "points 1, 2 failed: not finite: the batch is in RUN_FOLDER/nan" in said
    assert "log:" not in said, "a log that is not there"
    assert "3 points: 1 finished, 2 failed" in said and "vmamba.sweep resume /s" in said
    assert "41 so far" in said and "90.5" in said and "0:01:00" in said
    table.show([POINT, failed(1)], Path("/s"))
    assert "point 1 failed: not finite: the batch is in /where/it/was/s/1/nan" in capsys.readouterr().out


def test_resume_is_offered_when_nothing_runs_any_more(capsys):
    table.show([replace(POINT, state="running", value=None), failed(1)], Path("/s"))
    assert "vmamba.sweep resume" not in capsys.readouterr().out


@pytest.mark.parametrize(("job", "shown"), [("17_0", True), ("17", True), ("77.0", False)])
def test_job_ids_are_shown_where_slurm_has_them(job, shown, capsys):
    table.show([replace(POINT, job=job)], Path("/s"))
    assert ("job" in capsys.readouterr().out) == shown


def test_a_pipe_is_told_what_changes(monkeypatch, capsys):
    queued = replace(POINT, state="queued", preempted=1, value=None)
    running = replace(queued, number=1, state="running", preempted=1)
    looks = iter([[queued, running], [replace(POINT), failed(1)]])
    monkeypatch.setattr(table, "points", lambda folder: next(looks))
    table.follow(Path("/s"), seconds=0.0)
    assert capsys.readouterr().out.splitlines() == [
        "point 1 running, preempted 1x  norm=ln",
        "point 0 finished  norm=ln  val/acc1 90.5",
        "point 1 failed: not finite: the batch is in /where/it/was/s/1/nan  (norm=ln)",
    ]


def test_a_run_that_goes_on_has_its_best_so_far(tmp_path):
    run = tmp_path / "0"
    run.mkdir()
    (run / "status.json").write_text('{"state": "failed", "error": "no"}')
    lines = [
        f'{{"step": {step}, "epoch": 1, "time": 1, "metrics": {{"val/loss": {value}}}}}\n'
        for step, value in ((1, 3), (2, 2), (3, 4))
    ]
    (run / "metrics.jsonl").write_text("".join(lines))
    (tmp_path / "sweep.json").write_text('{"metric": "val/loss", "higher_is_better": false}')
    line = '{"point": 0, "attempt": 1, "launcher": "local", "job": "1.0", "overrides": [], "folder": "0", "log": "x"}\n'
    (tmp_path / "jobs.jsonl").write_text(line)
    (row,) = points(tmp_path)
    assert row.value is None and row.so_far == 2.0 and table.score(row) == "2 so far"
