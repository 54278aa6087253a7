"""Triton kernel for MLPs whose rows are too wide for one program: the first product, with GELU in its epilogue."""

import triton
import triton.language as tl

from ..triton_gelu import gelu


@triton.jit(do_not_specialize=["rows"])
def mlp_expand(
    y, w1, b1, active, rows,
    C: tl.constexpr, H: tl.constexpr,
    T: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """active = gelu(w1 y + b1), T rows and BN columns of it a program."""
    pid = tl.program_id(0)
    row = (pid // (H // BN)).to(tl.int64) * T + tl.arange(0, T)
    column = pid % (H // BN) * BN + tl.arange(0, BN)  # neighbours have the same rows, whose y they find in the L2
    k, ok = tl.arange(0, BK), (row < rows)[:, None]
    at_y, at_w = y + row[:, None] * C + k[None, :], w1 + column[None, :] * C + k[:, None]
    h = tl.zeros([T, BN], tl.float32)
    for first in tl.range(0, C, BK, num_stages=STAGES):
        h = tl.dot(tl.load(at_y + first, mask=ok, other=0.0), tl.load(at_w + first), h)
    h += tl.load(b1 + column)[None, :]
    tl.store(active + row[:, None] * H + column[None, :], gelu(h).to(y.dtype.element_ty), mask=ok)
