"""Parameters and FLOPs by upstream's convention, counted without running anything."""

import csv

import pytest
import torch
from torch import nn

from vmamba.bench import complexity
from vmamba.bench.__main__ import main


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: nn.Conv2d(4, 8, 3, padding=1)(torch.empty(2, 4, 6, 6)), 2 * 36 * 8 * 4 * 9),
        (lambda: nn.Linear(5, 7)(torch.empty(3, 5)), 3 * 5 * 7),
        (lambda: nn.LayerNorm(6)(torch.empty(2, 3, 6)), 5 * 36),
        (lambda: nn.BatchNorm2d(4).eval()(torch.empty(1, 4, 3, 3)), 2 * 36),
        (lambda: nn.functional.interpolate(torch.empty(1, 2, 4, 4), size=(8, 8), mode="bilinear"), 4 * 128),
        (lambda: nn.functional.interpolate(torch.empty(1, 2, 4, 4), scale_factor=2), 128),
        (lambda: nn.AdaptiveAvgPool2d(2)(torch.empty(1, 2, 4, 4)), 32),
        (lambda: torch.empty(1, 2, 4, 4).mean((2, 3)), 32),
        (lambda: nn.functional.scaled_dot_product_attention(*torch.empty(3, 1, 2, 5, 8)), 2 * (2 * 5 * 5 * 8)),
        (lambda: nn.functional.silu(torch.empty(9)) + torch.empty(9), 0),
    ],
)
def test_the_convention(call, expected):
    with complexity.fake():
        assert complexity.flops(call)[0] == expected


@pytest.mark.parametrize("name", ["tiny", "tiny_v0"])
def test_classifiers_are_what_upstream_counted(name):
    found = complexity._classifier(name, complexity.PUBLISHED[name])
    assert abs(found["off_percent"]) < 0.01
    assert found["params_M"] == pytest.approx(found["published_params_M"], abs=0.0006)


def test_to_the_last_flop():
    assert complexity._classifier("tiny", complexity.PUBLISHED["tiny"])["GFLOPs"] == 4.905609984


def test_the_command_prints_and_writes_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(complexity, "PUBLISHED", {"tiny": complexity.PUBLISHED["tiny"]})
    monkeypatch.setattr(complexity, "DENSE", "vmamba_tasks.nothing")
    assert main(["complexity", "--device", "cpu", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("complexity_*.csv")
    (found,) = csv.DictReader(path.open())
    assert float(found["GFLOPs"]) == pytest.approx(4.9056, abs=1e-3) and found["model"] == "tiny"
    shown = capsys.readouterr().out
    assert "off_percent" in shown and "detection and segmentation are left out" in shown
