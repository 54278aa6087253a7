"""The fused SS2D on a GPU: against the definition in float64, forward and all gradients, and how it is called."""

import pytest
import torch

from vmamba_ops import ss2d

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NAMES = ("y", "dx", "dx_proj", "ddt_weight", "ddt_bias", "dA_logs", "dDs")
HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
TOLERANCE = {FULL: 5e-6, HALF: 1.5e-3, BRAIN: 1e-2}
CASES = [  # batch, height, width, channels, rank, dtype
    (2, 5, 7, 32, 6, HALF),
    (3, 6, 8, 96, 7, BRAIN),
    (2, 7, 7, 768, 48, HALF),
    (2, 14, 14, 384, 24, BRAIN),
    (2, 9, 13, 48, 3, FULL),
    (1, 56, 56, 96, 6, BRAIN),
    (140, 7, 7, 96, 6, HALF),
    (300, 14, 14, 16, 64, HALF),
    (1, 1, 65, 16, 2, HALF),
    (1, 41, 67, 32, 6, HALF),
    (3, 1, 999, 48, 12, BRAIN),
    (2, 40, 25, 64, 26, FULL),
]


@pytest.fixture(autouse=True)
def _poison():
    """Fill whatever ``torch.empty`` gives with NaN, so that an element nobody wrote shows; no TF32."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    tf32, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.matmul.allow_tf32 = tf32


def _inputs(B, H, W, D, R, dtype):
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, device="cuda")

    scalars = [normal(4, D) - 2, normal(4 * D, 1) * 0.3, normal(4 * D)]
    inputs = [normal(B, H, W, D).to(dtype), normal(4, R + 2, D) * D**-0.5, normal(4, D, R) * R**-0.5, *scalars]
    return [t.requires_grad_() for t in inputs]


def _results(inputs, backend, dy):
    y = ss2d(*inputs, backend=backend)
    return [y.detach(), *torch.autograd.grad(y, inputs, dy.to(y.dtype))]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_naive_in_float64(case):
    inputs = _inputs(*case)
    dy = torch.randn_like(inputs[0])
    got = _results(inputs, "fused", dy)
    expected = _results([t.detach().double().requires_grad_() for t in inputs], "naive", dy)
    for name, a, b in zip(NAMES, got, expected, strict=True):
        error = ((a.double() - b).norm() / b.norm()).item()
        assert error < TOLERANCE[case[-1]], (name, error)  # NaN is not less


def test_same_bits_every_time():
    inputs = _inputs(5, 14, 14, 96, 6, HALF)
    dy = torch.randn_like(inputs[0])
    runs = [_results(inputs, "fused", dy) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_opcheck():
    from vmamba_ops.ss2d import cuda  # noqa: F401  defines the operators

    x, x_proj, *own = _inputs(2, 6, 7, 32, 6, HALF)
    x_proj = x_proj.half().flatten(0, 1).detach().requires_grad_()
    own = [t.detach().reshape(4, 32, -1).squeeze(-1).requires_grad_() for t in own]
    torch.library.opcheck(torch.ops.vmamba_ops.ss2d.default, (x, x_proj, *own, True))


def test_compile_and_autocast():
    inputs = _inputs(2, 6, 7, 32, 6, FULL)

    def loss(*tensors):
        with torch.autocast("cuda", BRAIN):
            y = ss2d(*tensors)
        assert y.dtype == BRAIN
        return y.float().square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, expected = (torch.autograd.grad(f(*inputs), inputs) for f in (compiled, loss))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
