"""Whole runs of detection and segmentation on small trees in the real layouts."""

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from dense_trees import METRICS, run, task_of, words
from PIL import Image
from stopping import Stop, StopAt

from vmamba.engine import checkpoint
from vmamba.tracking.folder import RunFolder
from vmamba_tasks.scenes import files as scenes


def weights(path: Path) -> dict:
    return checkpoint.load_newest(path / "checkpoints")[1]["model"]


@pytest.fixture(scope="module", params=["det", "seg"])
def finished(request, tmp_path_factory, coco, ade):
    """A run of two epochs, with everything random on and a worker; its words."""
    path = tmp_path_factory.mktemp(request.param) / "run"
    told = words(request.param, coco, ade, "data.workers=1", "checkpoint.every_steps=1", "recipe.ema.enabled=true")
    return request.param, told, path, run(told, path)


def test_a_run_leaves_metrics_pictures_and_its_data_in_the_run_folder(finished):
    task, _, path, result = finished
    assert METRICS[task] <= result["final"].keys()
    assert all(0 <= result["final"][name] <= 100 for name in METRICS[task])
    steps = result["steps"]
    pictures = sorted(p.name for p in (path / "pictures").iterdir())
    assert pictures == [f"step-{steps // 2:07d}.png", f"step-{steps:07d}.png"]
    assert min(Image.open(path / "pictures" / pictures[0]).size) > 200
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["data"]["val"]["images"] == 3 and manifest["mmcv_ops"] == "torchvision"
    assert manifest["data"]["train"]["images"] == (5 if task == "det" else 6)  # the one without a box is left out


def test_interrupted_and_resumed_is_bit_equal(finished, tmp_path):
    task, told, path, result = finished
    at = result["steps"] - 1  # in the middle of the second epoch
    with pytest.raises(Stop):
        run([*told, "data.workers=0"], tmp_path / "run", [StopAt(at)])
    again = run(told, tmp_path / "run")
    ours, theirs = weights(tmp_path / "run"), weights(path)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert all(again["final"][name] == result["final"][name] for name in METRICS[task])


def test_the_best_weights_evaluate_to_the_same_numbers(finished, tmp_path):
    task, told, path, result = finished
    evaluated = run([*told, "mode=eval", f"ckpt={path}"], tmp_path / "eval")
    assert all(evaluated["final"][name] == pytest.approx(result["best"][name], abs=0.2) for name in METRICS[task])
    assert [p.name for p in (tmp_path / "eval" / "pictures").iterdir()] == ["step-0000000.png"]


def test_several_scales_and_flips(finished, tmp_path):
    """Of images of two sizes, one at a time whatever the batch."""
    task, told, path, _ = finished
    if task == "det":
        pytest.skip("for class maps alone")
    more = ["mode=eval", "tta=true", f"ckpt={path}", "task.pictures=0", "data.eval_batch=3", "data.workers=0"]
    result = run([*told, *more], tmp_path / "eval")
    assert METRICS["seg"] <= result["final"].keys() and not (tmp_path / "eval" / "pictures").exists()


@pytest.mark.parametrize("task", ["det", "seg"])
def test_low_precision(task, coco, ade, tmp_path):
    result = run(words(task, coco, ade, "precision=bf16", "limit.train_steps=1"), tmp_path / "run")
    assert METRICS[task] <= result["final"].keys()


def as_rank(rank: int, port: int, told: list[str], path: Path) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    run(told, path)


def test_two_processes_evaluate_as_one(finished, tmp_path):
    """Three images over two ranks: one rank has one more, which must not be lost."""
    task, told, path, _ = finished
    if task == "det":
        pytest.skip("the same code as seg; detection's gathering is tested without processes")
    told = [*told, "mode=eval", f"ckpt={path}", "data.workers=0"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")  # OpenMMLab's imports take many times what the evaluation does
    ranks = [fork.Process(target=as_rank, args=(rank, port, told, tmp_path / "two")) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
        process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]
    two = json.loads(RunFolder(tmp_path / "two").result.read_text())
    assert two["final"] == run(told, tmp_path / "one")["final"]


def test_what_the_embedded_scenes_say(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(scenes, "COUNTS", {"train": 4, "val": 2})
    caplog.set_level("INFO")
    task = task_of(["task=seg", "model=small", "tracking=none"])
    assert "data=ade20k data.root=" in caplog.text and "short schedule" in caplog.text
    assert task.config["backbone"]["depths"] == [2, 2, 15, 2]
