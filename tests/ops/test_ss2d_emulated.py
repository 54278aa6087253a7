"""The CUDA kernels of SS2D without a GPU: compiled as C++, every thread a fiber, against the definition in float64."""

from functools import cache
from pathlib import Path

import pytest
import torch
from emulator import Kernel, needs_compiler, pointer
from torch.nn.functional import pad

from vmamba_ops import ss2d
from vmamba_ops.ss2d import plan as plans

pytestmark = needs_compiler
HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
TOLERANCE = {HALF: 1e-3, BRAIN: 8e-3, FULL: 2e-6}
# batch, height, width, channels, rank, dtype, how the work is cut
CASES = [
    (2, 7, 7, 32, 6, HALF, plans.Cut("both", 2, 1)),
    (3, 5, 7, 16, 2, HALF, plans.Cut("both", 2, 1)),
    (1, 9, 13, 32, 12, BRAIN, plans.Cut("apart", 1, 1)),
    (1, 6, 8, 16, 26, FULL, plans.Cut("both", 1, 1)),
    (1, 1, 40, 16, 6, HALF, plans.Cut("both", 1, 1)),
    (2, 17, 16, 32, 6, HALF, plans.Cut("both", 2, 1)),
    (1, 19, 14, 96, 4, BRAIN, plans.Cut("both", 1, 1)),
    (1, 17, 18, 16, 2, FULL, plans.Cut("apart", 1, 1)),
    (2, 17, 31, 32, 6, HALF, plans.Cut("apart", 1, 7)),
    (1, 1, 260, 16, 12, BRAIN, plans.Cut("apart", 1, 9)),
    (1, 17, 18, 16, 2, FULL, plans.Cut("apart", 1, 3)),
    (2, 17, 31, 32, 6, HALF, plans.Cut("after", 1, 5)),
    (3, 17, 18, 32, 12, BRAIN, plans.Cut("after", 2, 1)),
    (1, 18, 19, 16, 2, FULL, plans.Cut("after", 1, 3)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("emulated")


@cache
def _compiled(folder: Path, plan: plans.Plan, kernel: str) -> Kernel:
    return Kernel(folder, plans.source(kernel), f"ss2d_{kernel}", plan.macros())


def _run(folder, plan: plans.Plan, cut: plans.Cut, tensors, sizes) -> None:
    images, dim, blocks = sizes[0], sizes[3], sizes[3] // 16 // plan.warps
    ends = torch.full((images, 4, cut.segments, dim, 2), float("nan")) if cut.segments > 1 else None
    for kernel, shared, walks in plan.passes(cut):
        fields = [*map(pointer, (*tensors, ends)), *sizes, walks, cut.per, blocks, cut.segments]
        grid = -(-images // cut.per) * cut.segments, blocks * (2 if walks == plans.APART else 1)
        _compiled(folder, plan, kernel)(fields, grid, shared)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_naive_in_float64(case, folder):
    B, H, W, D, R, dtype, cut = case
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    x, x_proj = normal(B, H, W, D).to(dtype), (normal(4, R + 2, D) * D**-0.5).to(dtype)
    weight, bias, A_logs, Ds = normal(4, D, R) * R**-0.5, normal(4, D) - 2, normal(4, D) * 0.3, normal(4, D)
    rows = (x.float() @ x_proj.float().flatten(0, 1).T).to(dtype)
    padded = pad(rows.view(B, H, W, 4, R + 2), (0, plans.padded(R) - R - 2)).flatten(3)
    dy = normal(B, H, W, D).to(dtype)
    forward, backward = (plans.plan(way, str(dtype)[6:], R, H, W, D) for way in ("forward", "backward"))
    groups, tiles, blocks = -(-B // cut.per) * cut.segments, forward.tiles(H * W), D // 16 // backward.warps
    sizes = (B, H, W, D, tiles, -(-(1 << 32) // H) & 0xFFFFFFFF)

    def unwritten(*shape, dtype=FULL):
        return torch.full(shape, float("nan"), dtype=dtype)

    y, states = unwritten(cut.outputs, B, H, W, D, dtype=dtype), unwritten(B, 4, tiles, D)
    dx, drows = unwritten(cut.outputs, B, H, W, D, dtype=dtype), unwritten(blocks, *padded.shape, dtype=dtype)
    dweight, sums = unwritten(groups, 4, D, R), unwritten(groups, 3, 4, D)
    own = (x, padded, weight, bias, A_logs, Ds, states)
    _run(folder, forward, cut, (*own, y, *[None] * 5), sizes)
    _run(folder, backward, cut, (*own, None, dy, dx, drows, dweight, sums), sizes)

    exact = [t.double().requires_grad_() for t in (x, rows, weight, bias, A_logs, Ds)]
    expected = _from_rows(*exact)
    gradients = torch.autograd.grad(expected, exact, dy.double())
    total = sums.sum(0)
    drows = drows.float().sum(0).view(B, H, W, 4, -1)
    assert not drows[..., R + 2 :].any()
    got = [y.float().sum(0), dx.float().sum(0), drows[..., : R + 2].flatten(3), dweight.sum(0), *total[:2]]
    for name, a, b in zip(("y", "dx", "drows", "dweight", "dbias", "dA"), got, (expected, *gradients), strict=False):
        error = ((a.double() - b).norm() / b.norm()).item()
        assert error < TOLERANCE[dtype], (name, error)  # NaN is not less
    torch.testing.assert_close(total[2, :1].double().expand(4, D), gradients[5], rtol=1e-5, atol=1e-5)


def _from_rows(x, rows, weight, bias, A_logs, Ds):
    """SS2D from projected rows (B, H, W, 4 (R + 2)): x_proj picks them out of channels appended to x."""
    D, R = x.shape[3], weight.shape[2]
    wide = torch.cat([x, rows], 3)
    extra = rows.shape[3]

    def padded(t, value=0.0):  # the appended channels take part in nothing
        return pad(t, (0, extra), value=value)

    pick = torch.zeros(4, R + 2, D + extra, dtype=x.dtype)
    for k in range(4):
        pick[k, :, D + k * (R + 2) : D + (k + 1) * (R + 2)] = torch.eye(R + 2, dtype=x.dtype)
    wide_weight = pad(weight, (0, 0, 0, extra))
    own = (wide_weight, padded(bias), padded(A_logs).reshape(-1, 1), padded(Ds).reshape(-1))
    return ss2d(wide, pick, *own, backend="naive")[..., :D]
