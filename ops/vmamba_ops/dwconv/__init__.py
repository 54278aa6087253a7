"""The depthwise convolution before the scan, with its activation, of a channels-last map."""

import torch
from torch import Tensor

from .. import nvrtc
from . import naive

WIDTH = 4  # channels of a thread of the CUDA kernel


@torch.compiler.assume_constant_result
def _compiler() -> bool:
    return not nvrtc.missing()


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the CUDA kernel takes this convolution here."""
    takes = x.is_cuda and x.dtype != torch.float64 and _compiler()
    return takes and tuple(weight.shape[1:]) == (1, 3, 3) and weight.shape[0] % WIDTH == 0


def dwconv_silu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """silu(conv2d(x, weight, bias)), one filter a channel, the map's size unchanged.

    Args:
        x: (B, H, W, D), float32, bfloat16 or float16 (float64 too on a CPU).
        weight: (D, 1, k, k), k odd. bias: (D,) or None.
    Returns:
        (B, H, W, D). One kernel on a GPU for k = 3 and D a multiple of 4 (float32 sums, differentiable once); else
        torch's operators.
    """
    if fits(x, weight):
        from .cuda import dwconv_silu as fused  # here, so that the operators are defined by those alone who run them

        return fused(x, weight, bias)
    return naive.dwconv_silu(x, weight, bias)
