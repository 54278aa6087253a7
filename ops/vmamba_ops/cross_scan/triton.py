"""Cross scan and cross merge in Triton: each the other's adjoint, for every layout and every route set.

``vmamba_ops::cross_scan_triton`` and ``cross_merge_triton`` are ``triton_op``s; plain eager calls go around the
dispatcher. Shapes as in ``views``: (B, 1 or 4, C, H, W) against (B, 4, C, L), the flags telling the memory layout.
"""

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from ..eager import plain
from . import triton_kernels as kernels

_DIRECT = triton.knobs.runtime.interpret  # the interpreter's kernels are no JITFunctions, so they cannot be wrapped
_ELEMENTS = 4096  # of a tile: 32 a thread
_WARPS = 4


def _unit(width: int, *sizes: int) -> int:
    """The largest power of two that divides all of ``sizes`` and makes at most 16 bytes."""
    return next(v for v in (8, 4, 2, 1) if v * width <= 16 and all(s % v == 0 for s in sizes))


def _tile(channels: int, height: int, width: int, channel_first: bool) -> tuple[int, int, int]:
    """Sides (C, H, W) of a tile: whole small maps of several channels, 64 x 64 of one; with channels last, 16 x 8."""
    high, wide = triton.next_power_of_2(height), triton.next_power_of_2(width)
    high, wide = (min(high, 64), min(wide, 64)) if channel_first else (min(high, 8), min(wide, 16))
    return min(triton.next_power_of_2(channels), max(1, _ELEMENTS // (high * wide))), high, wide


def _launch(kernel, wrap, image, sequences, routes, image_first, sequence_first, **constants) -> None:
    """``image`` (B, 1 or 4, C, H, W), ``sequences`` (B, 4, C, L)."""
    batch, slices, channels, height, width = image.shape
    high, wide = _unit(image.element_size(), height), _unit(image.element_size(), width)
    x_b, x_k, x_c, x_h, x_w = image.stride()
    y_b, y_k, y_c, y_l = sequences.stride()
    # Of the innermost axis, whose stride is 1, the kernels make no use.
    x_strides = [x_b, x_k, x_c, x_h, 0] if image_first else [x_b, x_k, 0, x_h, x_w]
    y_strides = [y_b, y_k, y_c, 0] if sequence_first else [y_b, y_k, 0, y_l]
    x_unit, y_unit = _unit(image.element_size(), *x_strides), _unit(image.element_size(), *y_strides)
    BC, BH, BW = _tile(channels, height, width, image_first and sequence_first)
    blocks = [triton.cdiv(channels, BC), triton.cdiv(height, BH), triton.cdiv(width, BW)]
    runner = wrap_triton(kernel) if wrap and not _DIRECT else kernel
    runner[(batch * blocks[0] * blocks[1] * blocks[2],)](
        image, sequences, channels, height // high, width // wide, *blocks,
        *(s // x_unit for s in x_strides), *(s // y_unit for s in y_strides),
        TURN=routes == "cross2d", BACK=routes != "unidi", SLICES=slices, X_CF=image_first, Y_CF=sequence_first,
        XV=x_unit, YV=y_unit, VH=high, VW=wide, BC=BC, BH=BH, BW=BW, **constants, num_warps=_WARPS,
    )  # fmt: skip


def _aligned(tensor: Tensor, axis: int, order: tuple[int, ...]) -> Tensor:
    """``tensor`` if ``axis`` is its innermost, else a copy laid out in ``order`` (slowest axis first)."""
    if tensor.stride(axis) == 1 or tensor.shape[axis] == 1:
        return tensor
    inverse = [order.index(i) for i in range(len(order))]
    return tensor.permute(order).contiguous().permute(inverse)


def _scan(x: Tensor, routes: str, in_channel_first: bool, out_channel_first: bool, wrap: bool) -> Tensor:
    batch, _, channels, height, width = x.shape
    x = _aligned(x, 4, (0, 1, 2, 3, 4)) if in_channel_first else _aligned(x, 2, (0, 3, 4, 1, 2))
    if out_channel_first:
        y = torch.empty((batch, 4, channels, height * width), dtype=x.dtype, device=x.device)
    else:
        y = torch.empty((batch, height * width, 4, channels), dtype=x.dtype, device=x.device).permute(0, 2, 3, 1)
    _launch(kernels.scan, wrap, x, y, routes, in_channel_first, out_channel_first)
    return y


def _merge(
    y: Tensor, routes: str, one_by_one: bool, in_channel_first: bool, out_channel_first: bool, wrap: bool
) -> Tensor:
    batch, _, channels, height, width = y.shape
    y = y.flatten(3)
    y = _aligned(y, 3, (0, 1, 2, 3)) if out_channel_first else _aligned(y, 2, (0, 3, 1, 2))
    slices = 4 if one_by_one else 1
    if in_channel_first:
        x = torch.empty((batch, slices, channels, height, width), dtype=y.dtype, device=y.device)
    else:
        x = torch.empty((batch, height, width, slices, channels), dtype=y.dtype, device=y.device)
        x = x.permute(0, 3, 4, 1, 2)
    wide = y.dtype == torch.float64
    _launch(kernels.merge, wrap, x, y, routes, in_channel_first, out_channel_first, WIDE=wide)
    return x.flatten(3)


@triton_op("vmamba_ops::cross_scan_triton", mutates_args={})
def _scan_op(x: Tensor, routes: str, in_channel_first: bool, out_channel_first: bool) -> Tensor:
    return _scan(x, routes, in_channel_first, out_channel_first, wrap=True)


@triton_op("vmamba_ops::cross_merge_triton", mutates_args={})
def _merge_op(y: Tensor, routes: str, one_by_one: bool, in_channel_first: bool, out_channel_first: bool) -> Tensor:
    return _merge(y, routes, one_by_one, in_channel_first, out_channel_first, wrap=True)


def _save_scan(ctx, inputs, output) -> None:
    x, routes, in_channel_first, out_channel_first = inputs
    ctx.shape, ctx.how = x.shape, (routes, x.shape[1] > 1, in_channel_first, out_channel_first)


def _scan_gradient(ctx, grad):
    image = merge(grad.unflatten(3, ctx.shape[3:]), *ctx.how)
    return image.unflatten(3, ctx.shape[3:]), None, None, None


def _save_merge(ctx, inputs, output) -> None:
    y, routes, _, in_channel_first, out_channel_first = inputs
    ctx.shape, ctx.how = y.shape, (routes, in_channel_first, out_channel_first)


def _merge_gradient(ctx, grad):
    sequences = scan(grad.unflatten(3, ctx.shape[3:]), *ctx.how)
    return sequences.unflatten(3, ctx.shape[3:]), None, None, None, None


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
