"""The MLP of a residual block, linear - GELU - linear, alone or with the LayerNorm and the additions around it."""

import torch
from torch import Tensor

from ..checks import tensors
from ..half import autocast, kind, products_in_half
from ..layer_norm import add_layer_norm
from . import naive, plan


@torch.compiler.assume_constant_result
def _roomy(device: torch.device) -> bool:
    """Whether the kernels' tiles fit the GPU, and Triton is here."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    if not torch.cuda.is_available():  # a tensor without contents
        return False
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin >= plan.SHARED


def fits(x: Tensor, fc1_weight: Tensor) -> bool:
    """Whether the kernels take an MLP with this input and this first weight (hidden, C) here: a GPU, 16 bits."""
    hidden, channels = fc1_weight.shape
    return products_in_half(x) and plan.takes(channels, hidden) and _roomy(x.device)


def fits_whole(x: Tensor, fc1_weight: Tensor) -> bool:
    """Whether one kernel is the fastest for all of ``add_norm_mlp`` here: no gradient is asked for, and C is small."""
    return not torch.is_grad_enabled() and fc1_weight.shape[1] in plan.INFERENCE and fits(x, fc1_weight)


def _check(op: str, x: Tensor, parameters: dict[str, Tensor]) -> None:
    tensors(op, {"x": x, **parameters})
    if x.dim() < 2 or 0 in x.shape:
        raise ValueError(f"{op}: x is {tuple(x.shape)}; it takes (..., channels) with two axes or more, none of them 0")
    weight, channels = parameters["fc1_weight"], x.shape[-1]
    if weight.dim() != 2 or weight.shape[1] != channels:
        raise ValueError(f"{op}: fc1_weight is {tuple(weight.shape)}; it takes (hidden, {channels})")
    hidden = weight.shape[0]
    shapes = {"fc1_bias": (hidden,), "fc2_weight": (channels, hidden), "fc2_bias": (channels,)}
    for name, tensor in parameters.items():
        wanted = shapes.get(name, (channels,))
        if name != "fc1_weight" and tuple(tensor.shape) != wanted:
            raise ValueError(f"{op}: {name} is {tuple(tensor.shape)}; it takes {wanted}")
    for name, tensor in {"x": x, **parameters}.items():
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{op}: {name} is {tensor.dtype}; it takes a floating dtype")
        if tensor.device != x.device:
            raise ValueError(f"{op}: {name} is on {tensor.device}; it takes a tensor on {x.device}, where x is")


def mlp(x: Tensor, fc1_weight: Tensor, fc1_bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor) -> Tensor:
    """fc2(gelu(fc1(x))) over the last axis, with the exact (erf) GELU.

    Args:
        x: (..., C), any floating dtype; under autocast on a GPU it is read in autocast's.
        fc1_weight: (hidden, C). fc1_bias: (hidden,). fc2_weight: (C, hidden). fc2_bias: (C,).
    Returns:
        (..., C). On a GPU with 220 KB of shared memory a block (H100), in 16 bits, hidden a multiple of 128: Triton
        kernels with GELU inside, for C a multiple of 32 up to hidden (differentiable once; of the hidden map, its
        value before GELU is kept). Else torch's operators.
    Raises:
        TypeError, ValueError: an argument of the wrong kind or shape, by name.
    """
    own = {"fc1_weight": fc1_weight, "fc1_bias": fc1_bias, "fc2_weight": fc2_weight, "fc2_bias": fc2_bias}
    _check("mlp", x, own)
    if fits(x, fc1_weight):
        from .triton import mlp as fused  # here, so that Triton is imported by those alone who run it

        return fused(x, *own.values(), kind(x))
    return naive.mlp(x, *own.values())


def add_norm_mlp(
    x: Tensor,
    branch: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    eps: float = 1e-5,
) -> Tensor:
    """total + mlp(layer_norm(total)), where ``total = x + branch`` (``x`` itself without a branch).

    Args:
        x, branch: (..., C), of any two floating dtypes. norm_weight, norm_bias: (C,), as ``layer_norm``'s.
        fc1_weight, fc1_bias, fc2_weight, fc2_bias: as in ``mlp``.
    Returns:
        (..., C), of the wider dtype of the two. Where no gradient is asked for, on the GPUs of ``mlp``, and for the
        widths of ``plan.INFERENCE``: one kernel, in which the hidden map is never in memory. Else the operators.
    Raises:
        TypeError, ValueError: an argument of the wrong kind or shape, by name.
    """
    own = {"fc1_weight": fc1_weight, "fc1_bias": fc1_bias, "fc2_weight": fc2_weight, "fc2_bias": fc2_bias}
    _check("add_norm_mlp", x, {"norm_weight": norm_weight, "norm_bias": norm_bias, **own})
    if branch is not None and branch.shape != x.shape:
        raise ValueError(f"add_norm_mlp: branch is {tuple(branch.shape)}; it takes the shape of x, {tuple(x.shape)}")
    if fits_whole(x, fc1_weight):
        from .triton import add_norm_mlp as fused

        return fused(x, branch, norm_weight, norm_bias, eps, *own.values(), kind(x))
    out_dtype = kind(x) if autocast(x) else None
    total, y = add_layer_norm(x, branch, norm_weight, norm_bias, eps, out_dtype=out_dtype)
    return total + mlp(y, *own.values())
