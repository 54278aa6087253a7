"""When a sweep's report is written: by the job that ends last, never of a run alone, and without spoiling the sweep."""

import json
import logging

import pytest

from vmamba.launch import report
from vmamba.launch.folder import SweepFolder


def write_points(folder, *states: str) -> SweepFolder:
    """Points of a SLURM job array in these states."""
    lines = []
    for number, state in enumerate(states):
        run = folder / str(number)
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("task: {metric: val/acc1, higher_is_better: true}\n")
        (run / "overrides.yaml").write_text(f"- model.d_state={1 + number}\n- seed={number}\n")
        (run / "status.json").write_text(json.dumps({"state": state, "uid": "u", "error": "loss is not finite"}))
        if state == "finished":
            result = {"metric": "val/acc1", "best": {"val/acc1": 90.0}, "images_per_s": 100.0, "seconds": 5.0}
            (run / "result.json").write_text(json.dumps(result))
        line = {"point": number, "attempt": 1, "launcher": "slurm", "job": f"7_{number}", "overrides": []}
        lines.append(line | {"folder": str(number), "log": f"slurm/7_{number}.out", "time": 1.0})
    (folder / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return SweepFolder(folder)


def test_the_last_job_writes_it_also_when_points_failed(tmp_path):
    sweep = write_points(tmp_path / "sweep", "finished", "failed", "finished")
    report.write_if_last(sweep.path / "1")
    text = (sweep.path / "report" / "report.md").read_text()
    assert "3 runs: 2 finished, 1 failed" in text and "- 1: failed: loss is not finite" in text


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_job_that_is_not_the_last_does_not(state, tmp_path):
    sweep = write_points(tmp_path / "sweep", "finished", state)
    report.write_if_last(sweep.path / "0")
    assert not (sweep.path / "report").exists()


def test_a_run_alone_has_none(tmp_path, capsys):
    sweep = write_points(tmp_path, "finished")
    line = json.loads(sweep.jobs.read_text()) | {"folder": "."}
    sweep.jobs.write_text(json.dumps(line) + "\n")
    report.write(sweep)
    report.say(sweep)
    report.write_if_last(sweep.path)
    assert not (sweep.path / "report").exists() and capsys.readouterr().out == ""


def test_what_goes_wrong_is_in_the_log_and_nowhere_else(tmp_path, caplog):
    sweep = write_points(tmp_path / "sweep", "finished")
    (sweep.path / "report").write_text("a file is in the way")
    with caplog.at_level(logging.ERROR, logger="vmamba"):
        report.write(sweep)
    assert "the report was not written" in caplog.text
