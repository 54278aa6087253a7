"""Selective scan: golden values, the CPU backend against the definition, gradients, determinism, refusals."""

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vmamba_ops import dispatch, selective_scan
from vmamba_ops.selective_scan import cpu_memory

GOLDEN = Path(__file__).parents[1] / "golden" / "ops" / "selective_scan_f64"
DATA = load_file(GOLDEN.with_suffix(".safetensors"))
CASES = json.loads(GOLDEN.with_suffix(".json").read_text())["cases"]
BACKENDS = [name for name, why in dispatch.available("cpu").items() if not why]
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def _inputs(batch, groups, per_group, states, length, dtype=torch.float64, scalars=True, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    dim = groups * per_group
    sequences = [normal(batch, dim, length), normal(batch, dim, length)]
    shared = [normal(batch, groups, states, length), normal(batch, groups, states, length)]
    small = [normal(dim), normal(dim)] if scalars else [None, None]
    parameter = torch.float64 if dtype == torch.float64 else torch.float32
    A = -torch.exp(normal(dim, states)).to(parameter)
    tensors = [*(t.to(dtype) for t in sequences), A, *(t.to(dtype) for t in shared)]
    return tensors + [t if t is None else t.to(parameter) for t in small]


def _results(inputs, backend, softplus=True, cotangent_seed=1, state_cotangent=True, **kwargs):
    """out, last state and the gradients of both against fixed cotangents."""
    inputs = [t if t is None else t.detach().requires_grad_() for t in inputs]
    out, last = selective_scan(*inputs, softplus, backend=backend, return_last_state=True, **kwargs)
    generator = torch.Generator().manual_seed(cotangent_seed)
    outputs = (out, last) if state_cotangent else (out,)
    cotangents = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in outputs]
    gradients = torch.autograd.grad(outputs, [t for t in inputs if t is not None], cotangents)
    return [out.detach(), last.detach(), *gradients]


def _relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_golden(case, backend):
    golden = {key.split("/")[1]: value for key, value in DATA.items() if key.startswith(case["case"] + "/")}
    inputs = [golden[name].clone().requires_grad_() if name in golden else None for name in NAMES]
    out, last = selective_scan(*inputs, case["delta_softplus"], backend=backend, return_last_state=True)
    assert out.dtype == last.dtype == torch.float64
    torch.testing.assert_close(out, golden["out"], rtol=0, atol=1e-10)
    torch.testing.assert_close(last.float(), golden["last_state_f32"], rtol=1e-5, atol=1e-6)
    out.backward(golden["dout"])
    for name, tensor in zip(NAMES, inputs, strict=True):
        if tensor is not None:
            torch.testing.assert_close(tensor.grad, golden[f"d{name}"], rtol=1e-10, atol=1e-10, msg=name)


SHAPES = [(1, 1, 1, 1, 1), (2, 3, 5, 2, 7), (1, 4, 9, 1, 257), (3, 1, 6, 3, 49), (1, 2, 33, 4, 300), (2, 1, 17, 2, 132)]


@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("scalars", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_equals_naive_in_float64(shape, scalars, softplus):
    inputs = _inputs(*shape, scalars=scalars)
    if not softplus:
        inputs[1] = inputs[1].abs() * 0.3  # a step must not be negative, or the state explodes
        inputs[6] = inputs[6].abs() * 0.3 if scalars else None
    for got, expected in zip(_results(inputs, "cpu", softplus), _results(inputs, "naive", softplus), strict=True):
        assert _relative(got, expected) < 1e-12


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)], ids=str
)
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_in_low_precision(shape, dtype, tolerance):
    """The same low-precision numbers, computed in float64, are the reference: only state and output may round."""
    inputs = _inputs(*shape, dtype=dtype)
    got = _results(inputs, "cpu", out_dtype=torch.float32)
    expected = _results([t.double() for t in inputs], "naive")
    assert got[0].dtype == got[1].dtype == torch.float32
    assert _relative(got[0], expected[0]) < 2e-6 and _relative(got[1], expected[1]) < 2e-6
    for name, gradient, exact, tensor in zip(NAMES, got[2:], expected[2:], inputs, strict=True):
        assert gradient.dtype == tensor.dtype
        assert _relative(gradient, exact) < (tolerance if tensor.dtype == dtype else 1e-5), name
    assert selective_scan(*inputs, backend="cpu").dtype == dtype


def test_softplus_range_and_extremes():
    """Linear above 20, and no overflow, underflow trap or lost NaN at the ends."""
    delta = torch.tensor([-800.0, -100.0, -30.0, 0.0, 19.9, 20.0, 20.1, 500.0], dtype=torch.float64).view(1, 1, -1)
    ones = torch.ones_like(delta)
    inputs = [ones, delta, -torch.ones(1, 1).double(), ones[:, None], ones[:, None], None, None]
    for dtype in (torch.float64, torch.float32):
        cast = [t if t is None else t.to(dtype) for t in inputs]
        for got, expected in zip(_results(cast, "cpu"), _results(cast, "naive"), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5 if dtype == torch.float32 else 1e-13, atol=1e-30)
    poisoned = delta.clone()
    poisoned[0, 0, 3] = float("nan")
    out = selective_scan(ones, poisoned, *inputs[2:], True, backend="cpu")
    assert out[0, 0, :3].isfinite().all() and out[0, 0, 3:].isnan().all()


def test_gradcheck():
    inputs = [t.requires_grad_() for t in _inputs(2, 2, 3, 2, 5)]

    def both(*tensors):
        return selective_scan(*tensors, True, backend="cpu", return_last_state=True)

    assert torch.autograd.gradcheck(both, inputs)


def test_non_contiguous_and_partial_gradients():
    inputs = _inputs(2, 2, 3, 2, 11)
    expected = selective_scan(*inputs, True, backend="cpu")
    strided = [t if t is None else t.transpose(0, -1).contiguous().transpose(0, -1) for t in inputs]
    assert torch.equal(selective_scan(*strided, True, backend="cpu"), expected)
    u = inputs[0].requires_grad_()
    selective_scan(*inputs, True, backend="cpu").sum().backward()
    assert u.grad is not None and all(t.grad is None for t in inputs[1:])
    with torch.no_grad():
        assert not selective_scan(*inputs, True, backend="cpu").requires_grad


def test_second_derivatives_are_the_definitions_alone():
    inputs = [t.requires_grad_() for t in _inputs(1, 2, 3, 2, 5)]
    (du,) = torch.autograd.grad(selective_scan(*inputs, True, backend="naive").sum(), inputs[0], create_graph=True)
    assert all(g.isfinite().all() and g.any() for g in torch.autograd.grad(du.square().sum(), inputs[1:6]))
    (du,) = torch.autograd.grad(selective_scan(*inputs, True, backend="cpu").sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"'cpu' is differentiable once; .* use backend=naive"):
        du.square().sum().backward()


@pytest.mark.parametrize("advice", [True, False])
@pytest.mark.parametrize("mebibytes", [0, 1, 7])
def test_large_results_hold_what_is_written(mebibytes, advice, monkeypatch):
    if not advice:
        monkeypatch.setattr(cpu_memory, "_madvise", lambda: None)
    tensor = cpu_memory.empty((mebibytes, 2**18), torch.float32)
    assert tensor.shape == (mebibytes, 2**18) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert tensor.fill_(1).sum() == mebibytes * 2**18


def test_same_bits_for_any_number_of_threads():
    inputs = _inputs(1, 4, 37, 2, 600, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 3, 2, 1):
            torch.set_num_threads(threads)
            runs.append(_results(inputs, "cpu"))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def _loss(*tensors):
    out, last = selective_scan(*tensors, True, return_last_state=True)
    return out.square().sum() + last.sum()


def test_compile():
    inputs = [t.requires_grad_() for t in _inputs(1, 2, 3, 2, 9)]
    compiled = torch.compile(_loss, fullgraph=True, backend="aot_eager")
    loss, expected = compiled(*inputs), _loss(*inputs)
    assert torch.equal(loss, expected)
    pairs = zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_export():
    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return selective_scan(*tensors, True)

    inputs = tuple(_inputs(1, 2, 3, 2, 9))
    program = torch.export.export(Module(), inputs)
    assert "selective_scan_cpu" in str(program.graph)
    assert torch.equal(program.module()(*inputs), Module()(*inputs))


@pytest.mark.parametrize("scalars", [True, False])
def test_opcheck(scalars):
    inputs = [t if t is None else t.requires_grad_() for t in _inputs(2, 2, 3, 2, 9, torch.float32, scalars)]
    selective_scan(*inputs, backend="cpu")
    torch.library.opcheck(torch.ops.vmamba_ops.selective_scan_cpu.default, (*inputs, True, torch.float32))


def test_much_faster_than_naive():
    """A loose floor that holds on a busy machine; ops/README.md has the measured ratios."""
    inputs = [t.requires_grad_() for t in _inputs(1, 4, 24, 1, 784, dtype=torch.float32)]

    def best(backend, repeats):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            selective_scan(*inputs, True, backend=backend).sum().backward()
            times.append(time.perf_counter() - start)
        return min(times)

    best("cpu", 1)
    assert best("naive", 2) > 5 * best("cpu", 8)


def _call(**changes):
    arguments = dict(zip(NAMES, _inputs(2, 2, 3, 2, 5, dtype=torch.float32), strict=True)) | changes
    return lambda: selective_scan(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (_call(u=torch.zeros(6, 5)), ValueError, r"u is \(6, 5\); it takes \(batch"),
        (_call(u=torch.zeros(2, 6, 0)), ValueError, "none of them 0"),
        (_call(delta=torch.zeros(2, 6, 4)), ValueError, r"delta is \(2, 6, 4\); .*\(2, 6, 5\)"),
        (_call(A=torch.zeros(5, 2)), ValueError, r"A is \(5, 2\); it takes \(6, d_state\)"),
        (_call(B=torch.zeros(2, 4, 2, 5)), ValueError, "B is .* groups a divisor of 6"),
        (_call(C=torch.zeros(2, 2, 3, 5)), ValueError, "C is .* the shape of B"),
        (_call(D=torch.zeros(3)), ValueError, r"D is \(3,\); it takes \(6,\)"),
        (_call(delta_bias=torch.zeros(6, device="meta")), ValueError, "delta_bias is on meta; .* cpu"),
        (_call(u=torch.zeros(2, 6, 5, dtype=torch.int64)), TypeError, "u is torch.int64"),
        (_call(A=None), TypeError, "A is NoneType; it takes a tensor"),
        (_call(out_dtype="float32"), TypeError, "out_dtype is 'float32'"),
        (_call(backend="fast"), RuntimeError, "unknown backend 'fast'; choose auto, naive, cpu"),
        (_call(backend="oflex"), RuntimeError, "'oflex' cannot run here: .*use backend=auto .*usable: naive, cpu"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
