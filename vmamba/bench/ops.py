"""Every backend of every op at the shapes of VMamba's stages, against the time its bytes alone would take.

The floor counts each input read once and each output written once, over the copy bandwidth measured in the same run.
"""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from vmamba.bench.measure import copy_bandwidth, milliseconds, nbytes
from vmamba.bench.report import Row
from vmamba_ops import cross_merge, cross_scan, selective_scan
from vmamba_ops.dispatch import available

STAGES = [(96, 1, 56), (192, 1, 28), (384, 1, 14), (768, 1, 7), (192, 1, 56)]  # channels a route, N, side
STATES = [(192, 16, 56), (384, 16, 28), (768, 16, 14)]
SMALL = [(8, 1, 14), (8, 4, 7)]
K = 4

# Upstream's oflex scan on one H200, batch 128, ms forward and forward + backward: commit 2ed52ea, its extension patched
# to build on CUDA 13, torch 2.11, November 2026. Keyed by (channels, N, side, input dtype).
UPSTREAM = {
    (96, 1, 56, "float16"): (1.083, 3.698),
    (96, 1, 56, "float32"): (1.114, 3.730),
    (192, 1, 28, "float16"): (0.544, 1.918),
    (384, 1, 14, "float16"): (0.302, 1.179),
    (768, 1, 7, "float16"): (0.287, 1.053),
    (192, 1, 56, "float16"): (2.154, 7.342),
    (192, 16, 56, "float16"): (12.02, 55.4),
    (384, 16, 28, "float16"): (5.186, 20.4),
    (768, 16, 14, "float16"): (2.979, 11.5),
}
# The same run's Triton cross scan (fp16) and merge (fp32), ms forward.
UPSTREAM_CROSS = {
    ("cross_scan", 96, 56): 0.656,
    ("cross_scan", 192, 28): 0.249,
    ("cross_scan", 384, 14): 0.051,
    ("cross_scan", 768, 7): 0.087,
    ("cross_merge", 96, 56): 0.194,
    ("cross_merge", 192, 28): 0.097,
    ("cross_merge", 384, 14): 0.078,
    ("cross_merge", 768, 7): 0.124,
}


def run(device: torch.device, small: bool) -> tuple[list[Row], Row]:
    """The rows of the table, and the conditions they share. ``small`` runs in seconds on a CPU."""
    batch, repeats = (2, 3) if small else (128, 20)
    bandwidth = copy_bandwidth(device)
    shapes = SMALL if small else STAGES + STATES
    rows = [row for shape in shapes for row in _scan_rows(device, batch, shape, repeats, bandwidth)]
    shapes = SMALL[:1] if small else STAGES[:4]
    rows += [row for shape in shapes for row in _cross_rows(device, batch, shape, repeats, bandwidth)]
    return rows, {"batch": batch, "routes": K, "bandwidth_GB_s": round(bandwidth / 1e9, 1), "l2": "cold"}


def _backends(op: str, device: torch.device) -> list[str]:
    usable = [name for name, why in available(device.type, op).items() if not why]
    return [name for name in usable if name != "naive" or device.type == "cpu"]


def _scan_rows(device, batch, shape, repeats, bandwidth) -> list[Row]:
    channels, states, side = shape
    length, rows = side * side, []
    types = [torch.float16, torch.float32] if device.type == "cuda" else [torch.float32]
    for dtype, backend in product(types, _backends("selective_scan", device)):
        wide = torch.randn(2, batch, K * channels, length, device=device)
        u, delta = wide.to(dtype).requires_grad_()
        B, C = torch.randn(2, batch, K, states, length, device=device).to(dtype).requires_grad_()
        A = -torch.rand(K * channels, states, device=device) - 0.5
        D, bias = torch.rand(2, K * channels, device=device)
        leaves = [t.detach().requires_grad_() for t in (u, delta, A, B, C, D, bias)]

        def forward(leaves=leaves, backend=backend):
            return selective_scan(*leaves, True, backend=backend, out_dtype=torch.float32)

        out = forward()
        once = nbytes(u, delta, B, C, out)
        floors = (once, once + nbytes(u, delta, B, C, out) + nbytes(u, delta, B, C))
        name = str(dtype).removeprefix("torch.")
        row = {"op": "selective_scan", "backend": backend, "in": name, "channels": channels, "N": states, "side": side}
        rows.append(row | _times(forward, leaves, device, repeats, bandwidth, floors, UPSTREAM.get((*shape, name))))
    return rows


def _cross_rows(device, batch, shape, repeats, bandwidth) -> list[Row]:
    channels, _, side = shape
    half = torch.float16 if device.type == "cuda" else torch.float32
    image = torch.randn(batch, channels, side, side, device=device).to(half).requires_grad_()
    routes = torch.randn(batch, K, channels, side, side, device=device).requires_grad_()
    rows = []
    for op, leaf, backend in product((cross_scan, cross_merge), (image, routes), _backends("cross_scan", device)):
        if (op is cross_scan) != (leaf is image):
            continue

        def forward(op=op, leaf=leaf, backend=backend):
            return op(leaf, backend=backend)

        once = nbytes(leaf, forward())
        upstream = UPSTREAM_CROSS.get((op.__name__, channels, side))
        name = str(leaf.dtype).removeprefix("torch.")
        row = {"op": op.__name__, "backend": backend, "in": name, "channels": channels, "N": 0, "side": side}
        published = (upstream, None) if upstream else None
        rows.append(row | _times(forward, [leaf], device, repeats, bandwidth, (once, 2 * once), published))
    return rows


def _times(
    forward: Callable[[], Tensor],
    leaves: list[Tensor],
    device: torch.device,
    repeats: int,
    bandwidth: float,
    floors: tuple[int, int],
    upstream: tuple[float, float | None] | None,
) -> Row:
    gradient = torch.randn_like(forward())
    with torch.no_grad():
        fwd = milliseconds(forward, device, repeats)
    both = milliseconds(lambda: torch.autograd.grad(forward(), leaves, gradient), device, repeats)
    floor, floor_both = (size / bandwidth * 1e3 for size in floors)
    return {
        "fwd_ms": fwd,
        "fwd_bwd_ms": both,
        "floor_fwd_ms": floor,
        "floor_fwd_bwd_ms": floor_both,
        "over_floor": both / floor_both,
        "upstream_H200_fwd_ms": upstream[0] if upstream else None,
        "upstream_H200_fwd_bwd_ms": upstream[1] if upstream else None,
    }
