"""Every backend of every op at the shapes of VMamba's stages, against what their bytes and their arithmetic would take.

Times are of kernels alone (a CUDA graph replayed, the L2 cache cold), and of the same call in eager code. The bytes'
floor counts each input read once and each output written once, over the copy bandwidth measured in the same run; the
arithmetic's floor the scan's special functions and multiply-adds, over the card's rates at its highest clock.
"""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from vmamba.bench.measure import copy_bandwidth, kernel_milliseconds, milliseconds, nbytes, rates
from vmamba.bench.report import Row
from vmamba_ops import cross_merge, cross_scan, selective_scan
from vmamba_ops.dispatch import available

STAGES = [(96, 1, 56), (192, 1, 28), (384, 1, 14), (768, 1, 7), (192, 1, 56)]  # channels a route, N, side
STATES = [(192, 16, 56), (384, 16, 28), (768, 16, 14)]
SMALL = [(8, 1, 14), (8, 4, 7)]
K = 4

# Upstream's oflex scan on one H200, batch 128, ms forward and forward + backward: commit 2ed52ea, its extension patched
# to build on CUDA 13, torch 2.11, November 2026. Keyed by (channels, N, side, input dtype); the output is float32.
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
    batch, repeats = (2, 3) if small else (128, 10)
    bandwidth = copy_bandwidth(device)
    shapes = SMALL if small else STAGES + STATES
    rows = [row for shape in shapes for row in _scan_rows(device, batch, shape, repeats, bandwidth)]
    shapes = SMALL[:1] if small else STAGES[:4]
    rows += [row for shape in shapes for row in _cross_rows(device, batch, shape, repeats, bandwidth)]
    return rows, {"batch": batch, "routes": K, "bandwidth_GB_s": round(bandwidth / 1e9, 1), "l2": "cold"}


def backends(op: str, device: torch.device) -> list[str]:
    """Those that run here and are worth timing."""
    usable = [name for name, why in available(device.type, op).items() if not why and name != "fused"]
    return [name for name in usable if name != "naive" or device.type == "cpu"]


def scan_inputs(device: torch.device, batch: int, shape: tuple[int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """u, delta, A, B, C, D, bias of a stage (channels a route, N, side), ready to be differentiated."""
    channels, states, side = shape
    wide = torch.randn(2, batch, K * channels, side * side, device=device).to(dtype)
    B, C = torch.randn(2, batch, K, states, side * side, device=device).to(dtype)
    A = -torch.rand(K * channels, states, device=device) - 0.5
    D, bias = torch.rand(2, K * channels, device=device)
    return [t.detach().requires_grad_() for t in (*wide, A, B, C, D, bias)]


def _scan_rows(device, batch, shape, repeats, bandwidth) -> list[Row]:
    channels, states, side = shape
    rows = []
    types = [torch.float16, torch.float32] if device.type == "cuda" else [torch.float32]
    for dtype, backend in product(types, backends("selective_scan", device)):
        leaves = scan_inputs(device, batch, shape, dtype)
        # core and mamba_ssm compute in the input's dtype; another would be a conversion of its own
        out_dtype = dtype if backend in ("core", "mamba_ssm") else torch.float32

        def forward(leaves=leaves, backend=backend, out_dtype=out_dtype):
            return selective_scan(*leaves, True, backend=backend, out_dtype=out_dtype)

        u, delta, _, B, C, *_ = leaves
        with torch.no_grad():  # a graph kept alive would tie the leaves to this stream, which a capture may not touch
            out = forward()
        once = nbytes(u, delta, B, C, out)
        name, out_name = (str(t).removeprefix("torch.") for t in (dtype, out_dtype))
        published = UPSTREAM.get((*shape, name)) if out_dtype == torch.float32 else None
        row = {"op": "selective_scan", "backend": backend, "in": name, "out": out_name}
        row |= {"channels": channels, "N": states, "side": side}
        positions = u.numel()
        floors = (once, once + nbytes(u, delta, B, C, out) + nbytes(u, delta, B, C))
        row |= times(forward, leaves, device, repeats, bandwidth, floors, arithmetic(device, positions, states))
        rows.append(row | _against(row, published))
    return rows


def arithmetic(device: torch.device, positions: int, states: int) -> tuple[float, float] | tuple[None, None]:
    """Milliseconds, forward and forward + backward, that the arithmetic alone takes, were it spread perfectly.

    Per position: softplus is an exponential and a logarithm, its slope a reciprocal; then an exponential a state.
    Multiply-adds: forward 4 a position (bias, dt u, D u, scale) and 4 a state (dt A, x B, h, y); the backward
    computes h and dt again, and has 8 a position and 11 a state in all.
    """
    speeds = rates(device)
    if speeds is None:
        return None, None
    special, fused = speeds
    forward = max(positions * (states + 2) / special, positions * (4 * states + 4) / fused)
    backward = max(positions * (states + 3) / special, positions * (11 * states + 8) / fused)
    return forward * 1e3, (forward + backward) * 1e3


def _cross_rows(device, batch, shape, repeats, bandwidth) -> list[Row]:
    channels, _, side = shape
    half = torch.float16 if device.type == "cuda" else torch.float32
    image = torch.randn(batch, channels, side, side, device=device).to(half).requires_grad_()
    routes = torch.randn(batch, K, channels, side, side, device=device).requires_grad_()
    rows = []
    for (op, leaf), backend in product(
        ((cross_scan, image), (cross_merge, routes)), [*backends("cross_scan", device), "auto"]
    ):

        def forward(op=op, leaf=leaf, backend=backend):
            return op(leaf, backend=backend)

        once = nbytes(leaf, forward())
        name = str(leaf.dtype).removeprefix("torch.")
        row = {"op": op.__name__, "backend": backend, "in": name, "out": name}
        row |= {"channels": channels, "N": None, "side": side}
        row |= times(forward, [leaf], device, repeats, bandwidth, (once, 2 * once), (None, None))
        upstream = UPSTREAM_CROSS.get((op.__name__, channels, side))
        rows.append(row | _against(row, (upstream, None) if upstream else None))
    return rows


def times(
    forward: Callable[[], Tensor | tuple[Tensor, ...]],
    leaves: list[Tensor],
    device: torch.device,
    repeats: int,
    bandwidth: float,
    sizes: tuple[int, int],
    arithmetic: tuple[float, float] | tuple[None, None],
) -> Row:
    """A row's columns of time: kernels forward, forward + backward, the latter in eager code, their floors.

    ``sizes`` are the bytes that either reads and writes at least, ``arithmetic`` what that of its own gives.
    """
    with torch.no_grad():
        out = forward()
        gradients = [torch.randn_like(t) for t in (out if isinstance(out, tuple) else (out,))]

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(), leaves, gradients)

    with torch.no_grad():
        fwd = kernel_milliseconds(forward, device, repeats)
    times = {"fwd_ms": fwd, "fwd_bwd_ms": kernel_milliseconds(both, device, repeats)}
    times["eager_fwd_bwd_ms"] = milliseconds(both, device, repeats)
    bytes_floor = [size / bandwidth * 1e3 for size in sizes]
    floors = [max(b, a or 0.0) for b, a in zip(bytes_floor, arithmetic, strict=True)]
    times |= {"bytes_fwd_ms": bytes_floor[0], "bytes_fwd_bwd_ms": bytes_floor[1]}
    times |= {"arithmetic_fwd_ms": arithmetic[0], "arithmetic_fwd_bwd_ms": arithmetic[1]}
    return times | {"fwd_over_floor": fwd / floors[0], "fwd_bwd_over_floor": times["fwd_bwd_ms"] / floors[1]}


def _against(row: Row, upstream: tuple[float, float | None] | None) -> Row:
    """Upstream's times on an H200, and how many times as long they are."""
    columns: Row = {}
    for name, value in zip(("fwd", "fwd_bwd"), upstream or (None, None), strict=True):
        columns[f"upstream_H200_{name}_ms"] = value
        columns[f"upstream_over_{name}"] = value / row[f"{name}_ms"] if value else None
    return columns
