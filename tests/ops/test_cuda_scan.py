"""The CUDA scan on a GPU: against the definition in float64, forward and all gradients, and how it is called."""

import pytest
import torch

from vmamba_ops import selective_scan
from vmamba_ops.selective_scan import cuda, naive

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NAMES = ("out", "last", "du", "ddelta", "dA", "dB", "dC", "dD", "dbias")
HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
TOLERANCE = {FULL: 3e-6, HALF: 1e-3, BRAIN: 8e-3}
# batch, groups, channels a group, states, length
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 2, 12, 1, 49),
    (2, 2, 13, 1, 196),
    (1, 2, 7, 1, 784),
    (1, 2, 12, 1, 1568),
    (2, 3, 5, 2, 7),
    (1, 2, 9, 1, 257),
    (1, 2, 33, 4, 300),
    (2, 4, 24, 16, 196),
    (1, 2, 9, 16, 1024),
    (1, 2, 5, 17, 100),
    (1, 1, 6, 40, 64),
]
WAYS = [
    (FULL, FULL, 1),
    (FULL, FULL, 2),
    (FULL, FULL, 4),
    (HALF, FULL, 0),
    (HALF, FULL, 2),
    (HALF, HALF, 4),
    (BRAIN, BRAIN, 0),
]


@pytest.fixture(autouse=True)
def _poison():
    """Fill whatever ``torch.empty`` gives with NaN, so that an element nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def inputs_of(batch, groups, per_group, states, length, dtype, scalars=True, softplus=True, device="cuda"):
    dim = groups * per_group
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, device=device)

    u, delta = normal(batch, dim, length).to(dtype), normal(batch, dim, length).mul(0.7).sub(1).to(dtype)
    A, D, bias = -torch.exp(normal(dim, states) * 0.5), normal(dim), normal(dim) * 0.3
    B, C = (normal(batch, groups, states, length).to(dtype) for _ in range(2))
    if not softplus:  # a step must not be negative, or the state explodes
        delta, bias = delta.abs() * 0.3, bias.abs()
    return [u, delta, A, B, C, *((D, bias) if scalars else (None, None))]


def _results(scan, inputs, softplus, out_dtype, cast=lambda t: t, **options):
    inputs = [t if t is None else cast(t.detach()).requires_grad_() for t in inputs]
    out, last = scan(*inputs, softplus, out_dtype, **options)
    generator = torch.Generator("cuda").manual_seed(1)
    cotangents = [torch.randn(t.shape, generator=generator, device="cuda") for t in (out, last)]
    cotangents[0] = cotangents[0].to(BRAIN)  # the same numbers for every output dtype
    cotangents = [c.to(t.dtype) for c, t in zip(cotangents, (out, last), strict=True)]
    gradients = torch.autograd.grad((out, last), [t for t in inputs if t is not None], cotangents)
    return [out.detach(), last.detach(), *gradients]


def compare(got, expected, tolerance, only=None):
    for name, a, b in zip(NAMES, got, expected, strict=False):
        if only and a.dtype != only:
            continue
        error = ((a.double() - b).norm() / b.norm().clamp_min(1e-30)).item()
        assert error < tolerance, (name, error)  # NaN is not less


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_naive_in_float64(shape, way):
    dtype, out, nrow = way
    inputs = inputs_of(*shape, dtype)
    if BRAIN in (dtype, out):
        inputs[5:] = [None, None]
    softplus = not (dtype == FULL and nrow == 2)
    if not softplus:
        inputs = inputs_of(*shape, dtype, softplus=False)
    got = _results(cuda.selective_scan, inputs, softplus, out, nrow=nrow, back_nrow=nrow)
    expected = _results(naive.selective_scan, inputs, softplus, torch.float64, torch.Tensor.double)
    assert got[0].dtype == out and got[1].dtype == FULL
    compare(got, expected, TOLERANCE[dtype])
    compare(got, expected, 5e-6, only=FULL)  # whatever is not rounded to 16 bits


def test_strides_offsets_and_streams():
    """B and C as views of one projection, inputs that start anywhere, a stream of the caller's."""
    inputs = inputs_of(2, 4, 12, 1, 196, HALF)
    expected = _results(cuda.selective_scan, inputs, True, FULL)
    joined = torch.cat([torch.zeros_like(inputs[3]), inputs[3], inputs[4]], 2)
    _, inputs[3], inputs[4] = joined.split(1, 2)
    shifted = torch.empty(inputs[0].numel() + 1, dtype=HALF, device="cuda")[1:].view_as(inputs[0])
    inputs[0] = shifted.copy_(inputs[0])
    inputs[1] = inputs[1].transpose(1, 2).contiguous().transpose(1, 2)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = _results(cuda.selective_scan, inputs, True, FULL)
    torch.cuda.current_stream().wait_stream(stream)
    compare(got, [t.double() for t in expected], 1e-3)


@pytest.mark.parametrize("states", [1, 16])
def test_same_bits_every_time(states):
    inputs = inputs_of(3, 4, 48, states, 784, HALF)
    runs = [_results(cuda.selective_scan, inputs, True, FULL) for _ in range(3)]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_mixed_dtypes_and_core():
    inputs = inputs_of(2, 2, 8, 1, 64, HALF)
    out, _ = cuda.core(*inputs, True, FULL)
    assert out.dtype == FULL and torch.equal(out, selective_scan(*inputs, True, backend="core").float())
    inputs[1] = inputs[1].float()
    got = _results(cuda.selective_scan, inputs, True, HALF)
    assert [t.dtype for t in got] == [HALF, FULL, HALF, FULL, FULL, HALF, HALF, FULL, FULL]
    compare(got, _results(naive.selective_scan, inputs, True, torch.float64, torch.Tensor.double), 1e-3)


@pytest.mark.parametrize("scalars", [True, False])
def test_opcheck(scalars):
    inputs = inputs_of(2, 2, 4, 2, 100, FULL, scalars)
    inputs = [t if t is None else t.requires_grad_() for t in inputs]
    torch.library.opcheck(torch.ops.vmamba_ops.selective_scan_cuda.default, (*inputs, True, FULL, 0, 0))


def test_compile():
    inputs = [t.requires_grad_() for t in inputs_of(2, 2, 4, 1, 100, HALF)]

    def loss(*tensors):
        out, last = selective_scan(*tensors, True, backend="oflex", out_dtype=FULL, return_last_state=True)
        return out.square().sum() + last.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, expected = (torch.autograd.grad(f(*inputs), inputs) for f in (compiled, loss))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_more_than_two_to_the_31_numbers():
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GiB of GPU memory")
    torch.use_deterministic_algorithms(False)
    dim, length, tail = (1 << 25) + 4096, 64, 64
    u, delta = (torch.randn(1, dim, length, dtype=HALF, device="cuda") for _ in range(2))
    A, D = -torch.rand(dim, 1, device="cuda"), torch.randn(dim, device="cuda")
    B, C = (torch.randn(1, 1, 1, length, dtype=HALF, device="cuda") for _ in range(2))
    given = [u.requires_grad_(), delta, A, B, C, D, None]
    out, _ = cuda.selective_scan(*given, True, HALF)
    (du,) = torch.autograd.grad(out, u, u.detach())
    last = [u[:, -tail:], delta[:, -tail:], A[-tail:], B, C, D[-tail:], None]
    last = [t if t is None else t.detach().double().requires_grad_() for t in last]
    exact, _ = naive.selective_scan(*last, True, torch.float64)
    (gradient,) = torch.autograd.grad(exact, last[0], last[0].detach())
    compare([out[:, -tail:], du[:, -tail:]], [exact, gradient], 1e-3)
