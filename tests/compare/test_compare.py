"""The comparison of runs: which axes, which rows, what the report says, and what a mistake is told."""

import csv
import json
from pathlib import Path

import pytest
from folders import submit, write_run, write_sweep

from vmamba.compare import groups, tables
from vmamba.compare.__main__ import main
from vmamba.compare.points import collect
from vmamba.compare.store_runs import compare_link
from vmamba.tracking.folder import MetricsWriter
from vmamba.tracking.series import POINTS, evaluations


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep-demo")


def test_the_rows_are_the_values_of_the_axes_and_seeds_are_averaged(sweep):
    points, _ = collect([sweep])
    keys = groups.axes(points)
    assert keys == ["model.d_state", "seed"]  # log_every differs too, and says nothing
    rows = groups.group(points, keys, "val/acc1")
    assert [(row.values["model.d_state"], len(row.scores), len(row.points)) for row in rows] == [
        ("1", 3, 3),
        ("4", 3, 3),
        ("16", 0, 1),
    ]
    assert rows[0].baseline and rows[0].mean == pytest.approx(80.2) and rows[0].std == pytest.approx(0.2)
    assert rows[1].difference == pytest.approx(1.9333, abs=1e-3)
    assert rows[1].p == pytest.approx(0.0002, abs=2e-4) and "significant" in rows[1].hint
    assert rows[2].mean is None and rows[2].hint == ""


def test_sweep_points_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 0):
        write_run(tmp_path / "s" / str(number), {"seed": number}, 1.0)
    assert [point.name for point in collect([tmp_path / "s"])[0]] == ["s/0", "s/2", "s/10"]


def test_runs_of_different_commands_differ_by_their_configuration(tmp_path):
    write_run(tmp_path / "a", {"model.name": "nano", "model.d_state": 1}, 1.0)
    write_run(tmp_path / "b", {"model.name": "tiny", "model.d_state": 16}, 2.0)
    for name in "ab":
        (tmp_path / name / "overrides.yaml").unlink()
    assert groups.axes(collect([tmp_path / "a", tmp_path / "b"])[0]) == ["model.name"]


def test_what_only_some_were_asked_for_is_compared_by_the_configurations(tmp_path):
    write_run(tmp_path / "a", {"model": "nano", "seed": 0}, 1.0)
    write_run(tmp_path / "b", {"model.name": "vmamba_nano", "seed": 0}, 2.0)
    config = (tmp_path / "b" / "config.yaml").read_text()
    (tmp_path / "a" / "config.yaml").write_text(config)
    (tmp_path / "b" / "overrides.yaml").write_text("[seed=0, launcher=subprocess, ablation=norm]")
    assert groups.axes(collect([tmp_path / "a", tmp_path / "b"])[0]) == []


def evaluate(folder: Path, score: float, ckpt: str, found: str | None = None, **settings) -> None:
    """An evaluation. ``found``: the file in the run folder ``ckpt``, whose settings it was not asked for."""
    write_run(folder, {"mode": "eval", "ckpt": ckpt} | settings, score, ckpt=found or ckpt)
    asked = {"mode": "eval", "ckpt": ckpt} | ({} if found else settings)
    (folder / "overrides.yaml").write_text(json.dumps([f"{key}={value}" for key, value in asked.items()]))


def table(*folders: Path) -> dict[str, int]:
    """The labels of the rows and how many runs each has."""
    points, _ = collect(folders)
    return {row.label: len(row.points) for row in groups.group(points, groups.axes(points), "val/acc1")}


def test_evaluations_of_different_checkpoints_or_data_are_different_rows(tmp_path):
    for number, name in enumerate("abc"):
        evaluate(tmp_path / "ckpts" / str(number), 80.0 + number, f"{name}.pth")
        evaluate(tmp_path / "roots" / str(number), 80.0 + number, "a.pth", **{"data.root": f"/{name}"})
        write_run(tmp_path / "train" / str(number), {"data.root": f"/{name}", "seed": number}, 70.0)
    assert table(tmp_path / "ckpts") == {"ckpt=a.pth": 1, "ckpt=b.pth": 1, "ckpt=c.pth": 1}
    assert table(tmp_path / "roots") == {"root=/a": 1, "root=/b": 1, "root=/c": 1}
    for name in "01":
        (tmp_path / "roots" / name / "overrides.yaml").write_text(f"[mode=eval, ckpt=a.pth, seed={name}]")
    assert len(table(tmp_path / "roots")) == 3  # data.root from another run's configuration
    assert list(table(tmp_path / "train").values()) == [3]  # the same data, wherever each lay
    both = table(tmp_path / "train", tmp_path / "roots")
    assert sorted(both.values()) == [1, 1, 1, 3] and all("root=/" in label for label in list(both)[1:])


def test_evaluated_run_folders_are_averaged_over_their_seeds(tmp_path):
    for number in range(4):
        settings = {"norm.name": ["ln", "bn"][number // 2], "seed": number % 2}
        ckpt = f"outputs/run-{number}"
        evaluate(tmp_path / "s" / str(number), 80.0, ckpt, f"{ckpt}/checkpoints/best.pt", **settings)
    assert table(tmp_path / "s") == {"norm=ln": 2, "norm=bn": 2}
    evaluate(tmp_path / "s" / "4", 80.0, "published.pth")
    assert set(table(tmp_path / "s").values()) == {1}  # nothing says what that one is
    evaluate(tmp_path / "t" / "0", 80.0, "outputs/run-0", "outputs/run-0/checkpoints/best.pt", seed=0)
    evaluate(tmp_path / "t" / "1", 81.0, "outputs/run-1", "outputs/run-1/checkpoints/best.pt", seed=0)
    assert table(tmp_path / "t") == {"ckpt=outputs/run-0": 1, "ckpt=outputs/run-1": 1}


def test_a_baseline_without_a_score_leaves_a_report_without_differences(sweep, capsys):
    assert main([str(sweep), "--baseline", "d_state=16"]) == 0
    out = capsys.readouterr().out
    assert "Best: d_state=4, val/acc1 82.13 ± 0.15.\n" in out and "| 4 | 3 | 82.13 ± 0.15 |  |  |" in out
    assert "The baseline is d_state=16, which has no score." in out


def test_a_row_of_lists_can_be_the_baseline(tmp_path, capsys):
    for number, depths in enumerate(([2, 2, 8, 2], [2, 2, 5, 2])):
        write_run(tmp_path / str(number), {"model.depths": depths, "norm": "ln" if number else "bn"}, 80.0 + number)
    for wanted in ("depths=[2,2,5,2]", "norm=ln, model.depths=[2, 2, 5, 2]"):
        assert main([str(tmp_path), "--baseline", wanted, "--out", str(tmp_path / "out")]) == 0
        assert "Best is the baseline, depths=[2, 2, 5, 2], norm=ln" in capsys.readouterr().out


def test_seeds_of_one_score_are_not_called_one_seed(tmp_path):
    for number, score in enumerate((90.0, 90.0, 95.0, 95.0, 80.0)):
        write_run(tmp_path / str(number), {"norm": ["ln", "bn", "ln2d"][number // 2], "seed": number % 2}, score)
    points, _ = collect([tmp_path])
    rows = groups.group(points, groups.axes(points), "val/acc1")
    assert [row.hint for row in rows] == ["baseline", "no spread: no test", "one seed: no test"]


def test_one_value_in_two_spellings_is_one_row(tmp_path):
    for number, (key, word) in enumerate((("lr", "1e-3"), ("lr", "0.001"), ("lr", "1e-2"))):
        write_run(tmp_path / str(number), {f"recipe.{key}": float(word), "seed": number}, 80.0)
        (tmp_path / str(number) / "overrides.yaml").write_text(f"[recipe.{key}={word}, seed={number}]")
    assert table(tmp_path) == {"lr=0.001": 2, "lr=0.01": 1}


def test_columns_of_the_same_last_word_keep_the_first():
    assert groups.heads(["recipe.ema.enabled", "data.enabled", "model.name"]) == [
        "recipe.ema.enabled",
        "data.enabled",
        "model",
    ]


def test_a_row_of_many_values_is_called_by_its_run(tmp_path):
    for number in range(2):
        write_run(tmp_path / f"run-{number}", {f"model.k{key}": number for key in range(6)}, 1.0 + number)
    points, _ = collect([tmp_path / "run-0", tmp_path / "run-1"])
    rows = groups.group(points, groups.axes(points), "val/acc1")
    assert [row.label for row in rows] == ["run-0", "run-1"]


def test_a_row_of_a_sweep_of_many_axes_is_called_by_what_it_was_asked_for(tmp_path):
    for number in range(6):
        write_run(tmp_path / "s" / str(number), {f"model.k{number}": number + 1}, 1.0 + number)
    points, _ = collect([tmp_path / "s"])
    for point in points:
        point.name = point.folder.path.name  # as in a sweep's report
    rows = groups.group(points, groups.axes(points), "val/acc1")
    assert [row.label for row in rows[:2]] == ["k0=1", "k1=2"]
    assert {cell for cell in tables.changed(rows) if cell[0] == 1} == {
        (1, 0),
        (1, 1),
    }  # not the baseline's k0, nor its k1


def test_runs_of_other_tasks_keep_their_own_metric(tmp_path, capsys):
    for number, task in enumerate(["seg", "cls", "cls"]):
        write_run(tmp_path / "s" / str(number), {"task.name": task, "seed": number}, 80.0 + number)
    own = {"metric": "val/mIoU", "best": {"val/mIoU": 0.5}}
    (tmp_path / "s" / "0" / "result.json").write_text(json.dumps(own))
    assert main([str(tmp_path / "s")]) == 0
    out = capsys.readouterr().out
    assert "| cls | 2 | 81.50 ± 0.71 |" in out and "| seg | 1 | 0.5000 val/mIoU |  |  |" in out
    assert "of runs without it their own, val/mIoU" in out and "task=cls: val/acc1 81.50" in out


def test_a_run_that_goes_on_shows_its_best_so_far_and_how_to_go_on(sweep, capsys, monkeypatch):
    submit(sweep)
    monkeypatch.chdir(sweep.parent)  # a path is told as it is typed from here
    assert main([str(sweep)]) == 0
    text = (sweep / "report" / "report.md").read_text()
    assert "| 6 | 16 | 0 | failed | 1.00 so far |" in text and "Best: d_state=4" in text
    assert f"resume {sweep.name}`" in text
    assert f"resume {sweep.name}</code>" in (sweep / "report" / "report.html").read_text()


def test_before_any_run_has_finished_the_best_so_far_is_told(tmp_path, capsys):
    for number in range(2):
        write_run(tmp_path / str(number), {"model.d_state": number}, 70.0 + number, state="running")
        (tmp_path / str(number) / "result.json").unlink()
    assert main([str(tmp_path)]) == 0
    assert "No run has finished. Best so far: d_state=1, val/acc1 71.00." in capsys.readouterr().out


def test_one_seed_gives_a_difference_without_a_test(tmp_path):
    for number, score in enumerate((70.0, 71.5)):
        write_run(tmp_path / "s" / str(number), {"norm.name": ["ln", "ln2d"][number]}, score)
    points, _ = collect([tmp_path / "s"])
    row = groups.group(points, groups.axes(points), "val/acc1")[1]
    assert (row.difference, row.p, row.hint) == (1.5, None, "one seed: no test")


def test_the_report_is_three_files_that_need_no_network(sweep, capsys):
    assert main([str(sweep), "--baseline", "d_state=4"]) == 0
    out = capsys.readouterr().out
    assert "7 runs: 6 finished, 1 failed" in out and "| 4 | 3 | 82.13 ± 0.15 |  | baseline |" in out
    assert "Best is the baseline, d_state=4: val/acc1 82.13 ± 0.15. Next, d_state=1: -1.93 against the baseline" in out
    assert "- 6: failed: loss is nan" in out
    rows = list(csv.DictReader((sweep / "report" / "report.csv").open()))
    assert [row["val/acc1"] for row in rows] == ["80.0", "80.4", "80.2", "82.0", "82.3", "82.1", ""]
    assert {row["params_M"] for row in rows} == {"2.0", ""}
    html = (sweep / "report" / "report.html").read_text()
    assert html.count('class="plotly-graph-div"') == 3  # axes, Pareto, curves
    assert "<script src=" not in html and "<link" not in html
    assert collect([sweep])[0][-1].name == "sweep-demo/6"  # the report's own folder is no run


def test_another_metric_and_the_ones_there_are(sweep, capsys):
    assert main([str(sweep), "--metric", "val/loss"]) == 0
    assert "| 1 | 3 | 1.00 ± 0.00 |" in capsys.readouterr().out
    result = json.loads((sweep / "0" / "result.json").read_text())
    result["final"]["val/acc5"] = "nan"
    (sweep / "0" / "result.json").write_text(json.dumps(result))
    assert main([str(sweep), "--metric", "val/acc5"]) == 2
    assert capsys.readouterr().err.strip().endswith("choose from: val/acc1, val/loss")


def test_of_a_loss_the_lowest_is_the_best_and_nothing_is_printed_beside_the_report(sweep, capsys, recwarn):
    for number, loss in ((0, 0.9), (1, 0.8), (2, 0.7)):
        result = {"metric": "val/acc1", "final": {"val/loss": loss}}
        (sweep / str(number) / "result.json").write_text(json.dumps(result))
    assert main([str(sweep), "--metric", "val/loss", "--baseline", "d_state=4"]) == 0
    said = capsys.readouterr()
    rows = [line.split(" | ") for line in said.out.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == ["| 1", "| 4", "| 16"]
    assert rows[0][2:4] == ["0.8000 ± 0.1000", "-0.2000"]
    assert said.err == "" and len(recwarn) == 0  # scipy warns of runs that are all the same


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a sweep folder or run folders"),
        (["nowhere"], "nowhere: no such folder"),
        (["."], "neither a run folder nor a sweep folder"),
        (["{sweep}", "--baseline", "d_state=2"], "no row of this comparison"),
        (
            ["{sweep}", "--out", "/proc/none"],
            "/proc/none cannot be made (No such file or directory): give a folder for",
        ),
        (["--runs", "abc", "--uri", "file:/x"], "MLflow takes http(s)"),
        (["--filter", "tags.x = 'y'", "--uri", "http://127.0.0.1:9"], "no MLflow server answers"),
    ],
)
def test_a_mistake_is_one_line(words, said, sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path / "sweep-demo" / "0" if words == ["."] else tmp_path)
    for name in ("config.yaml", "status.json"):
        if words == ["."]:
            (sweep / "0" / name).unlink()
    assert main([word.format(sweep=sweep) for word in words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_a_broken_folder_is_named_and_the_rest_shown(sweep, capsys):
    (sweep / "0" / "config.yaml").write_text("a: [")
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "7 runs" in out and "not readable" in out


def test_the_curve_of_a_long_run_is_thinned_and_keeps_its_end(tmp_path):
    write_run(tmp_path / "a", {"seed": 0}, 90.0, steps=5 * 1000)
    curve = evaluations(tmp_path / "a" / "metrics.jsonl", "val/acc1")
    assert len(curve) == POINTS and curve[0][0] == 5 and curve[-1] == (5000, 90.0)
    assert evaluations(tmp_path / "nowhere", "val/acc1") == []


def test_a_curve_of_any_name_is_found(tmp_path):
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.log(1, 0.1, {'val/"µ" [%]': 3.0})
    assert evaluations(tmp_path / "metrics.jsonl", 'val/"µ" [%]') == [(1, 3.0)]


def test_the_link_names_exactly_the_delivered_runs(sweep):
    for number, run in ((0, "r0"), (3, "r3")):
        notes = {"stores": {"http://127.0.0.1:5000": {"run_id": run, "experiment_id": "7"}}}
        (sweep / str(number) / "mlflow.json").write_text(json.dumps(notes))
    runs = [point.folder for point in collect([sweep])[0]]
    link, count = compare_link(runs, "http://127.0.0.1:5000", "http://127.0.0.1:5000/")
    assert count == 2
    assert link == "http://127.0.0.1:5000/#/compare-runs?runs=%5B%22r0%22%2C%22r3%22%5D&experiments=%5B%227%22%5D"
    assert compare_link(runs[1:2], "http://127.0.0.1:5000", "http://x") == ("", 0)
    assert compare_link(runs, "sqlite:////another.db", "http://x") == ("", 0)
