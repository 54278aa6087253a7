"""Triton kernels: a program takes T positions of the result at a time, their 3 x 3 x 3 patches as rows of a product.

A patch is 27 numbers (row, column, colour), a one that the bias is multiplied by, and zeros up to K = 32. The C
channels are PIECES (1 or 3) times P, a power of two. Products have 16-bit operands, all else is float32.
"""

import triton
import triton.language as tl

from ..triton_gelu import gelu, gelu_slope

K = tl.constexpr(32)
OWN = tl.constexpr(27)


@triton.jit
def _patches(x, first, positions, height, width, up, across, T: tl.constexpr, kind: tl.constexpr):
    """(T, K), in ``kind``, of x (B, height, width, 3); the result's map is ``up`` by ``across``."""
    p = first + tl.arange(0, T)
    image, at = p // (up * across), p % (up * across)
    k = tl.arange(0, K)
    # by comparisons: LLVM makes 8-bit pairs of k % 9 // 3, whose sums ptxas 12.8 gets wrong (add.s16x2 of a constant)
    down = (k >= 9).to(tl.int32) + (k >= 18)
    right = (k >= 9 * down + 3).to(tl.int32) + (k >= 9 * down + 6)
    colour = k - 9 * down - 3 * right
    row = (at // across * 2 - 1)[:, None] + down[None, :]
    column = (at % across * 2 - 1)[:, None] + right[None, :]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    ok = inside & (p < positions)[:, None] & (k < OWN)[None, :]
    start = (image.to(tl.int64) * (height * width * 3))[:, None]
    v = tl.load(x + start + (row * width + column) * 3 + colour[None, :], mask=ok, other=0.0)
    return tl.where((k == OWN)[None, :], 1.0, v).to(kind)


@triton.jit
def _filters(weight, bias, c, kind: tl.constexpr):
    """(K, P): the filters of channels ``c``, and their bias below."""
    k = tl.arange(0, K)[:, None]
    own = tl.load(weight + c[None, :] * OWN + k, mask=k < OWN, other=0.0)
    return tl.where(k == OWN, tl.load(bias + c)[None, :], own).to(kind)


@triton.jit
def _three(x, c, c1, c2):
    """What stands at the channels of each piece, as rows."""
    return tl.load(x + c)[None, :], tl.load(x + c1)[None, :], tl.load(x + c2)[None, :]


@triton.jit
def _normal(a, f0, f1, f2, eps, C: tl.constexpr, PIECES: tl.constexpr):
    """The convolution normalised, without the norm's own weight, in pieces, and 1 / deviation."""
    v0 = tl.dot(a, f0)
    v1, v2 = v0, v0
    total = tl.sum(v0, 1)
    if PIECES == 3:
        v1, v2 = tl.dot(a, f1), tl.dot(a, f2)
        total += tl.sum(v1, 1) + tl.sum(v2, 1)
    mean = (total / C)[:, None]
    v0, v1, v2 = v0 - mean, v1 - mean, v2 - mean
    square = tl.sum(v0 * v0, 1)
    if PIECES == 3:
        square += tl.sum(v1 * v1, 1) + tl.sum(v2 * v2, 1)
    scale = (1.0 / tl.sqrt(square / C + eps))[:, None]
    return v0 * scale, v1 * scale, v2 * scale, scale


@triton.jit(do_not_specialize=["positions", "height", "width", "up", "across", "eps"])
def conv_norm_gelu_forward(
    x, weight, bias, norm_weight, norm_bias, out, positions, height, width, up, across, eps,
    C: tl.constexpr, P: tl.constexpr, PIECES: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """out (positions, C) of x (B, height, width, 3) and weight (C, 27)."""
    c = tl.arange(0, P)
    kind: tl.constexpr = out.dtype.element_ty
    f0 = _filters(weight, bias, c, kind)
    f1, f2, c1, c2 = f0, f0, c, c
    if PIECES == 3:
        c1, c2 = c + P, c + 2 * P
        f1, f2 = _filters(weight, bias, c1, kind), _filters(weight, bias, c2, kind)
    n0, n1, n2 = _three(norm_weight, c, c1, c2)
    m0, m1, m2 = _three(norm_bias, c, c1, c2)
    first = tl.program_id(0) * T
    while first < positions:
        a = _patches(x, first, positions, height, width, up, across, T, kind)
        v0, v1, v2, _ = _normal(a, f0, f1, f2, eps, C, PIECES)
        p = first + tl.arange(0, T)
        at, ok = out + p.to(tl.int64)[:, None] * C + c[None, :], (p < positions)[:, None]
        tl.store(at, gelu(v0 * n0 + m0).to(kind), mask=ok)
        if PIECES == 3:
            tl.store(at + P, gelu(v1 * n1 + m1).to(kind), mask=ok)
            tl.store(at + 2 * P, gelu(v2 * n2 + m2).to(kind), mask=ok)
        first += tl.num_programs(0) * T


@triton.jit
def _piece(dout, v, n, m, ok):
    """Of one piece: the gradient of what GELU is taken of, and of the normalised v."""
    _, slope = gelu_slope(v * n + m)
    outer = tl.load(dout, mask=ok, other=0.0).to(tl.float32) * slope
    return outer, outer * n


@triton.jit
def _sums(own, filters, dn, dm, c, C: tl.constexpr):
    """A program's sums of one piece: filters (C, 27), biases (C,), and both of the norm (C,)."""
    k = tl.arange(0, K)[:, None]
    tl.store(own + c[None, :] * OWN + k, filters, mask=k < OWN)
    tl.store(own + C * OWN + c[None, :] + k * 0, filters, mask=k == OWN)
    tl.store(own + C * (OWN + 1) + c, tl.sum(dn, 0))
    tl.store(own + C * (OWN + 2) + c, tl.sum(dm, 0))


@triton.jit(do_not_specialize=["positions", "height", "width", "up", "across", "eps"])
def conv_norm_gelu_backward(
    x, weight, bias, norm_weight, norm_bias, dout, parts, positions, height, width, up, across, eps,
    C: tl.constexpr, P: tl.constexpr, PIECES: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """parts (programs, 30 C): every program's share of the gradients of weight, bias, norm_weight, norm_bias."""
    c = tl.arange(0, P)
    kind: tl.constexpr = dout.dtype.element_ty
    f0 = _filters(weight, bias, c, kind)
    f1, f2, c1, c2 = f0, f0, c, c
    if PIECES == 3:
        c1, c2 = c + P, c + 2 * P
        f1, f2 = _filters(weight, bias, c1, kind), _filters(weight, bias, c2, kind)
    n0, n1, n2 = _three(norm_weight, c, c1, c2)
    m0, m1, m2 = _three(norm_bias, c, c1, c2)
    filters = tl.zeros([K, P], tl.float32)
    channel = tl.zeros([T, P], tl.float32)  # added over the rows when all are there
    w0, w1, w2 = filters, filters, filters
    dn0, dn1, dn2, dm0, dm1, dm2 = channel, channel, channel, channel, channel, channel
    first = tl.program_id(0) * T
    while first < positions:
        a = _patches(x, first, positions, height, width, up, across, T, kind)
        v0, v1, v2, scale = _normal(a, f0, f1, f2, eps, C, PIECES)
        p = first + tl.arange(0, T)
        at, ok = dout + p.to(tl.int64)[:, None] * C + c[None, :], (p < positions)[:, None]
        g0, d0 = _piece(at, v0, n0, m0, ok)
        dn0 += g0 * v0
        dm0 += g0
        d1, d2 = d0, d0
        level, along = tl.sum(d0, 1), tl.sum(d0 * v0, 1)
        if PIECES == 3:
            g1, d1 = _piece(at + P, v1, n1, m1, ok)
            dn1 += g1 * v1
            dm1 += g1
            g2, d2 = _piece(at + 2 * P, v2, n2, m2, ok)
            dn2 += g2 * v2
            dm2 += g2
            level += tl.sum(d1, 1) + tl.sum(d2, 1)
            along += tl.sum(d1 * v1, 1) + tl.sum(d2 * v2, 1)
        level, along = (level / C)[:, None], (along / C)[:, None]
        turned = tl.trans(a)
        w0 = tl.dot(turned, ((d0 - level - v0 * along) * scale).to(kind), w0)
        if PIECES == 3:
            w1 = tl.dot(turned, ((d1 - level - v1 * along) * scale).to(kind), w1)
            w2 = tl.dot(turned, ((d2 - level - v2 * along) * scale).to(kind), w2)
        first += tl.num_programs(0) * T
    own = parts + tl.program_id(0).to(tl.int64) * (OWN + 3) * C
    _sums(own, w0, dn0, dm0, c, C)
    if PIECES == 3:
        _sums(own, w1, dn1, dm1, c1, C)
        _sums(own, w2, dn2, dm2, c2, C)
