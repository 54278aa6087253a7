"""Selective scan: the public function, its checks, and the way to the backend."""

import torch
from torch import Tensor

from ..checks import tensors
from ..choose import choose


def _refuse(name: str, got: object, takes: str) -> ValueError:
    return ValueError(f"selective_scan: {name} is {got}; it takes {takes}")


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, delta_bias: Tensor | None):
    named = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias}
    given = {name: value for name, value in named.items() if value is not None or name not in ("D", "delta_bias")}
    tensors("selective_scan", given)
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            raise TypeError(f"selective_scan: {name} is {tensor.dtype}; it takes float32, bfloat16, float16 or float64")
        if tensor.device != u.device:
            raise _refuse(name, f"on {tensor.device}", f"a tensor on {u.device}, where u is")
    if u.dim() != 3 or 0 in u.shape:
        raise _refuse("u", tuple(u.shape), "(batch, groups * channels, length), none of them 0")
    batch, dim, length = u.shape
    if delta.shape != u.shape:
        raise _refuse("delta", tuple(delta.shape), f"the shape of u, {tuple(u.shape)}")
    if A.dim() != 2 or A.shape[0] != dim or A.shape[1] == 0:
        raise _refuse("A", tuple(A.shape), f"({dim}, d_state)")
    states = A.shape[1]
    if B.dim() != 4 or B.shape[0] != batch or B.shape[2:] != (states, length) or 0 in B.shape or dim % B.shape[1]:
        raise _refuse("B", tuple(B.shape), f"({batch}, groups, {states}, {length}) with groups a divisor of {dim}")
    if C.shape != B.shape:
        raise _refuse("C", tuple(C.shape), f"the shape of B, {tuple(B.shape)}")
    for name, tensor in (("D", D), ("delta_bias", delta_bias)):
        if tensor is not None and tensor.shape != (dim,):
            raise _refuse(name, tuple(tensor.shape), f"({dim},)")


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    backend: str = "auto",
    out_dtype: torch.dtype | None = None,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan K groups of Dg channels along L; each channel d of group k keeps a state h of N numbers.

        dt = softplus(delta + delta_bias)          (softplus only if ``delta_softplus``; linear above 20)
        h[t] = exp(dt[t] A[d]) h[t-1] + dt[t] u[t] B[k, :, t],   h[-1] = 0
        out[t] = C[k, :, t] . h[t] + D[d] u[t]

    Mamba, arXiv 2312.00752, equations 2 and 4; the groups are VMamba's scan routes.

    Args:
        u, delta: (batch, K * Dg, L), any floating dtype; 16-bit input keeps a float32 state.
        A: (K * Dg, N), usually negative.
        B, C: (batch, K, N, L).
        D, delta_bias: (K * Dg,) or None.
        backend: "auto" or a name of ``vmamba_ops.limits.LIMITS``.
        out_dtype: dtype of ``out``; None takes that of ``u`` (float32 with 16-bit input: upstream's "oflex").
        return_last_state: also return h[L-1], (batch, K * Dg, N), in float32 (float64 for float64 input).
    Returns:
        out (batch, K * Dg, L), or (out, last state). Both are differentiable once in all seven tensors
        (``mamba_ssm``: out alone); for second derivatives use ``backend="naive"``.
    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, device or shape, by name.
        RuntimeError: the backend is absent here or does not take this input.
    """
    _check(u, delta, A, B, C, D, delta_bias)
    if out_dtype is None:
        out_dtype = u.dtype
    elif not isinstance(out_dtype, torch.dtype) or not out_dtype.is_floating_point:
        raise TypeError(
            f"selective_scan: out_dtype is {out_dtype!r}; it takes None or a floating dtype (torch.float32)"
        )
    choice = choose("selective_scan", backend, u, A.shape[1])
    if choice == "cpu":
        from .cpu import selective_scan as scan  # here, so that Numba is imported by those alone who run it
    elif choice == "triton":
        from .triton import selective_scan as scan
    elif choice == "oflex":
        from .cuda import selective_scan as scan
    elif choice == "core":
        from .cuda import core as scan
    elif choice == "mamba_ssm":
        from .mamba import selective_scan as scan
    else:
        from .naive import selective_scan as scan
    out, last = scan(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype)
    return (out, last) if return_last_state else out
