"""The selective scan compiled for the CPU by Numba: one forward and one backward kernel, float32 and float64.

Legend: N states, rows = batch * groups * per_group, tile = up to 4 rows of one group whose recurrences run
interleaved (one alone would wait for its own multiply-add at every step), chunk = CHUNK steps whose buffers stay in
the nearest caches. Inside a chunk everything but the recurrence is a plain loop over contiguous numbers with one
store, which LLVM turns into SIMD; sums keep a fixed order, so results depend neither on the run nor on the number of
threads. Arrays are flat and addressed by unsigned offsets: a view costs more than a short row, a signed index a test
for negative values that keeps the loop scalar.

Everything compiled is in this one file: Numba's disk cache notices a change of the file a kernel is in, and no other.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

CHUNK = 256
TILE = 4
_at = np.uintp


def _jit(function=None, reassociate=False):
    if function is None:
        return lambda f: _jit(f, reassociate)
    flags = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract", "reassoc"} if reassociate else {"contract"},
    }
    try:
        return njit(cache=True, **flags)(function)
    except RuntimeError:  # no folder for the cache can be written: compile anew in every process
        return njit(**flags)(function)


def _exp_of(real, integer, mantissa, bias, low, high, ln2_high, ln2_low, degree):
    """exp: x = n ln 2 + r, Taylor polynomial in |r| <= ln 2 / 2, times 2^n in two halves (so that it can underflow)."""
    magic = real(1.5 * 2.0**mantissa)  # adding it rounds to an integer, held in the low bits
    magic_bits = magic.view(integer)
    low, high, log2e, ln2_high, ln2_low = real(low), real(high), real(1 / math.log(2)), real(ln2_high), real(ln2_low)
    bias, shift, one = integer(bias), integer(mantissa), integer(1)
    terms = tuple(real(1 / math.factorial(k)) for k in range(degree, -1, -1))

    def exp(x):
        x = low if x < low else x
        x = high if x > high else x
        shifted = x * log2e + magic
        n = shifted - magic
        r = (x - n * ln2_high) - n * ln2_low
        p = terms[0]
        for term in terms[1:]:
            p = p * r + term
        i = real(shifted).view(integer) - magic_bits
        half = i >> one
        s = integer((half + bias) << shift)
        t = integer((i - half + bias) << shift)
        return p * s.view(real) * t.view(real)

    return exp


def _log1p_of(real, terms):
    """log(1 + z) for 0 <= z <= 1 as 2 atanh(s), s = z / (2 + z) <= 1/3."""
    two = real(2)
    series = tuple(real(2 / (2 * k + 1)) for k in range(terms - 1, -1, -1))

    def log1p(z):
        s = z / (two + z)
        square = s * s
        p = series[0]
        for term in series[1:]:
            p = p * square + term
        return p * s

    return log1p


_EXP = {
    types.float32: _exp_of(np.float32, np.int32, 23, 127, -104.0, 89.0, 0.693359375, -2.12194440e-4, 7),
    types.float64: _exp_of(
        np.float64, np.int64, 52, 1023, -746.0, 710.0, 0.6931471803691238, 1.9082149292705877e-10, 13
    ),
}
_LOG1P = {types.float32: _log1p_of(np.float32, 8), types.float64: _log1p_of(np.float64, 17)}


def _exp(x): ...


def _log1p(z): ...


@overload(_exp)
def _(x):
    return _EXP.get(x)


@overload(_log1p)
def _(z):
    return _LOG1P.get(z)


@_jit
def _exp_all(x, n):
    for t in range(n):
        x[_at(t)] = _exp(x[_at(t)])


@_jit
def _softplus_all(x, n, zero, one, linear_above):
    """x -> softplus(x), exactly x above ``linear_above``."""
    for t in range(n):
        v = x[_at(t)]
        soft = _log1p(_exp(-abs(v))) + (v if v > zero else zero)
        x[_at(t)] = v if v > linear_above else soft


@_jit
def _softplus_slope_all(x, slope, n, zero, one, linear_above):
    """x -> softplus(x) in place; its derivative, the sigmoid, in ``slope``."""
    for t in range(n):
        v = x[_at(t)]
        z = _exp(-abs(v))
        sigmoid = (one if v > zero else z) / (one + z)
        slope[_at(t)] = one if v > linear_above else sigmoid
        soft = _log1p(z) + (v if v > zero else zero)
        x[_at(t)] = v if v > linear_above else soft


@_jit
def _recur(a, x, h, n):
    """h[t+1] = a[t] h[t] + x[t] for four rows of n (h: n + 1) that lie one after the other; h[0] is given."""
    a1, a2, a3, i1, i2, i3 = n, 2 * n, 3 * n, n + 1, 2 * n + 2, 3 * n + 3
    h0, h1, h2, h3 = h[0], h[_at(i1)], h[_at(i2)], h[_at(i3)]
    for t in range(n):
        h0 = a[_at(t)] * h0 + x[_at(t)]
        h1 = a[_at(a1 + t)] * h1 + x[_at(a1 + t)]
        h2 = a[_at(a2 + t)] * h2 + x[_at(a2 + t)]
        h3 = a[_at(a3 + t)] * h3 + x[_at(a3 + t)]
        h[_at(t + 1)], h[_at(i1 + t + 1)], h[_at(i2 + t + 1)], h[_at(i3 + t + 1)] = h0, h1, h2, h3


@_jit
def _recur_back(a, x, e, n):
    """e[t] = a[t] e[t+1] + x[t] for four rows of n (e: n + 1) that lie one after the other; e[n] is given."""
    a1, a2, a3, i1, i2, i3 = n, 2 * n, 3 * n, n + 1, 2 * n + 2, 3 * n + 3
    e0, e1, e2, e3 = e[_at(n)], e[_at(i1 + n)], e[_at(i2 + n)], e[_at(i3 + n)]
    for t in range(n - 1, -1, -1):
        e0 = a[_at(t)] * e0 + x[_at(t)]
        e1 = a[_at(a1 + t)] * e1 + x[_at(a1 + t)]
        e2 = a[_at(a2 + t)] * e2 + x[_at(a2 + t)]
        e3 = a[_at(a3 + t)] * e3 + x[_at(a3 + t)]
        e[_at(t)], e[_at(i1 + t)], e[_at(i2 + t)], e[_at(i3 + t)] = e0, e1, e2, e3


@_jit
def _scale(out, i, x, j, factor, n):
    for t in range(n):
        out[_at(i + t)] = x[_at(j + t)] * factor


@_jit
def _shift(out, i, x, j, offset, n):
    for t in range(n):
        out[_at(i + t)] = x[_at(j + t)] + offset


@_jit
def _times(out, i, x, j, y, k, n):
    for t in range(n):
        out[_at(i + t)] = x[_at(j + t)] * y[_at(k + t)]


@_jit
def _add(out, i, x, j, n):
    for t in range(n):
        out[_at(i + t)] += x[_at(j + t)]


@_jit
def _add_times(out, i, x, j, y, k, n):
    for t in range(n):
        out[_at(i + t)] += x[_at(j + t)] * y[_at(k + t)]


@_jit
def _add_sum_times(out, i, x, j, y, k, z, l, n):
    for t in range(n):
        out[_at(i + t)] += (x[_at(j + t)] + y[_at(k + t)]) * z[_at(l + t)]


@_jit
def _add_scaled(out, i, x, j, y, k, factor, n):
    for t in range(n):
        out[_at(i + t)] += x[_at(j + t)] * y[_at(k + t)] * factor


@_jit(reassociate=True)
def _dot(x, j, y, k, zero, n):
    total = zero
    for t in range(n):
        total += x[_at(j + t)] * y[_at(k + t)]
    return total


@_jit(reassociate=True)
def _dot3(x, j, y, k, z, l, zero, n):
    total = zero
    for t in range(n):
        total += x[_at(j + t)] * y[_at(k + t)] * z[_at(l + t)]
    return total


@_jit(reassociate=True)
def _sum(x, j, zero, n):
    total = zero
    for t in range(n):
        total += x[_at(j + t)]
    return total


@_jit
def forward(u, delta, A, B, C, D, bias, softplus, shape, out, states, last, first, stop):
    """Tiles ``first`` to ``stop`` of the forward scan; arrays are flat, in this order of axes.

    u, delta, out (rows, L); A (groups, per_group, N); B, C (batch, groups, N, L); D, bias (groups, per_group) or
    empty; states (rows, chunks, N): the state before each chunk, for the backward; last (rows, N).
    ``shape`` is (groups, per_group, N, L).
    """
    groups, per_group, N, L = shape
    tiles = (per_group + TILE - 1) // TILE
    chunks = (L + CHUNK - 1) // CHUNK
    zero, one, linear_above = u.dtype.type(0), u.dtype.type(1), u.dtype.type(20)
    room = TILE * (min(L, CHUNK) + 1)
    dt = np.zeros(room, u.dtype)
    w = np.zeros(room, u.dtype)
    a = np.zeros(room, u.dtype)
    x = np.zeros(room, u.dtype)
    h = np.zeros(room, u.dtype)
    for unit in range(first, stop):
        group = unit // tiles
        offset = (unit - group * tiles) * TILE
        m = min(TILE, per_group - offset)
        row, channel = group * per_group + offset, (group % groups) * per_group + offset
        for chunk in range(chunks):
            t0 = chunk * CHUNK
            n = min(L - t0, CHUNK)
            for r in range(m):
                _shift(dt, r * n, delta, (row + r) * L + t0, bias[channel + r] if bias.size else zero, n)
            if softplus:
                _softplus_all(dt, m * n, zero, one, linear_above)
            for r in range(m):
                here = (row + r) * L + t0
                _times(w, r * n, dt, r * n, u, here, n)
                _scale(out, here, u, here, D[channel + r] if D.size else zero, n)
            for s in range(N):
                shared = (group * N + s) * L + t0
                for r in range(m):
                    _scale(a, r * n, dt, r * n, A[(channel + r) * N + s], n)
                    _times(x, r * n, w, r * n, B, shared, n)
                    start = last[(row + r) * N + s] if chunk else zero
                    h[r * (n + 1)] = start
                    states[((row + r) * chunks + chunk) * N + s] = start
                _exp_all(a, m * n)
                _recur(a, x, h, n)
                for r in range(m):
                    _add_times(out, (row + r) * L + t0, h, r * (n + 1) + 1, C, shared, n)
                    last[(row + r) * N + s] = h[r * (n + 1) + n]


@_jit
def backward(
    u,
    delta,
    A,
    B,
    C,
    D,
    bias,
    softplus,
    shape,
    parts,
    dout,
    dlast,
    states,
    du,
    ddelta,
    dA,
    dB,
    dC,
    dD,
    dbias,
    first,
    stop,
):
    """Parts ``first`` to ``stop`` of the backward scan; arrays are flat, as in ``forward``.

    dA (rows, N), dD, dbias (rows,): sums over L, still to be added over the batch. dB, dC
    (batch, groups, parts, N, L): sums over the channels of a part, still to be added over the parts.
    With g[t] = C[t] dout[t] + a[t+1] g[t+1] the adjoint of h, the buffer e holds a[t] g[t].
    """
    groups, per_group, N, L = shape
    chunks = (L + CHUNK - 1) // CHUNK
    per_part = ((per_group + TILE - 1) // TILE + parts - 1) // parts * TILE
    zero, one, linear_above = u.dtype.type(0), u.dtype.type(1), u.dtype.type(20)
    room = TILE * (min(L, CHUNK) + 1)
    dt = np.zeros(room, u.dtype)
    w = np.zeros(room, u.dtype)
    a = np.zeros(room, u.dtype)
    x = np.zeros(room, u.dtype)
    c = np.zeros(room, u.dtype)
    slope = np.zeros(room, u.dtype)
    dw = np.zeros(room, u.dtype)
    ddt = np.zeros(room, u.dtype)
    h = np.zeros(room, u.dtype)
    e = np.zeros(room, u.dtype)
    carry = np.zeros(TILE * N, u.dtype)
    for unit in range(first, stop):
        group = unit // parts
        part = unit - group * parts
        dB[unit * N * L : (unit + 1) * N * L] = zero
        dC[unit * N * L : (unit + 1) * N * L] = zero
        for offset in range(part * per_part, min(per_group, (part + 1) * per_part), TILE):
            m = min(TILE, per_group - offset)
            row, channel = group * per_group + offset, (group % groups) * per_group + offset
            for i in range(m * N):
                carry[i] = dlast[row * N + i]
                dA[row * N + i] = zero
            for r in range(m):
                dD[row + r] = zero
                dbias[row + r] = zero
            for chunk in range(chunks - 1, -1, -1):
                t0 = chunk * CHUNK
                n = min(L - t0, CHUNK)
                for r in range(m):
                    _shift(dt, r * n, delta, (row + r) * L + t0, bias[channel + r] if bias.size else zero, n)
                if softplus:
                    _softplus_slope_all(dt, slope, m * n, zero, one, linear_above)
                for r in range(m):
                    _times(w, r * n, dt, r * n, u, (row + r) * L + t0, n)
                dw[: m * n] = zero
                ddt[: m * n] = zero
                for s in range(N):
                    shared = (group * N + s) * L + t0
                    summed = (unit * N + s) * L + t0
                    for r in range(m):
                        here = (row + r) * L + t0
                        _scale(a, r * n, dt, r * n, A[(channel + r) * N + s], n)
                        _times(x, r * n, w, r * n, B, shared, n)
                        _times(c, r * n, dout, here, C, shared, n)
                        h[r * (n + 1)] = states[((row + r) * chunks + chunk) * N + s]
                        e[r * (n + 1) + n] = carry[r * N + s]
                    _exp_all(a, m * n)
                    _recur(a, x, h, n)
                    _times(x, 0, a, 0, c, 0, m * n)
                    _recur_back(a, x, e, n)
                    for r in range(m):
                        i, j = r * n, r * (n + 1)
                        carry[r * N + s] = e[j]
                        _add_times(dC, summed, dout, (row + r) * L + t0, h, j + 1, n)
                        _add_sum_times(dB, summed, c, i, e, j + 1, w, i, n)
                        _add_sum_times(dw, i, c, i, e, j + 1, B, shared, n)
                        _add_scaled(ddt, i, e, j, h, j, A[(channel + r) * N + s], n)
                        dA[(row + r) * N + s] += _dot3(e, j, h, j, dt, i, zero, n)
                for r in range(m):
                    i, here = r * n, (row + r) * L + t0
                    _add_times(ddt, i, dw, i, u, here, n)
                    if softplus:
                        _times(ddelta, here, ddt, i, slope, i, n)
                    else:
                        _scale(ddelta, here, ddt, i, one, n)
                    _scale(du, here, dout, here, D[channel + r] if D.size else zero, n)
                    _add_times(du, here, dw, i, dt, i, n)
                    dD[row + r] += _dot(dout, here, u, here, zero, n)
                    dbias[row + r] += _sum(ddelta, here, zero, n)


@_jit
def add_parts(x, total, parts, size):
    """x (outer, parts, size) -> total (outer, size), both flat: the sum over ``parts`` in order."""
    for i in range(total.size // size):
        _scale(total, i * size, x, i * parts * size, x.dtype.type(1), size)
        for p in range(1, parts):
            _add(total, i * size, x, (i * parts + p) * size, size)
