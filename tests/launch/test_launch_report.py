"""The sweep's table, from folders alone."""

import json

import pytest

from vmamba.config.errors import UserError
from vmamba.launch.report import report


def point(sweep, number: int, state: str, score: float | None, seed: int, error: str = "") -> dict:
    folder = sweep / str(number)
    folder.mkdir(parents=True)
    words = [f"model.d_state={1 + number // 2}", f"seed={seed}"]
    (folder / "config.yaml").write_text("task: {metric: val/acc1, higher_is_better: true}\n")
    (folder / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    (folder / "status.json").write_text(json.dumps({"state": state, "uid": "u"} | ({"error": error} if error else {})))
    if score is not None:
        result = {"metric": "val/acc1", "best": {"val/acc1": score}, "images_per_s": 100.0, "seconds": 5.0}
        (folder / "result.json").write_text(json.dumps(result))
    line = {"point": number, "attempt": 1, "launcher": "slurm", "job": f"7_{number}", "overrides": words}
    return line | {"folder": str(number), "log": f"slurm/7_{number}.out", "time": 1.0}


def test_points_seeds_and_what_went_wrong(tmp_path):
    rows = [(0, "finished", 90.0, 0), (1, "finished", 92.0, 1), (2, "finished", 80.0, 0)]
    lines = [point(tmp_path, *row) for row in rows]
    lines.append(point(tmp_path, 3, "failed", None, 1, "loss is not finite at step 12"))
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "sweep.json").write_text(json.dumps({"name": "demo", "command": ["sweep=seeds"]}))
    text = report(tmp_path).read_text()
    assert "4 points: 3 finished, 1 failed" in text
    assert "| 0 | 1 | 0 | finished | 90.00 | 100 | 5 |" in text
    assert "| 1 | 2 | 91.00 ± 1.41 |" in text
    (wrong,) = [line for line in text.splitlines() if line.startswith("- point")]
    assert "point 3 failed: loss is not finite at step 12" in wrong and "7_3.out" in wrong


def test_what_is_no_sweep_gets_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no jobs\.jsonl"):
        report(tmp_path)
