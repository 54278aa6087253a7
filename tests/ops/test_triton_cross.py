"""Cross scan and merge in Triton against the definition; without a GPU as ``test_triton_scan``."""

import itertools
import os

import pytest
import torch

from vmamba_ops.cross_scan import naive
from vmamba_ops.cross_scan.routes import ROUTES

GPU = torch.cuda.is_available()
if not GPU and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no CUDA device; test_triton_interpreted runs this file", allow_module_level=True)

from vmamba_ops.cross_scan import triton as backend  # noqa: E402

DEVICE = "cuda" if GPU else "cpu"
LAYOUTS = list(itertools.product((True, False), (True, False)))
SIZES = [(1, 3, 1, 1), (2, 3, 4, 6), (1, 5, 3, 7), (1, 2, 16, 8)]
if GPU:  # few, because every one is compiled for every layout and route set
    SIZES = [(3, 77, 3, 7), (2, 200, 28, 30), (1, 3, 129, 65)]


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(-99))


def _integers(batch, slices, channels, height, width, channel_first, dtype):
    x = torch.randint(-9, 9, (batch, slices, channels, height, width), device=DEVICE).to(dtype)
    return x if channel_first else x.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)


@pytest.fixture
def no_small(monkeypatch):
    """Maps of any size by the kernels of the large ones."""
    monkeypatch.setattr(backend.triton_small, "LARGEST", 0)
    backend._plan.cache_clear()
    yield
    backend._plan.cache_clear()


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("routes", ROUTES)
def test_small_maps_by_the_large_kernels(routes, one_by_one, no_small):
    test_equals_naive(routes, (True, True), one_by_one)


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("routes", ROUTES)
def test_equals_naive(routes, layout, one_by_one):
    """Small integers, so that sums are exact; forward and, through the adjoint, backward."""
    for i, size in enumerate(SIZES):
        dtype = (torch.float32, torch.float16, torch.float64)[i % 3]
        slices = 4 if one_by_one else 1
        x = _integers(size[0], slices, *size[1:], layout[0], dtype).requires_grad_()
        y = _integers(size[0], 4, *size[1:], layout[1], dtype).requires_grad_()
        scanned, expected = backend.scan(x, routes, *layout), naive.scan(x, routes)
        assert torch.equal(scanned, expected)
        merged = backend.merge(y, routes, one_by_one, *layout)
        assert torch.equal(merged, naive.merge(y, routes, one_by_one))
        assert (scanned if layout[1] else scanned.permute(0, 3, 1, 2)).is_contiguous()
        assert (merged if layout[0] else merged.permute(0, 3, 1, 2)).is_contiguous()
        (dx,) = torch.autograd.grad(scanned, x, y.detach().flatten(3))
        assert torch.equal(dx.flatten(3), merged.detach())
        (dy,) = torch.autograd.grad(merged, y, x.detach().flatten(3))
        assert torch.equal(dy.flatten(3), scanned.detach())


def test_strides():
    """A transposed image, which no layout flag describes."""
    x = torch.randn(1, 1, 3, 4, 6, device=DEVICE).transpose(3, 4)
    assert torch.equal(backend.scan(x, "cross2d", True, True), naive.scan(x, "cross2d"))


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="no CUDA device")
@pytest.mark.parametrize("size", [(2, 96, 56, 56), (2, 192, 28, 28), (3, 384, 14, 14), (2, 768, 7, 7)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_real_sizes(size, dtype):
    x, y = _integers(size[0], 1, *size[1:], True, dtype), _integers(size[0], 4, *size[1:], True, dtype)
    assert torch.equal(backend.scan(x, "cross2d", True, True), naive.scan(x, "cross2d"))
    assert torch.equal(backend.merge(y, "cross2d", False, True, True), naive.merge(y, "cross2d", False))


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="no CUDA device")
def test_operators_on_the_gpu(monkeypatch):
    monkeypatch.undo()  # torch's own checks compare what they allocate
    x = torch.randn(2, 1, 8, 14, 14, device=DEVICE, requires_grad=True)
    y = torch.randn(2, 4, 8, 14, 14, device=DEVICE, requires_grad=True)
    torch.library.opcheck(torch.ops.vmamba_ops.cross_scan_triton.default, (x, "cross2d", True, True))
    torch.library.opcheck(torch.ops.vmamba_ops.cross_merge_triton.default, (y, "cross2d", False, True, True))

    def both(t):
        return backend.merge(
            backend.scan(t, "cross2d", True, True).sin().unflatten(3, (14, 14)), "cross2d", False, True, True
        )

    compiled = torch.compile(both, fullgraph=True)
    torch.testing.assert_close(compiled(x), both(x))
    (a,), (b,) = (torch.autograd.grad(f(x).square().sum(), x) for f in (compiled, both))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
