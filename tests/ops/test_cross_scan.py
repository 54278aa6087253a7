"""Cross scan, cross merge and the line scans: golden values, adjointness, compile, refusals."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vmamba_ops
from vmamba_ops.cross_scan.routes import ROUTES, index_map

GOLDEN = Path(__file__).parents[1] / "golden" / "ops" / "cross_scan_merge"
DATA = load_file(GOLDEN.with_suffix(".safetensors"))
CASES = [case for case in json.loads(GOLDEN.with_suffix(".json").read_text())["cases"] if case["scans"] < len(ROUTES)]
LAYOUTS = [(a, b) for a in (True, False) for b in (True, False)]


def _kwargs(case: dict) -> dict:
    return {name: case[name] for name in ("in_channel_first", "out_channel_first", "one_by_one")}


@pytest.mark.parametrize("scans", range(len(ROUTES)))
def test_index_map(scans):
    assert torch.equal(index_map(ROUTES[scans], 3, 5), DATA[f"index_scan{scans}"].long())


@pytest.mark.parametrize("backend", ["naive", "torch"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["tag"])
def test_golden(case, backend):
    golden = {key.split("/")[1]: value for key, value in DATA.items() if key.startswith(case["tag"] + "/")}
    routes, kwargs = ROUTES[case["scans"]], _kwargs(case) | {"backend": backend}
    if case.get("scan_ok"):
        x = golden["x"].clone().requires_grad_()
        out = vmamba_ops.cross_scan(x, routes, **kwargs)
        assert torch.equal(out, golden["scan"])
        if case.get("scan_bwd_ok"):
            out.backward(golden["scan_dy"])
            exact = backend != "naive"  # autograd adds the four routes in an order of its own
            torch.testing.assert_close(x.grad, golden["scan_dx"], rtol=0, atol=0 if exact else 2e-6)
    if case.get("merge_ok"):
        y = golden["y"].clone().requires_grad_()
        out = vmamba_ops.cross_merge(y, routes, **kwargs)
        assert torch.equal(out, golden["merge"])
        if case["merge_bwd_ok"]:
            out.backward(golden["merge_dm"])
            assert torch.equal(y.grad, golden["merge_dy"])


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("routes", ROUTES)
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 4)])
def test_torch_equals_naive(routes, layout, one_by_one, size):
    generator = torch.Generator().manual_seed(0)
    kwargs = {"in_channel_first": layout[0], "out_channel_first": layout[1], "one_by_one": one_by_one}
    image, sequence = (2, 4, 3, *size) if one_by_one else (2, 3, *size), (2, 4, 3, *size)
    if not layout[0]:
        image = (2, *size, 4, 3) if one_by_one else (2, *size, 3)
    if not layout[1]:
        sequence = (2, *size, 4, 3)
    for op, shape in ((vmamba_ops.cross_scan, image), (vmamba_ops.cross_merge, sequence)):
        integers = torch.randint(-9, 9, shape, generator=generator).double()
        results = []
        for backend in ("naive", "torch"):
            x = integers.clone().requires_grad_()
            out = op(x, routes, backend=backend, **kwargs)
            assert out.is_contiguous()
            cotangent = torch.arange(out.numel(), dtype=out.dtype).view_as(out)
            (grad,) = torch.autograd.grad(out, x, cotangent)
            results.append((out, grad))
        assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("routes", ROUTES)
def test_gradgrad(routes):
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(1, 4, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: vmamba_ops.cross_scan(t, routes).square(), x)
    assert torch.autograd.gradgradcheck(lambda t: vmamba_ops.cross_merge(t, routes).square(), y)


@pytest.mark.parametrize("axis", ["row", "column"])
def test_lines(axis):
    x = torch.arange(2 * 3 * 4 * 5, dtype=torch.float64).view(2, 3, 4, 5)
    y = vmamba_ops.line_scan(x, axis)
    if axis == "row":
        assert y.shape == (8, 2, 3, 5)
        assert torch.equal(y[1 * 4 + 2, 0], x[1, :, 2]) and torch.equal(y[1 * 4 + 2, 1], x[1, :, 2].flip(-1))
    else:
        assert y.shape == (10, 2, 3, 4)
        assert torch.equal(y[1 * 5 + 2, 0], x[1, :, :, 2]) and torch.equal(y[1 * 5 + 2, 1], x[1, :, :, 2].flip(-1))


def _round_trip(x):
    y = vmamba_ops.cross_scan(x, out_channel_first=False)
    return vmamba_ops.cross_merge(y.unflatten(1, x.shape[2:]), out_channel_first=False)


def test_compile_and_export():
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    expected = _round_trip(x)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), x)
    compiled = torch.compile(_round_trip, fullgraph=True, backend="aot_eager")
    out = compiled(x)
    assert torch.equal(out, expected)
    assert torch.equal(torch.autograd.grad(out.square().sum(), x)[0], expected_grad)

    class Module(torch.nn.Module):
        def forward(self, x):
            return _round_trip(x)

    assert torch.equal(torch.export.export(Module(), (x.detach(),)).module()(x.detach()), expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: vmamba_ops.cross_scan(torch.zeros(1, 2, 3, 4), "zigzag"), "'zigzag'; choose cross2d, unidi, bidi"),
        (lambda: vmamba_ops.cross_scan(torch.zeros(1, 2, 3, 4), "cascade2d"), "line_scan"),
        (lambda: vmamba_ops.cross_scan(torch.zeros(2, 3, 4)), r"x is \(2, 3, 4\); it takes \(B, C, H, W\)"),
        (lambda: vmamba_ops.cross_merge(torch.zeros(1, 3, 2, 2, 2)), r"takes \(B, 4, C, H, W\)"),
        (lambda: vmamba_ops.cross_merge(torch.zeros(1, 4, 2, 2, 2), out_channel_first=False), r"\(B, H, W, 4, C\)"),
        (lambda: vmamba_ops.line_scan(torch.zeros(1, 2, 3, 4), "diagonal"), "'diagonal'; choose row, column"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_absent_backend():
    with pytest.raises(RuntimeError, match=r"'triton' cannot run here: it runs on cuda, not on cpu; .*: naive, torch"):
        vmamba_ops.cross_scan(torch.zeros(1, 2, 3, 4), backend="triton")
