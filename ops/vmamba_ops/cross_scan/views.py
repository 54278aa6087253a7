"""Cross scan and cross merge by views, flips and a stack, with hand-written backwards (backend "torch").

Each is the other's adjoint: backward of scan is merge, backward of merge is scan, so both differentiate any number
of times, and add in the definition's order. Nothing is written in place: ``torch.compile`` (2.11) loses a write
into a part of a new tensor in the backward of an ``autograd.Function``. Shapes as in ``naive``; ``*_channel_first`` say
how the result lies in memory, not what its shape is.
"""

import torch
from torch import Tensor


def _turned(lines: list[Tensor], routes: str) -> list[Tensor]:
    """Sequences (B, C, L) with those of reversed routes turned round."""
    return lines if routes == "unidi" else [*lines[:2], *(line.flip(-1) for line in lines[2:])]


def _columns(lines: Tensor, height: int, width: int) -> Tensor:
    """(B, C, L), ``height`` lines of ``width``, read column by column."""
    return lines.unflatten(2, (height, width)).transpose(2, 3).flatten(2)


def _laid_out(lines: list[Tensor], channel_first: bool) -> Tensor:
    """Sequences (B, C, L) as (B, K, C, L): in memory like that, or as (B, L, K, C)."""
    if channel_first:
        return torch.stack(lines, 1)
    return torch.stack([line.transpose(1, 2) for line in lines], 2).permute(0, 2, 3, 1)


def _scan(x_BKCHW: Tensor, routes: str, channel_first: bool) -> Tensor:
    height, width = x_BKCHW.shape[3:]
    lines = list(x_BKCHW.flatten(3).unbind(1)) * (4 // x_BKCHW.shape[1])
    if routes == "cross2d":
        lines[1] = _columns(lines[1], height, width)
        lines[3] = lines[1] if x_BKCHW.shape[1] == 1 else _columns(lines[3], height, width)
    return _laid_out(_turned(lines, routes), channel_first)


def _merge(y_BKCHW: Tensor, routes: str, one_by_one: bool, channel_first: bool) -> Tensor:
    height, width = y_BKCHW.shape[3:]
    y = y_BKCHW.flatten(3)
    if one_by_one:
        lines = _turned(list(y.unbind(1)), routes)
    elif routes == "unidi":
        lines = [y.sum(1)]
    else:
        lines = list((y[:, :2] + y[:, 2:].flip(-1)).unbind(1))
    if routes == "cross2d":
        lines[1::2] = [_columns(line, width, height) for line in lines[1::2]]
    return _laid_out(lines if one_by_one or len(lines) == 1 else [lines[0] + lines[1]], channel_first)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, routes, in_channel_first, out_channel_first):
        ctx.shape, ctx.how = x.shape, (routes, x.shape[1] > 1, out_channel_first, in_channel_first)
        return _scan(x, routes, out_channel_first)

    @staticmethod
    def backward(ctx, grad):
        image = grad.unflatten(3, ctx.shape[3:])
        return _Merge.apply(image, *ctx.how).unflatten(3, ctx.shape[3:]), None, None, None


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, routes, one_by_one, in_channel_first, out_channel_first):
        ctx.shape, ctx.how = y.shape, (routes, out_channel_first, in_channel_first)
        return _merge(y, routes, one_by_one, out_channel_first)

    @staticmethod
    def backward(ctx, grad):
        image = grad.unflatten(3, ctx.shape[3:])
        return _Scan.apply(image, *ctx.how).unflatten(3, ctx.shape[3:]), None, None, None, None


def scan(x_BKCHW: Tensor, routes: str, in_channel_first: bool, out_channel_first: bool) -> Tensor:
    """(B, K or 1, C, H, W) -> (B, K, C, L); the flags are the memory layouts of image and sequence."""
    return _Scan.apply(x_BKCHW, routes, in_channel_first, out_channel_first)


def merge(y_BKCHW: Tensor, routes: str, one_by_one: bool, in_channel_first: bool, out_channel_first: bool) -> Tensor:
    """(B, K, C, H, W) -> (B, 1, C, L), or (B, K, C, L) one by one; flags as in ``scan``."""
    return _Merge.apply(y_BKCHW, routes, one_by_one, out_channel_first, in_channel_first)
