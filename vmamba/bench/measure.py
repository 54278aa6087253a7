"""Times, bytes, operations and the ceilings they are held against.

A CPU is timed by the wall clock, a GPU by its own events: a call as a user's eager code makes it, the host's work
included, or the kernels alone, which a CUDA graph replays without the host.
"""

import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

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
    return _events(call, device, repeats)


def kernel_milliseconds(call: Callable[[], object], device: torch.device, repeats: int, warmup: int = 3) -> float:
    """As ``milliseconds``, of the kernels of ``call`` alone: on a GPU, of the CUDA graph that it makes."""
    if device.type == "cpu":
        return milliseconds(call, device, repeats, warmup)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(warmup):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    graph.replay()
    return _events(graph.replay, device, repeats)


def _events(call: Callable[[], object], device: torch.device, repeats: int) -> float:
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


def device_events(call: Callable[[], object], device: torch.device) -> list[tuple[str, float]]:
    """Name and milliseconds of all that a GPU does in one ``call`` under the profiler; of a CPU, torch's operators."""
    cuda = device.type == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as recorded:  # it warns of its only cycle otherwise
        call()
        if cuda:
            torch.cuda.synchronize(device)
    if not cuda:
        return [(event.name, event.self_cpu_time_total / 1e3) for event in recorded.events()]
    return [(e.name, e.device_time / 1e3) for e in recorded.events() if e.device_type == DeviceType.CUDA]


def device_work(call: Callable[[], object], device: torch.device) -> tuple[float, int] | tuple[None, None]:
    """Milliseconds that a GPU's kernels and copies take in one ``call`` under the profiler, and how many they are."""
    if device.type == "cpu":
        return None, None
    events = device_events(call, device)
    return sum(ms for _, ms in events), len(events)


def host_microseconds(call: Callable[[], object], device: torch.device, calls: int = 20) -> float:
    """What a call costs its caller, the least of 40 means: on a GPU, with kernels too short to wait for."""
    best = float("inf")
    for _ in range(40):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (time.perf_counter() - began) / calls * 1e6)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return best


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


def rates(device: torch.device) -> tuple[float, float] | None:
    """(special functions, float32 multiply-adds) a second of a GPU at its highest clock; None for a CPU.

    Results a clock and multiprocessor: 16 special functions; 64 multiply-adds at compute capability 8.0, later 128
    (CUDA C++ Programming Guide, table of arithmetic throughput).
    """
    if device.type == "cpu":
        return None
    about = torch.cuda.get_device_properties(device)
    clocks = about.multi_processor_count * about.clock_rate * 1e3
    return 16 * clocks, (64 if (about.major, about.minor) == (8, 0) else 128) * clocks


def nbytes(*tensors: torch.Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
