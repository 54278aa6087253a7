"""LayerNorm with and without the addition before it: torch's and Triton's against the definition in float64."""

import os

import pytest
import torch
from torch.nn import functional as F

from vmamba_ops import add_layer_norm, layer_norm
from vmamba_ops.layer_norm import naive

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
TOLERANCE = {FULL: 2e-6, HALF: 1e-3, BRAIN: 8e-3}
SHAPES = [(3, 5, 7, 96), (2, 33), (1, 1, 1, 768), (70, 1), (2, 3, 2500)]
TYPES = [(FULL, FULL, FULL), (FULL, HALF, HALF), (BRAIN, BRAIN, BRAIN), (HALF, HALF, FULL)]  # x, branch, out
kernels = pytest.mark.skipif(
    not GPU and os.environ.get("TRITON_INTERPRET") != "1", reason="test_triton_interpreted runs these without a GPU"
)


def _inputs(shape, x_type=FULL, branch_type=FULL):
    generator = torch.Generator().manual_seed(0)
    x, branch = (torch.randn(shape, generator=generator) * 2 + 1 for _ in range(2))
    own = [torch.randn(shape[-1:], generator=generator) for _ in range(2)]
    tensors = [x.to(DEVICE, x_type), branch.to(DEVICE, branch_type), *(t.to(DEVICE) for t in own)]
    return [t.requires_grad_() for t in tensors]


def _exact(tensors, total_type, scale=None):
    """total, y and a function to differentiate, in float64; total is rounded to its type before it is normalised."""
    x, branch, weight, bias = (t.detach().double().requires_grad_() for t in tensors)
    total = x + (branch if scale is None else branch * scale.double().view(-1, *[1] * (x.dim() - 1)))
    rounded = total + (total.to(total_type).double() - total).detach()
    return (x, branch, weight, bias), (rounded, naive.layer_norm(rounded, weight, bias, 1e-5, None))


def _close(got, expected, tolerance, what):
    error = (got.double() - expected).norm() / expected.norm().clamp(min=1e-30)
    assert error.item() < tolerance, (what, error.item())  # NaN is not less


@pytest.fixture
def poisoned(monkeypatch):
    for owner, name in ((torch, "empty_like"), (torch.Tensor, "new_empty")):
        make = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, make=make, **k: make(*a, **k).fill_(torch.nan))


@kernels
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("types", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_triton_against_float64(shape, types, scaled, poisoned):
    from vmamba_ops.layer_norm import triton as backend

    scale = torch.arange(shape[0], device=DEVICE) * 0.75 if scaled else None
    x_type, branch_type, out_type = types
    inputs = _inputs(shape, x_type, branch_type)
    if shape[-1] == 1:
        inputs = [t.detach().abs().requires_grad_() for t in inputs]
    x, branch, *own = inputs
    total, y = backend.add_norm(x, branch, scale, *own, 1e-5, out_type)
    exact, (total_, y_) = _exact(inputs, total.dtype, scale)
    assert total.dtype == torch.promote_types(x_type, branch_type) and y.dtype == out_type
    with torch.no_grad():  # which goes around autograd
        again = backend.add_norm(x, branch, scale, *own, 1e-5, out_type)
        bare = *again, backend.add_norm(total, None, None, *own, 1e-5, out_type)[1]
    assert not any(t.requires_grad for t in bare)
    assert all(torch.equal(a, b) for a, b in zip(bare, (total, y, y), strict=True))
    weights = [torch.randn_like(t) for t in (total, y)]
    if shape[-1] == 1:  # one sum, which is measured against itself: no cancelling
        weights = [w.abs() for w in weights]
    got = torch.autograd.grad([total, y], inputs, weights)
    expected = torch.autograd.grad([total_, y_], exact, [w.double() for w in weights])
    wanted = max(TOLERANCE[t] for t in types)
    _close(total, total_.detach(), TOLERANCE[total.dtype], "total")
    _close(y, y_.detach(), TOLERANCE[out_type] + TOLERANCE[FULL], "y")
    for name, a, b, t in zip(("dx", "dbranch", "dweight", "dbias"), got, expected, inputs, strict=True):
        assert a.dtype == t.dtype
        if shape[-1] > 1 or name == "dbias":  # of one channel, y does not depend on x
            _close(a, b, wanted, name)


@kernels
def test_triton_alone_without_a_branch_and_in_other_layouts(poisoned):
    from vmamba_ops.layer_norm import triton as backend

    x, _, weight, bias = _inputs((2, 6, 5, 40))
    turned = x.permute(0, 2, 1, 3)
    expected = F.layer_norm(turned, (40,), weight, bias)
    dy = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (x, weight, bias), dy)
    total, alone = backend.add_norm(turned, None, None, weight, bias, 1e-5, None)
    assert total is turned
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)
    for a, b in zip(torch.autograd.grad(alone, (x, weight, bias), dy, retain_graph=True), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    both = torch.autograd.grad([total, alone], x, [torch.ones_like(total), dy])[0]
    torch.testing.assert_close(both, wanted[0] + 1, atol=1e-4, rtol=1e-4)


@kernels
def test_triton_with_one_of_the_two_results_unused():
    from vmamba_ops.layer_norm import triton as backend

    x, branch, weight, bias = _inputs((4, 48), branch_type=HALF)
    total, y = backend.add_norm(x, branch, None, weight, bias, 1e-5, None)
    dx, dbranch = torch.autograd.grad(total.sum(), (x, branch), retain_graph=True)
    assert torch.equal(dx, torch.ones_like(x)) and torch.equal(dbranch, torch.ones_like(branch))
    alone = torch.autograd.grad(y.square().sum(), (x, weight))
    expected = F.layer_norm(x + branch, (48,), weight, bias).square().sum()
    for a, b in zip(alone, torch.autograd.grad(expected, (x, weight)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@kernels
def test_same_bits_every_time():
    from vmamba_ops.layer_norm import triton as backend

    x, branch, weight, bias = _inputs((700, 96), branch_type=HALF)
    runs = []
    for _ in range(3):
        total, y = backend.add_norm(x, branch, None, weight, bias, 1e-5, HALF)
        runs.append(torch.autograd.grad((total.sum(), y.float().square().sum()), (x, branch, weight, bias)))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("backend", ["naive", "torch", "auto"])
def test_the_functions(backend):
    x, branch, weight, bias = _inputs((2, 3, 24))
    expected = F.layer_norm(x + branch, (24,), weight, bias)
    total, y = add_layer_norm(x, branch, weight, bias, backend=backend)
    assert torch.equal(total, x + branch)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    y = layer_norm(x + branch, weight, bias, out_dtype=BRAIN, backend=backend)
    assert y.dtype == BRAIN
    torch.testing.assert_close(y, expected.to(BRAIN), atol=2e-2, rtol=1e-2)
    assert add_layer_norm(x, None, weight, bias, backend=backend)[0] is x
    factor = torch.tensor([0.0, 1.5], device=DEVICE)
    total, _ = add_layer_norm(x, branch, weight, bias, scale=factor, backend=backend)
    torch.testing.assert_close(total, x + branch * factor[:, None, None])
    double = layer_norm(x.double(), weight.double(), bias.double(), backend=backend)
    assert double.dtype == torch.float64


def test_the_compiler_sees_torchs_own():
    x, branch, weight, bias = _inputs((2, 3, 24))
    graphs = []

    def keep(graph, _):
        graphs.append(str(graph.graph))
        return graph

    compiled = torch.compile(lambda *t: add_layer_norm(*t)[1], fullgraph=True, backend=keep)
    torch.testing.assert_close(compiled(x, branch, weight, bias), F.layer_norm(x + branch, (24,), weight, bias))
    assert len(graphs) == 1 and "layer_norm" in graphs[0]


@pytest.mark.parametrize("with_branch", [False, True])
def test_fake_kernels(with_branch):
    from vmamba_ops.layer_norm import triton  # noqa: F401  which defines the operators

    x, branch, scale, weight, bias = (torch.empty(s, device="meta") for s in ((4, 6, 96), (4, 6, 96), 4, 96, 96))
    inputs = [x, branch.half() if with_branch else None, weight, bias]
    inputs = [t if t is None else t.requires_grad_() for t in inputs]
    scales = scale if with_branch else None
    total, y, stats = torch.ops.vmamba_ops.add_layer_norm(*inputs[:2], scales, weight, bias, 1e-5, HALF)
    assert y.shape == x.shape and y.dtype == HALF and stats.shape == (24, 2)
    assert total.shape == (x.shape if with_branch else (0,)) and total.dtype == FULL
    asked = [t for t in inputs if t is not None]
    for gradient, tensor in zip(torch.autograd.grad((total.sum() + y.sum()), asked), asked, strict=True):
        assert gradient.shape == tensor.shape and gradient.dtype == tensor.dtype


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("scaled", [False, True])
def test_one_operator_where_a_compiler_is_told_so(scaled):
    x, branch, weight, bias = _inputs((4, 6, 5, 96), branch_type=BRAIN)
    scale = torch.tensor([0.0, 1.5, 1.5, 0.0], device=DEVICE) if scaled else None
    operator = torch.ops.vmamba_ops.add_layer_norm.default
    for given in (branch, scale), (None, None):
        torch.library.opcheck(operator, (x, *given, weight, bias, 1e-5, BRAIN))

    def step(*tensors):
        return add_layer_norm(*tensors, scale=scale, out_dtype=BRAIN, backend="triton")

    results = []
    for call in (torch.compile(step, fullgraph=True), step):
        total, y = call(x, branch, weight, bias)
        loss = total.square().sum() + (y.float() * x.detach()).sum()
        results.append([total, y, *torch.autograd.grad(loss, (x, branch, weight, bias))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_refusals():
    x, branch, weight, bias = _inputs((2, 3, 24))
    for arguments, kind, said in (
        ((x, branch[:1], weight, bias), ValueError, r"branch is \(1, 3, 24\); it takes \(2, 3, 24\), as x is"),
        ((x, branch, weight[1:], bias), ValueError, r"weight is \(23,\); it takes \(24,\), as x is \(2, 3, 24\)"),
        ((x, branch, weight, bias.long()), TypeError, "bias is torch.int64; it takes a floating dtype"),
        ((x[0, 0], None, weight, bias), ValueError, r"x is \(24,\); it takes \(..., channels\)"),
    ):
        with pytest.raises(kind, match="add_layer_norm: " + said):
            add_layer_norm(*arguments)
    with pytest.raises(ValueError, match=r"add_layer_norm: scale is \(24,\); it takes \(2,\)"):
        add_layer_norm(x, branch, weight, bias, scale=bias)
    with pytest.raises(ValueError, match="add_layer_norm: scale is of the branch, and there is none"):
        add_layer_norm(x, None, weight, bias, scale=bias[:2])
    with pytest.raises(RuntimeError, match="layer_norm: unknown backend 'apex'; choose auto, naive, torch, triton"):
        layer_norm(x, weight, bias, backend="apex")
    wide = torch.zeros(1, 5000, device=DEVICE)
    with pytest.raises(RuntimeError, match="it takes up to 4096 channels, got 5000" if GPU else "not on cpu"):
        layer_norm(wide, wide[0], wide[0], backend="triton")
