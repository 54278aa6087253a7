import json
from math import inf as INF
from math import nan as NAN
from types import SimpleNamespace

import pytest
import torch
from tiny_task import TinyTask, config, train, two_ranks

from vmamba.config.errors import UserError
from vmamba.config.schema import Limit
from vmamba.engine import checkpoint, fit
from vmamba.engine.hooks import Hook
from vmamba.engine.loop import Loop
from vmamba.engine.nan_guard import NotFinite
from vmamba.engine.precision import Precision
from vmamba.tracking.folder import RunFolder


def newest(path) -> dict:
    return checkpoint.load_newest(path / "checkpoints")[1]


def test_run_by_epochs_records_everything(tmp_path):
    result = train(config(recipe__ema__enabled=True, recipe__ema__warmup=True), tmp_path)
    folder = RunFolder(tmp_path)
    assert json.loads(folder.result.read_text()) == json.loads(json.dumps(result))
    assert (result["steps"], result["epochs"], result["params"]) == (22, 2, 770)
    assert result["best"]["val/acc1"] >= result["final"]["val/acc1"] and result["seconds"] > result["train_seconds"] > 0
    steps = [record["step"] for record in folder.records()]
    assert steps == [5, 10, 11, 15, 20, 22, 22]
    trained, evaluated = (list(folder.records())[n]["metrics"] for n in (0, 2))
    names = ("loss", "acc1", "lr", "images_per_s", "grad_norm", "data_wait")
    assert trained.keys() == {f"train/{name}" for name in names}
    assert evaluated.keys() == {f"{kind}/{name}" for kind in ("val", "val_raw") for name in ("loss", "acc1", "acc5")}
    manifest = json.loads(folder.manifest.read_text())
    assert manifest["data"]["train"]["images"] == 1438 and manifest["data"]["val"]["images"] == 359
    assert len(manifest["data"]["val"]["sha256"]) == 64 and manifest["precision"] == "fp32"


def test_learns(tmp_path):
    result = train(config(recipe__epochs=6, recipe__lr=3e-2, model__drop_path=0.0), tmp_path)
    assert result["final"]["val/acc1"] > 25 and result["final"]["train/loss"] < 2.2


def test_run_by_iterations(tmp_path):
    cfg = config(recipe__loop="iters", recipe__iters=15, recipe__eval_every=6, recipe__warmup=2)
    result = train(cfg, tmp_path)
    assert result["steps"] == 15 and result["epochs"] == pytest.approx(1 + 4 / 11)
    records = list(RunFolder(tmp_path).records())
    assert [r["step"] for r in records if "val/acc1" in r["metrics"]] == [6, 12, 15]
    assert [path.name for path in checkpoint.steps(tmp_path / "checkpoints")] == [
        "step_00000015.pt",
        "step_00000012.pt",
    ]


def test_limits(tmp_path):
    result = train(config(limit=Limit(train_steps=2, eval_batches=1), log_every=1), tmp_path)
    assert result["steps"] == 2 and result["final"]["val/acc1"] * 128 / 100 == pytest.approx(
        round(result["final"]["val/acc1"] * 128 / 100)
    )


def test_accumulation_equals_the_larger_batch(tmp_path):
    for name, changes in {
        "one": {"recipe__batch_size": 128},
        "two": {"recipe__batch_size": 64, "recipe__accumulate": 2},
    }.items():
        train(two_ranks(**changes), tmp_path / name)
    one, two = newest(tmp_path / "one")["model"], newest(tmp_path / "two")["model"]
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-6)


def test_gradient_is_clipped_and_its_norm_recorded_before(tmp_path):
    seen = []

    class Norms(Hook):
        def on_step(self, loop, seconds) -> None:
            seen.append(torch.cat([p.grad.flatten() for p in loop.model.parameters()]).norm().item())

    result = train(config(recipe__clip_grad=0.01, limit=Limit(train_steps=3)), tmp_path, [Norms()])
    assert seen == pytest.approx([0.01] * 3, rel=1e-3) and result["final"]["train/grad_norm"] > 0.02


def test_nan_stops_names_the_step_and_keeps_the_evidence(tmp_path):
    class Before(Hook):
        weights = None

        def on_step(self, loop, seconds) -> None:
            self.weights = {key: value.clone() for key, value in loop.model.state_dict().items()}

    before = Before()
    with pytest.raises(NotFinite, match=r"not finite at update 8: .*/nan; try a lower recipe.lr") as caught:
        train(config(model__kwargs={"nan_at": 8, "norm": False}), tmp_path, [before])
    assert "\n" not in str(caught.value)
    good = checkpoint.read(tmp_path / "nan" / "last_good.pt")
    assert good["step"] == 7 and all(torch.equal(good["model"][key], before.weights[key]) for key in before.weights)
    batch = checkpoint.read(tmp_path / "nan" / "batch.pt")
    assert batch["step"] == 8 and batch["batch"] == 7 and batch["data"][0].shape == (128, 1, 16, 16)


def test_best_follows_the_direction(tmp_path):
    cfg = config(task__metric="val/loss", task__higher_is_better=False, recipe__epochs=3)
    result = train(cfg, tmp_path)
    losses = [r["metrics"]["val/loss"] for r in RunFolder(tmp_path).records() if "val/loss" in r["metrics"]]
    assert result["best"]["val/loss"] == min(losses) and len(losses) == 3
    best = checkpoint.read(tmp_path / "checkpoints" / "best.pt")
    assert best["step"] == result["best"]["step"] and best["config"]["recipe"]["optimizer"] == "adamw"


@pytest.mark.parametrize(
    ("higher", "values", "best"),
    [(False, [0.5, NAN, 0.9], [0]), (True, [NAN, 0.5, NAN, 0.4, 0.6], [0, 1, 4]), (True, [0.5, 0.5, INF], [0])],
)
def test_no_number_is_not_the_best(higher, values, best):
    loop, found, held = SimpleNamespace(cfg=config(task__higher_is_better=higher)), [], None
    for place, value in enumerate(values):
        if Loop._better(loop, value, held):
            held = value
            found.append(place)
    assert found == best


def test_unknown_metric(tmp_path):
    with pytest.raises(UserError, match=r"task.metric=val/miou: unknown.*val/loss, val/acc1, val/acc5"):
        train(config(task__metric="val/miou", limit=Limit(train_steps=1)), tmp_path)


@pytest.mark.parametrize("amp", ["bf16", "fp32"])
def test_precision(tmp_path, amp):
    result = train(config(precision__amp=amp, limit=Limit(train_steps=3)), tmp_path)
    assert result["final"]["train/loss"] == pytest.approx(2.4, abs=0.3)
    assert all(
        value.dtype == torch.float32 for value in newest(tmp_path)["model"].values() if value.is_floating_point()
    )


def test_auto_precision_on_a_cpu():
    assert Precision(config().precision, torch.device("cpu")).name == "fp32"


def test_hooks_hear_of_everything(tmp_path):
    class Listener(Hook):
        def __init__(self) -> None:
            self.heard = []

        def __getattribute__(self, name):
            if name.startswith("on_"):
                self.heard.append(name)
            return super().__getattribute__(name)

    listener = Listener()
    train(config(limit=Limit(train_steps=5)), tmp_path, [listener])
    assert listener.heard == [
        "on_start",
        *["on_step"] * 4,
        "on_log",
        "on_step",
        "on_checkpoint",
        "on_evaluate",
        "on_checkpoint",
        "on_end",
    ]


def test_a_full_disk_ends_the_run_in_one_line(tmp_path, monkeypatch):
    train(config(recipe__epochs=1), tmp_path)

    def full(content, disk, save=torch.save):
        disk.error = OSError(28, "No space left on device")
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"no space left for .*(best|step_00000022).pt.*--resume"):
        train(config(recipe__epochs=2), tmp_path)
    monkeypatch.undo()
    assert newest(tmp_path)["state"]["step"] == 11
    assert train(config(recipe__epochs=2), tmp_path)["steps"] == 22


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("nowhere:Task", "there is no module nowhere"),
        ("tiny_task:Nothing", "give package.module:Class"),
        ("x", "module x"),
    ],
)
def test_task_entries(entry, message):
    with pytest.raises(UserError, match=message):
        fit.load_task(entry)
    assert fit.load_task("tiny_task:TinyTask") is TinyTask
