"""Depthwise convolution and SiLU of a channels-last map: by torch's operators, by the CUDA kernel."""

import pytest
import torch
from torch.nn import functional as F

from vmamba_ops import dwconv_silu, nvrtc
from vmamba_ops.dwconv import cuda

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
TOLERANCE = {FULL: 1e-6, HALF: 1e-3, BRAIN: 8e-3}
SHAPES = [(2, 5, 7, 96), (3, 56, 130, 64), (2, 7, 7, 768), (1, 1, 3, 4), (2, 9, 1, 12)]
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
@pytest.mark.parametrize("dtype", [FULL, HALF, BRAIN])
def test_kernels_compile(dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("VMAMBA_OPS_CACHE", str(tmp_path))
    for entry in ("forward", "backward"):
        usage = nvrtc.compile(cuda.source(), "dwconv", cuda.macros_of(entry, dtype, True, False), "sm_80").usage
        (spills,) = (u.spills for u in usage if u.name == f"dwconv_{entry}")
        assert spills <= (64 if dtype == FULL else 16)


@pytest.mark.parametrize("bias", [True, False])
def test_fake_kernels(bias):
    inputs = _inputs((2, 5, 7, 8), bias=bias, device="meta")
    y = cuda.dwconv_silu(*inputs, *[None] * (not bias))
    gradients = torch.autograd.grad(y.sum(), inputs)
    assert y.shape == (2, 5, 7, 8) and all(g.shape == t.shape for g, t in zip(gradients, inputs, strict=True))


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", [FULL, HALF, BRAIN])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape, dtype):
    for bias in (True, False):
        inputs = _inputs(shape, bias=bias, dtype=dtype, device="cuda")
        dy = torch.randn_like(inputs[0])
        y = dwconv_silu(*inputs)
        exact = [t.detach().double().requires_grad_() for t in inputs]
        expected = _expected(*exact)
        got = [y, *torch.autograd.grad(y, inputs, dy)]
        for a, b in zip(got, [expected, *torch.autograd.grad(expected, exact, dy.double())], strict=True):
            assert ((a.double() - b).norm() / b.norm()).item() < TOLERANCE[dtype]


@pytest.mark.gpu
@on_gpu
def test_opcheck():
    x, weight, bias = _inputs((2, 5, 7, 8), device="cuda")
    for last in (bias, None):
        torch.library.opcheck(torch.ops.vmamba_ops.dwconv_silu.default, (x, weight, last))
