"""The MLP's kernels against the definition in float64: forward, gradients, with norm and residual, refusals."""

import os

import pytest
import torch
import triton
import triton.language as tl
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from vmamba_ops import add_norm_mlp, mlp
from vmamba_ops.flops import counter
from vmamba_ops.mlp import plan
from vmamba_ops.triton_gelu import gelu, gelu_slope

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
TOLERANCE = {HALF: 1e-3, BRAIN: 8e-3}
NAMES = ("x", "fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")
WIDER = [32, 160, 256] + ([384, 512, 768, 1024] if GPU else [])
kernels = pytest.mark.skipif(
    not GPU and os.environ.get("TRITON_INTERPRET") != "1", reason="test_triton_interpreted runs these without a GPU"
)
TYPES = [HALF, BRAIN] if GPU else [HALF]  # the interpreter's products know no bfloat16
on_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA device")


@triton.jit
def _gelus(x, alone, g, slope, N: tl.constexpr):
    at = tl.arange(0, N)
    v = tl.load(x + at)
    both = gelu_slope(v)
    tl.store(alone + at, gelu(v))
    tl.store(g + at, both[0])
    tl.store(slope + at, both[1])


def _inputs(channels, *leading, dtype=FULL):
    generator = torch.Generator().manual_seed(0)
    hidden = 4 * channels
    shapes = ((*leading, channels), (hidden, channels), (hidden,), (channels, hidden), (channels,))
    scales = (1.0, 1.5 * channels**-0.5, 0.5, hidden**-0.5, 0.5)
    tensors = [torch.randn(s, generator=generator) * by for s, by in zip(shapes, scales, strict=True)]
    return [t.to(DEVICE, dtype if t.dim() > 1 else FULL).requires_grad_() for t in tensors]


def _exact(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


def _doubles(tensors):
    return [None if t is None else t.detach().double().requires_grad_() for t in tensors]


def _close(got, expected, tolerance, what):
    error = (got.double() - expected).norm() / expected.norm().clamp(min=1e-30)
    assert error.item() < tolerance, (what, error.item())  # NaN is not less


@pytest.fixture
def poisoned(monkeypatch):
    for owner, name in ((torch, "empty_like"), (torch.Tensor, "new_empty")):
        make = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, make=make, **k: make(*a, **k).fill_(torch.nan))


@kernels
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [*plan.BACKWARD, *WIDER])
def test_against_float64(channels, dtype, poisoned):
    from vmamba_ops.mlp import triton as backend

    inputs = _inputs(channels, 3, 5, 9, dtype=dtype)
    dout = torch.randn_like(inputs[0])
    out = backend.mlp(*inputs, dtype)
    exact = _doubles(inputs)
    expected = _exact(*exact)
    _close(out, expected, TOLERANCE[dtype], "out")
    with torch.no_grad():
        _close(backend.mlp(*inputs, dtype), expected, TOLERANCE[dtype], "out without a gradient")
    got = torch.autograd.grad(out, inputs, dout)
    for name, a, b, t in zip(NAMES, got, torch.autograd.grad(expected, exact, dout.double()), inputs, strict=True):
        assert a.dtype == t.dtype and a.shape == t.shape
        _close(a, b, TOLERANCE[dtype], name)


@kernels
@pytest.mark.parametrize("types", [(FULL, TYPES[-1]), (FULL, None), (HALF, HALF)], ids=str)
@pytest.mark.parametrize("channels", list(plan.INFERENCE))
def test_with_norm_and_residual_against_float64(channels, types, poisoned):
    from vmamba_ops.mlp import triton as backend

    x_type, branch_type = types
    kind = branch_type or HALF
    _, *own = (t.detach() for t in _inputs(channels, 1, dtype=kind))
    torch.manual_seed(1)
    x, branch = (torch.randn(2, 5, 13, channels, device=DEVICE) * 2 + 1 for _ in range(2))
    x, branch = x.to(x_type), None if branch_type is None else branch.to(branch_type)
    norm = [torch.randn(channels, device=DEVICE) for _ in range(2)]
    out = backend.add_norm_mlp(x, branch, *norm, 1e-5, *own, kind)
    x_, branch_, *norm_ = _doubles([x, branch, *norm])
    total = x_ if branch is None else x_ + branch_
    expected = total + _exact(F.layer_norm(total, (channels,), *norm_), *_doubles(own))
    assert out.dtype == x_type and out.shape == x.shape
    if x_type == FULL:  # then what the branch adds is known to its own precision
        _close(out.double() - total, expected - total, TOLERANCE[kind], "branch")
    else:
        _close(out, expected, TOLERANCE[kind], "out")


@kernels
def test_gelu_and_its_slope_are_those_with_erf():
    x = torch.cat([torch.linspace(-12, 12, 4094), torch.tensor([-1e4, 3e38])]).to(DEVICE)
    alone, g, slope = (torch.empty_like(x) for _ in range(3))
    _gelus[(1,)](x, alone, g, slope, N=x.numel())
    exact = x.double().requires_grad_()
    expected = F.gelu(exact)
    wanted = torch.autograd.grad(expected.sum(), exact)[0][:-1]
    assert torch.equal(alone, g)
    torch.testing.assert_close(g.double(), expected.detach(), atol=1e-6, rtol=2e-7)
    torch.testing.assert_close(slope.double()[:-1], wanted, atol=1e-5, rtol=1e-6)
    tail = (x < -0.5) & (x > -5)
    assert ((g - expected) / expected)[tail].abs().max() < 5e-5


@kernels
@pytest.mark.parametrize("channels", [96, 192, 256])
def test_same_bits_every_time(channels):
    from vmamba_ops.mlp import triton as backend

    inputs, runs = _inputs(channels, 300 if GPU else 130, dtype=HALF), []
    for _ in range(3 if GPU else 2):
        runs.append(torch.autograd.grad(backend.mlp(*inputs, HALF).float().square().sum(), inputs))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_which_widths_the_kernels_take():
    assert plan.takes(96, 384) and plan.takes(1024, 4096)
    assert not any(plan.takes(*widths) for widths in ((24, 96), (32, 96), (256, 128)))


def test_the_functions_elsewhere():
    x, *own = _inputs(24, 2, 3, 5)
    norm = torch.randn(24, device=DEVICE), torch.randn(24, device=DEVICE)
    torch.testing.assert_close(mlp(x, *own), _exact(x, *own))
    for branch in (None, torch.randn_like(x)):
        total = x if branch is None else x + branch
        expected = total + _exact(F.layer_norm(total, (24,), *norm), *own)
        torch.testing.assert_close(add_norm_mlp(x, branch, *norm, *own), expected, atol=1e-5, rtol=1e-5)


def test_fake_kernels_and_flops():
    from vmamba_ops.mlp import triton as backend

    shapes = ((2, 7, 96), (384, 96), (384,), (96, 384), (96,))
    tensors = [torch.empty(s, device="meta", dtype=BRAIN if len(s) > 1 else FULL).requires_grad_() for s in shapes]
    with counter(display=False) as count:
        out, hidden = torch.ops.vmamba_ops.mlp(*tensors, True)
        assert out.shape == (2, 7, 96) and hidden.shape == (2, 7, 384)
        gradients = torch.autograd.grad(out.sum(), tensors)
        assert all(g.shape == t.shape and g.dtype == t.dtype for g, t in zip(gradients, tensors, strict=True))
        assert count.get_total_flops() == 3 * 4 * 14 * 96 * 384
    x, *own = (t.detach() for t in tensors)
    with counter(display=False) as count:
        out = backend.add_norm_mlp(x.float(), x, own[3], own[3], 1e-5, *own, BRAIN)
        assert out.shape == x.shape and out.dtype == FULL and count.get_total_flops() == 4 * 14 * 96 * 384


def test_refusals():
    x, w1, b1, w2, b2 = _inputs(24, 2, 3)
    for arguments, kind, said in (
        ((x, w1[:, 1:], b1, w2, b2), ValueError, r"fc1_weight is \(96, 23\); it takes \(hidden, 24\)"),
        ((x, w1, b1[1:], w2, b2), ValueError, r"fc1_bias is \(95,\); it takes \(96,\)"),
        ((x, w1, b1, w2.t(), b2), ValueError, r"fc2_weight is \(96, 24\); it takes \(24, 96\)"),
        ((x, w1, b1, w2, b2.long()), TypeError, "fc2_bias is torch.int64; it takes a floating dtype"),
        ((x[0, 0], w1, b1, w2, b2), ValueError, r"x is \(24,\); it takes \(..., channels\)"),
    ):
        with pytest.raises(kind, match="mlp: " + said):
            mlp(*arguments)
    with pytest.raises(ValueError, match=r"branch is \(1, 3, 24\); it takes the shape of x, \(2, 3, 24\)"):
        add_norm_mlp(x.expand(2, 3, 24), x[:1].expand(1, 3, 24), b2, b2, w1, b1, w2, b2)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("channels", [96, 384])
def test_opcheck(channels):
    import vmamba_ops.mlp.triton  # noqa: F401  which defines the operators

    x, w1, b1, w2, b2 = _inputs(channels, 2, 50, dtype=HALF)
    torch.library.opcheck(torch.ops.vmamba_ops.mlp.default, (x, w1, b1, w2, b2, True))
    if channels in plan.INFERENCE:
        arguments = (x.float(), x, b2, b2, 1e-5, w1, b1, w2, b2)
        tensors = [t.detach() if isinstance(t, torch.Tensor) else t for t in arguments]
        torch.library.opcheck(torch.ops.vmamba_ops.add_norm_mlp.default, tuple(tensors))


@pytest.mark.gpu
@on_gpu
def test_compiled_for_any_number_of_rows_under_autocast():
    def both(x, *own):
        with torch.autocast("cuda", BRAIN):
            return mlp(x, *own)

    frames = CompileCounterWithBackend("inductor")
    compiled = torch.compile(both, backend=frames, fullgraph=True, dynamic=True)
    for height in (40, 25, 7):
        inputs = _inputs(96, 2, height, 33)
        got, expected = compiled(*inputs), both(*inputs)
        assert got.dtype == BRAIN
        torch.testing.assert_close(got, expected)
        gradients = [torch.autograd.grad(y.float().square().sum(), inputs) for y in (got, expected)]
        for a, b in zip(*gradients, strict=True):
            assert a.dtype == FULL
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)
    assert frames.frame_count == 1
