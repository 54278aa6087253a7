"""The channels-last operators of a VMamba at its stages, ours beside torch's: SS2D, convolution, LayerNorm, MLP, stem.

Times and floors are those of ``ops``, under bfloat16 autocast on a GPU as a training step calls them: maps in bfloat16,
the stream and the weights in float32. Only ``ss2d`` has a floor of arithmetic here. ``conv_norm_gelu`` is told by the
channels and the side of the stage behind it.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from vmamba.bench.measure import copy_bandwidth, nbytes
from vmamba.bench.ops import K, arithmetic, times
from vmamba.bench.report import Row
from vmamba_ops import add_layer_norm, conv_norm_gelu, dwconv_silu, mlp, ss2d
from vmamba_ops.conv_norm_gelu.naive import conv_norm_gelu as conv_norm_gelu_torch
from vmamba_ops.dwconv.naive import dwconv_silu as dwconv_silu_torch
from vmamba_ops.mlp.naive import mlp as mlp_torch

STAGES = [(96, 56), (192, 28), (384, 14), (768, 7)]  # channels, side
SMALL = [(32, 8)]

Call = Callable[..., Tensor | tuple[Tensor, ...]]


def run(device: torch.device, small: bool) -> tuple[Iterator[Row], Row]:
    """The rows, and the conditions they share. ``small`` runs in seconds on a CPU."""
    batch, repeats = (2, 3) if small else (128, 15)
    bandwidth = copy_bandwidth(device)
    conditions = {"batch": batch, "bandwidth_GB_s": round(bandwidth / 1e9, 1), "l2": "cold"}
    rows = (
        _row(device, (op, name, channels, side), call, inputs, repeats, bandwidth)
        for channels, side in (SMALL if small else STAGES)
        for op, inputs, calls in _problems(device, batch, channels, side)
        for name, call in calls.items()
    )
    return rows, conditions | {"amp": "bf16" if device.type == "cuda" else "fp32"}


def _problems(
    device: torch.device, batch: int, C: int, side: int
) -> Iterator[tuple[str, list[Tensor], dict[str, Call]]]:
    """Every operator at a stage: its name, its inputs, and the functions of them that compute it."""
    half = torch.bfloat16 if device.type == "cuda" else torch.float32

    def normal(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        return (torch.randn(shape, device=device) * scale).to(dtype).requires_grad_()

    rank, hidden, maps = max(1, C // 16), 4 * C, (batch, side, side, C)
    own = [normal(K, rank + 2, C, scale=C**-0.5), normal(K, C, rank, scale=rank**-0.5), normal(K, C), normal(K * C, 1)]
    yield (
        "ss2d",
        [normal(*maps, dtype=half), *own, normal(K * C)],
        {"auto": _named("auto"), "composed": _named("composed")},
    )

    convolution = [normal(*maps, dtype=half), normal(C, 1, 3, 3), normal(C)]
    yield "dwconv_silu", convolution, {"auto": dwconv_silu, "torch": dwconv_silu_torch}

    def added(backend: str) -> Call:
        return lambda *inputs: add_layer_norm(*inputs, out_dtype=half, backend=backend)

    norm = [normal(*maps), normal(*maps, dtype=half), normal(C), normal(C)]
    yield "add_layer_norm", norm, {"auto": added("auto"), "torch": added("torch")}

    product = [normal(hidden, C, scale=C**-0.5), normal(hidden), normal(C, hidden, scale=hidden**-0.5), normal(C)]
    yield "mlp", [normal(*maps, dtype=half), *product], {"auto": mlp, "torch": mlp_torch}

    if side in (SMALL[0][1], STAGES[0][1]):  # the first stage's images
        images = torch.randn(batch, 3, 4 * side, 4 * side, device=device).contiguous(memory_format=torch.channels_last)
        stem = [images, normal(C // 2, 3, 3, 3), normal(C // 2), normal(C // 2), normal(C // 2)]
        yield "conv_norm_gelu", stem, {"auto": conv_norm_gelu, "torch": lambda *x: conv_norm_gelu_torch(*x, 1e-5)}


def _named(backend: str) -> Call:
    return lambda *inputs: ss2d(*inputs, backend=backend)


def _row(device, about, call: Call, inputs: list[Tensor], repeats: int, bandwidth: float) -> Row:
    op, name, channels, side = about
    leaves = [t for t in inputs if t.requires_grad]
    # without autocast's cache of cast weights, which a CUDA graph would be recorded with
    amp = torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if device.type == "cuda" else nullcontext()

    def forward() -> Tensor | tuple[Tensor, ...]:
        with amp:
            return call(*inputs)

    with torch.no_grad():
        out = forward()
    once = nbytes(*inputs, *(out if isinstance(out, tuple) else (out,)))
    special = arithmetic(device, K * inputs[0].numel(), 1) if op == "ss2d" else (None, None)
    sizes = (once, 2 * once + nbytes(*leaves))
    row = {"op": op, "backend": name, "channels": channels, "side": side}
    return row | times(forward, leaves, device, repeats, bandwidth, sizes, special)
