"""Triton kernels of the MLP whose hidden map stays in the program: T rows with all C channels, hidden in steps of BH.

C is PIECES (1 or 3) times P, a power of two, as a block of Triton must be. Products have 16-bit operands and float32
sums; what is between the two products is float32. Bias gradients are sums per program, added afterwards in their order.
"""

import triton
import triton.language as tl

from ..triton_gelu import gelu, gelu_slope

LOWEST = tl.constexpr(-3e38)


@triton.jit
def _rows(x, at, ok):
    return tl.load(x + at, mask=ok, other=0.0)


@triton.jit
def _three(x, at, ok, P: tl.constexpr, PIECES: tl.constexpr):
    """The pieces of x; of one piece, three times the same."""
    v0 = _rows(x, at, ok)
    if PIECES == 1:
        return v0, v0, v0
    else:
        return v0, _rows(x, at + P, ok), _rows(x, at + 2 * P, ok)


@triton.jit
def _into(y0, y1, y2, at, step, PIECES: tl.constexpr):
    """(T, C) times the (C, BH) at ``at``, whose pieces are ``step`` apart."""
    h = tl.dot(y0, tl.load(at))
    if PIECES == 3:
        h = tl.dot(y1, tl.load(at + step), h)
        h = tl.dot(y2, tl.load(at + 2 * step), h)
    return h


@triton.jit
def _out_of(g, a0, a1, a2, at, step, PIECES: tl.constexpr):
    """Adds (T, BH) times the (BH, C) at ``at`` to the pieces."""
    a0 = tl.dot(g, tl.load(at), a0)
    if PIECES == 3:
        a1 = tl.dot(g, tl.load(at + step), a1)
        a2 = tl.dot(g, tl.load(at + 2 * step), a2)
    return a0, a1, a2


@triton.jit
def _store(out, at, ok, a0, a1, a2, P: tl.constexpr, PIECES: tl.constexpr):
    kind = out.dtype.element_ty
    tl.store(out + at, a0.to(kind), mask=ok)
    if PIECES == 3:
        tl.store(out + at + P, a1.to(kind), mask=ok)
        tl.store(out + at + 2 * P, a2.to(kind), mask=ok)


@triton.jit(do_not_specialize=["rows", "eps"])
def mlp_inference(
    x, branch, norm_weight, norm_bias, w1, b1, w2, b2, out, rows, eps,
    ADD: tl.constexpr, C: tl.constexpr, P: tl.constexpr, PIECES: tl.constexpr, H: tl.constexpr,
    T: tl.constexpr, BH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out = total + w2 gelu(w1 norm(total) + b1) + b2, where total is x, with ADD x + branch."""
    c, j = tl.arange(0, P), tl.arange(0, BH)
    row = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    at, ok = row[:, None] * C + c[None, :], (row < rows)[:, None]
    v0, v1, v2 = _three(x, at, ok, P, PIECES)
    v0, v1, v2 = v0.to(tl.float32), v1.to(tl.float32), v2.to(tl.float32)
    if ADD:
        u0, u1, u2 = _three(branch, at, ok, P, PIECES)
        v0, v1, v2 = v0 + u0.to(tl.float32), v1 + u1.to(tl.float32), v2 + u2.to(tl.float32)
    total = tl.sum(v0, 1)
    if PIECES == 3:
        total += tl.sum(v1, 1) + tl.sum(v2, 1)
    mean = (total / C)[:, None]
    d0, d1, d2 = v0 - mean, v1 - mean, v2 - mean
    square = tl.sum(d0 * d0, 1)
    if PIECES == 3:
        square += tl.sum(d1 * d1, 1) + tl.sum(d2 * d2, 1)
    scale = (1.0 / tl.sqrt(square / C + eps))[:, None]
    kind = w1.dtype.element_ty
    n0, n1, n2 = _three(norm_weight, c[None, :], (c < P)[None, :], P, PIECES)
    m0, m1, m2 = _three(norm_bias, c[None, :], (c < P)[None, :], P, PIECES)
    y0 = (d0 * scale * n0 + m0).to(kind)
    y1 = (d1 * scale * n1 + m1).to(kind)
    y2 = (d2 * scale * n2 + m2).to(kind)
    e0, e1, e2 = _three(b2, c[None, :], (c < P)[None, :], P, PIECES)
    a0, a1, a2 = v0 + e0, v1 + e1, v2 + e2
    at1, at2 = w1 + c[:, None] + j[None, :] * C, w2 + c[None, :] * H + j[:, None]
    for first in tl.range(0, H, BH, num_stages=STAGES):
        h = _into(y0, y1, y2, at1 + first * C, P, PIECES)
        g = gelu(h + tl.load(b1 + first + j)[None, :]).to(kind)
        a0, a1, a2 = _out_of(g, a0, a1, a2, at2 + first, P * H, PIECES)
    _store(out, at, ok, a0, a1, a2, P, PIECES)


@triton.jit(do_not_specialize=["rows"])
def mlp_forward(
    y, w1, b1, w2, b2, out, hidden, rows,
    SAVE: tl.constexpr, C: tl.constexpr, P: tl.constexpr, PIECES: tl.constexpr, H: tl.constexpr,
    T: tl.constexpr, BH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out = w2 gelu(w1 y + b1) + b2; with SAVE, hidden is what gelu is taken of."""
    c, j = tl.arange(0, P), tl.arange(0, BH)
    row = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    at, ok = row[:, None] * C + c[None, :], (row < rows)[:, None]
    kind = y.dtype.element_ty
    y0, y1, y2 = _three(y, at, ok, P, PIECES)
    e0, e1, e2 = _three(b2, c[None, :], (c < P)[None, :], P, PIECES)
    zero = tl.zeros([T, P], tl.float32)
    a0, a1, a2 = zero + e0, zero + e1, zero + e2
    at1, at2 = w1 + c[:, None] + j[None, :] * C, w2 + c[None, :] * H + j[:, None]
    at_h = hidden + row[:, None] * H + j[None, :]
    for first in tl.range(0, H, BH, num_stages=STAGES):
        h = _into(y0, y1, y2, at1 + first * C, P, PIECES) + tl.load(b1 + first + j)[None, :]
        if SAVE:
            stored = h.to(kind)
            tl.store(at_h + first, stored, mask=ok)
            h = stored.to(tl.float32)
        a0, a1, a2 = _out_of(gelu(h).to(kind), a0, a1, a2, at2 + first, P * H, PIECES)
    _store(out, at, ok, a0, a1, a2, P, PIECES)


@triton.jit(do_not_specialize=["rows"])
def mlp_backward(
    dout, w1, w2, hidden, active, dhidden, dy, parts1, parts2, rows,
    C: tl.constexpr, P: tl.constexpr, PIECES: tl.constexpr, H: tl.constexpr,
    T: tl.constexpr, BH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """active = gelu(hidden), dhidden = gelu'(hidden) (w2^T dout), dy = w1^T dhidden.

    parts1 (programs, H), parts2 (programs, C): sums of dhidden and dout over a program's rows.
    """
    c, j = tl.arange(0, P), tl.arange(0, BH)
    pid = tl.program_id(0).to(tl.int64)
    row = pid * T + tl.arange(0, T)
    at, ok = row[:, None] * C + c[None, :], (row < rows)[:, None]
    kind = dout.dtype.element_ty
    d0, d1, d2 = _three(dout, at, ok, P, PIECES)
    tl.store(parts2 + pid * C + c, tl.sum(d0.to(tl.float32), 0))
    if PIECES == 3:
        tl.store(parts2 + pid * C + P + c, tl.sum(d1.to(tl.float32), 0))
        tl.store(parts2 + pid * C + 2 * P + c, tl.sum(d2.to(tl.float32), 0))
    zero = tl.zeros([T, P], tl.float32)
    a0, a1, a2 = zero, zero, zero
    at1, at2 = w1 + c[None, :] + j[:, None] * C, w2 + c[:, None] * H + j[None, :]
    at_h = row[:, None] * H + j[None, :]
    for first in tl.range(0, H, BH, num_stages=STAGES):
        h = tl.load(hidden + at_h + first, mask=ok, other=0.0).to(tl.float32)
        dg = _into(d0, d1, d2, at2 + first, P * H, PIECES)
        h = tl.maximum(h, tl.minimum(dg, LOWEST))  # h itself, but now all is computed once, in the product's layout
        g, slope = gelu_slope(h)
        dh = dg * slope
        tl.store(active + at_h + first, g.to(kind), mask=ok)
        tl.store(dhidden + at_h + first, dh.to(kind), mask=ok)
        tl.store(parts1 + pid * H + first + j, tl.sum(dh, 0))
        a0, a1, a2 = _out_of(dh.to(kind), a0, a1, a2, at1 + first * C, P, PIECES)
    _store(dy, at, ok, a0, a1, a2, P, PIECES)
