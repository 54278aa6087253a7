"""The plots: which are drawn, in what order their axes are, and how much of a large comparison they show."""

import pytest
from folders import write_run, write_sweep

from vmamba.compare import groups, tables
from vmamba.compare.figures import CURVES, NAME, NAMED, figures, front, ordered
from vmamba.compare.points import collect


def drawn(path, metric="val/acc1"):
    points, _ = collect([path])
    keys = groups.axes(points)
    rows = tables.ranked(groups.group(points, keys, metric), higher=True)
    return {figure.layout.title.text: figure for figure in figures(points, rows, keys, metric, True)}


def test_the_pareto_front_keeps_what_nothing_beats_in_both():
    spots = [(100.0, 80.0), (200.0, 79.0), (150.0, 78.0), (200.0, 79.5), (50.0, 80.0)]
    assert front(spots, higher=True) == [3, 0]
    assert front([(100.0, 1.0), (200.0, 2.0), (150.0, 3.0)], higher=False) == [1, 0]


def test_values_of_an_axis_are_in_the_order_a_reader_expects():
    assert ordered(["16", "1", "4"]) == ["1", "4", "16"] and ordered(["1e-3", "0.0005"]) == ["0.0005", "1e-3"]
    assert ordered(["ln", "bn"]) == ["ln", "bn"]


def test_a_sweep_has_its_effects_its_front_and_its_curves(tmp_path):
    effects, pareto, curves = drawn(write_sweep(tmp_path / "s")).values()
    dots, means = effects.data  # one panel: the seed is no axis
    assert list(dots.y) == [80.0, 80.4, 80.2, 82.0, 82.3, 82.1] and means.mode == "lines+markers"
    assert list(means.x) == ["1", "4"] and means.y == pytest.approx([80.2, 82.1333], abs=1e-3)
    line, spots = pareto.data
    assert list(spots.text) == ["d_state=4", "d_state=1"] and list(line.y) == pytest.approx([80.2, 82.1333], abs=1e-3)
    assert [trace.name for trace in curves.data if trace.showlegend] == ["d_state=4", "d_state=1", "d_state=16"]
    assert len(curves.data) == 7


def test_kinds_are_not_joined_by_a_line_and_two_axes_are_shown_at_once(tmp_path):
    for number, (norm, lr) in enumerate([("ln", 1e-3), ("bn", 1e-3), ("ln", 2e-3), ("bn", 2e-3)]):
        write_run(tmp_path / "s" / str(number), {"norm.name": norm, "recipe.lr": lr}, 80.0 + number)
    found = drawn(tmp_path / "s")
    effects = found["val/acc1 by what was varied (dots: runs; black: their mean)"]
    assert [trace.mode for trace in effects.data] == ["markers", "markers", "markers", "lines+markers"]
    (parallel,) = found["All axes at once"].data
    assert [axis.label for axis in parallel.dimensions] == ["norm", "lr", "val/acc1"]
    assert list(parallel.dimensions[2]["values"]) == [80.0, 81.0, 82.0, 83.0]


def test_of_many_rows_the_best_are_drawn_and_none_is_named(tmp_path):
    for number in range(CURVES + 5):
        write_run(tmp_path / "s" / str(number), {"model.d_state": number}, 50.0 + number, images_per_s=100.0 + number)
    found = drawn(tmp_path / "s")
    curves = next(figure for title, figure in found.items() if title.startswith("val/acc1 in training (the best 40"))
    assert len(curves.data) == CURVES and curves.data[0].name == f"d_state={CURVES + 4}"
    pareto = next(figure for title, figure in found.items() if "throughput" in title)
    assert CURVES > NAMED and pareto.data[1].mode == "markers" and len(pareto.data[1].x) == CURVES + 5


def test_runs_with_one_evaluation_have_no_curves_and_long_names_leave_room(tmp_path):
    for number in range(2):
        asked = {f"model.a_long_setting_{key}": number for key in range(4)}
        write_run(tmp_path / "s" / str(number), asked, 1.0 + number, steps=5, images_per_s=100.0 + number)
    found = drawn(tmp_path / "s")
    assert not any("in training" in title for title in found)
    (pareto,) = (figure for title, figure in found.items() if "throughput" in title)
    assert all(len(name) == NAME and "…" in name for name in pareto.data[1].text)


def test_the_values_of_a_search_lie_where_they_are(tmp_path):
    for number in range(12):
        asked = {"recipe.lr": 1e-4 * 2**number, "model.drop_path": 0.1 + 0.01 * number}
        write_run(tmp_path / "s" / str(number), asked, 50.0 + number)
    found = drawn(tmp_path / "s")
    effects = next(figure for title, figure in found.items() if "by what was varied" in title)
    assert [trace.mode for trace in effects.data] == ["markers", "markers"] and effects.data[0].x[0] == 1e-4
    assert (effects.layout.xaxis.type, effects.layout.xaxis2.type) == ("log", "linear")
    assert found["All axes at once"].data[0].dimensions[1]["values"][-1] == pytest.approx(0.21)
