"""Seconds of the first call of every op, backend and stage shape: with empty caches of compiled code, and from disk.

Each pass is a process of its own, whose caches (Triton's, NVRTC's, Numba's) lie in a folder that is empty for the first
pass and full for the second. Importing and starting the GPU come before the clock. A kernel that serves several shapes
is compiled by the first of them.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from vmamba.bench.ops import SMALL, STAGES, STATES, K, backends, scan_inputs
from vmamba.bench.report import Row
from vmamba_ops import cross_merge, cross_scan, selective_scan

CACHES = {"VMAMBA_OPS_CACHE": "nvrtc", "TRITON_CACHE_DIR": "triton", "NUMBA_CACHE_DIR": "numba"}


def run(device: torch.device, small: bool) -> tuple[list[Row], Row]:
    """The rows, forward + backward, with both passes' seconds."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {name: str(Path(folder) / part) for name, part in CACHES.items()}
        command = [sys.executable, "-m", "vmamba.bench.cold", device.type, str(int(small))]
        passes = [subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True) for _ in range(2)]
    rows, again = (json.loads(done.stdout.splitlines()[-1]) for done in passes)
    for row, warm in zip(rows, again, strict=True):
        row["from_disk_s"] = warm["first_call_s"]
    return rows, {"dtype": "float16" if device.type == "cuda" else "float32"}


def first_calls(device: torch.device, small: bool) -> list[Row]:
    """Of this process, in the order of the stages."""
    batch = 1 if small else 128
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    torch.randn(8, device=device).sum().item()
    rows = []
    for backend in (name for name in backends("selective_scan", device) if name not in ("naive", "core")):
        for shape in SMALL if small else STAGES[:4] + STATES[:1]:
            leaves = scan_inputs(device, batch, shape, dtype)
            seconds = _seconds(
                lambda x=leaves, b=backend: selective_scan(*x, True, backend=b, out_dtype=torch.float32), leaves
            )
            rows.append(_row("selective_scan", backend, shape, seconds))
    for backend in (name for name in backends("cross_scan", device) if name != "naive"):
        for channels, _, side in SMALL[:1] if small else STAGES[:4]:
            image = torch.randn(batch, channels, side, side, device=device, dtype=dtype, requires_grad=True)
            routes = torch.randn(batch, K, channels, side, side, device=device, requires_grad=True)
            for op, leaf in ((cross_scan, image), (cross_merge, routes)):
                seconds = _seconds(lambda o=op, x=leaf, b=backend: o(x, backend=b), [leaf])
                rows.append(_row(op.__name__, backend, (channels, None, side), seconds))
    return rows


def _seconds(forward, leaves) -> float:
    began = time.perf_counter()
    torch.autograd.grad(forward().sum(), leaves)
    if leaves[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _row(op: str, backend: str, shape: tuple, seconds: float) -> Row:
    channels, states, side = shape
    return {
        "op": op,
        "backend": backend,
        "channels": channels,
        "N": states,
        "side": side,
        "first_call_s": seconds,
    }


if __name__ == "__main__":
    print(json.dumps(first_calls(torch.device(sys.argv[1]), bool(int(sys.argv[2])))))
