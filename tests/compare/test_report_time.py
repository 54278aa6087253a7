"""The report of a large sweep: made by the bench's own folders, within its time."""

import re

import pytest

from vmamba.bench import reports
from vmamba.compare import groups
from vmamba.compare.points import collect


def test_the_folders_are_those_of_a_sweep(tmp_path):
    sweep = reports.make(tmp_path, runs=60, steps=200, every=10)
    points, remarks = collect([sweep])
    assert remarks == [] and len(points) == 60
    assert groups.axes(points) == ["model.d_state", "recipe.lr", "seed"]
    for point in points:  # the configurations say what the overrides do
        for key in groups.axes(points):
            assert float(point.config[key]) == float(point.asked[key])
    rows = groups.group(points, groups.axes(points), "val/acc1")
    assert [len(row.scores) for row in rows] == [10] * 6
    assert len((sweep / "0" / "config.yaml").read_text()) > 4000
    assert (sweep / "0" / "metrics.jsonl").read_text().count("\n") == 40  # every 10th update, and 40 evaluations


@pytest.mark.slow
def test_a_thousand_runs_of_ten_thousand_steps_take_half_a_minute(capfd):
    assert reports.main([]) == 0
    said = capfd.readouterr().out
    assert float(re.search(r"report: ([\d.]+) s", said)[1]) <= 30, said
