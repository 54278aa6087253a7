"""LayerNorm in Triton: plain eager calls go around the dispatcher, a compiler is shown one operator each way."""

from functools import cache

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import partials
from ..eager import plain
from ..half import autocast
from ..triton_launch import Launch, processors
from . import triton_kernels

torch.library.define(
    "vmamba_ops::add_layer_norm",
    "(Tensor x, Tensor? branch, Tensor? scale, Tensor weight, Tensor bias, float eps, ScalarType out_dtype) "
    "-> (Tensor total, Tensor y, Tensor stats)",
)
torch.library.define(
    "vmamba_ops::add_layer_norm_backward",
    "(Tensor dy, Tensor? dtotal, Tensor total, Tensor stats, Tensor? scale, Tensor weight, "
    "ScalarType x_dtype, ScalarType? branch_dtype) -> (Tensor dx, Tensor dbranch, Tensor dweight, Tensor dbias)",
)

_ELEMENTS = {"forward": 2048, "backward": 1024}  # of a program's tile
_RESIDENT = 4  # programs of the backward on a multiprocessor


@cache
def _plan(direction: str, device: int | None, shape: tuple[int, int, int], dtypes: tuple, flags: tuple, eps: float):
    """The launch and its number of programs.

    ``shape``: rows, rows to a number of scale, channels. ``dtypes`` are the tensors', which a launch must not change.
    """
    rows, area, channels = shape
    padded = triton.next_power_of_2(channels)
    tile = max(1, _ELEMENTS[direction] // padded)
    constants = dict(flags) | {"C": channels, "BC": padded, "T": tile}
    programs, scalars = triton.cdiv(rows, tile), (rows, area, eps)
    if direction == "backward":
        programs, scalars = min(programs, _RESIDENT * processors(device)), (rows, area)
    function = getattr(triton_kernels, f"layer_norm_{direction}")
    return Launch(function, (programs,), scalars, constants, 4 if padded <= 2048 else 8, None), programs


def _planned(direction: str, x: Tensor, scale: Tensor | None, tensors: tuple, eps: float = 0.0, **flags: bool):
    rows = x.numel() // x.shape[-1]
    shape = rows, rows if scale is None else rows // scale.numel(), x.shape[-1]
    kinds, flags = tuple([t.dtype for t in tensors]), tuple(flags.items())
    return _plan(direction, x.device.index, shape, kinds, flags, eps)


def _total_dtype(x: Tensor, branch: Tensor | None) -> torch.dtype:
    return x.dtype if branch is None else torch.promote_types(x.dtype, branch.dtype)


def _empty_forward(x, branch, out_dtype) -> tuple[Tensor, Tensor, Tensor]:
    """total (without a branch: of size 0), y, and mean and 1 / deviation of the rows."""
    total = x.new_empty(0 if branch is None else x.shape, dtype=_total_dtype(x, branch))
    rows = x.numel() // x.shape[-1]
    return total, torch.empty_like(x, dtype=out_dtype), x.new_empty((rows, 2), dtype=torch.float32)


def _forward(x, branch, scale, weight, bias, eps, out_dtype) -> tuple[Tensor, Tensor, Tensor]:
    total, y, stats = _empty_forward(x, branch, out_dtype)
    add = branch is not None
    tensors = (x, branch if add else x, x if scale is None else scale, weight, bias, total if add else x, y, stats)
    launch, _ = _planned("forward", x, scale, tensors, eps, ADD=add, SCALE=scale is not None)
    launch(*tensors)
    return total, y, stats


def _empty_backward(total, x_dtype, branch_dtype) -> tuple[Tensor, Tensor]:
    """dx and dbranch (without a branch: of size 0)."""
    dbranch = total.new_empty(0) if branch_dtype is None else torch.empty_like(total, dtype=branch_dtype)
    return torch.empty_like(total, dtype=x_dtype), dbranch


def _backward(dy, dtotal, total, stats, scale, weight, x_dtype, branch_dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x and branch (without one: of size 0), and in float32 of weight and bias."""
    dx, dbranch = _empty_backward(total, x_dtype, branch_dtype)
    both = branch_dtype is not None
    tensors = [
        dy, total, stats, weight, total if scale is None else scale, total if dtotal is None else dtotal,
        dx, dbranch if both else dx,
    ]  # fmt: skip
    flags = {"TOTAL": dtotal is not None, "BRANCH": both, "SCALE": scale is not None}
    launch, programs = _planned("backward", total, scale, (*tensors, stats), **flags)
    parts = total.new_empty((2, programs, total.shape[-1]), dtype=torch.float32)
    launch(*tensors, parts)
    return dx, dbranch, *partials.summed(*parts)


@torch.library.register_fake("vmamba_ops::add_layer_norm")
def _forward_fake(x, branch, scale, weight, bias, eps, out_dtype):
    return _empty_forward(x, branch, out_dtype)


@torch.library.register_fake("vmamba_ops::add_layer_norm_backward")
def _backward_fake(dy, dtotal, total, stats, scale, weight, x_dtype, branch_dtype):
    sums = (weight.new_empty(weight.shape, dtype=torch.float32) for _ in range(2))
    return *_empty_backward(total, x_dtype, branch_dtype), *sums


def _keep(ctx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, branch, scale, weight, bias, _, _ = inputs
    total, _, stats = output
    ctx.save_for_backward(x if branch is None else total, stats, scale, weight)
    ctx.types = x.dtype, None if branch is None else branch.dtype, bias.dtype
    ctx.set_materialize_grads(False)


def _gradients(ctx, backward, dtotal: Tensor | None, dy: Tensor | None) -> tuple:
    """Of the operator's inputs, by ``backward``."""
    total, stats, scale, weight = ctx.saved_tensors
    x_dtype, branch_dtype, bias_dtype = ctx.types
    if dy is None:
        dy = torch.zeros_like(total)
    if branch_dtype is None:
        dtotal = None  # x itself is handed out, not a total
    dtotal = None if dtotal is None else dtotal.contiguous()
    dx, dbranch, dw, db = backward(dy.contiguous(), dtotal, total, stats, scale, weight, x_dtype, branch_dtype)
    dbranch = None if branch_dtype is None else dbranch
    return dx, dbranch, None, dw.to(weight.dtype), db.to(bias_dtype), None, None


class _Eager(torch.autograd.Function):
    """The operator for plain eager calls, without the dispatcher."""

    @staticmethod
    def forward(ctx, *inputs):
        output = _forward(*inputs)
        _keep(ctx, inputs, output)
        ctx.mark_non_differentiable(output[2])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, dtotal, dy, _):
        return _gradients(ctx, _backward, dtotal, dy)


torch.library.impl("vmamba_ops::add_layer_norm", "CUDA", _forward)
torch.library.impl("vmamba_ops::add_layer_norm_backward", "CUDA", _backward)
torch.library.register_autograd(
    "vmamba_ops::add_layer_norm",
    lambda ctx, dtotal, dy, _: _gradients(ctx, torch.ops.vmamba_ops.add_layer_norm_backward, dtotal, dy),
    setup_context=_keep,
)


def add_norm(
    x: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    out_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    """As the public ``add_layer_norm``."""
    branch, scale = (None if t is None else t.contiguous() for t in (branch, scale))
    if out_dtype is None:  # torch's rule
        out_dtype = torch.float32 if autocast(x) else _total_dtype(x, branch)
    inputs = (x.contiguous(), branch, scale, weight, bias, eps, out_dtype)
    if not plain(x, branch, scale, weight, bias):
        call = torch.ops.vmamba_ops.add_layer_norm
    else:  # autograd's part of a call costs more than its kernel on small maps
        call = _Eager.apply if torch.is_grad_enabled() else _forward
    total, y, _ = call(*inputs)
    return x if branch is None else total, y
