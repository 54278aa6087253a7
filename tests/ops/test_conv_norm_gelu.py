"""The first half of the patch embedding against the definition in float64: forward, gradients, refusals."""

import os

import pytest
import torch
import triton
from torch._dynamo.testing import CompileCounterWithBackend
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vmamba_ops import conv_norm_gelu
from vmamba_ops.conv_norm_gelu import WIDTHS, triton_kernels
from vmamba_ops.conv_norm_gelu.naive import conv_norm_gelu as naive
from vmamba_ops.conv_norm_gelu.triton import ROWS, WARPS
from vmamba_ops.flops import counter

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
TOLERANCE = {HALF: 2e-3, BRAIN: 1.6e-2}
NAMES = ("weight", "bias", "norm_weight", "norm_bias")
kernels = pytest.mark.skipif(
    not GPU and os.environ.get("TRITON_INTERPRET") != "1", reason="test_triton_interpreted runs these without a GPU"
)
TYPES = [HALF, BRAIN] if GPU else [HALF]  # the interpreter's products know no bfloat16
on_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA device")


def _inputs(channels, images=2, height=13, width=18, dtype=FULL):
    """Images and parameters; the images and the filters are numbers of 16 bits, as the kernels read them."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((images, 3, height, width), (channels, 3, 3, 3), (channels,), (channels,), (channels,))
    tensors = [torch.randn(s, generator=generator) for s in shapes]
    x, weight, bias, norm_weight, norm_bias = (t.to(DEVICE) for t in tensors)
    own = [(weight / 4).half().float(), (bias / 4).half().float(), norm_weight + 1, norm_bias]
    return x.to(BRAIN).to(dtype), *[t.requires_grad_() for t in own]


def _doubles(tensors):
    return [t.detach().double().requires_grad_(t.requires_grad) for t in tensors]


def _close(got, expected, tolerance, what):
    error = (got.double() - expected).norm() / expected.norm()
    assert error.item() < tolerance, (what, error.item())  # NaN is not less


@pytest.fixture
def poisoned(monkeypatch):
    make = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: make(*a, **k).fill_(torch.nan))


@kernels
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [(13, 18), (1, 1), (30, 7)])
@pytest.mark.parametrize("channels", WIDTHS)
def test_against_float64(channels, size, dtype, poisoned):
    from vmamba_ops.conv_norm_gelu import triton as backend

    inputs = _inputs(channels, 2, *size)
    out = backend.conv_norm_gelu(*inputs, 1e-5, dtype)
    exact = _doubles(inputs)
    expected = naive(*exact, 1e-5)
    assert out.dtype == dtype and out.shape == expected.shape and out.permute(0, 2, 3, 1).is_contiguous()
    _close(out, expected, TOLERANCE[dtype], "out")
    with torch.no_grad():
        assert torch.equal(backend.conv_norm_gelu(*inputs, 1e-5, dtype), out)
    dout = torch.randn_like(out)
    got = torch.autograd.grad(out, inputs[1:], dout)
    for name, a, b in zip(NAMES, got, torch.autograd.grad(expected, exact[1:], dout.double()), strict=True):
        assert a.shape == b.shape and a.dtype == FULL
        _close(a, b, TOLERANCE[dtype], name)


@kernels
@pytest.mark.parametrize("channels", [16, 48])
def test_same_bits_every_time(channels):
    from vmamba_ops.conv_norm_gelu import triton as backend

    inputs, runs = _inputs(channels, 3, 33, 40), []
    for _ in range(3):
        out = backend.conv_norm_gelu(*inputs, 1e-5, HALF)
        runs.append(torch.autograd.grad(out.float().square().sum(), inputs[1:]))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_the_function_elsewhere():
    inputs = _inputs(24)
    out, expected = conv_norm_gelu(*inputs), naive(*_doubles(inputs), 1e-5)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_fake_kernels_and_flops():
    from vmamba_ops.conv_norm_gelu import triton  # noqa: F401  which defines the operators

    shapes = ((2, 9, 7, 3), (48, 27), (48,), (48,), (48,))
    tensors = [torch.empty(s, device="meta").requires_grad_(i > 0) for i, s in enumerate(shapes)]
    with counter(display=False) as count:
        out = torch.ops.vmamba_ops.conv_norm_gelu(*tensors, 1e-5, BRAIN)
        assert out.shape == (2, 5, 4, 48) and out.dtype == BRAIN
        gradients = torch.autograd.grad(out.sum(), tensors[1:])
        assert all(g.shape == t.shape and g.dtype == t.dtype for g, t in zip(gradients, tensors[1:], strict=True))
        assert count.get_total_flops() == (1 + 2) * 2 * 2 * 5 * 4 * 27 * 48  # products


def test_refusals():
    x, *own = _inputs(16)
    weight, bias, norm_weight, norm_bias = own
    for arguments, kind, said in (
        ((x[0], *own), ValueError, r"x is \(3, 13, 18\); it takes \(B, channels, H, W\)"),
        ((x[:, :2], *own), ValueError, r"weight is \(16, 3, 3, 3\); it takes \(C, 2, 3, 3\)"),
        ((x, weight, bias[1:], norm_weight, norm_bias), ValueError, r"bias is \(15,\); it takes \(16,\)"),
        ((x.long(), *own), TypeError, "x is torch.int64; it takes a floating dtype"),
    ):
        with pytest.raises(kind, match="conv_norm_gelu: " + said):
            conv_norm_gelu(*arguments)


@pytest.mark.gpu
@on_gpu
def test_opcheck():
    from vmamba_ops.conv_norm_gelu import triton  # noqa: F401

    x, weight, *rest = _inputs(48)
    arguments = (x.permute(0, 2, 3, 1).contiguous(), weight.detach().flatten(1).requires_grad_(), *rest, 1e-5, HALF)
    torch.library.opcheck(torch.ops.vmamba_ops.conv_norm_gelu.default, arguments)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_compiled_for_any_size_under_autocast(memory_format):
    def both(x, *own):
        with torch.autocast("cuda", BRAIN):
            return conv_norm_gelu(x, *own)

    frames = CompileCounterWithBackend("inductor")
    compiled = torch.compile(both, backend=frames, fullgraph=True, dynamic=True)
    for height in (40, 25, 64):
        inputs = [t.detach().to(memory_format=memory_format) if t.dim() == 4 else t for t in _inputs(48, 2, height, 33)]
        inputs = [inputs[0], *[t.detach().requires_grad_() for t in inputs[1:]]]
        got, expected = compiled(*inputs), both(*inputs)
        assert got.dtype == BRAIN
        torch.testing.assert_close(got, expected)
        gradients = [torch.autograd.grad(y.float().square().sum(), inputs[1:]) for y in (got, expected)]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, atol=1e-2, rtol=1e-2)
    assert frames.frame_count == 1


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled under the interpreter")
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_no_pairs_of_short_integers(direction):
    """ptxas 12.8 loses the constant of an add.s16x2: this kernel's index arithmetic must not become one."""
    kernel = getattr(triton_kernels, f"conv_norm_gelu_{direction}")
    last = {"forward": ["out"], "backward": ["dout", "parts"]}[direction]
    floats = ["x", "weight", "bias", "norm_weight", "norm_bias", *last]
    types = {name: "*fp16" if name in ("out", "dout") else "*fp32" for name in floats}
    types |= dict.fromkeys(("positions", "height", "width", "up", "across"), "i32") | {"eps": "fp32"}
    constants = {"C": 48, "P": 16, "PIECES": 3, "T": ROWS[direction]}
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(floats))}
    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": WARPS})
    assert "s16x2" not in compiled.asm["ptx"]
