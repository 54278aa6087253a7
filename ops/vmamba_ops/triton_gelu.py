"""GELU in its exact form, with erf, and its derivative, for Triton kernels: exp2 of a polynomial of degree 7."""

import triton
import triton.language as tl


@triton.jit
def _upper_tail(z):
    """The normal distribution's 1 - Phi(z) for z >= 0, as 2 to a polynomial: 1.6e-5 relative, 2.4e-7 z absolute."""
    p = -1.70378042e-06 * z + 5.93628597e-05
    p = p * z - 0.000916963271
    p = p * z + 0.0084753453
    p = p * z - 0.0539472789
    p = p * z - 0.458410898
    p = p * z - 1.15130843
    return tl.exp2(p * z - 0.999983121)


@triton.jit
def gelu(v):
    """v Phi(v)."""
    z = tl.abs(v)
    return tl.maximum(v, 0.0) - z * _upper_tail(z)


@triton.jit
def gelu_slope(v):
    """(gelu(v), its derivative Phi(v) + v phi(v))."""
    z = tl.abs(v)
    tail = _upper_tail(z)
    density = 0.3989422804 * tl.exp2(-0.7213475204 * v * v)
    return tl.maximum(v, 0.0) - z * tail, tl.where(v > 0, 1.0 - tail, tail) + v * density
