"""How far every scan backend is from the definition in float64: relative errors, the worst over the shapes.

The error is |got - expected| / |expected| by Euclidean norms, of the result and of every gradient; inputs and the
incoming gradient are rounded to the dtype first, so that the rounding of the inputs is in neither.
"""

from itertools import product

import torch
from torch import Tensor

from vmamba.bench.ops import K, backends
from vmamba.bench.report import Row
from vmamba_ops import selective_scan

NAMES = ("out", "du", "ddelta", "dA", "dB", "dC", "dD", "dbias")
# batch, channels a route, N, L: the stages' lengths, an odd one, many states
SHAPES = [(2, 24, 1, 784), (2, 24, 1, 196), (2, 24, 1, 49), (1, 9, 1, 257), (2, 12, 16, 196)]
SMALL = [(1, 4, 1, 49), (1, 3, 4, 12)]


def run(device: torch.device, small: bool) -> tuple[list[Row], Row]:
    """A row for each backend and dtype; the output is float32, of ``core`` and ``mamba_ssm`` in the input's dtype."""
    names = dict.fromkeys([*backends("selective_scan", device), "naive"])
    cases = list(product(names, (torch.float32, torch.float16, torch.bfloat16)))
    worst = {case: dict.fromkeys(NAMES, 0.0) for case in cases}
    for seed, shape in enumerate(SMALL if small else SHAPES):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            inputs, cotangent = _inputs(shape, dtype, device, seed)
            expected = _results("naive", [t.double() for t in inputs], cotangent.double(), torch.float64)
            for backend in names:
                kept = dtype if backend in ("core", "mamba_ssm") else torch.float32
                got = _results(backend, inputs, cotangent, kept)
                for name, a, b in zip(NAMES, got, expected, strict=True):
                    error = ((a.double() - b).norm() / b.norm()).item()
                    worst[backend, dtype][name] = max(worst[backend, dtype][name], error)
    rows = [{"backend": name, "in": str(dtype).removeprefix("torch.")} | worst[name, dtype] for name, dtype in cases]
    return rows, {"reference": "naive float64", "shapes": " ".join("x".join(map(str, s)) for s in SHAPES)}


def _inputs(shape, dtype, device, seed) -> tuple[list[Tensor], Tensor]:
    batch, channels, states, length = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    dim = K * channels
    wide = [normal(batch, dim, length), normal(batch, dim, length) * 0.7 - 1]
    B, C = normal(batch, K, states, length), normal(batch, K, states, length)
    small = [-(normal(dim, states) * 0.5).exp(), normal(dim), normal(dim) * 0.3]
    A, D, bias = (t.float() for t in small)
    inputs = [*(t.to(dtype) for t in wide), A, B.to(dtype), C.to(dtype), D, bias]
    return [t.to(device) for t in inputs], normal(batch, dim, length).to(torch.bfloat16).to(device)


def _results(backend: str, inputs: list[Tensor], cotangent: Tensor, out_dtype: torch.dtype) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = selective_scan(*leaves, True, backend=backend, out_dtype=out_dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent.to(out_dtype))]
