"""SS2D's core: the definition against a loop, the composed form, refusals, the fused kernel's plans and compilation."""

from itertools import product

import pytest
import torch
from torch.nn.functional import softplus

from vmamba_ops import build, limits, nvrtc, ss2d
from vmamba_ops.cross_scan.routes import index_map
from vmamba_ops.flops import counter, scan_flops
from vmamba_ops.ss2d import cuda
from vmamba_ops.ss2d import plan as plans

compiles = pytest.mark.skipif(bool(nvrtc.missing()), reason=nvrtc.missing())
STAGES = [(6, 56, 96), (12, 28, 192), (24, 14, 384), (48, 7, 768)]  # rank, side, channels


def _inputs(B, H, W, D, R, N=1, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype).to(device).requires_grad_()

    return [normal(B, H, W, D), normal(4, R + 2 * N, D), normal(4, D, R), normal(4, D), normal(4 * D, N), normal(4 * D)]


def _loop(x, x_proj, dt_weight, dt_bias, A_logs, Ds, routes):
    B, H, W, D = x.shape
    R, N = dt_weight.shape[2], A_logs.shape[1]
    flat, y = x.reshape(B, H * W, D), torch.zeros(B, H * W, D, dtype=x.dtype)
    for k, order in enumerate(index_map(routes, H, W)):
        own = slice(k * D, (k + 1) * D)
        h = torch.zeros(B, D, N, dtype=x.dtype)
        for place in order:
            u = flat[:, place]
            low, b, c = (u @ x_proj[k].T).split((R, N, N), dim=1)
            dt = softplus(low @ dt_weight[k].T + dt_bias[k])
            h = torch.exp(-A_logs[own].exp() * dt[..., None]) * h + (dt * u)[..., None] * b[:, None]
            y = y.index_add(1, place[None], ((h * c[:, None]).sum(2) + Ds[own] * u)[:, None])
    return y.view(B, H, W, D)


@pytest.mark.parametrize("routes", ["cross2d", "unidi", "bidi"])
@pytest.mark.parametrize("states", [1, 3])
def test_naive_and_composed_against_a_loop(routes, states):
    inputs = _inputs(2, 3, 5, 4, 2, states)
    expected = _loop(*inputs, routes)
    gradients = torch.autograd.grad(expected.sin().sum(), inputs)
    for backend in ("naive", "composed", "auto"):
        y = ss2d(*inputs, routes=routes, backend=backend)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(torch.autograd.grad(y.sin().sum(), inputs), gradients)


def test_half_precision_in_and_out():
    inputs = [t.detach() for t in _inputs(2, 4, 4, 16, 3)]
    expected = ss2d(*inputs, backend="naive")
    half = [inputs[0].bfloat16(), *(t.float() for t in inputs[1:])]
    for backend in ("naive", "composed"):
        y = ss2d(*half, backend=backend)
        assert y.dtype == torch.bfloat16 and ((y.double() - expected).norm() / expected.norm()) < 0.02


def test_refusals():
    inputs = _inputs(1, 2, 3, 16, 2)
    with pytest.raises(RuntimeError, match="'fused' cannot run here: it runs on cuda, not on cpu; use backend=auto"):
        ss2d(*inputs, backend="fused")
    with pytest.raises(ValueError, match="'fused' cannot run this: it takes routes cross2d, got bidi"):
        ss2d(*inputs, backend="fused", routes="bidi")
    for wrong, said in (
        (_inputs(1, 2, 3, 10, 2), "takes a multiple of 16 channels, got 10"),
        (_inputs(1, 2, 3, 16, 2, 4), "takes d_state up to 1, got 4"),
    ):
        with pytest.raises(ValueError, match=said):
            ss2d(*wrong, backend="fused")
    with pytest.raises(ValueError, match=r"x_proj_weight is \(4, 3, 16\); it takes \(4, 4, 16\)"):
        ss2d(inputs[0], inputs[1][:, :3], *inputs[2:])
    with pytest.raises(ValueError, match=r"x is \(2, 3, 16\); it takes \(batch, height, width, channels\)"):
        ss2d(inputs[0][0], *inputs[1:])
    with pytest.raises(ValueError, match="routes 'cascade2d' is two passes"):
        ss2d(*inputs, routes="cascade2d")
    assert limits.unfit(96, 1, "cross2d") == ""


def test_plans_fit_every_gpu_and_spread_the_work():
    ways = product(("forward", "backward"), ("float32", "float16"), (2, 6, 26, 64), (1, 7, 13, 56), (16, 80, 96, 1024))
    for direction, dtype, rank, side, dim in ways:
        plan = plans.plan(direction, dtype, rank, side, side, dim)
        assert dim // plans.WIDTH % plan.warps == 0 and plan.shared() <= plans.SHARED and plan.threads <= 1024
        assert plan.resident in (0, side * side) and plan.wrap == (plan.resident > 0 and side % plan.positions != 0)
        for images in (1, 8, 1000):
            cut = plan.spread(images, side * side, dim, 132, plans.SHARED)
            assert cut.walks in plans.WALKS and 1 <= cut.per <= images and (cut.walks == "both" or cut.per == 1)
            assert cut.segments == 1 or (cut.walks != "both" and cut.segments <= plan.tiles(side * side))
            assert max(plan.shared(cut.per), plan.shared_ends() if cut.segments > 1 else 0) <= plans.SHARED


def test_small_maps_are_whole_in_shared_memory():
    large = 227 * 1024
    residents = [plans.plan("backward", "bfloat16", R, side, side, D, large).resident for R, side, D in STAGES]
    assert residents == [0, 0, 14 * 14, 7 * 7]
    last = plans.plan("forward", "bfloat16", 48, 7, 7, 768, large)
    assert last.spread(128, 49, 768, 132, large) == plans.Cut("both", 4, 1), "several small maps a block"


@compiles
@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_kernels_compile(direction, stage, tmp_path, monkeypatch):
    monkeypatch.setenv("VMAMBA_OPS_CACHE", str(tmp_path))
    rank, side, dim = stage
    for dtype, arch in (("float16", "sm_80"), ("bfloat16", "sm_90")):
        plan = plans.plan(direction, dtype, rank, side, side, dim)
        for name in plan.kernels:
            (usage,) = nvrtc.compile(plans.source(name), "ss2d", plan.macros(), arch).usage
            assert usage.name == f"ss2d_{name}" and usage.registers <= 255
            assert usage.spills <= {"backward": 200, "ends": 32}.get(name, 0)


@compiles
def test_ahead_of_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VMAMBA_OPS_CACHE", str(tmp_path))
    arguments = ["--arch", "sm_90", "--length", "49", "--dtype", "float16", "--fused", "7x7x96x6,20x20x96x6"]
    assert build.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    own = [line for line in lines if "ss2d" in line]
    assert len(own) == 6 and sum("ends of" in line for line in own) == 2, "the larger map may be in segments"
    assert sum("dwconv" in line for line in lines) == 8 and sum("mask" in line for line in lines) == 4
    assert "partials" in lines[-2] and "19 kernels, 19 compiled now" in lines[-1]


def test_fake_kernels_and_flops():
    inputs = _inputs(2, 6, 7, 32, 3, dtype=torch.float32, device="meta")
    with counter(display=False) as found:
        y = cuda.ss2d(*inputs)
        gradients = torch.autograd.grad(y.sum(), inputs)
    assert y.shape == (2, 6, 7, 32) and all(g.shape == t.shape for g, t in zip(gradients, inputs, strict=True))
    rank, counts = 4, found.get_flop_counts()["Global"]  # an odd rank is made even
    forward = scan_flops(2, 42, 4 * 32, 1) + 2 * 2 * 42 * 4 * 32 * (rank + plans.padded(rank))
    assert counts[torch.ops.vmamba_ops.ss2d] == forward
    assert counts[torch.ops.vmamba_ops.ss2d_backward] == 2 * forward
