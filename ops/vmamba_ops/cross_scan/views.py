"""Cross scan and cross merge by views, copies and flips, with hand-written backwards (backend "torch").

Each is the other's adjoint: backward of scan is merge, backward of merge is scan, so both differentiate any number
of times. Shapes as in ``naive``; ``*_channel_first`` say how the result lies in memory, not what its shape is.
"""

import torch
from torch import Tensor


def _empty(like: Tensor, channel_first: bool, batch: int, routes: int, channels: int, length: int) -> Tensor:
    """Room for (B, K, C, L), laid out so, or as (B, L, K, C)."""
    if channel_first:
        return like.new_empty(batch, routes, channels, length)
    return like.new_empty(batch, length, routes, channels).permute(0, 2, 3, 1)


def _scan(x: Tensor, routes: str, channel_first: bool) -> Tensor:
    batch, slices, channels, height, width = x.shape
    out = _empty(x, channel_first, batch, 4, channels, height * width)
    forward = out[:, :2].unflatten(3, (height, width))
    if routes == "unidi":
        out.unflatten(3, (height, width)).copy_(x)
        return out
    if routes == "bidi":
        forward.copy_(x[:, :2])
    else:
        forward[:, 0].copy_(x[:, 0])
        out[:, 1].unflatten(2, (width, height)).copy_(x[:, 1 % slices].transpose(2, 3))
    if slices == 1:
        out[:, 2:].copy_(out[:, :2].flip(-1))
    else:
        last = x[:, 2:].flatten(3)
        if routes == "cross2d":
            last = torch.stack([last[:, 0], x[:, 3].transpose(2, 3).flatten(2)], 1)
        out[:, 2:].copy_(last.flip(-1))
    return out


def _merge(y: Tensor, routes: str, one_by_one: bool, channel_first: bool) -> Tensor:
    batch, _, channels, height, width = y.shape
    length = height * width
    y = y.flatten(3)
    if routes == "unidi":
        return _laid_out(y.clone() if one_by_one else y.sum(1, keepdim=True), channel_first)
    backward = y[:, 2:].flip(-1)
    if one_by_one:
        out = _empty(y, channel_first, batch, 4, channels, length)
        out[:, :2].copy_(y[:, :2])
        out[:, 2:].copy_(backward)
        if routes == "cross2d":
            for k in (1, 3):
                columns = out[:, k].unflatten(2, (width, height)).transpose(2, 3)
                out[:, k].unflatten(2, (height, width)).copy_(columns.contiguous())
        return out
    both = backward.add_(y[:, :2])
    second = both[:, 1]
    if routes == "cross2d":
        second = second.unflatten(2, (width, height)).transpose(2, 3).reshape(batch, channels, length)
    return _laid_out((both[:, 0] + second)[:, None], channel_first)


def _laid_out(x: Tensor, channel_first: bool) -> Tensor:
    """x (B, K, C, L) in that memory layout: itself where it lies so already."""
    return x.contiguous() if channel_first else x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


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
