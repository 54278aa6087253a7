"""Sums of partial results in one launch: as C++ whose threads are fibers, and on a GPU."""

import pytest
import torch
from emulator import Kernel, needs_compiler

from vmamba_ops import nvrtc, partials

TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
# parts, numbers of a part, numbers from one part to the next, dtype, copies
JOBS = [
    (2, 4096, 4096, torch.bfloat16, 1),
    (37, 24, 48, torch.float16, 1),
    (128, 36, 36, torch.float32, 1),
    (1, 16, 48, torch.float32, 4),
    (301, 4, 12, torch.float32, 1),
    (9, 1016, 1016, torch.bfloat16, 2),
]


def _pairs(device):
    torch.manual_seed(0)
    for parts, numbers, stride, dtype, copies in JOBS:
        whole = torch.randn(parts, stride).to(device, dtype)
        yield whole[:, :numbers], torch.full((copies, numbers), float("nan"), dtype=dtype, device=device)


def _check(pairs):
    for given, out in pairs:
        expected = given.double().sum(0)
        for copy in out.double():
            assert ((copy - expected).norm() / expected.norm()).item() < TOLERANCE[given.dtype]


def _plan(pairs):
    return partials.plan(
        tuple(
            (len(p), p.stride(0) * p.element_size(), p[0].nbytes, partials._KINDS[p.dtype], len(out))
            for p, out in pairs
        )
    )


@needs_compiler
def test_emulated(tmp_path):
    pairs = list(_pairs("cpu"))
    plan = _plan(pairs)
    fields = plan.fields([(p.data_ptr(), out.data_ptr()) for p, out in pairs])
    Kernel(tmp_path, partials.source(), "partials", partials.MACROS)(fields, (plan.blocks, 1), partials.SHARED)
    _check(pairs)


@pytest.mark.skipif(bool(nvrtc.missing()), reason=nvrtc.missing())
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_compiles(arch, tmp_path, monkeypatch):
    monkeypatch.setenv("VMAMBA_OPS_CACHE", str(tmp_path))
    (usage,) = nvrtc.compile(partials.source(), "partials", partials.MACROS, arch).usage
    assert usage.spills == 0


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="a part of 12 bytes every 16"):
        partials.plan(((3, 16, 12, 0, 1),))


@pytest.mark.parametrize("numbers", [3, 8])
def test_summed_takes_any_size(numbers):
    parts = torch.randn(5, 2 * numbers, device="cuda" if torch.cuda.is_available() else "cpu")
    for got, given in zip(partials.summed(*parts.split(numbers, 1)), parts.split(numbers, 1), strict=True):
        torch.testing.assert_close(got, given.sum(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    pairs = list(_pairs("cuda"))
    partials.add(*pairs)
    first = [out.clone() for _, out in pairs]
    _check(pairs)
    partials.add(*pairs)
    assert all(torch.equal(a, out) for a, (_, out) in zip(first, pairs, strict=True))
