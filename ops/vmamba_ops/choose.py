"""``dispatch.resolve`` for a tensor, as a constant that ``torch.compile`` and ``torch.export`` bake in."""

import torch
from torch import Tensor

from .dispatch import resolve
from .limits import unfit


@torch.compiler.assume_constant_result
def _constant(op: str, backend: str, device_type: str, d_state: int, dtype: torch.dtype) -> str:
    return resolve(op, backend, device_type, d_state, str(dtype).removeprefix("torch."))


@torch.compiler.assume_constant_result
def _new_enough(device: torch.device) -> bool:
    """False for a GPU older than the fused kernel's tensor core instructions (compute capability 8.0)."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= 8


def choose(op: str, backend: str, tensor: Tensor, d_state: int = 1) -> str:
    """The backend's name for ``tensor``'s device and dtype; errors as ``dispatch.resolve``."""
    return _constant(op, backend, tensor.device.type, d_state, tensor.dtype)


def choose_ss2d(backend: str, x_BHWD: Tensor, d_state: int, routes: str) -> str:
    """As ``choose`` for ``ss2d``, whose ``auto`` also asks what the fused kernel takes: there it is the faster.

    Raises ``ValueError`` for a problem that backend "fused" does not take.
    """
    why = unfit(x_BHWD.shape[3], d_state, routes)
    if why and backend == "fused":
        raise ValueError(f"ss2d: backend 'fused' cannot run this: {why}; use backend=auto")
    if backend == "auto" and (why or not _new_enough(x_BHWD.device)):
        backend = "composed"
    return choose("ss2d", backend, x_BHWD)
