"""The scan's four test modes, with upstream VMamba's shapes and tolerances, each a comparison of two backends:

ours with the reference, ours with mamba_ssm, mamba_ssm with the reference, and development: the backend that
``VMAMBA_OPS_DEVELOP`` names ("core" on a GPU if it names none) with the reference.
"""

import os
from functools import lru_cache, partial
from itertools import product

import pytest
import torch

from vmamba_ops import dispatch, selective_scan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OURS = "oflex" if DEVICE == "cuda" else "cpu"
DEVELOP = os.environ.get("VMAMBA_OPS_DEVELOP", "core")
MODES = {
    "ours-reference": (OURS, "naive"),
    "ours-mamba_ssm": (OURS, "mamba_ssm"),
    "mamba_ssm-reference": ("mamba_ssm", "naive"),
    "development": (DEVELOP, "naive"),
}
TOLERANCES = {torch.float32: (6e-4, 2e-3), torch.float16: (3e-3, 5e-3), torch.bfloat16: (3e-2, 5e-2)}
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
BATCH, DIM = 2, 768

FLAGS = list(product((True, False), repeat=3))  # D, delta_bias, softplus
# length, groups, dtype, flags
EVERY = list(product((64, 128, 256), (1, 2), TOLERANCES, [FLAGS]))
EVERY += list(product((512, 1024, 2048, 4096), (1, 2), TOLERANCES, [FLAGS[:2]]))
FEW = [
    (64, 1, torch.float32, [(True, True, True), (False, False, False)]),
    (64, 2, torch.bfloat16, [(True, False, True)]),
    (128, 2, torch.float16, [(False, True, True)]),
]


def _inputs(length, groups, dtype, has_D, has_bias):
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, device=DEVICE)

    def uniform(*shape):
        return 0.5 * torch.rand(shape, generator=generator, device=DEVICE)

    A, B, C = -uniform(DIM, 1), normal(BATCH, groups, 1, length).to(dtype), normal(BATCH, groups, 1, length).to(dtype)
    D, bias = normal(DIM) if has_D else None, uniform(DIM) if has_bias else None
    u, delta = normal(BATCH, DIM, length).to(dtype), uniform(BATCH, DIM, length).to(dtype)
    return [u, delta, A, B, C, D, bias]


def _run(backend, inputs, softplus):
    dtype = inputs[0].dtype
    if backend == "naive":  # the reference in float64: in float32 its own dA is off by up to 1e-5 of the largest
        inputs = [t if t is None else t.double() for t in inputs]
    inputs = [t if t is None else t.detach().requires_grad_() for t in inputs]
    out, last = selective_scan(*inputs, softplus, backend=backend, return_last_state=True)
    given = {name: t for name, t in zip(NAMES, inputs, strict=True) if t is not None}
    generator = torch.Generator(DEVICE).manual_seed(1)
    cotangent = torch.randn(out.shape, generator=generator, device=DEVICE).to(dtype).to(out.dtype)
    gradients = torch.autograd.grad(out, list(given.values()), cotangent)
    return out.detach(), last.detach(), dict(zip(given, gradients, strict=True))


@lru_cache(8)
def _reference(length, groups, dtype, has_D, has_bias, softplus):
    """The loop over L takes longest by far, and two modes, next to each other, want the same ones."""
    return _run("naive", _inputs(length, groups, dtype, has_D, has_bias), softplus)


def _compare(mode, length, groups, dtype, flags):
    for backend in MODES[mode]:
        if why := dispatch.available(DEVICE).get(backend, f"there is no backend {backend}"):
            pytest.skip(f"{backend}: {why}")
    rtol, atol = TOLERANCES[dtype]
    limits = {"u": (2 * rtol, 2 * atol), "delta": (5 * rtol, 10 * atol), "A": (1e-3, 5e-3)}
    limits |= {"B": (rtol, atol), "C": (rtol, atol), "D": (1e-3, 1e-3), "delta_bias": (1e-3, 1e-3)}
    close = partial(torch.testing.assert_close, check_dtype=False)
    for has_D, has_bias, softplus in flags:
        inputs = _inputs(length, groups, dtype, has_D, has_bias)
        out, last, gradients = _run(MODES[mode][0], inputs, softplus)
        if MODES[mode][1] == "naive":
            expected_out, expected_last, expected = _reference(length, groups, dtype, has_D, has_bias, softplus)
        else:
            expected_out, expected_last, expected = _run(MODES[mode][1], inputs, softplus)
        close(out, expected_out, rtol=rtol, atol=atol)
        close(last, expected_last, rtol=rtol, atol=atol)
        for name, gradient in gradients.items():
            r, a = limits[name]
            if name in ("A", "delta_bias"):  # entries reach 2e5, where float32 rounds by more than upstream's limit
                a = max(a, 2e-5 * expected[name].abs().max().item())
            close(gradient, expected[name], rtol=r, atol=a, msg=lambda text, name=name: f"d{name}: {text}")


@pytest.mark.skipif(DEVICE == "cuda", reason="the gpu-marked test has all cases")
@pytest.mark.parametrize("case", FEW, ids=lambda case: "-".join(map(str, case[:3])))
@pytest.mark.parametrize("mode", MODES)
def test_modes_on_cpu(mode, case):
    _compare(mode, *case)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", EVERY, ids=lambda case: "-".join(map(str, case[:3])))
def test_modes(mode, case):
    _compare(mode, *case)
