"""A search: what Optuna is told and asked, and the command as a user types it."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from test_launch_sweeps import TINY, only, python

from vmamba.compare.__main__ import main as compare
from vmamba.config.compose import composed
from vmamba.config.errors import UserError
from vmamba.launch import space, study
from vmamba.launch.folder import SweepFolder
from vmamba.launch.points import points
from vmamba.launch.study import Study, Tried
from vmamba.sweep import main

AXES = ["recipe.lr=tag(log,interval(1e-4,1e-1))", "norm=ln,bn", "model.d_state=range(1,9)"]


def make(tmp_path, axes=AXES, sampler="tpe", trials=30, minimize=False) -> Study:
    return Study(tmp_path / "study.journal", axes, sampler, seed=3, trials=trials, minimize=minimize)


def test_proposals_are_words_on_the_axes_and_the_same_ones_again(tmp_path):
    def some() -> list[tuple]:
        found = make(tmp_path)
        found.renew([Tried(("recipe.lr=0.001", "norm=ln", "model.d_state=2"), 90.0)])
        return [found.propose()[1] for _ in range(5)]

    first = some()
    assert first == some() and len(set(first)) == 5
    for lr, norm, d_state in first:
        assert 1e-4 <= float(lr.removeprefix("recipe.lr=")) <= 1e-1 and len(lr.split(".")[-1]) < 12
        assert norm in ("norm=ln", "norm=bn") and 1 <= int(d_state.removeprefix("model.d_state=")) <= 8


@pytest.mark.parametrize("minimize", [False, True])
def test_the_search_goes_where_the_results_are_better(tmp_path, minimize):
    axis = ["recipe.lr=interval(0,1)"]
    sign, tried = (-1 if minimize else 1), []
    for _ in range(30):
        found = make(tmp_path, axis, minimize=minimize)
        found.renew(tried)
        words = found.propose()[1]
        tried.append(Tried(words, -sign * (float(words[0].split("=")[1]) - 0.3) ** 2))
    late = [abs(float(point.words[0].split("=")[1]) - 0.3) for point in tried[20:]]
    assert sum(late) / len(late) < 0.2  # by chance: 0.29


def test_the_journal_is_optunas_own_and_failed_points_are_failed_in_it(tmp_path):
    import optuna

    words = ("recipe.lr=0.001", "norm=bn", "model.d_state=2")
    make(tmp_path).renew([Tried(words, 90.0), Tried(words, math.nan), Tried(words, None)])
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    loaded = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in loaded.trials] == ["COMPLETE", "FAIL", "RUNNING"]
    assert loaded.best_params == {"recipe.lr": 0.001, "norm": "bn", "model.d_state": 2}


def test_a_space_is_frozen_at_its_start(tmp_path):
    sweep = SweepFolder(tmp_path)
    made = space.make(composed, ["norm=ln,bn", "recipe.lr=interval(0,1)", "search.trials=3", "launcher.time=9"])
    made.write(sweep)
    kept = space.Space.of(sweep)
    assert kept == made and kept.objective == "val/acc1" and not kept.minimize
    point = kept.frozen(["norm=bn", "recipe.lr=0.5"], 7)
    assert (point.number, point.run.norm.name, point.run.recipe.lr) == (7, "bn", 0.5)
    assert point.own == ["norm=bn", "recipe.lr=0.5"] and point.run.launcher.time == 9
    later = kept.changed(["search.trials=8", "launcher=slurm", "launcher.time=60"])
    assert later.trials == 8 and kept.trials == 3
    assert later.frozen(["norm=ln", "recipe.lr=0.5"], 0).run.launcher.time == 60


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["search.trials=3"], "nothing to search over"),
        (["search.trials=3", "norm=ln,lnn"], "Did you mean 'ln'"),
        (["search.trials=3", "model.d_state=interval(0,2)"], "could not be converted to Integer"),
        (["search.trials=3", "recipe.lr=interval(2,1)"], "from the smaller to the larger"),
        (["search.trials=3", "recipe.lr=tag(log,interval(0,1))"], "above 0"),
        (["search.trials=3", "norm=ln,bn", "search.objective=val/loss"], "search.minimize=None"),
        (["search.trials=3", "norm=ln,bn", "launcher=slurm", "launcher.wait=false"], "nohup"),
        (["search.trials=3", "seed=range(70)", "model=nano,tiny", "norm=ln,bn"], None),
    ],
)
def test_what_cannot_be_searched_is_one_line(words, part):
    if part is None:
        assert len(space.make(composed, words).bases) == 4
        return
    with pytest.raises(UserError, match=part) as refused:
        space.make(composed, words)
    assert "\n" not in str(refused.value)


def test_without_optuna_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'vmamba\[optuna\]'"):
        study.needed()


def test_a_search_from_the_command_to_its_table(tmp_path, capsys):
    axes = ["recipe.lr=1e-3,1e30", "search.trials=5"]  # the second one's loss is not finite
    done = python(tmp_path, "vmamba.run", "-m", *TINY, "precision=fp32", *axes)
    sweep = only(tmp_path)
    rows = {row.overrides[0]: row for row in points(sweep.path)}
    assert {word: row.state for word, row in rows.items()} == {
        "recipe.lr=0.001": "finished", "recipe.lr=1e+30": "failed",
    }, done.stdout + done.stderr  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr and "no further point" in done.stdout
    best = rows["recipe.lr=0.001"]
    assert f"search: 2 of 5 trials; best val/acc1 {best.value:.4g}, point {best.number}" in done.stdout
    assert main(["status", str(sweep.path)]) == 1 and "search: 2 of 5 trials" in capsys.readouterr().out
    assert compare(["--out", str(tmp_path / "report"), str(sweep.path)]) == 0 and "| lr |" in capsys.readouterr().out
    assert main(["resume", str(sweep.path)]) == 1 and "no further point" in capsys.readouterr().out
    assert len(points(sweep.path)) == 2 and max(row.attempt for row in points(sweep.path)) == 1


def test_a_search_that_was_killed_goes_on_and_may_be_made_longer(tmp_path, capsys):
    words = ["model.d_state=1,2,3", "search.trials=3", "launcher=subprocess", "launcher.parallel=2"]
    command = [sys.executable, "-m", "vmamba.run", "-m", *TINY, *words]
    manager = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 60
    while not list(tmp_path.glob("outputs/*/jobs.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.1)
    manager.send_signal(signal.SIGKILL)
    manager.wait()
    sweep = only(tmp_path)
    assert main(["resume", str(sweep.path), "search.trials=20"]) == 0
    rows = points(sweep.path)
    assert [row.number for row in rows] == list(range(3)) and {row.state for row in rows} == {"finished"}
    assert len({tuple(row.overrides) for row in rows}) == 3  # all there are, none twice
    assert "no further point" in capsys.readouterr().out
    assert json.loads(sweep.info.read_text())["points"] == 20


def test_a_cancelled_search_asks_for_no_more(tmp_path):
    words = ["seed=range(50)", "search.trials=40", "launcher=subprocess", "launcher.parallel=2"]
    command = [sys.executable, "-m", "vmamba.run", "-m", *TINY, *words]
    manager = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("outputs/*/jobs.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.1)
    sweep = only(tmp_path)
    assert main(["cancel", str(sweep.path)]) == 0
    manager.communicate(timeout=60)
    assert len(points(sweep.path)) < 10
