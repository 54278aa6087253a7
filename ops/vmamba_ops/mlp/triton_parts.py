"""Triton kernels for MLPs whose rows are too wide for one program: beside the products of cuBLAS.

The first product with GELU in its epilogue; GELU's backward with the sums of both biases' gradients.
"""

import triton
import triton.language as tl

from ..triton_gelu import gelu, gelu_slope


@triton.jit(do_not_specialize=["rows"])
def mlp_expand(
    y, w1, b1, active, hidden, rows,
    SAVE: tl.constexpr, C: tl.constexpr, H: tl.constexpr,
    T: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """active = gelu(w1 y + b1), T rows and BN columns of it a program; with SAVE, hidden is what gelu is taken of."""
    pid = tl.program_id(0)
    row = (pid // (H // BN)).to(tl.int64) * T + tl.arange(0, T)
    column = pid % (H // BN) * BN + tl.arange(0, BN)  # neighbours have the same rows, whose y they find in the L2
    k, ok = tl.arange(0, BK), (row < rows)[:, None]
    at_y, at_w = y + row[:, None] * C + k[None, :], w1 + column[None, :] * C + k[:, None]
    h = tl.zeros([T, BN], tl.float32)
    for first in tl.range(0, C, BK, num_stages=STAGES):
        h = tl.dot(tl.load(at_y + first, mask=ok, other=0.0), tl.load(at_w + first), h)
    h += tl.load(b1 + column)[None, :]
    at = row[:, None] * H + column[None, :]
    kind = y.dtype.element_ty
    if SAVE:
        stored = h.to(kind)
        tl.store(hidden + at, stored, mask=ok)
        h = stored.to(tl.float32)
    tl.store(active + at, gelu(h).to(kind), mask=ok)


@triton.jit(do_not_specialize=["rows"])
def mlp_slope(
    dout, dactive, hidden, active, dhidden, parts1, parts2, rows,
    C: tl.constexpr, H: tl.constexpr,
    T: tl.constexpr, BN: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """active = gelu(hidden), dhidden = gelu'(hidden) dactive, T rows and BN columns of them a program, STEP at a time.

    parts1 (rows / T, H), parts2 (rows / T, C): sums of dhidden and dout over a program's rows.
    """
    pid = tl.program_id(0)
    of_rows, of_columns = (pid // (H // BN)).to(tl.int64), pid % (H // BN)
    column = of_columns * BN + tl.arange(0, BN)
    row = of_rows * T + tl.arange(0, STEP)
    kind = dout.dtype.element_ty
    total = tl.zeros([STEP, BN], tl.float32)  # over its rows at the end alone: that takes a barrier
    for step in range(0, T, STEP):
        at, ok = (row + step)[:, None] * H + column[None, :], (row + step < rows)[:, None]
        g, slope = gelu_slope(tl.load(hidden + at, mask=ok, other=0.0).to(tl.float32))
        dh = tl.load(dactive + at, mask=ok, other=0.0).to(tl.float32) * slope
        tl.store(active + at, g.to(kind), mask=ok)
        tl.store(dhidden + at, dh.to(kind), mask=ok)
        total += dh
    tl.store(parts1 + of_rows * H + column, tl.sum(total, 0))
    if of_columns * BN < C:
        total = tl.zeros([STEP, BN], tl.float32)
        for step in range(0, T, STEP):
            seen = (row + step < rows)[:, None] & (column < C)[None, :]
            at_d = (row + step)[:, None] * C + column[None, :]
            total += tl.load(dout + at_d, mask=seen, other=0.0).to(tl.float32)
        tl.store(parts2 + of_rows * C + column, tl.sum(total, 0), mask=column < C)
