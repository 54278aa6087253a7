"""Times, bytes and the ceilings they are held against. A CPU is timed by the wall clock, a GPU by its own events."""

import platform
import statistics
import time
from collections.abc import Callable

import torch

FLUSH = 256 * 2**20  # bytes written between two timed calls: several times any L2


def card(device: torch.device) -> str:
    """The device's short name, for file names and rows: H200, A100-80GB, cpu-x86_64."""
    if device.type == "cpu":
        return f"cpu-{platform.machine()}"
    name = torch.cuda.get_device_name(device)
    for word in ("NVIDIA", "GeForce", "Tesla"):
        name = name.replace(word, "")
    return "-".join(name.split())


def milliseconds(call: Callable[[], object], device: torch.device, repeats: int, warmup: int = 3) -> float:
    """The median time of ``call`` over ``repeats``, with a cold L2 on a GPU."""
    for _ in range(warmup):
        call()
    if device.type == "cpu":
        return statistics.median(_wall(call) for _ in range(repeats))
    flush = torch.empty(FLUSH, dtype=torch.int8, device=device)
    marks = []
    for _ in range(repeats):
        flush.zero_()
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        stop.record()
        marks.append((start, stop))
    torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(stop) for start, stop in marks)


def _wall(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a copy far larger than any cache."""
    size = 2**31 if device.type == "cuda" else 2**27
    source = torch.ones(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * size / milliseconds(lambda: target.copy_(source), device, 5) * 1e3


def nbytes(*tensors: torch.Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
