"""Triton kernels of LayerNorm: a program holds T whole rows of C numbers, padded to BC, a power of two.

All arithmetic is float32. The backward's programs walk the rows in steps of the grid, with sums of their own for weight
and bias that are added at the end: no atomics, a fixed order. ``area``: rows that have a number of ``scale`` in common.
"""

import triton
import triton.language as tl


@triton.jit
def _load(pointer, at, ok):
    return tl.load(pointer + at, mask=ok, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["rows", "area", "eps"])
def layer_norm_forward(
    x, branch, scale, weight, bias, total, y, stats, rows, area, eps,
    ADD: tl.constexpr, SCALE: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """y = norm(x); with ADD total = x + branch, with SCALE x + scale * branch, and y = norm(total).

    stats (rows, 2): mean and 1 / deviation.
    """
    row, c = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T), tl.arange(0, BC)
    there = row < rows
    ok = there[:, None] & (c < C)[None, :]
    at = row[:, None] * C + c[None, :]
    v = _load(x, at, ok)
    if ADD:
        added = _load(branch, at, ok)
        if SCALE:
            added *= _load(scale, row // area, there)[:, None]
        kept = (v + added).to(total.dtype.element_ty)
        tl.store(total + at, kept, mask=ok)
        v = kept.to(tl.float32)  # what is kept is what is normalised
    mean = tl.sum(v, 1) / C
    centred = tl.where(ok, v - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / C + eps)
    tl.store(stats + row * 2, mean, mask=there)
    tl.store(stats + row * 2 + 1, inverse, mask=there)
    w, b = _load(weight, c, c < C), _load(bias, c, c < C)
    value = centred * inverse[:, None] * w[None, :] + b[None, :]
    tl.store(y + at, value.to(y.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["rows", "area"])
def layer_norm_backward(
    dy, x, stats, weight, scale, dtotal, dx, dbranch, parts, rows, area,
    TOTAL: tl.constexpr, BRANCH: tl.constexpr, SCALE: tl.constexpr,
    C: tl.constexpr, BC: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """dx through the norm of ``x``, plus ``dtotal`` with TOTAL; dbranch is it (with SCALE, times scale) with BRANCH.

    parts (2, programs, C): each program's sums for weight and bias.
    """
    pid, programs = tl.program_id(0), tl.num_programs(0)
    c = tl.arange(0, BC)
    w = _load(weight, c, c < C)
    dw = tl.zeros([T, BC], tl.float32)
    db = tl.zeros([T, BC], tl.float32)
    first = pid.to(tl.int64) * T
    while first < rows:
        row = first + tl.arange(0, T)
        there = row < rows
        ok = there[:, None] & (c < C)[None, :]
        at = row[:, None] * C + c[None, :]
        g, v = _load(dy, at, ok), _load(x, at, ok)
        mean, inverse = _load(stats, row * 2, there), _load(stats, row * 2 + 1, there)
        hat = tl.where(ok, (v - mean[:, None]) * inverse[:, None], 0.0)
        dw += g * hat
        db += g
        g = g * w[None, :]
        along, level = tl.sum(g * hat, 1) / C, tl.sum(g, 1) / C
        gradient = (g - level[:, None] - hat * along[:, None]) * inverse[:, None]
        if TOTAL:
            gradient += _load(dtotal, at, ok)
        tl.store(dx + at, gradient.to(dx.dtype.element_ty), mask=ok)
        if BRANCH:
            if SCALE:
                gradient *= _load(scale, row // area, there)[:, None]
            tl.store(dbranch + at, gradient.to(dbranch.dtype.element_ty), mask=ok)
        first += programs * T
    own = parts + pid.to(tl.int64) * C + c
    tl.store(own, tl.sum(dw, 0), mask=c < C)
    tl.store(own + programs.to(tl.int64) * C, tl.sum(db, 0), mask=c < C)
