"""``dispatch.resolve`` for a tensor, as a constant that ``torch.compile`` and ``torch.export`` bake in."""

import torch
from torch import Tensor

from .dispatch import resolve


@torch.compiler.assume_constant_result
def _constant(op: str, backend: str, device_type: str, d_state: int, dtype: torch.dtype) -> str:
    return resolve(op, backend, device_type, d_state, str(dtype).removeprefix("torch."))


def choose(op: str, backend: str, tensor: Tensor, d_state: int = 1) -> str:
    """The backend's name for ``tensor``'s device and dtype; errors as ``dispatch.resolve``."""
    return _constant(op, backend, tensor.device.type, d_state, tensor.dtype)
