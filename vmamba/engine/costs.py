"""What a run costs besides time: FLOPs of its model, counted before it starts, and the most memory it held."""

import logging
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from vmamba.engine import distributed

log = logging.getLogger("vmamba")
PEAK = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux: forgets the peak; says it


def flops(task, model: nn.Module) -> float | None:
    """FLOPs of inference on one image, in the convention of ``vmamba.bench.complexity``, by the task's own count.

    ``model`` as built, on the CPU. None for a task or a model that cannot be counted.
    """
    if not hasattr(task, "flops"):
        return None
    try:
        return task.flops(model)
    except Exception as error:  # somebody else's network: a run is not to end for want of a figure
        log.info("FLOPs not counted: %s", (str(error).strip() or type(error).__name__).splitlines()[0][:200])
        return None


def forget_peak(device: torch.device) -> None:
    """Memory is measured from here on: a process may run one point of a sweep after another."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # where it is not to be had, the peak is the whole process's
        PEAK[0].write_text("5")


def peak(device: torch.device) -> int:
    """Bytes, the most over all ranks: on a GPU what torch's allocator held, else the process's resident set."""
    own = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident()
    return distributed.all_max([own], device)[0]


def measured(device: torch.device, most: int, counted: float | None) -> dict[str, float]:
    """The entries of ``result.json``: ``gpu_peak_gib`` or ``rss_peak_gib``, never both, and ``gflops`` if counted."""
    found = {"gpu_peak_gib" if device.type == "cuda" else "rss_peak_gib": most / 2**30}
    return found if counted is None else found | {"gflops": counted / 1e9}


def _resident() -> int:
    """Not getrusage's on Linux: that begins with the peak of the process that started this one."""
    try:
        (line,) = (line for line in PEAK[1].read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
