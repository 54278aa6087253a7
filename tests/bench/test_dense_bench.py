"""``vmamba.bench dense`` in its small form, and that both models get the same images and truths."""

import csv

import pytest
import torch

pytest.importorskip("mmdet", reason="needs the extra det")
pytest.importorskip("mmseg", reason="needs the extra seg")

from vmamba.bench.__main__ import main
from vmamba.config.compose import compose
from vmamba_tasks.dense import bench


def test_small_form(tmp_path, capsys):
    assert main(["dense", "--small", "--device", "cpu", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("dense_cpu-*.csv")
    rows = list(csv.DictReader(path.open()))
    told = {(row["task"], row["model"], row["phase"]) for row in rows}
    assert told == {(t, m, p) for t in ("det", "seg") for m in ("nano", "swin_tiny") for p in ("train", "test")}
    assert all(float(row["images_per_s"]) > 0 < float(row["backbone_ms"]) for row in rows)
    assert all(row["kernels_ms"] == row["launches"] == "" for row in rows), "a CPU has no kernels to count"
    told = capsys.readouterr()
    assert str(path) in told.out
    assert sum(line.startswith("task=") for line in told.err.splitlines()) == len(rows), "each as it is measured"


def test_parts_of_the_table(tmp_path, capsys):
    words = ["dense", "--small", "--device", "cpu", "--out", str(tmp_path), "--only"]
    assert main([*words, "seg", "--scan", "cpu,naive"]) == 0
    rows = list(csv.DictReader(next(tmp_path.glob("*.csv")).open()))
    assert [(row["task"], row["model"], row["scan"]) for row in rows[::2]] == [
        ("seg", "nano", "cpu"), ("seg", "nano", "naive"), ("seg", "swin_tiny", ""),
    ]  # fmt: skip
    assert main([*words, "pose"]) == 2
    assert "--only pose: unknown. Choose from: det, seg." in capsys.readouterr().err


@pytest.mark.parametrize("task", ["det", "seg"])
def test_made_up_batches_are_the_same_every_time_and_fit_the_heads(task):
    words = [f"task={task}", f"data={bench.DATA[task]}", "model=nano", "data.root=unused"]
    cfg, _ = compose(words)
    first, again = (bench.make(task, 2, (64, 96), cfg) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first["inputs"], again["inputs"], strict=True))
    sample = first["data_samples"][1]
    if task == "det":
        truth = sample.gt_instances
        assert len(truth) == bench.OBJECTS and truth.masks.masks.shape == (bench.OBJECTS, 64, 96)
        assert (truth.bboxes[:, 2:] - truth.bboxes[:, :2] >= 4).all() and truth.labels.max() < 80
    else:
        assert sample.gt_sem_seg.data.shape == (1, 64, 96) and sample.gt_sem_seg.data.max() < 150
