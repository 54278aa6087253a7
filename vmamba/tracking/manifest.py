"""The manifest: what a run ran on and with, so that its numbers can be placed and repeated."""

import os
import platform
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from vmamba.config.paths import PACKAGE
from vmamba.tracking.atomic import read_json

DISTRIBUTIONS = (
    "vmamba",
    "torch",
    "torchvision",
    "timm",
    "triton",
    "numpy",
    "numba",
    "hydra-core",
    "omegaconf",
    "mlflow",
)
SNAPSHOT = "git.json"  # beside a copy of the code that a launcher took: what it is a copy of
SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_NODELIST")


def collect(cfg: Any, device: str, **extra: Any) -> dict:
    """The manifest of the run ``cfg`` (a ``schema.Run``) on ``device`` ("cpu", "cuda:0").

    ``extra`` joins it as given: the data set's fingerprint, the scan backend taken, the number of parameters, ….
    """
    return {
        "seed": getattr(cfg, "seed", None),
        "device": str(device),
        "command": [sys.executable, *sys.argv],
        "cwd": os.getcwd(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "hardware": hardware(device),
        "git": git(),
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
        **extra,
    }


def versions() -> dict[str, str | None]:
    """Versions as installed, read without importing the packages; None for one that is not there."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def hardware(device: str) -> dict:
    """Host name, CPU model, cores this process may use and the machine has, RAM in GiB, GPUs (on a CUDA device)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    found = {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cores": allowed,
        "cores_machine": os.cpu_count(),
        "ram_gib": round(pages / 2**30, 1),
    }
    if str(device).startswith("cuda"):
        found |= _gpus()
    return found


def git(folder: Path = PACKAGE) -> dict[str, Any] | None:
    """Commit and whether tracked files differ from it, of the checkout ``folder`` lies in; None outside of one.

    A package that is merely installed somewhere below a foreign repository (ignored there) is not its checkout.
    """
    if noted := read_json(folder.parent / SNAPSHOT):
        return noted
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit or not _git(folder, "ls-files", "--", "__init__.py"):
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes), "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD")}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> dict:
    import torch

    if not torch.cuda.is_available():
        return {}
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "gpus": [card.name for card in cards],
        "gpu_gib": [round(card.total_memory / 2**30, 1) for card in cards],
        "compute_capability": [f"{card.major}.{card.minor}" for card in cards],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": _driver(),
    }


def _driver() -> str | None:
    try:
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    return next((word for word in first.split() if word[0].isdigit() and "." in word), None)
