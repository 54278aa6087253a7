"""Sums of partial results over their first dimension, all that a kernel left in one launch (partials.cu).

Every sum is taken in float32, in an order that depends on the shapes alone, and rounded once.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from . import nvrtc

JOBS = 6  # arrays of a launch
FIELDS = 9  # of a job
THREADS, SHARED = 256, 256 * 32
MACROS = {"THREADS": THREADS, "JOBS": JOBS}
_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_VECTOR = 16  # bytes of a thread
_SLICES = 64  # the most threads that share a sum
_FILL = 128 * 1024  # threads that are enough for a GPU


def source() -> str:
    """The CUDA C++ text."""
    folder = Path(__file__).parent
    return (folder / "ptx.cu").read_text() + (folder / "partials.cu").read_text()


@dataclass(frozen=True)
class Plan:
    """A launch of known shapes: blocks, and of each job the fields after its two pointers."""

    blocks: int
    jobs: tuple[tuple[int, ...], ...]

    def fields(self, pointers: list[tuple[int, int]]) -> tuple[int, ...]:
        """The kernel's argument; ``pointers`` of parts and result, a pair for each job."""
        fields = [number for own, job in zip(pointers, self.jobs, strict=True) for number in (*own, *job)]
        return (*fields, *[0] * (FIELDS * JOBS - len(fields)))


@cache
def plan(shapes: tuple[tuple[int, int, int, int, int], ...]) -> Plan:
    """The launch for jobs of (parts, bytes from one to the next, bytes of a part, kind, copies of the result)."""
    jobs, end = [], 0
    for parts, stride, size, kind, copies in shapes:
        if size % _VECTOR or stride % _VECTOR:
            raise ValueError(f"partials: a part of {size} bytes every {stride}; both must be multiples of {_VECTOR}")
        slices, vectors = 1, size // _VECTOR
        while slices < _SLICES and 4 * slices < parts and vectors * slices < _FILL:
            slices *= 2
        end += -(-vectors * slices // THREADS)
        jobs.append((parts, stride, size, kind, slices, copies, end))
    return Plan(end, tuple(jobs))


@cache
def _kernel(device: int) -> nvrtc.Kernel:
    found = torch.cuda.get_device_properties(device)
    with torch.cuda.device(device):
        return nvrtc.Kernel(source(), "partials", MACROS, f"sm_{found.major}{found.minor}", "partials", device)


def add(*jobs: tuple[Tensor, Tensor]) -> None:
    """Write the sum of ``parts`` over its first dimension to ``out``, for up to 6 pairs of them.

    Args:
        jobs: pairs (parts, out) of one dtype (float32, float16, bfloat16), all on one GPU. parts: (n, ...), contiguous
            but for the first dimension; out: contiguous, parts.shape[1:], or several copies of it one after the other.
    Raises:
        ValueError: a part's size or its distance from the next is no multiple of 16 bytes.
    """
    shapes, pointers = [], []
    for parts, out in jobs:
        n, item, dtype = parts.shape[0], parts.element_size(), parts.dtype
        numbers = parts.numel() // n
        shapes.append((n, parts.stride(0) * item, numbers * item, _KINDS[dtype], out.numel() // numbers))
        pointers.append((parts.data_ptr(), out.data_ptr()))
    found, kernel = plan(tuple(shapes)), _kernel(jobs[0][0].device.index)
    kernel.start((found.blocks, 1), THREADS, SHARED, found.fields(pointers))


def summed(*parts: Tensor) -> list[Tensor]:
    """Each summed over its first dimension: by ``add``; by torch without a GPU, or where ``add`` refuses the sizes."""
    odd = any((p.stride(0) | p.numel() // p.shape[0]) * p.element_size() % _VECTOR for p in parts)
    if odd or not parts[0].is_cuda or nvrtc.missing():
        return [p.sum(0) for p in parts]
    sums = [p.new_empty(p.shape[1:]) for p in parts]
    add(*zip(parts, sums, strict=True))
    return sums
