"""The Triton scan against the definition in float64: on a GPU here, without one in Triton's interpreter
(``test_triton_interpreted`` runs this file in a process of its own)."""

import os

import pytest
import torch

from vmamba_ops.selective_scan import naive

GPU = torch.cuda.is_available()
if not GPU and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no CUDA device; test_triton_interpreted runs this file", allow_module_level=True)

from vmamba_ops.selective_scan import triton as backend  # noqa: E402
from vmamba_ops.selective_scan.triton_plan import Tile  # noqa: E402

DEVICE = "cuda" if GPU else "cpu"
NAMES = ("out", "last", "u", "delta", "A", "B", "C", "D", "delta_bias")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Fresh memory is NaN, so that an element no kernel wrote shows."""
    empty, new_empty = torch.empty, torch.Tensor.new_empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: _poison(empty(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: _poison(new_empty(*a, **k)))


def _poison(tensor):
    return tensor.fill_(float("nan")) if tensor.is_floating_point() and tensor.device.type != "meta" else tensor


@pytest.fixture
def cut(monkeypatch):
    """Set the tiles, the number of segments and the channel blocks a program takes."""

    def apply(forward, backward, parts=1, each=1):
        monkeypatch.setattr(backend, "tiles", lambda *_: (Tile(*forward), Tile(*backward)))
        monkeypatch.setattr(backend, "segments", lambda _, __, chunks: _segments(parts, chunks))
        monkeypatch.setattr(backend, "blocks_each", lambda _, dim, tile, __: (each, -(-dim // (tile.rows * each))))
        backend.known.cache_clear()

    yield apply
    backend.known.cache_clear()


def _segments(parts, chunks):
    each = -(-chunks // min(parts, chunks))
    return -(-chunks // each), each


def _inputs(batch, groups, per_group, states, length, dtype, scalars=True, softplus=True, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE)

    dim = groups * per_group
    u, delta = normal(batch, dim, length), normal(batch, dim, length)
    if not softplus:
        delta = delta.abs() * 0.3  # a step must not be negative, or the state explodes
    A = -torch.exp(normal(dim, states)).float()
    B, C = normal(batch, groups, states, length), normal(batch, groups, states, length)
    small = [normal(dim).float(), normal(dim).abs().float() * 0.3] if scalars else [None, None]
    return [u.to(dtype), delta.to(dtype), A, B.to(dtype), C.to(dtype), *small]


def _results(scan, inputs, softplus, out_dtype, last_cotangent, dtype, cotangent_dtype=torch.float32):
    inputs = [t if t is None else t.detach().to(dtype(t)).requires_grad_() for t in inputs]
    out, last = scan(*inputs, softplus, out_dtype)
    generator = torch.Generator().manual_seed(7)
    outputs = (out, last) if last_cotangent else (out,)
    rounded = (cotangent_dtype, torch.float32)  # the reference too takes cotangents that the outputs' dtypes hold
    cotangents = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(kind).to(t)
        for t, kind in zip(outputs, rounded, strict=False)
    ]
    gradients = torch.autograd.grad(outputs, [t for t in inputs if t is not None], cotangents)
    return [out.detach(), last.detach(), *gradients]


def _compare(inputs, softplus=True, last_cotangent=False, out_dtype=torch.float32):
    got = _results(backend.selective_scan, inputs, softplus, out_dtype, last_cotangent, lambda t: t.dtype, out_dtype)
    double = lambda _: torch.float64  # noqa: E731
    expected = _results(naive.selective_scan, inputs, softplus, torch.float64, last_cotangent, double, out_dtype)
    names = [n for n, t in zip(NAMES, [0, 0, *inputs], strict=True) if t is not None]
    dtypes = [out_dtype, torch.float32, *(t.dtype for t in inputs if t is not None)]
    for name, a, b, dtype in zip(names, got, expected, dtypes, strict=True):
        assert a.dtype == dtype and a.shape == b.shape, name
        error = (a.double() - b).norm() / b.norm().clamp_min(1e-6)
        assert error < TOLERANCE[dtype], f"{name}: {error:.1e}"


F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
WHOLE = {"softplus": True, "last_cotangent": True}
BEND = {"softplus": False}
CASES = {  # shape, dtype, inputs, call, (forward tile, backward tile, segments, channel blocks a program)
    "one state, segments": ((2, 2, 5, 1, 37), F32, {}, WHOLE, ((8, 2, 4), (4, 2, 4), 2, 2)),
    "one state, half, plain": ((1, 1, 3, 1, 24), F16, {"scalars": False}, {}, ((2, 2, 8), (1, 2, 8))),
    "one state, one chunk": ((1, 2, 5, 1, 13), F32, {}, WHOLE, ((4, 2, 4), (4, 2, 4), 1, 2)),
    "one state, one position": ((1, 3, 2, 1, 1), BF16, {}, WHOLE, ((1, 2, 1), (1, 2, 1))),
    "two states, no softplus": ((1, 1, 3, 2, 14), F32, BEND, BEND, ((4, 2, 2), (2, 2, 2), 1, 2)),
    "three states, segments": ((1, 2, 3, 3, 30), F32, {}, WHOLE, ((4, 2, 4), (2, 2, 4), 2, 1)),
    "sixteen states": ((1, 1, 2, 16, 18), BF16, {}, {"last_cotangent": True}, ((4, 2, 4), (4, 2, 4))),
    "sixty-four states": ((1, 1, 2, 64, 8), F32, {}, {}, ((4, 2, 2), (4, 2, 2))),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_naive(case, cut):
    shape, dtype, inputs, how, cuts = case
    cut(*cuts)
    _compare(_inputs(*shape, dtype, **inputs), **how)


@pytest.mark.parametrize(("states", "length", "dtype"), [(1, 49, F16), (1, 6, F32), (2, 12, BF16)], ids=str)
def test_its_own_tiles(states, length, dtype):
    _compare(_inputs(1, 2, 3, states, length, dtype), out_dtype=dtype)


def test_strides_and_partial_gradients(cut):
    cut((4, 2, 2), (2, 2, 2))
    inputs = _inputs(2, 2, 2, 2, 12, F32)
    expected = backend.selective_scan(*inputs, True, F32)
    joint = torch.cat([inputs[3], inputs[4]], 2)  # B and C as slices of one tensor, as a projection leaves them
    strided = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in inputs[:2]]
    views = [*strided, inputs[2], joint[:, :, :2], joint[:, :, 2:], *inputs[5:]]
    for a, b in zip(backend.selective_scan(*views, True, F32), expected, strict=True):
        assert torch.equal(a, b)
    u = inputs[0].requires_grad_()
    backend.selective_scan(*inputs, True, F32)[0].sum().backward()
    assert u.grad.isfinite().all() and all(t.grad is None for t in inputs[1:])


def test_extremes(cut):
    cut((2, 1, 4), (2, 1, 4))
    delta = torch.tensor([-800.0, -100.0, -30.0, -9.0, 0.0, 19.9, 20.1, 500.0], device=DEVICE).view(1, 1, -1)
    ones = torch.ones_like(delta)
    _compare([ones, delta, -torch.ones(1, 1, device=DEVICE), ones[:, None], ones[:, None], None, None])
    delta[0, 0, 3] = float("nan")
    out, _ = backend.selective_scan(ones, delta, -ones[0, :, :1], ones[:, None], ones[:, None], None, None, True, F32)
    assert out[0, 0, :3].isfinite().all() and out[0, 0, 3:].isnan().all()


gpu = [pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="no CUDA device")]


@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        *[(2, 4, 96, 1, 3136), (2, 4, 192, 1, 784), (4, 4, 384, 1, 196), (4, 4, 768, 1, 49), (1, 8, 33, 1, 1001)],
        *[(1, 4, 40, 16, 784), (2, 4, 96, 16, 49), (1, 1, 20, 256, 196), (1, 2, 20, 3, 501)],
    ],
    ids=str,
)
class TestGpu:
    pytestmark = gpu

    def test_real_sizes(self, shape, dtype):
        _compare(_inputs(*shape, dtype), last_cotangent=True)

    def test_the_same_bits_every_run(self, shape, dtype):
        inputs = _inputs(*shape, dtype)
        runs = [_results(backend.selective_scan, inputs, True, F32, True, lambda t: t.dtype) for _ in range(3)]
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


class TestGpuOperator:
    pytestmark = gpu

    def test_more_than_two_to_the_31_elements(self):
        shape = (44, 4, 192, 1, 65536)
        u = torch.randn(shape[0], 768, shape[-1], device=DEVICE, dtype=F16)
        B = torch.randn(shape[0], 4, 1, shape[-1], device=DEVICE, dtype=F16)
        A, bias = -torch.rand(768, 1, device=DEVICE), torch.full((768,), -3.0, device=DEVICE)
        with torch.no_grad():
            out, last = backend.selective_scan(u, u, A, B, B, None, bias, True, F16)
            some = backend.selective_scan(u[-1:], u[-1:], A, B[-1:], B[-1:], None, bias, True, F16)
        torch.testing.assert_close(out[-1:], some[0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(last[-1:], some[1], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("scalars", [True, False])
    @pytest.mark.parametrize("states", [1, 3])
    def test_opcheck(self, states, scalars, monkeypatch):
        monkeypatch.undo()  # torch's own checks compare what they allocate
        inputs = [t if t is None else t.requires_grad_() for t in _inputs(2, 2, 3, states, 40, F32, scalars)]
        torch.library.opcheck(torch.ops.vmamba_ops.selective_scan_triton.default, (*inputs, True, F32))

    def test_compile_and_export(self, monkeypatch):
        monkeypatch.undo()

        def loss(*tensors):
            out, last = backend.selective_scan(*tensors, True, F32)
            return out.square().sum() + last.sum()

        inputs = [t.requires_grad_() for t in _inputs(2, 2, 3, 1, 200, F32)]
        expected = loss(*inputs)
        got = torch.compile(loss, fullgraph=True)(*inputs)
        torch.testing.assert_close(got, expected)
        pairs = zip(torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

        class Module(torch.nn.Module):
            def forward(self, *tensors):
                return backend.selective_scan(*tensors, True, F32)

        plain = tuple(t.detach() for t in inputs)
        program = torch.export.export(Module(), plain)
        assert torch.equal(program.module()(*plain)[0], Module()(*plain)[0])
