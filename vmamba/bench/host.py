"""What a call of an op costs the host: microseconds at a shape whose kernels take next to nothing (1, 4 x 8, 7 x 7).

Backward runs in the calling thread here: waking autograd's own costs 100 microseconds and more, and as much again from
one run to the next.
"""

import torch

from vmamba.bench.measure import host_microseconds
from vmamba.bench.ops import K, backends, scan_inputs
from vmamba.bench.report import Row
from vmamba_ops import cross_merge, cross_scan, selective_scan

CHANNELS, SIDE = 8, 7


def run(device: torch.device, small: bool) -> tuple[list[Row], Row]:
    """A row for each op and backend. ``small`` takes fewer calls."""
    calls = 1 if small else 20
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    leaves = scan_inputs(device, 1, (CHANNELS, 1, SIDE), dtype)
    image = torch.randn(1, CHANNELS, SIDE, SIDE, device=device, dtype=dtype, requires_grad=True)
    routes = torch.randn(1, K, CHANNELS, SIDE, SIDE, device=device, requires_grad=True)
    rows = []
    for backend in [*backends("selective_scan", device), "auto"]:
        rows.append(_row(selective_scan, leaves, backend, device, calls, delta_softplus=True, out_dtype=torch.float32))
    for op, leaf in ((cross_scan, image), (cross_merge, routes)):
        rows += [_row(op, [leaf], name, device, calls) for name in [*backends("cross_scan", device), "auto"]]
    return rows, {"shape": f"1 x {K} x {CHANNELS} x {SIDE} x {SIDE}", "dtype": str(dtype).removeprefix("torch.")}


def _row(op, leaves, backend, device, calls, **options) -> Row:
    def forward():
        return op(*leaves, backend=backend, **options)

    gradient = torch.ones_like(forward())
    torch.autograd.grad(forward(), leaves, gradient)
    with torch.no_grad():
        alone = host_microseconds(forward, device, calls)
    recorded = host_microseconds(forward, device, calls)
    with torch.autograd.set_multithreading_enabled(False):
        both = host_microseconds(lambda: torch.autograd.grad(forward(), leaves, gradient), device, calls)
    return {"op": op.__name__, "backend": backend, "no_grad_us": alone, "fwd_us": recorded, "fwd_bwd_us": both}
