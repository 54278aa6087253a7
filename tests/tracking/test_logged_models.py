"""A finished run's checkpoints as logged models, and what a point of a sweep is called in MLflow."""

import json

from vmamba.tracking import describe, store
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.mlflow_view import View


def finish(folder: RunFolder, best: int, last: int) -> None:
    for old in folder.checkpoints.glob("step_*.pt"):
        old.unlink()
    (folder.checkpoints / f"step_{last:07d}.pt").write_bytes(b"everything")
    metrics = {"val/acc1": 80.0 + best, "step": best, "epoch": 1.0}
    folder.write_result({"final": {"val/acc1": 80.0}, "best": metrics, "gflops": 4.9})
    with folder.writer() as writer:
        writer.log(last, 3.0, {"train/loss": 0.1})


def models_of(outputs, uri) -> dict[str, tuple]:
    client = store.connect(uri)
    (run,) = client.search_runs(["1"])
    linked = {output.model_id: output.step for output in run.outputs.model_outputs}
    found = client.search_logged_models(["1"])
    assert all(model.source_run_id == run.info.run_id for model in found)
    return {
        model.name: (
            linked[model.model_id],
            {metric.key: metric.value for metric in model.metrics},
            model.tags["file"],
            model.params["model"],
            str(model.status),
        )
        for model in found
    }


def test_best_and_final_are_models_with_their_step_metrics_and_file(outputs, make_run):
    folder, uri = make_run(outputs / "a"), f"sqlite:///{outputs / 'mlflow.db'}"
    finish(folder, best=20, last=30)
    for _ in range(2):  # a second delivery makes nothing twice
        View(folder, uri).open().close()
        files = {name: str(folder.checkpoints / file) for name, file in (("b", "best.pt"), ("f", "step_0000030.pt"))}
        best = {"best/val_acc1": 100.0, "best/step": 20.0, "best/epoch": 1.0}
        assert models_of(outputs, uri) == {
            "nano-best": (20, best, files["b"], "nano", "READY"),
            "nano-final": (30, {"final/val_acc1": 80.0}, files["f"], "nano", "READY"),
        }
    assert not list((outputs / "mlartifacts").rglob("*.pt"))  # the weights stay where they are


def test_a_run_that_went_on_and_did_better_has_new_models_also_without_its_notes(outputs, make_run):
    folder, uri = make_run(outputs / "a"), f"sqlite:///{outputs / 'mlflow.db'}"
    finish(folder, best=20, last=30)
    View(folder, uri).open().close()
    finish(folder, best=40, last=40)
    folder.mlflow.unlink()
    View(folder, uri).open().close()
    found = models_of(outputs, uri)
    assert {name: model[0] for name, model in found.items()} == {"nano-best": 40, "nano-final": 40}
    assert found["nano-best"][1]["best/val_acc1"] == 120.0


def test_a_run_that_failed_has_none(outputs, make_run):
    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    View(make_run(outputs / "a", state="failed"), uri).open().close()
    assert store.connect(uri).search_logged_models(["1"]) == []


def test_a_point_is_called_by_what_it_varies(outputs, make_run):
    folder = make_run(outputs / "sweep-x" / "3")
    assert describe.run_name(folder) == "sweep-x/3"
    (outputs / "sweep-x" / "sweep.json").write_text(json.dumps({"name": "sweep-x", "varied": ["model", "seed", "lr"]}))
    assert describe.run_name(folder) == "3 model=nano seed=3"
    told = describe.tags(folder)
    assert (told["sweep"], told["axis.model"], told["axis.seed"], "axis.lr" in told) == ("sweep-x", "nano", "3", False)
