"""The MLP's operators in Triton: plain eager calls go around the dispatcher, and sums have a fixed order."""

from functools import cache

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import flops, partials
from ..eager import plain
from ..triton_launch import Launch
from . import plan, triton_kernels, triton_parts

torch.library.define(
    "vmamba_ops::add_norm_mlp",
    "(Tensor x, Tensor? branch, Tensor norm_weight, Tensor norm_bias, float eps, "
    "Tensor w1, Tensor b1, Tensor w2, Tensor b2) -> Tensor",
)
torch.library.define(
    "vmamba_ops::mlp",
    "(Tensor y, Tensor w1, Tensor b1, Tensor w2, Tensor b2, bool save) -> (Tensor out, Tensor hidden)",
)
torch.library.define(
    "vmamba_ops::mlp_backward",
    "(Tensor dout, Tensor hidden, Tensor y, Tensor w1, Tensor w2) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@cache
def _launch(kernel: str, rows: int, channels: int, hidden: int, kinds: tuple, flag: bool, eps: float) -> Launch:
    """``kinds``: the device and the dtypes, which a launch must not change."""
    if kernel == "expand":
        tile, function, programs = plan.EXPAND, triton_parts.mlp_expand, hidden // plan.EXPAND.columns
        constants = {"BN": tile.columns, "BK": plan.step(channels), "SAVE": flag, "STAGES": tile.stages}
    elif kernel == "slope":
        tile, function, programs = plan.SLOPE, triton_parts.mlp_slope, hidden // plan.SLOPE.columns
        constants = {"BN": tile.columns, "STEP": plan.STEP}
    else:
        tile, function, programs = getattr(plan, kernel.upper())[channels], getattr(triton_kernels, f"mlp_{kernel}"), 1
        pieces = plan.pieces(channels)
        constants = {"P": channels // pieces, "PIECES": pieces, "BH": tile.columns, "STAGES": tile.stages}
        constants |= {"inference": {"ADD": flag}, "forward": {"SAVE": flag}, "backward": {}}[kernel]
    constants |= {"C": channels, "H": hidden, "T": tile.rows}
    scalars = (rows, eps) if kernel == "inference" else (rows,)
    grid = (triton.cdiv(rows, tile.rows) * programs,)
    return Launch(function, grid, scalars, constants, tile.warps, tile.registers)


def _run(kernel: str, w1: Tensor, *tensors: Tensor, flag: bool = False, eps: float = 0.0) -> None:
    """Start a kernel on ``tensors``, in its order; the first has the rows."""
    hidden, channels = w1.shape
    kinds = (w1.device.index, *[t.dtype for t in tensors])
    _launch(kernel, tensors[0].numel() // channels, channels, hidden, kinds, flag, eps)(*tensors)


def _add_norm_mlp(x, branch, norm_weight, norm_bias, eps, w1, b1, w2, b2):
    out, added = _like_total(x, branch), branch is not None
    tensors = (x, branch if added else x, norm_weight, norm_bias, w1, b1, w2, b2, out)
    _run("inference", w1, *tensors, flag=added, eps=eps)
    return out


def _forward(y, w1, b1, w2, b2, save):
    hidden = y.new_empty(_hidden_shape(y, w1, save))
    if w1.shape[1] in plan.FORWARD:
        out = torch.empty_like(y)
        _run("forward", w1, y, w1, b1, w2, b2, out, hidden, flag=save)
        return out, hidden
    active = y.new_empty(_hidden_shape(y, w1, True))
    _run("expand", w1, y, w1, b1, active, hidden, flag=save)
    return torch.nn.functional.linear(active, w2, b2.to(y.dtype)), hidden


def _backward(dout, hidden, y, w1, w2):
    """Gradients of y, w1, b1, w2, b2."""
    (width, channels), rows = w1.shape, y.numel() // y.shape[-1]
    whole = channels in plan.BACKWARD
    programs = triton.cdiv(rows, (plan.BACKWARD[channels] if whole else plan.SLOPE).rows)
    active, dhidden = torch.empty_like(hidden), torch.empty_like(hidden)
    sums = _float(y, programs, width), _float(y, programs, channels)
    if whole:
        dy = torch.empty_like(y)
        _run("backward", w1, dout, w1, w2, hidden, active, dhidden, dy, *sums)
    else:
        _run("slope", w1, dout, dout @ w2, hidden, active, dhidden, *sums)
        dy = dhidden @ w1
    db1, db2 = partials.summed(*sums)
    dw1 = dhidden.view(rows, width).t() @ y.view(rows, channels)
    return dy, dw1, db1, dout.view(rows, channels).t() @ active.view(rows, width), db2


def _float(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _like_total(x: Tensor, branch: Tensor | None) -> Tensor:
    return torch.empty_like(x, dtype=x.dtype if branch is None else torch.promote_types(x.dtype, branch.dtype))


def _hidden_shape(y: Tensor, w1: Tensor, save: bool) -> tuple:
    return (*y.shape[:-1], w1.shape[0]) if save else (0,)


@torch.library.register_fake("vmamba_ops::add_norm_mlp")
def _add_norm_mlp_fake(x, branch, *_):
    return _like_total(x, branch)


@torch.library.register_fake("vmamba_ops::mlp")
def _forward_fake(y, w1, b1, w2, b2, save):
    return torch.empty_like(y), y.new_empty(_hidden_shape(y, w1, save))


@torch.library.register_fake("vmamba_ops::mlp_backward")
def _backward_fake(dout, hidden, y, w1, w2):
    biases = (_float(y, w.shape[0]) for w in (w1, w2))
    return torch.empty_like(y), torch.empty_like(w1), next(biases), torch.empty_like(w2), next(biases)


def _save(ctx, inputs, output) -> None:
    y, w1, _, w2, _, _ = inputs
    ctx.save_for_backward(output[1], y, w1, w2)


def _gradients(ctx, dout, _):
    hidden, y, *weights = ctx.saved_tensors
    dout = dout.to(y.dtype).contiguous()
    return (*torch.ops.vmamba_ops.mlp_backward(dout, hidden, y, *weights), None)


class _Eager(torch.autograd.Function):
    """The same for plain eager calls, without the dispatcher."""

    @staticmethod
    def forward(ctx, y, w1, b1, w2, b2):
        out, hidden = _forward(y, w1, b1, w2, b2, True)
        ctx.save_for_backward(hidden, y, w1, w2)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        hidden, y, *weights = ctx.saved_tensors
        return _backward(dout.to(y.dtype).contiguous(), hidden, y, *weights)


torch.library.impl("vmamba_ops::add_norm_mlp", "CUDA", _add_norm_mlp)
torch.library.impl("vmamba_ops::mlp", "CUDA", _forward)
torch.library.impl("vmamba_ops::mlp_backward", "CUDA", _backward)
torch.library.register_autograd("vmamba_ops::mlp", _gradients, setup_context=_save)
flops.register_mlp()


def _own(kind: torch.dtype, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, ...]:
    """The parameters as the kernels read them: weights in 16 bits, biases in float32."""
    return w1.to(kind).contiguous(), b1.float(), w2.to(kind).contiguous(), b2.float()


def mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, kind: torch.dtype) -> Tensor:
    """As the public function, computed in ``kind``."""
    tensors = (x.to(kind).contiguous(), *_own(kind, w1, b1, w2, b2))
    if plain(*tensors):
        if not torch.is_grad_enabled():  # autograd's part of a call costs more than its kernel on small maps
            return _forward(*tensors, False)[0]
        return _Eager.apply(*tensors)
    return torch.ops.vmamba_ops.mlp(*tensors, torch.is_grad_enabled())[0]


def add_norm_mlp(x, branch, norm_weight, norm_bias, eps, w1, b1, w2, b2, kind: torch.dtype) -> Tensor:
    """As the public function, its products in ``kind``."""
    branch = None if branch is None else branch.contiguous()
    norm = norm_weight.float(), norm_bias.float(), eps
    tensors = (x.contiguous(), branch, *norm, *_own(kind, w1, b1, w2, b2))
    call = _add_norm_mlp if plain(x, branch, norm_weight, w1) else torch.ops.vmamba_ops.add_norm_mlp
    return call(*tensors)
