"""LayerNorm over the last axis, alone or together with the residual addition before it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..choose import choose
from ..eager import plain

LARGEST = 4096  # channels that the Triton kernels take: a program holds whole rows


def _check(op: str, x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor) -> None:
    if x.dim() < 2 or 0 in x.shape:
        raise ValueError(f"{op}: x is {tuple(x.shape)}; it takes (..., channels) with two axes or more, none of them 0")
    if branch is not None and branch.shape != x.shape:
        raise ValueError(f"{op}: branch is {tuple(branch.shape)}; it takes the shape of x, {tuple(x.shape)}")
    channels, device = x.shape[-1:], x.device
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor.shape != channels:
            raise ValueError(f"{op}: {name} is {tuple(tensor.shape)}; it takes {tuple(channels)}")
    for name, tensor in (("x", x), ("branch", branch), ("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{op}: {name} is {tensor.dtype}; it takes a floating dtype")
        if tensor.device != device:
            raise ValueError(f"{op}: {name} is on {tensor.device}; it takes a tensor on {device}, where x is")


def _choice(x: Tensor, backend: str, *others: Tensor | None) -> str:
    """The backend. ``auto`` leaves the op to torch where somebody watches: a compiler fuses torch's own better."""
    watched = not plain(x, *others)
    wide = any(t is not None and t.dtype == torch.float64 for t in others)
    if backend == "auto" and (watched or wide or x.shape[-1] > LARGEST):
        return "torch"
    choice = choose("layer_norm", backend, x)
    if choice == "triton" and (watched or x.shape[-1] > LARGEST):
        why = "it runs in eager mode alone" if watched else f"it takes up to {LARGEST} channels, got {x.shape[-1]}"
        raise RuntimeError(f"layer_norm: backend 'triton' cannot run here: {why}; use backend=auto")
    return choice


def _torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out_dtype: torch.dtype | None) -> Tensor:
    y = F.layer_norm(x, (x.shape[-1],), weight, bias, eps)
    return y if out_dtype is None else y.to(out_dtype)


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axis; computed in float32 whatever is read.

    Args:
        x: (..., C), any floating dtype. weight, bias: (C,).
        out_dtype: dtype of the result; None takes that of ``x``, and float32 under autocast on a GPU, as torch does.
        backend: "naive" (the definition), "torch", "triton" (one kernel forward, one backward and a sum; a GPU, eager
            mode, C up to 4096), or "auto": Triton's where it runs, else torch's, which ``torch.compile`` and
            ``torch.export`` see through.
    Returns:
        (..., C). Differentiable once in x, weight and bias; gradients have a fixed order of sums.
    Raises:
        TypeError, ValueError: an argument of the wrong kind or shape, by name. RuntimeError: the backend is not for
        this input.
    """
    _check("layer_norm", x, None, weight, bias)
    choice = _choice(x, backend, weight, bias)
    if choice == "triton":
        from .triton import norm  # here, so that Triton is imported by those alone who run it

        return norm(x, None, weight, bias, eps, out_dtype)
    if choice == "naive":
        from .naive import layer_norm as naive

        return naive(x, weight, bias, eps, out_dtype)
    return _torch(x, weight, bias, eps, out_dtype)


def add_layer_norm(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """``total = x + branch`` (``x`` itself without a branch) and its ``layer_norm``, in one pass over both.

    The gradient of ``total`` and that through the norm are added in the backward kernel as well, and the branch's is
    written there in the branch's type.

    Args:
        x, branch: (..., C), of any two floating dtypes; total has the wider one, as an addition gives.
        weight, bias, eps, out_dtype, backend: as in ``layer_norm``; out_dtype is of the normalised map.
    Returns:
        total and the normalised map, both (..., C).
    Raises:
        As ``layer_norm``.
    """
    _check("add_layer_norm", x, branch, weight, bias)
    choice = _choice(x, backend, branch, weight, bias)
    if choice == "triton":
        from .triton import add_norm

        return add_norm(x, branch, weight, bias, eps, out_dtype)
    total = x if branch is None else x + branch
    if choice == "naive":
        from .naive import layer_norm as naive

        return total, naive(total, weight, bias, eps, out_dtype)
    return total, _torch(total, weight, bias, eps, out_dtype)
