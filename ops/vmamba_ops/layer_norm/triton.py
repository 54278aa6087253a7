"""LayerNorm in Triton for eager mode, as an ``autograd.Function`` around ``triton_kernels``.

It is no ``torch.library`` operator, whose call would cost more than is gained on small maps: whoever watches (a
compiler, an exporter, a FLOP counter) is given torch's own LayerNorm by the public functions.
"""

from functools import cache

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..triton_launch import Launch, processors
from . import triton_kernels

_ELEMENTS = 2048  # of a program's tile
_RESIDENT = 4  # programs of the backward on a multiprocessor


@cache
def _plan(direction: str, device: int | None, rows: int, channels: int, dtypes: tuple, flags: tuple, eps: float):
    """The launch and its number of programs; ``dtypes`` are the tensors', which a launch must not change."""
    padded = triton.next_power_of_2(channels)
    tile = max(1, _ELEMENTS // padded)
    sizes = {"C": channels, "BC": padded, "T": tile}
    warps = 4 if padded <= _ELEMENTS else 8
    if direction == "forward":
        programs, scalars = triton.cdiv(rows, tile), (rows, eps)
        constants = {"ADD": flags[0]} | sizes
    else:
        programs, scalars = min(triton.cdiv(rows, tile), _RESIDENT * processors(device)), (rows,)
        constants = {"TOTAL": flags[0], "BRANCH": flags[1]} | sizes
    return Launch(
        getattr(triton_kernels, f"layer_norm_{direction}"), (programs,), scalars, constants, warps, None
    ), programs


def _run(direction: str, flags: tuple, eps: float, x: Tensor, *tensors: Tensor) -> None:
    """Start the kernel; ``tensors`` in its order."""
    channels = x.shape[-1]
    plan, _ = _plan(direction, x.device.index, x.numel() // channels, channels, _types(tensors), flags, eps)
    plan(*tensors)


def _types(tensors: tuple[Tensor, ...]) -> tuple[torch.dtype, ...]:
    return tuple([t.dtype for t in tensors])


def _forward(x, branch, weight, bias, eps, out_dtype) -> tuple[Tensor, Tensor, Tensor]:
    """total, y, and mean and 1 / deviation of the rows."""
    channels = x.shape[-1]
    y = torch.empty(x.shape, dtype=out_dtype, device=x.device)
    stats = torch.empty((x.numel() // channels, 2), dtype=torch.float32, device=x.device)
    total, other = x, x
    if branch is not None:
        total, other = torch.empty(x.shape, dtype=_wider(x, branch), device=x.device), branch
    _run("forward", (branch is not None,), eps, x, x, other, weight, bias, total, y, stats)
    return total, y, stats


class _Norm(torch.autograd.Function):
    """(x, branch or None, ...) -> y, or (total, y) if ``pair``."""

    @staticmethod
    def forward(ctx, x, branch, weight, bias, eps, out_dtype, pair):
        total, y, stats = _forward(x, branch, weight, bias, eps, out_dtype)
        ctx.save_for_backward(total, stats, weight)
        ctx.types = x.dtype, None if branch is None else branch.dtype, bias.dtype
        ctx.set_materialize_grads(False)
        return (total, y) if pair else y

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        dtotal, dy = gradients if len(gradients) == 2 else (None, *gradients)
        dx, dbranch, dweight, dbias = _backward(ctx, dy, dtotal)
        return dx, dbranch, dweight, dbias, None, None, None


def _backward(ctx, dy: Tensor | None, dtotal: Tensor | None) -> tuple[Tensor | None, ...]:
    x_type, branch_type, bias_type = ctx.types
    if dy is None:
        return dtotal, None if dtotal is None or branch_type is None else dtotal.to(branch_type), None, None
    total, stats, weight = ctx.saved_tensors
    dy, channels = dy.contiguous(), total.shape[-1]
    dx = torch.empty(total.shape, dtype=x_type, device=total.device)
    apart = branch_type is not None and branch_type != x_type  # else one gradient serves both
    dbranch = torch.empty(total.shape, dtype=branch_type, device=total.device) if apart else dx
    dtotal_or = total if dtotal is None else dtotal.contiguous()
    flags = dtotal is not None, apart
    tensors = [dy, total, stats, weight, dtotal_or, dx, dbranch]
    rows, kinds = total.numel() // channels, _types((*tensors, stats))
    plan, programs = _plan("backward", total.device.index, rows, channels, kinds, flags, 0.0)
    parts = torch.empty((programs, 2, channels), dtype=torch.float32, device=total.device)
    plan(*tensors, parts)
    dweight, dbias = parts.sum(0)
    return dx, None if branch_type is None else dbranch, dweight.to(weight.dtype), dbias.to(bias_type)


def _wider(x: Tensor, branch: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, branch.dtype)


def _out(x_dtype: torch.dtype, out_dtype: torch.dtype | None) -> torch.dtype:
    """The result's dtype, by torch's rule where none was asked for."""
    if out_dtype is None:
        return torch.float32 if torch.is_autocast_enabled("cuda") else x_dtype
    return out_dtype


def norm(x: Tensor, branch: None, weight: Tensor, bias: Tensor, eps: float, out_dtype: torch.dtype | None) -> Tensor:
    """As the public ``layer_norm``."""
    inputs = (x.contiguous(), branch, weight, bias, eps, _out(x.dtype, out_dtype))
    if torch.is_grad_enabled():
        return _Norm.apply(*inputs, False)
    return _forward(*inputs)[1]  # autograd's part of a call costs more than its kernel on small maps


def add_norm(
    x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, eps: float, out_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """As the public ``add_layer_norm``."""
    total_dtype = x.dtype if branch is None else _wider(x, branch)
    branch = None if branch is None else branch.contiguous()
    inputs = (x.contiguous(), branch, weight, bias, eps, _out(total_dtype, out_dtype))
    return _Norm.apply(*inputs, True) if torch.is_grad_enabled() else _forward(*inputs)[:2]
