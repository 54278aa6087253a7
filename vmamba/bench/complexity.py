"""Parameters and FLOPs of every published row, counted on fake tensors: seconds and little memory, whatever the size.

The convention is upstream's (fvcore's rules and its own for the scan), so that numbers compare: a multiply-add of a
convolution or matrix product counts once, a selective scan 9 B L D N + B L D, LayerNorm 5 an element, BatchNorm in
evaluation 2, bilinear resizing 4, nearest resizing and average pooling 1; element-wise operations do not count.
"""

from collections.abc import Callable
from importlib import import_module
from math import prod
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from vmamba.bench.report import Row
from vmamba.config.compose import compose
from vmamba.config.errors import UserError
from vmamba.models import build
from vmamba_ops.flops import counter

aten = torch.ops.aten
DENSE = "vmamba_tasks.dense.complexity"  # reached by name: it needs OpenMMLab
# ImageNet-1K at 224 x 224, with the classifier: millions of parameters and GFLOPs as upstream's own counter gave them
# (its README rounds them to 30M, 4.9G); Swin's are its paper's.
PUBLISHED = {
    "tiny_v0": (22.893, 5.62690),
    "small_v0": (44.417, 11.23152),
    "base_v0": (76.254, 18.02012),
    "tiny_0220": (32.485, 5.04997),
    "tiny_0229": (28.762, 4.47194),
    "tiny_0230": (30.706, 4.85774),
    "tiny": (30.249, 4.90561),
    "small": (50.148, 8.71577),
    "base": (88.558, 15.35894),
    "small_s1l20": (49.013, 8.61221),
    "base_s1l20": (86.615, 15.22086),
    "swin_tiny": (28, 4.5),
    "swin_small": (50, 8.7),
    "swin_base": (88, 15.4),
}


def _elements(weight: int, of: str) -> Callable[..., int]:
    """A formula: ``weight`` an element of the operator's first input, or of its output."""

    def formula(shape: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return weight * prod(shape if of == "input" else out_shape)

    return formula


ELEMENTWISE = {
    aten.native_layer_norm: _elements(5, "input"),
    aten.native_batch_norm: _elements(2, "input"),
    aten.upsample_bilinear2d: _elements(4, "output"),
    aten.upsample_nearest2d: _elements(1, "output"),
    aten._adaptive_avg_pool2d: _elements(1, "input"),
    aten.mean: _elements(1, "input"),  # over the positions: how a network here pools
}


def flops(call: Callable[[], Any]) -> tuple[float, Any]:
    """FLOPs of ``call()`` by the convention above, and what it returned. Call it under ``fake()``."""
    formulas = ELEMENTWISE | {packet.default: formula for packet, formula in ELEMENTWISE.items()}  # else some decompose
    with counter(display=False, custom_mapping=formulas) as found, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        result = call()
    counts = found.get_flop_counts().get("Global", {})
    once = {operator for operator in counts if operator in ELEMENTWISE or "scan" in str(operator)}
    return sum(count if operator in once else count / 2 for operator, count in counts.items()), result


def fake() -> FakeTensorMode:
    """Tensors without contents; parameters of a network made outside are taken as they are."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def millions(*modules: torch.nn.Module) -> float:
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


def row(task: str, model: str, size: str, params: float, gflops: float, published: tuple[float, float]) -> Row:
    """``params`` in millions; ``published``: millions and GFLOPs; ``off_percent`` is of the FLOPs."""
    return {
        "task": task,
        "model": model,
        "size": size,
        "params_M": params,
        "published_params_M": published[0],
        "GFLOPs": gflops,
        "published_GFLOPs": published[1],
        "off_percent": 100 * (gflops / published[1] - 1),
    }


def run(device: torch.device, small: bool) -> tuple[list[Row], Row]:
    """The rows, and their conditions. ``small``: the tiny models alone. Nothing runs on ``device``."""
    chosen = {name: found for name, found in PUBLISHED.items() if not small or "tiny" in name}
    rows = [_classifier(name, found) for name, found in chosen.items()]
    try:
        rows += import_module(DENSE).rows(small)
    except (ModuleNotFoundError, UserError) as error:
        print(f"vmamba bench: detection and segmentation are left out: {error}")
    return rows, {"convention": "multiply-add once, scan 9BLDN + BLD"}


def _classifier(name: str, published: tuple[float, float]) -> Row:
    cfg, _ = compose([f"model={name}", "data=imagenet", "data.root=unused"])
    model = build(cfg.model, cfg.forward_type, cfg.norm, cfg.scan, num_classes=1000, in_chans=3, img_size=224).eval()
    with fake():
        found, _ = flops(lambda: model(torch.empty(1, 3, 224, 224)))
    return row("cls", name, "224x224", millions(model), found / 1e9, published)
