"""The CUDA scan without a GPU: its kernels as C++, every thread a fiber, against the definition in float64."""

from functools import cache

import pytest
import torch
from emulator import Kernel, needs_compiler, pointer
from test_cuda_scan import BRAIN, FULL, HALF, TOLERANCE, compare, inputs_of

from vmamba_ops.selective_scan import naive
from vmamba_ops.selective_scan import plan as plans

pytestmark = needs_compiler
# batch, groups, channels a group, states, length, dtype, type of out, nrow, softplus, most rows of a block
CASES = [
    (1, 2, 9, 1, 49, HALF, FULL, 0, True, 32),
    (1, 1, 40, 1, 128, BRAIN, BRAIN, 2, True, 64),
    (2, 1, 7, 1, 131, FULL, FULL, 0, False, 32),
    (2, 3, 5, 2, 7, FULL, FULL, 0, True, 16),
    (1, 2, 33, 4, 100, FULL, FULL, 4, True, 16),
    (1, 1, 45, 16, 140, HALF, FULL, 0, True, 48),
    (1, 1, 20, 16, 128, HALF, HALF, 0, True, 32),
    (1, 2, 9, 16, 65, BRAIN, FULL, 0, False, 16),
    (1, 1, 6, 19, 64, FULL, FULL, 0, True, 16),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("emulated")


@cache
def _kernel(folder, plan: plans.Plan) -> Kernel:
    return Kernel(folder, plans.source(plan.kernel), plan.entry, plan.macros())


def _run(folder, direction, case, inputs, results) -> None:
    """Launches one direction, slice by slice; ``results`` of the number of blocks that share a group's rows."""
    batch, groups, per_group, states, length, dtype, out, nrow, softplus, most_rows = case
    kinds, sliced = (str(dtype)[6:], str(out)[6:]), states > plans.SLICE
    plan = plans.plan(direction, length, min(states, plans.SLICE), *kinds, softplus, nrow, True, sliced)
    step = plan.warps * plan.group
    rows = -(-min(per_group, most_rows) // step) * step
    splits, tiles = -(-per_group // rows), plans.tiles(length, states, kinds[0])
    *wide, A, D, bias = inputs
    strides = *wide[2].stride()[:3], *wide[3].stride()[:3]
    for first in range(0, states, plans.SLICE):
        here = min(plans.SLICE, states - first)
        staging, shared = plan.shared(rows, here)
        sizes = groups, per_group, length, tiles, splits, rows, here, first, states, staging
        given = map(pointer, (*wide, A, D if first == 0 else None, bias))
        fields = [*given, *strides, *sizes, *map(pointer, results(splits))]
        _kernel(folder, plan)(fields, (batch * groups * splits, 1), shared)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_naive_in_float64(case, folder):
    batch, groups, per_group, states, length, dtype, out, _, softplus, _ = case
    dim, sliced = groups * per_group, states > plans.SLICE

    def unwritten(*shape, dtype=FULL):
        return torch.full(shape, 0.0 if sliced and shape[-1] == length else torch.nan, dtype=dtype)

    u, delta, A, B, C, D, bias = inputs_of(*case[:6], softplus=softplus, device="cpu")
    dout, dlast = torch.randn(batch, dim, length).to(out), torch.randn(batch, dim, states)
    inputs, tiles = (u, delta, B, C, A, D, bias), plans.tiles(length, states, str(dtype)[6:])
    saved, y = unwritten(batch, tiles - 1, dim, states), unwritten(batch, dim, length, dtype=out)
    last = unwritten(batch, dim, states)
    _run(folder, "forward", case, inputs, lambda _: (saved, y, last, *[None] * 9))

    du, ddelta = (unwritten(batch, dim, length, dtype=dtype) for _ in range(2))
    parts = {}

    def results(splits):
        parts["dB"], parts["dC"] = (parts.get(n, unwritten(splits, *B.shape)) for n in ("dB", "dC"))
        return (saved, None, None, dout, dlast, du, ddelta, parts["dB"], parts["dC"], dA, dD, dbias)

    dA, dD, dbias = unwritten(batch, dim, states), unwritten(batch, dim), unwritten(batch, dim)
    _run(folder, "backward", case, inputs, results)

    exact = [t.double().requires_grad_() for t in (u, delta, A, B, C, D, bias)]
    expected = naive.selective_scan(*exact, softplus, torch.float64)
    gradients = torch.autograd.grad(expected, exact, (dout.double(), dlast.double()))
    sums = (t.sum(0) for t in (dA, parts["dB"], parts["dC"], dD, dbias))
    got = (y, last, du, ddelta, *sums)
    compare(got, (*expected, *gradients), TOLERANCE[dtype])
    compare(got, (*expected, *gradients), 3e-6, only=FULL)  # whatever is not rounded to 16 bits
