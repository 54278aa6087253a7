"""Cross scan and cross merge in Triton: each the other's adjoint, for every layout and every route set.

``vmamba_ops::cross_scan_triton`` and ``cross_merge_triton`` are ``triton_op``s; plain eager calls go around the
dispatcher. Shapes as in ``views``: (B, 1 or 4, C, H, W) against (B, 4, C, L), the flags telling the memory layout.
"""

from functools import cache, partial

import torch
import triton
from torch import Tensor
from torch.library import triton_op

from ..eager import plain
from ..triton_launch import Launch
from . import triton_kernels, triton_small

_ELEMENTS = 4096  # of a tile: 32 a thread
_WARPS = 4


def _unit(width: int, *sizes: int) -> int:
    """The largest power of two that divides all of ``sizes`` and makes at most 16 bytes."""
    return next(v for v in (8, 4, 2, 1) if v * width <= 16 and all(s % v == 0 for s in sizes))


def _tile(
    op: str, channels: int, height: int, width: int, image_first: bool, sequence_first: bool
) -> tuple[int, int, int]:
    """Sides (C, H, W) of a tile: whole small maps of several channels, 64 x 64 of one; with channels last 8 x 16.

    From a channel-last image to channel-first sequences and back: 32 x 32 and 16 x 16, which at 56 x 56 and batch 128
    on an H100 took 0.57 and 0.56 ms where 8 x 16 took 1.38 and 0.60.
    """
    high, wide = 8, 16
    if sequence_first:
        high = wide = 64 if image_first else 32 if op == "scan" else 16
    high, wide = min(triton.next_power_of_2(height), high), min(triton.next_power_of_2(width), wide)
    return min(triton.next_power_of_2(channels), max(1, _ELEMENTS // (high * wide))), high, wide


@cache
def _plan(op: str, image: tuple, sequences: tuple, dtype: torch.dtype, routes: str, image_first, sequence_first):
    """The launch of "scan" or "merge"; ``image`` is the shape and the strides of (B, 1 or 4, C, H, W), ``sequences``
    the strides of (B, 4, C, L)."""
    (batch, slices, channels, height, width), (x_b, x_k, x_c, x_h, x_w) = image
    y_b, y_k, y_c, y_l = sequences
    size = dtype.itemsize
    constants = {"TURN": routes == "cross2d", "BACK": routes != "unidi", "SLICES": slices}
    if op == "merge":
        constants["WIDE"] = dtype == torch.float64
    known = isinstance(height, int) and isinstance(width, int)  # not a symbol of torch.export
    if known and height * width <= triton_small.LARGEST and image_first and sequence_first:
        dense = (height * width, width, 1)
        if (x_c, x_h, x_w) == dense and (y_c, y_l) == (height * width, 1):
            unit = _unit(size, channels * height * width, x_b, x_k, y_b, y_k)
            block, each = triton_small.BLOCK, channels * height * width // unit
            blocks = triton.cdiv(each * unit, block)
            constants |= {"V": unit, "H": height, "W": width, "BLOCK": block}
            scalars = (each, blocks, *(s // unit for s in (x_b, x_k, y_b, y_k)))
            kernel = getattr(triton_small, f"cross_{op}")
            return Launch(kernel, (batch * blocks,), scalars, constants, triton_small.WARPS, None)
    high, wide = _unit(size, height), _unit(size, width)
    # Of the innermost axis, whose stride is 1, the kernels make no use.
    x_strides = [x_b, x_k, x_c, x_h, 0] if image_first else [x_b, x_k, 0, x_h, x_w]
    y_strides = [y_b, y_k, y_c, 0] if sequence_first else [y_b, y_k, 0, y_l]
    x_unit, y_unit = _unit(size, *x_strides), _unit(size, *y_strides)
    BC, BH, BW = _tile(op, channels, height, width, image_first, sequence_first)
    blocks = [triton.cdiv(channels, BC), triton.cdiv(height, BH), triton.cdiv(width, BW)]
    scalars = (channels, height // high, width // wide, *blocks)
    scalars += (*(s // x_unit for s in x_strides), *(s // y_unit for s in y_strides))
    constants |= {"X_CF": image_first, "Y_CF": sequence_first, "XV": x_unit, "YV": y_unit, "VH": high, "VW": wide}
    constants |= {"BC": BC, "BH": BH, "BW": BW}
    grid = (batch * blocks[0] * blocks[1] * blocks[2],)
    return Launch(getattr(triton_kernels, f"cross_{op}"), grid, scalars, constants, _WARPS, None)


def _launch(op: str, wrap: bool, image: Tensor, sequences: Tensor, routes, image_first, sequence_first) -> None:
    """``image`` (B, 1 or 4, C, H, W), ``sequences`` (B, 4, C, L)."""
    plan = _plan.__wrapped__ if wrap else _plan  # a compiler's sizes may be symbols, which cannot be looked up
    sides = (image.shape, image.stride()), sequences.stride()
    plan(op, *sides, image.dtype, routes, image_first, sequence_first)(image, sequences, wrap=wrap)


def _odd(height: int, width: int) -> bool:
    """Whether maps are small and of odd size, which the kernels for small maps alone store in more than 2 bytes at a
    time: turning the map for them first (0.08 ms at 7 x 7) is faster than a tile's way (0.36 ms)."""
    known = isinstance(height, int) and isinstance(width, int)
    return known and height * width <= triton_small.LARGEST and height * width % 2 == 1


def _aligned(tensor: Tensor, axis: int, order: tuple[int, ...]) -> Tensor:
    """``tensor`` if ``axis`` is its innermost, else a copy laid out in ``order`` (slowest axis first)."""
    if tensor.stride(axis) == 1 or tensor.shape[axis] == 1:
        return tensor
    inverse = [order.index(i) for i in range(len(order))]
    return tensor.permute(order).contiguous().permute(inverse)


def _sequences(x: Tensor, channel_first: bool) -> Tensor:
    """Room for the routes of ``x`` (B, 1 or 4, C, H, W): (B, 4, C, L)."""
    batch, _, channels, height, width = x.shape
    if channel_first:
        return torch.empty((batch, 4, channels, height * width), dtype=x.dtype, device=x.device)
    return torch.empty((batch, height * width, 4, channels), dtype=x.dtype, device=x.device).permute(0, 2, 3, 1)


def _image(y: Tensor, height: int, width: int, one_by_one: bool, channel_first: bool) -> Tensor:
    """Room for the map of ``y``'s routes: (B, 1 or 4, C, H, W)."""
    batch, _, channels = y.shape[:3]
    slices = 4 if one_by_one else 1
    if channel_first:
        return torch.empty((batch, slices, channels, height, width), dtype=y.dtype, device=y.device)
    x = torch.empty((batch, height, width, slices, channels), dtype=y.dtype, device=y.device)
    return x.permute(0, 3, 4, 1, 2)


def _scan(x: Tensor, routes: str, in_channel_first: bool, out_channel_first: bool, wrap: bool) -> Tensor:
    height, width = x.shape[3:]
    if not in_channel_first and out_channel_first and _odd(height, width):
        in_channel_first, x = True, x.contiguous()
    x = _aligned(x, 4, (0, 1, 2, 3, 4)) if in_channel_first else _aligned(x, 2, (0, 3, 4, 1, 2))
    y = _sequences(x, out_channel_first)
    _launch("scan", wrap, x, y, routes, in_channel_first, out_channel_first)
    return y


def _merge(
    y: Tensor, routes: str, one_by_one: bool, in_channel_first: bool, out_channel_first: bool, wrap: bool
) -> Tensor:
    height, width = y.shape[3:]
    y = y.flatten(3)
    y = _aligned(y, 3, (0, 1, 2, 3)) if out_channel_first else _aligned(y, 2, (0, 3, 1, 2))
    x = _image(y, height, width, one_by_one, in_channel_first)
    _launch("merge", wrap, x, y, routes, in_channel_first, out_channel_first)
    return x.flatten(3)


# For a compiler that does not know H and W: the same, planned at the call. Plans made of symbols hold for the sizes
# that divide alike, so that images of many sizes made a graph each until torch.compile gave up.
torch.library.define("vmamba_ops::cross_scan_sized", "(Tensor x, str routes, bool first, bool out_first) -> Tensor")
torch.library.define(
    "vmamba_ops::cross_merge_sized", "(Tensor y, str routes, bool one_by_one, bool first, bool out_first) -> Tensor"
)
torch.library.impl("vmamba_ops::cross_scan_sized", "CompositeExplicitAutograd", partial(_scan, wrap=False))
torch.library.impl("vmamba_ops::cross_merge_sized", "CompositeExplicitAutograd", partial(_merge, wrap=False))


@torch.library.register_fake("vmamba_ops::cross_scan_sized")
def _scan_sized_fake(x, routes, first, out_first):
    return _sequences(x, out_first)


@torch.library.register_fake("vmamba_ops::cross_merge_sized")
def _merge_sized_fake(y, routes, one_by_one, first, out_first):
    return _image(y, *y.shape[3:], one_by_one, first).flatten(3)


def _unknown(tensor: Tensor) -> bool:
    return any(isinstance(size, torch.SymInt) for size in tensor.shape[2:])


@triton_op("vmamba_ops::cross_scan_triton", mutates_args={})
def _scan_op(x: Tensor, routes: str, in_channel_first: bool, out_channel_first: bool) -> Tensor:
    if _unknown(x):
        return torch.ops.vmamba_ops.cross_scan_sized(x, routes, in_channel_first, out_channel_first)
    return _scan(x, routes, in_channel_first, out_channel_first, wrap=True)


@triton_op("vmamba_ops::cross_merge_triton", mutates_args={})
def _merge_op(y: Tensor, routes: str, one_by_one: bool, in_channel_first: bool, out_channel_first: bool) -> Tensor:
    if _unknown(y):
        return torch.ops.vmamba_ops.cross_merge_sized(y, routes, one_by_one, in_channel_first, out_channel_first)
    return _merge(y, routes, one_by_one, in_channel_first, out_channel_first, wrap=True)


def _unflat(x: Tensor, like: tuple[int, ...]) -> Tensor:
    """(B, k, C, L) -> (B, k, C, H, W); ``unflatten`` costs the host three times as much."""
    return x.view(*x.shape[:3], *like[3:])


def _save_scan(ctx, inputs, output) -> None:
    x, routes, in_channel_first, out_channel_first = inputs
    ctx.shape, ctx.how = x.shape, (routes, x.shape[1] > 1, in_channel_first, out_channel_first)


def _scan_gradient(ctx, grad):
    image = merge(_unflat(grad, ctx.shape), *ctx.how)
    return _unflat(image, ctx.shape), None, None, None


def _save_merge(ctx, inputs, output) -> None:
    y, routes, _, in_channel_first, out_channel_first = inputs
    ctx.shape, ctx.how = y.shape, (routes, in_channel_first, out_channel_first)


def _merge_gradient(ctx, grad):
    sequences = scan(_unflat(grad, ctx.shape), *ctx.how)
    return _unflat(sequences, ctx.shape), None, None, None, None


_scan_op.register_autograd(_scan_gradient, setup_context=_save_scan)
_merge_op.register_autograd(_merge_gradient, setup_context=_save_merge)


class _Scan(torch.autograd.Function):
    """The same for plain eager calls, without the dispatcher."""

    @staticmethod
    def forward(ctx, x, routes, in_channel_first, out_channel_first):
        _save_scan(ctx, (x, routes, in_channel_first, out_channel_first), None)
        return _scan(x, routes, in_channel_first, out_channel_first, wrap=False)

    backward = staticmethod(_scan_gradient)


class _Merge(torch.autograd.Function):
    """As ``_Scan``."""

    @staticmethod
    def forward(ctx, y, routes, one_by_one, in_channel_first, out_channel_first):
        _save_merge(ctx, (y, routes, one_by_one, in_channel_first, out_channel_first), None)
        return _merge(y, routes, one_by_one, in_channel_first, out_channel_first, wrap=False)

    backward = staticmethod(_merge_gradient)


def scan(x_BKCHW: Tensor, routes: str, in_channel_first: bool, out_channel_first: bool) -> Tensor:
    """As ``views.scan``."""
    call = _Scan.apply if plain(x_BKCHW) else torch.ops.vmamba_ops.cross_scan_triton
    return call(x_BKCHW, routes, in_channel_first, out_channel_first)


def merge(y_BKCHW: Tensor, routes: str, one_by_one: bool, in_channel_first: bool, out_channel_first: bool) -> Tensor:
    """As ``views.merge``."""
    call = _Merge.apply if plain(y_BKCHW) else torch.ops.vmamba_ops.cross_merge_triton
    return call(y_BKCHW, routes, one_by_one, in_channel_first, out_channel_first)
