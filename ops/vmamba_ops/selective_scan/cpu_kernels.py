"""The selective scan compiled for the CPU by Numba: one forward and one backward kernel, float32 and float64.

Legend: N states, rows = batch * groups * per_group, W numbers in a vector, tile = W rows of one group, which are the
lanes of the vectors (they share B and C, and the recurrence needs no sum over lanes), chunk = CHUNK steps of a tile,
whose buffers (steps, W) stay in the nearest cache. Sums keep a fixed order, so results depend neither on the run nor on
the number of threads. Arrays are flat.

Numba's disk cache notices a change of the file a kernel is in, and no other: helpers stay here, and the text of
``cpu_simd`` is part of the kernels' names.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
from numba import njit

from . import cpu_simd
from .cpu_simd import choose, exp2, fill, load, log1p, prefetch, spread, store, sums, turn

CHUNK = 64
_LOG2E = math.log2(math.e)
_SIMD = hashlib.sha256(Path(cpu_simd.__file__).read_bytes()).hexdigest()[:12]


def lanes(itemsize: int) -> int:
    """W for numbers of ``itemsize`` bytes."""
    return cpu_simd.BYTES // itemsize


def _jit(function):
    function.__qualname__ += f"_{_SIMD}"
    flags = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return njit(cache=True, **flags)(function)
    except RuntimeError:  # no folder for the cache can be written: compile anew in every process
        return njit(**flags)(function)


@_jit
def _prefetch(array, i, length, rows, steps, W):
    """array[i + r length + t] for r < ``rows``: the hardware does not foresee so many short pieces."""
    for r in range(rows):
        for t in range(0, steps, W):
            prefetch(array, i + r * length + t)


@_jit
def _read(source, i, length, rows, steps, target, j, W):
    """target[j + t W + r] = source[i + r length + t]; 0 in the lanes from ``rows`` on."""
    done = steps // W * W if rows == W else 0
    for t in range(0, done, W):
        turn(source, i + t, length, target, j + t * W, W)
    for r in range(W):
        for t in range(done, steps):
            target[np.uintp(j + t * W + r)] = source[np.uintp(i + r * length + t)] if r < rows else source.dtype.type(0)


@_jit
def _write(source, j, target, i, length, rows, steps, W):
    """target[i + r length + t] = source[j + t W + r] for r < ``rows``."""
    done = steps // W * W if rows == W else 0
    for t in range(0, done, W):
        turn(source, j + t * W, W, target, i + t, length)
    for r in range(rows):
        for t in range(done, steps):
            target[np.uintp(i + r * length + t)] = source[np.uintp(j + t * W + r)]


@_jit
def _add_sums(source, j, target, i, steps, W):
    """target[i + t] += the sum of the vector at source[j + t W]; ``source`` has whole multiples of W steps to spoil."""
    done = steps // W * W
    for t in range(0, done, W):
        store(target, i + t, load(target, i + t) + sums(source, j + t * W))
    if done < steps:
        store(source, j, sums(source, j + done * W))
        for t in range(done, steps):
            target[np.uintp(i + t)] += source[np.uintp(j + t - done)]


@_jit
def _parameters(source, first, rows, stride, count, factor, target, j, W):
    """target[j + s W + r] = source[first + r stride + s] * factor, 0 for r >= rows or without a source."""
    for s in range(count):
        for r in range(W):
            there = source.size > 0 and r < rows
            target[j + s * W + r] = source[first + r * stride + s] * factor if there else factor * 0


@_jit
def _aligned(like, vectors, W):
    """Room for ``vectors`` vectors, zeroed, and the offset at which they start on a boundary of their size."""
    room = np.zeros((vectors + 1) * W, like.dtype)
    return room, (-(room.ctypes.data // room.itemsize)) % W


@_jit
def _softplus(v, z, zero, limit):
    """softplus(v), v above ``limit``, with z = exp(-|v|)."""
    return choose(v, limit, v, log1p(z) + choose(v, zero, v, zero))


@_jit
def forward(u, delta, A, B, C, D, bias, softplus, shape, out, states, last, first, stop):
    """Tiles ``first`` to ``stop`` of the forward scan; arrays are flat, in this order of axes.

    u, delta, out (rows, L); A (groups, per_group, N); B, C (batch, groups, N, L); D, bias (groups, per_group) or
    empty; last (rows, N); states (tiles in all, chunks, N, W): the state before each chunk, for the backward.
    ``shape`` is (groups, per_group, N, L).
    """
    groups, per_group, N, L = shape
    W = len(fill(u, u.dtype.type(0)))
    tiles, chunks = (per_group + W - 1) // W, (L + CHUNK - 1) // CHUNK
    zero, linear = fill(u, u.dtype.type(0)), fill(u, u.dtype.type(20))
    log2e = u.dtype.type(_LOG2E)
    to_base_2 = fill(u, log2e)
    size = min(L, CHUNK) * W
    room, dt = _aligned(u, 3 * (size // W) + 2 * N + 2, W)
    w, y, exponent = dt + size, dt + 2 * size, dt + 3 * size
    state = exponent + N * W
    skip, shift = state + N * W, state + N * W + W
    for unit in range(first, stop):
        group = unit // tiles
        offset = (unit - group * tiles) * W
        m = min(W, per_group - offset)
        row, channel = group * per_group + offset, (group % groups) * per_group + offset
        _parameters(A, channel * N, m, N, N, log2e, room, exponent, W)
        _parameters(D, channel, m, 1, 1, u.dtype.type(1), room, skip, W)
        _parameters(bias, channel, m, 1, 1, u.dtype.type(1), room, shift, W)
        for s in range(N):
            store(room, state + s * W, zero)
        for chunk in range(chunks):
            t0 = chunk * CHUNK
            n = min(L - t0, CHUNK)
            for array in (delta, u, out):
                _prefetch(array, row * L + t0 + CHUNK, L, m, min(CHUNK, L - t0 - n), W)
            _read(delta, row * L + t0, L, m, n, room, dt, W)
            _read(u, row * L + t0, L, m, n, room, w, W)
            for t in range(0, n * W, W):
                v, x = load(room, dt + t) + load(room, shift), load(room, w + t)
                if softplus:
                    v = _softplus(v, exp2(choose(v, zero, zero - v, v) * to_base_2), zero, linear)
                store(room, dt + t, v)
                store(room, w + t, v * x)
                store(room, y + t, x * load(room, skip))
            for s in range(N):
                shared = (group * N + s) * L + t0
                a, h = load(room, exponent + s * W), load(room, state + s * W)
                store(states, ((unit * chunks + chunk) * N + s) * W, h)
                for t in range(n):
                    i = t * W
                    h = exp2(load(room, dt + i) * a) * h + load(room, w + i) * spread(B, shared + t)
                    store(room, y + i, load(room, y + i) + h * spread(C, shared + t))
                store(room, state + s * W, h)
            _write(room, y, out, row * L + t0, L, m, n, W)
        for r in range(m):
            for s in range(N):
                last[(row + r) * N + s] = room[state + s * W + r]


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
    per_part,
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
    """Parts ``first`` to ``stop`` of the backward scan, ``parts`` a group and ``per_part`` tiles a part.

    Arrays are flat, as in ``forward``. dA (rows, N), dD, dbias (rows,): sums over L, still to be added over the batch.
    dB, dC (batch, groups, parts, N, L): sums over the channels of a part, still to be added over the parts.
    With g[t] = C[t] dout[t] + a[t+1] g[t+1] the adjoint of h, e is a[t] g[t].
    """
    groups, per_group, N, L = shape
    one = u.dtype.type(1)
    W = len(fill(u, one))
    tiles, chunks = (per_group + W - 1) // W, (L + CHUNK - 1) // CHUNK
    zero, ones, linear = fill(u, u.dtype.type(0)), fill(u, one), fill(u, u.dtype.type(20))
    to_base_2 = fill(u, u.dtype.type(_LOG2E))
    size = (min(L, CHUNK) + W - 1) // W * W * W
    room, dt = _aligned(u, 10 * (size // W) + 3 * N + 4, W)
    x, w, dy = dt + size, dt + 2 * size, dt + 3 * size
    slope, a, h = dt + 4 * size, dt + 5 * size, dt + 6 * size
    p, dw, ddt = dt + 7 * size, dt + 8 * size, dt + 9 * size
    rate = ddt + size
    carry, dA_sum = rate + N * W, rate + 2 * N * W
    skip = dA_sum + N * W
    shift, dD_sum, dbias_sum = skip + W, skip + 2 * W, skip + 3 * W
    for unit in range(first, stop):
        group = unit // parts
        part = unit - group * parts
        dB[unit * N * L : (unit + 1) * N * L] = u.dtype.type(0)
        dC[unit * N * L : (unit + 1) * N * L] = u.dtype.type(0)
        for tile in range(part * per_part, min(tiles, (part + 1) * per_part)):
            offset = tile * W
            m = min(W, per_group - offset)
            row, channel = group * per_group + offset, (group % groups) * per_group + offset
            _parameters(A, channel * N, m, N, N, one, room, rate, W)
            _parameters(D, channel, m, 1, 1, one, room, skip, W)
            _parameters(bias, channel, m, 1, 1, one, room, shift, W)
            _parameters(dlast, row * N, m, N, N, one, room, carry, W)
            for s in range(N):
                store(room, dA_sum + s * W, zero)
            store(room, dD_sum, zero)
            store(room, dbias_sum, zero)
            for chunk in range(chunks - 1, -1, -1):
                t0 = chunk * CHUNK
                n = min(L - t0, CHUNK)
                if chunk:
                    for array in (delta, u, dout, ddelta, du):
                        _prefetch(array, row * L + t0 - CHUNK, L, m, CHUNK, W)
                _read(delta, row * L + t0, L, m, n, room, dt, W)
                _read(u, row * L + t0, L, m, n, room, x, W)
                _read(dout, row * L + t0, L, m, n, room, dy, W)
                for i in range(0, n * W, W):
                    v = load(room, dt + i) + load(room, shift)
                    if softplus:
                        z = exp2(choose(v, zero, zero - v, v) * to_base_2)
                        sigmoid = choose(v, zero, ones, z) / (ones + z)
                        store(room, slope + i, choose(v, linear, ones, sigmoid))
                        v = _softplus(v, z, zero, linear)
                    else:
                        store(room, slope + i, ones)
                    store(room, dt + i, v)
                    store(room, w + i, v * load(room, x + i))
                    store(room, dw + i, zero)
                    store(room, ddt + i, zero)
                for s in range(N):
                    shared = (group * N + s) * L + t0
                    summed = (unit * N + s) * L + t0
                    A_s = load(room, rate + s * W)
                    exponent = A_s * to_base_2
                    state = load(states, (((group * tiles + tile) * chunks + chunk) * N + s) * W)
                    for t in range(n):
                        i = t * W
                        store(room, h + i, state)
                        a_t = exp2(load(room, dt + i) * exponent)
                        store(room, a + i, a_t)
                        state = a_t * state + load(room, w + i) * spread(B, shared + t)
                        store(room, p + i, load(room, dy + i) * state)
                    _add_sums(room, p, dC, summed, n, W)
                    e, total = load(room, carry + s * W), zero
                    for t in range(n - 1, -1, -1):
                        i = t * W
                        g = load(room, dy + i) * spread(C, shared + t) + e
                        e = load(room, a + i) * g
                        da = e * load(room, h + i)
                        total = total + da * load(room, dt + i)
                        store(room, p + i, g * load(room, w + i))
                        store(room, dw + i, load(room, dw + i) + g * spread(B, shared + t))
                        store(room, ddt + i, load(room, ddt + i) + da * A_s)
                    _add_sums(room, p, dB, summed, n, W)
                    store(room, carry + s * W, e)
                    store(room, dA_sum + s * W, load(room, dA_sum + s * W) + total)
                D_sum, bias_sum = zero, zero
                for i in range(0, n * W, W):
                    dy_t, u_t, dw_t = load(room, dy + i), load(room, x + i), load(room, dw + i)
                    D_sum = D_sum + dy_t * u_t
                    step = (load(room, ddt + i) + dw_t * u_t) * load(room, slope + i)
                    bias_sum = bias_sum + step
                    store(room, ddt + i, step)
                    store(room, dw + i, dy_t * load(room, skip) + dw_t * load(room, dt + i))
                store(room, dD_sum, load(room, dD_sum) + D_sum)
                store(room, dbias_sum, load(room, dbias_sum) + bias_sum)
                _write(room, ddt, ddelta, row * L + t0, L, m, n, W)
                _write(room, dw, du, row * L + t0, L, m, n, W)
            for r in range(m):
                dD[row + r], dbias[row + r] = room[dD_sum + r], room[dbias_sum + r]
                for s in range(N):
                    dA[(row + r) * N + s] = room[dA_sum + s * W + r]


@_jit
def add_parts(x, total, parts, size):
    """x (outer, parts, size) -> total (outer, size), both flat: the sum over ``parts`` in order."""
    for i in range(total.size // size):
        for p in range(parts):
            here = (i * parts + p) * size
            for t in range(size):
                before = total[np.uintp(i * size + t)] if p else x.dtype.type(0)
                total[np.uintp(i * size + t)] = before + x[np.uintp(here + t)]
