"""Depthwise convolution and SiLU of a channels-last map: by torch's operators, by the CUDA kernels.

The kernels run on a GPU, and without one as C++ whose threads are fibers.
"""

import pytest
import torch
from emulator import Kernel, needs_compiler, pointer
from torch.nn import functional as F

from vmamba_ops import dwconv_silu, nvrtc
from vmamba_ops.dwconv import cuda
from vmamba_ops.dwconv import plan as plans

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
TOLERANCE = {FULL: 1e-6, HALF: 1e-3, BRAIN: 8e-3}
SHAPES = [
    (2, 5, 7, 96),
    (3, 56, 130, 64),
    (2, 7, 7, 768),
    (1, 1, 3, 4),
    (2, 9, 1, 12),
    (9, 14, 14, 40),
    (128, 28, 28, 32),
    (1, 70, 57, 8),
    (16, 1, 64, 36),
]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _inputs(shape, kernel=3, bias=True, dtype=FULL, device="cpu"):
    torch.manual_seed(0)
    channels = shape[3]
    x, weight = torch.randn(shape).to(device, dtype), (torch.randn(channels, 1, kernel, kernel) / kernel).to(device)
    tensors = [x, weight] + ([torch.randn(channels).to(device)] if bias else [])
    return [t.requires_grad_() for t in tensors]


def _expected(x, weight, bias=None):
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[2] // 2, groups=weight.shape[0])
    return F.silu(y).permute(0, 2, 3, 1)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_on_a_cpu(kernel, bias):
    inputs = _inputs((2, 5, 7, 6), kernel, bias)
    torch.testing.assert_close(dwconv_silu(*inputs), _expected(*inputs))


@pytest.mark.skipif(bool(nvrtc.missing()), reason=nvrtc.missing())
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_kernels_compile(dtype, arch, tmp_path, monkeypatch):
    monkeypatch.setenv("VMAMBA_OPS_CACHE", str(tmp_path))
    for direction, width in (("forward", 56), ("backward", 56), ("backward", 30)):
        plan = plans.plan(direction, dtype, 128, 56, width, 96, 132)
        (usage,) = nvrtc.compile(plans.source(direction), "dwconv", plan.macros(True), arch).usage
        assert usage.spills <= (0 if direction == "forward" else 128)


def test_a_plan_gives_every_position_to_one_block():
    for width in range(1, 400):
        plan = plans.plan("backward", "float16", 4, 100, width, 64, 132)
        reach = 7 * plan.slots
        assert plan.slots * plan.per <= 8 and (plan.tiles - 1) * (reach - 3) + reach >= width
        assert plan.strips * plan.rows >= 100 > (plan.strips - 1) * plan.rows


@pytest.mark.parametrize("width", [32, 64, 128, 256])
def test_few_threads_of_wide_maps_idle(width):
    plan = plans.plan("backward", "bfloat16", 24, width, width, 96 * 256 // width, 132)
    assert width / (7 * plan.slots * plan.tiles) * plan.slots * plan.per / 8 > 0.7


def _emulated(folder, plan, bias, tensors):
    kernel = Kernel(folder, plans.source(plan.direction), f"dwconv_{plan.direction}", plan.macros(bias))
    kernel([*map(pointer, tensors), *plan.fields], (plan.tasks * plan.groups, 1), plan.shared)


@needs_compiler
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [FULL, HALF, BRAIN])
@pytest.mark.parametrize(
    "shape", [(3, 7, 7, 40), (2, 19, 60, 12), (3, 5, 14, 32), (1, 1, 3, 4), (5, 18, 32, 4)], ids=str
)
def test_emulated(shape, dtype, bias, tmp_path):
    x, weight, *rest = _inputs(shape, bias=bias, dtype=dtype)
    b, dy = rest[0] if bias else None, torch.randn(shape).to(dtype)
    forward, backward = (plans.plan(way, str(dtype)[6:], *shape, 2) for way in ("forward", "backward"))
    y, dx = (torch.full_like(x, float("nan"), requires_grad=False) for _ in range(2))
    parts = torch.full((backward.tasks, 10 * shape[3]), float("nan"))
    dweight = parts[:, : 9 * shape[3]].clone()
    dbias = parts[:, 9 * shape[3] :].clone()
    _emulated(tmp_path, forward, bias, (x, weight, b, y, None, None, None, None))
    _emulated(tmp_path, backward, bias, (x, weight, b, None, dy, dx, dweight, dbias if bias else None))
    exact = [t.detach().double().requires_grad_() for t in (x, weight, *rest)]
    expected = _expected(*exact)
    got = [y, dx, dweight.sum(0).view(weight.shape)] + ([dbias.sum(0)] if bias else [])
    for a, e in zip(got, [expected, *torch.autograd.grad(expected, exact, dy.double())], strict=True):
        assert ((a.double() - e).norm() / e.norm()).item() < TOLERANCE[dtype]  # NaN is not less


@pytest.mark.parametrize("bias", [True, False])
def test_fake_kernels(bias):
    inputs = _inputs((2, 5, 7, 8), bias=bias, device="meta")
    y = cuda.dwconv_silu(*inputs, *[None] * (not bias))
    gradients = torch.autograd.grad(y.sum(), inputs)
    assert y.shape == (2, 5, 7, 8) and all(g.shape == t.shape for g, t in zip(gradients, inputs, strict=True))


@pytest.fixture
def poison():
    """``torch.empty`` gives NaN, so that an element nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", [FULL, HALF, BRAIN])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape, dtype, poison):
    for bias in (True, False):
        inputs = _inputs(shape, bias=bias, dtype=dtype, device="cuda")
        dy = torch.randn_like(inputs[0])
        y = dwconv_silu(*inputs)
        exact = [t.detach().double().requires_grad_() for t in inputs]
        expected = _expected(*exact)
        got = [y, *torch.autograd.grad(y, inputs, dy)]
        for a, b in zip(got, [expected, *torch.autograd.grad(expected, exact, dy.double())], strict=True):
            assert ((a.double() - b).norm() / b.norm()).item() < TOLERANCE[dtype]  # NaN is not less
        with torch.no_grad():  # which goes around autograd
            assert torch.equal(dwconv_silu(*inputs), y)
        again = torch.autograd.grad(dwconv_silu(*inputs), inputs, dy)
        assert all(torch.equal(a, b) for a, b in zip(got[1:], again, strict=True))


@pytest.mark.gpu
@on_gpu
def test_opcheck():
    x, weight, bias = _inputs((2, 5, 7, 8), device="cuda")
    for last in (bias, None):
        torch.library.opcheck(torch.ops.vmamba_ops.dwconv_silu.default, (x, weight, last))
