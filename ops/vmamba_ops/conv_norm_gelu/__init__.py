"""What a network does first with its images: 3 x 3 convolution of stride 2, LayerNorm over the channels, GELU."""

from importlib.util import find_spec

import torch
from torch import Tensor

from ..checks import tensors
from ..half import kind, products_in_half
from .naive import conv_norm_gelu as naive

WIDTHS = (16, 32, 48, 64)  # channels that the kernels give out: wider ones would spill, and no model has them


@torch.compiler.assume_constant_result
def _here(device: torch.device) -> bool:
    """Whether Triton is here, and a GPU with the products that it takes."""
    found = find_spec("triton") is not None and torch.cuda.is_available()  # False: a tensor without contents
    return found and torch.cuda.get_device_capability(device) >= (8, 0)


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels take these images and this weight here: a GPU, 16 bits, no gradient of the images."""
    known = tuple(weight.shape[1:]) == (3, 3, 3) and weight.shape[0] in WIDTHS
    return known and products_in_half(x) and not (x.requires_grad and torch.is_grad_enabled()) and _here(x.device)


def _check(x: Tensor, weight: Tensor, per_channel: dict[str, Tensor]) -> None:
    tensors("conv_norm_gelu", {"x": x, "weight": weight, **per_channel})
    if x.dim() != 4 or 0 in x.shape:
        raise ValueError(f"conv_norm_gelu: x is {tuple(x.shape)}; it takes (B, channels, H, W), none of them 0")
    if weight.dim() != 4 or weight.shape[1:] != (x.shape[1], 3, 3):
        raise ValueError(f"conv_norm_gelu: weight is {tuple(weight.shape)}; it takes (C, {x.shape[1]}, 3, 3)")
    for name, tensor in per_channel.items():
        if tensor.shape != weight.shape[:1]:
            raise ValueError(f"conv_norm_gelu: {name} is {tuple(tensor.shape)}; it takes ({weight.shape[0]},)")
    for name, tensor in {"x": x, "weight": weight, **per_channel}.items():
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"conv_norm_gelu: {name} is {tensor.dtype}; it takes a floating dtype")
        if tensor.device != x.device:
            raise ValueError(f"conv_norm_gelu: {name} is on {tensor.device}; it takes a tensor on {x.device}")


def conv_norm_gelu(
    x: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """gelu(layer_norm(conv2d(x, weight, bias, stride=2, padding=1))), the first half of VMamba's patch embedding.

    Args:
        x: (B, 3, H, W), any floating dtype, fastest in channels_last; under autocast on a GPU products are in its type.
        weight: (C, 3, 3, 3). bias, norm_weight, norm_bias: (C,); the norm is over the channels.
    Returns:
        (B, C, ceil(H / 2), ceil(W / 2)), channels-last in memory from the kernels: on a GPU in 16 bits, for images
        that ask for no gradient and a C of ``WIDTHS``, one kernel forward, which keeps nothing, and one backward, which
        computes all again (differentiable once, sums in a fixed order). Else torch's operators.
    Raises:
        TypeError, ValueError: an argument of the wrong kind or shape, by name.
    """
    own = {"bias": bias, "norm_weight": norm_weight, "norm_bias": norm_bias}
    _check(x, weight, own)
    if fits(x, weight):
        from .triton import conv_norm_gelu as fused  # here, so that Triton is imported by those alone who run it

        return fused(x, weight, *own.values(), eps, kind(x))
    return naive(x, weight, *own.values(), eps)
