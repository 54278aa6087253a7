import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stopping import Stop, StopAt
from tiny_task import KillAt, config, everything_random, train

from vmamba.config.errors import UserError
from vmamba.engine import checkpoint
from vmamba.engine.hooks import Hook
from vmamba.engine.signals import Killed
from vmamba.tracking.folder import RunFolder

HERE = Path(__file__).parent


def newest(path: Path) -> dict:
    return checkpoint.load_newest(path / "checkpoints")[1]


def assert_equal_weights(left: dict, right: dict) -> None:
    for kind in ("model", "ema"):
        assert left[kind].keys() == right[kind].keys()
        for key in left[kind]:
            assert torch.equal(left[kind][key], right[kind][key]), f"{kind} {key}"


def kill(path: Path, step: int, name: str) -> int:
    """The exit code of a process of its own that trains and gets the signal."""
    environment = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, str(HERE / "tiny_task.py"), str(path), str(step), name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    train(everything_random(checkpoint__every_steps=3), path)
    return path


@pytest.mark.parametrize(("name", "code", "saved"), [("SIGKILL", -9, 12), ("SIGTERM", 143, 14)])
def test_killed_mid_epoch_and_resumed_is_bit_equal(tmp_path, uninterrupted, name, code, saved):
    """11 updates an epoch, a checkpoint every 3; augmentation, mixup, drop path, EMA and 2 workers on."""
    path = tmp_path / "run"
    assert kill(path, 14, name) == code
    place = newest(path)["state"]
    assert (place["step"], place["epoch"], place["batch"]) == (saved, 1, saved - 11)
    train(everything_random(checkpoint__every_steps=3), path)
    assert_equal_weights(newest(path), newest(uninterrupted))
    records, expected = (list(RunFolder(p).records()) for p in (path, uninterrupted))
    assert [(r["step"], r["epoch"]) for r in records] == [(r["step"], r["epoch"]) for r in expected]
    for ours, theirs in zip(records, expected, strict=True):
        for metric in ("val/loss", "val/acc1", "val_raw/loss"):
            assert ours["metrics"].get(metric) == theirs["metrics"].get(metric)


@pytest.mark.parametrize("changes", [{"data__workers": 1}, {"recipe__accumulate": 2}])
def test_resume_equals_with_other_workers_and_accumulation(tmp_path, changes):
    whole, cut = (everything_random(checkpoint__every_steps=2, **c) for c in (changes, changes | {"data__workers": 0}))
    train(whole, tmp_path / "whole")
    with pytest.raises(Stop):
        train(cut, tmp_path / "cut", [StopAt(5)])
    train(whole, tmp_path / "cut")
    assert_equal_weights(newest(tmp_path / "cut"), newest(tmp_path / "whole"))


def test_truncated_newest_falls_back_and_ends_equal(tmp_path, caplog):
    cfg = everything_random(checkpoint__every_steps=2, data__workers=0)
    train(cfg, tmp_path / "whole")
    with pytest.raises(Stop):
        train(cfg, tmp_path / "cut", [StopAt(7)])
    path = tmp_path / "cut" / "checkpoints" / "step_00000006.pt"
    path.write_bytes(path.read_bytes()[:3000])
    train(cfg, tmp_path / "cut")
    assert "step_00000006.pt is damaged" in caplog.text
    assert_equal_weights(newest(tmp_path / "cut"), newest(tmp_path / "whole"))


def test_an_evaluation_owed_is_made_good(tmp_path):
    cfg = config()
    with pytest.raises(Killed) as left:
        train(cfg, tmp_path / "run", [KillAt(11, signal.SIGTERM)])
    assert left.value.code == 143
    assert not any("val/acc1" in record["metrics"] for record in RunFolder(tmp_path / "run").records())
    train(cfg, tmp_path / "run")
    assert [r["step"] for r in RunFolder(tmp_path / "run").records() if "val/acc1" in r["metrics"]] == [11, 22]


def test_ctrl_c_saves_and_leaves_with_130(tmp_path):
    with pytest.raises(Killed) as left:
        train(config(data__workers=1), tmp_path / "run", [KillAt(4, signal.SIGINT)])
    assert left.value.code == 130 and newest(tmp_path / "run")["state"]["step"] == 4


def test_second_signal_leaves_at_once(tmp_path):
    class Twice(KillAt):
        def on_step(self, loop, seconds) -> None:
            super().on_step(loop, seconds)
            super().on_step(loop, seconds)

    with pytest.raises(Killed):
        train(config(), tmp_path / "run", [Twice(3, signal.SIGINT)])
    assert checkpoint.load_newest(tmp_path / "run" / "checkpoints") is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_finished_run_resumed_trains_nothing(tmp_path):
    first = train(config(recipe__epochs=1), tmp_path / "run")
    again = train(config(recipe__epochs=1), tmp_path / "run")
    assert (
        again["steps"] == first["steps"] == 11 and again["final"] == first["final"] and again["best"] == first["best"]
    )


def test_longer_run_goes_on(tmp_path):
    train(config(recipe__epochs=1), tmp_path / "run")
    result = train(config(recipe__epochs=2), tmp_path / "run")
    assert result["steps"] == 22 and [r["step"] for r in RunFolder(tmp_path / "run").records()][-1] == 22


def test_from_another_folder_or_file(tmp_path):
    train(config(recipe__epochs=1), tmp_path / "first")
    for number, source in enumerate((tmp_path / "first", checkpoint.steps(tmp_path / "first" / "checkpoints")[0])):
        path = tmp_path / f"second{number}"
        assert train(config(resume=str(source)), path)["steps"] == 22
        assert all(record["step"] > 11 for record in RunFolder(path).records())


def test_other_batch_size_goes_on_at_the_same_place(tmp_path, caplog):
    with pytest.raises(Stop):
        train(config(checkpoint__every_steps=2), tmp_path / "run", [StopAt(17)])
    result = train(config(recipe__batch_size=64), tmp_path / "run")
    assert "going on at epoch 1, batch 10" in caplog.text
    assert result["steps"] == 44 and result["epochs"] == 2


def test_another_batch_size_and_another_interruption_lose_nothing(tmp_path, caplog):
    """Its updates have lower numbers than those of the file it went on from."""
    caplog.set_level("INFO", logger="vmamba")
    with pytest.raises(Stop):
        train(config(checkpoint__every_steps=2, log_every=1), tmp_path, [StopAt(17)])
    larger = config(checkpoint__every_steps=1, log_every=1, recipe__batch_size=256)
    with pytest.raises(Stop):
        train(larger, tmp_path, [StopAt(9)])
    assert [path.name for path in checkpoint.steps(tmp_path / "checkpoints")] == ["step_00000008.pt"]
    assert train(larger, tmp_path)["steps"] == 10 and "step_00000008.pt: update 8" in caplog.text
    places = [(record["step"], record["epoch"]) for record in RunFolder(tmp_path).records()]
    assert places == sorted(places) and max(step for step, epoch in places if epoch <= 1) == 5
    assert {9, 10} < {step for step, _ in places}


def test_an_evaluation_is_not_waited_for_with_the_weights_unsaved(tmp_path):
    class StopAtCheckpoint(Hook):
        def on_checkpoint(self, loop, path) -> None:
            raise Stop

    with pytest.raises(Stop):
        train(config(), tmp_path, [StopAtCheckpoint()])
    assert newest(tmp_path)["state"]["step"] == 11 and newest(tmp_path)["state"]["evaluated"] == -1
    train(config(), tmp_path)
    assert [r["step"] for r in RunFolder(tmp_path).records() if "val/acc1" in r["metrics"]] == [11, 22]


def test_what_the_recipe_gives_the_optimizer_is_the_recipe_s_of_now(tmp_path):
    class Decays(Hook):
        def on_start(self, loop) -> None:
            self.found = [(group["weight_decay"], group["betas"]) for group in loop.optimizer.param_groups]

    decays = Decays()
    train(config(recipe__epochs=1), tmp_path)
    train(config(recipe__weight_decay=0.3, recipe__betas=[0.8, 0.9]), tmp_path, [decays])
    assert sorted(decays.found) == [(0.0, (0.8, 0.9)), (0.3, (0.8, 0.9))]


@pytest.mark.parametrize(
    ("resume", "changes", "message"),
    [
        ("never", {}, "resume=never, but .* holds checkpoints of an earlier run"),
        ("auto", {"model__kwargs": {"width_extra": 1}}, "2 of another shape .*another model= or data="),
        ("auto", {"recipe__optimizer": "sgd"}, "written with recipe.optimizer=adamw, this run has sgd; .* init.ckpt="),
        ("{}/none/checkpoints", {}, "no such file or folder"),
        ("{}/run/checkpoints/best.pt", {}, "holds weights only"),
    ],
)
def test_what_cannot_be_resumed_is_one_line(tmp_path, resume, changes, message):
    train(config(recipe__epochs=1), tmp_path / "run")
    cfg = config(resume=resume.format(tmp_path), **changes)
    with pytest.raises(UserError, match=message) as caught:
        train(cfg, tmp_path / "run")
    assert "\n" not in str(caught.value)
