"""The operators in Triton: plain eager calls go around the dispatcher, and sums have a fixed order."""

from functools import cache

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import flops, partials
from ..eager import plain
from ..triton_launch import Launch, processors
from . import triton_kernels

WARPS = 4
ROWS = {"forward": 128, "backward": 64}  # positions that a program takes at a time
RESIDENT = {"forward": 4, "backward": 2}  # programs on a multiprocessor
PATCH = 27

torch.library.define(
    "vmamba_ops::conv_norm_gelu",
    "(Tensor x, Tensor weight, Tensor bias, Tensor norm_weight, Tensor norm_bias, float eps, ScalarType kind)"
    " -> Tensor",
)
torch.library.define(
    "vmamba_ops::conv_norm_gelu_backward",
    "(Tensor dout, Tensor x, Tensor weight, Tensor bias, Tensor norm_weight, Tensor norm_bias, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)


def _programs(direction: str, positions: int, device: int | None) -> int:
    return min(triton.cdiv(positions, ROWS[direction]), RESIDENT[direction] * processors(device))


@cache
def _launch(direction: str, shape: tuple, channels: int, device: int | None, kinds: tuple, eps: float) -> Launch:
    """``kinds``: the dtypes, which a launch must not change."""
    images, height, width, _ = shape
    up, across = _half(height), _half(width)
    positions = images * up * across
    pieces = 1 if channels & (channels - 1) == 0 else 3
    constants = {"C": channels, "P": channels // pieces, "PIECES": pieces, "T": ROWS[direction]}
    kernel = getattr(triton_kernels, f"conv_norm_gelu_{direction}")
    programs = _programs(direction, positions, device)
    return Launch(kernel, (programs,), (positions, height, width, up, across, eps), constants, WARPS, None)


def _half(side: int) -> int:
    return (side + 1) // 2


def _run(direction: str, eps: float, x: Tensor, *tensors: Tensor) -> None:
    """Start a kernel on ``x`` and ``tensors``, in its order, the weight first of them."""
    kinds = (x.dtype, *[t.dtype for t in tensors])
    _launch(direction, tuple(x.shape), tensors[0].shape[0], x.device.index, kinds, eps)(x, *tensors)


def _forward(x, weight, bias, norm_weight, norm_bias, eps, kind):
    out = x.new_empty((x.shape[0], _half(x.shape[1]), _half(x.shape[2]), weight.shape[0]), dtype=kind)
    _run("forward", eps, x, weight, bias, norm_weight, norm_bias, out)
    return out


def _backward(dout, x, weight, bias, norm_weight, norm_bias, eps):
    """Gradients of weight, bias, norm_weight, norm_bias."""
    channels, device = weight.shape[0], x.device.index
    programs = _programs("backward", dout.numel() // channels, device)
    parts = weight.new_empty((programs, (PATCH + 3) * channels))
    _run("backward", eps, x, weight, bias, norm_weight, norm_bias, dout, parts)
    sums = partials.summed(*parts.split([PATCH * channels, channels, channels, channels], 1))
    return sums[0].view(weight.shape), *sums[1:]


@torch.library.register_fake("vmamba_ops::conv_norm_gelu")
def _forward_fake(x, weight, bias, norm_weight, norm_bias, eps, kind):
    return x.new_empty((x.shape[0], _half(x.shape[1]), _half(x.shape[2]), weight.shape[0]), dtype=kind)


@torch.library.register_fake("vmamba_ops::conv_norm_gelu_backward")
def _backward_fake(dout, x, *parameters_and_eps):
    return tuple(torch.empty_like(p) for p in parameters_and_eps[:4])


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.eps, ctx.kind = inputs[5:]


def _gradients(ctx, dout):
    dout = dout.to(ctx.kind).contiguous()
    return None, *torch.ops.vmamba_ops.conv_norm_gelu_backward(dout, *ctx.saved_tensors, ctx.eps), None, None


class _Eager(torch.autograd.Function):
    """The same for plain eager calls, without the dispatcher."""

    @staticmethod
    def forward(ctx, *inputs):
        _save(ctx, inputs, None)
        return _forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        return None, *_backward(dout.to(ctx.kind).contiguous(), *ctx.saved_tensors, ctx.eps), None, None


torch.library.impl("vmamba_ops::conv_norm_gelu", "CUDA", _forward)
torch.library.impl("vmamba_ops::conv_norm_gelu_backward", "CUDA", _backward)
torch.library.register_autograd("vmamba_ops::conv_norm_gelu", _gradients, setup_context=_save)
flops.register_conv_norm_gelu()


def conv_norm_gelu(x, weight, bias, norm_weight, norm_bias, eps: float, kind: torch.dtype) -> Tensor:
    """As the public function, its products in ``kind``."""
    own = [t.float().contiguous() for t in (weight.permute(0, 2, 3, 1).flatten(1), bias, norm_weight, norm_bias)]
    inputs = (x.permute(0, 2, 3, 1).contiguous(), *own, eps, kind)
    if not plain(x, weight):
        out = torch.ops.vmamba_ops.conv_norm_gelu(*inputs)
    else:  # autograd's part of a call costs more than its kernel on small maps
        out = _Eager.apply(*inputs) if torch.is_grad_enabled() else _forward(*inputs)
    return out.permute(0, 3, 1, 2)
