"""Whether products are to be taken in 16 bits here, as kernels for tensor cores ask."""

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def autocast(x: Tensor) -> bool:
    """Whether autocast rules on this tensor's GPU."""
    return x.is_cuda and torch.is_autocast_enabled("cuda")


def kind(x: Tensor) -> torch.dtype:
    """The dtype that products of ``x`` have here."""
    return torch.get_autocast_dtype("cuda") if autocast(x) else x.dtype


def products_in_half(x: Tensor) -> bool:
    """On a GPU, in 16 bits, from what kernels read: float32 or 16 bits."""
    return x.is_cuda and kind(x) in HALF and x.dtype in (torch.float32, *HALF)
