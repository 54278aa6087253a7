"""LayerNorm over the last axis, alone or together with the residual addition before it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import tensors
from ..choose import choose
from ..eager import plain

LARGEST = 4096  # channels that the Triton kernels take: a program holds whole rows


def takes(x: Tensor) -> bool:
    """Whether Triton's kernels take this tensor without a copy: one operator to a compiler that is told so."""
    return x.is_cuda and x.is_contiguous() and x.shape[-1] <= LARGEST and choose("layer_norm", "auto", x) == "triton"


def _check(
    op: str, x: Tensor, weight: Tensor, bias: Tensor, branch: Tensor | None = None, scale: Tensor | None = None
) -> None:
    tensors(op, {"x": x})
    if x.dim() < 2 or 0 in x.shape:
        raise ValueError(f"{op}: x is {tuple(x.shape)}; it takes (..., channels) with two axes or more, none of them 0")
    shapes = {"branch": (branch, x.shape), "weight": (weight, x.shape[-1:]), "bias": (bias, x.shape[-1:])}
    if scale is not None and branch is None:
        raise ValueError(f"{op}: scale is of the branch, and there is none")
    for name, (tensor, shape) in (shapes | {"scale": (scale, x.shape[:1])}).items():
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(
                f"{op}: {name} is {tuple(tensor.shape)}; it takes {tuple(shape)}, as x is {tuple(x.shape)}"
            )
        if tensor.device != x.device:
            raise ValueError(f"{op}: {name} is on {tensor.device}; it takes a tensor on {x.device}, where x is")
    for name, tensor in (("x", x), ("branch", branch), ("scale", scale), ("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.dtype.is_floating_point:
            raise TypeError(f"{op}: {name} is {tensor.dtype}; it takes a floating dtype")


def _choice(x: Tensor, backend: str, *others: Tensor | None) -> str:
    """The backend. ``auto`` leaves the op to torch where somebody watches, who may see through torch's own."""
    wide = any(t is not None and t.dtype == torch.float64 for t in others)
    if backend == "auto" and (wide or x.shape[-1] > LARGEST or not plain(x, *others)):
        return "torch"
    choice = choose("layer_norm", backend, x)
    if choice == "triton" and x.shape[-1] > LARGEST:
        why = f"it takes up to {LARGEST} channels, got {x.shape[-1]}"
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
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axis; computed in float32 (of float64: float64).

    Args:
        x: (..., C), any floating dtype. weight, bias: (C,).
        out_dtype: dtype of the result; None takes that of ``x``, and float32 under autocast on a GPU, as torch does.
        backend: "naive" (the definition), "torch", "triton" (one kernel forward, one backward and a sum; a GPU, C up
            to 4096; one operator to a compiler), or "auto": Triton's in eager mode where it runs, else torch's, which
            ``torch.compile`` and ``torch.export`` see through.
    Returns:
        (..., C). Differentiable once in x, weight and bias; gradients have a fixed order of sums.
    Raises:
        TypeError, ValueError: an argument of the wrong kind or shape, by name. RuntimeError: the backend is not for
        this input.
    """
    _check("layer_norm", x, weight, bias)
    choice = _choice(x, backend, weight, bias)
    if choice == "triton":
        from .triton import add_norm  # here, so that Triton is imported by those alone who run it

        return add_norm(x, None, None, weight, bias, eps, out_dtype)[1]
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
    scale: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """``total = x + scale * branch`` (``x`` itself without a branch) and its ``layer_norm``, in one pass over both.

    The gradient of ``total`` and that through the norm are added in the backward kernel as well, and the branch's is
    written there in the branch's type.

    Args:
        x, branch: (..., C), of any two floating dtypes; total has the wider one, as an addition gives.
        scale: None for 1, or (x.shape[0],): stochastic depth's factor of each image. No gradient is given to it.
        weight, bias, eps, out_dtype, backend: as in ``layer_norm``; out_dtype is of the normalised map.
    Returns:
        total and the normalised map, both (..., C).
    Raises:
        As ``layer_norm``.
    """
    _check("add_layer_norm", x, weight, bias, branch, scale)
    choice = _choice(x, backend, branch, scale, weight, bias)
    if choice == "triton":
        from .triton import add_norm

        return add_norm(x, branch, scale, weight, bias, eps, out_dtype)
    total = add(x, branch, scale)
    if choice == "naive":
        from .naive import layer_norm as naive

        return total, naive(total, weight, bias, eps, out_dtype)
    return total, _torch(total, weight, bias, eps, out_dtype)


def add(x: Tensor, branch: Tensor | None, scale: Tensor | None) -> Tensor:
    """``x + scale * branch``, of the wider dtype of the two maps; ``scale`` (x.shape[0],) or None for 1."""
    if branch is None:
        return x
    if scale is None:
        return x + branch
    wider = torch.promote_types(x.dtype, branch.dtype)
    return x + branch.to(wider) * scale.to(wider).view(-1, *[1] * (x.dim() - 1))
