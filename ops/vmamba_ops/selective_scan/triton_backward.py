"""Triton kernels of the selective scan's backward: one state a channel (in a short form too), and any number of them.

As ``triton_kernels``, from right to left: r[t] = a[t] g[t] is what position t passes to t - 1, and enters from the
right as ``dlast`` or 0, or with SPLIT as ``adjoint`` (segments, B, D, N), which with N > 1 is also what carries r from
chunk to chunk. The states inside a chunk are computed again from the one at its start.

Sums over channels and over images are left in parts, float32, for the caller to add, so that nothing depends on the
order programs run in: ``dBC`` (parts, 2, B, K, N, L) over ``blocks_each`` blocks of R channels each, and ``sums``
(segments * B, D N + 2 D) for A, D and the bias.
"""

import triton
import triton.language as tl

from .triton_kernels import jit, load, row_of
from .triton_scan import LOG2E, exp2, pieces, prefix, product, step, suffix, tile


@triton.jit
def _add(pointer, value, mask, more):
    """value, on top of what is there if ``more``."""
    tl.store(pointer, value + tl.load(pointer, mask=mask & more, other=0.0), mask=mask)


@triton.jit
def _chunk(
    x_u, dy, z, du, ddelta, ok, b_t, c_t, A1, skip, h0, carry,
    SOFTPLUS: tl.constexpr, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """One chunk with one state: writes du and ddelta; dB and dC of every channel, sums for A, D and bias, and r."""
    x_u, dy = x_u.to(tl.float32), dy.to(tl.float32)
    dt, slope = step(z, SOFTPLUS)
    dt = tl.where(ok, dt, 0.0)
    dtu = dt * x_u
    a = pieces(exp2(dt * (A1 * LOG2E)), G, R, V)
    P = product(a, V)
    hs, kept, _ends = prefix(a, pieces(dtu * b_t, G, R, V), P, h0, G, R, V)
    gs, left = suffix(a, pieces(dy * c_t, G, R, V), P, carry, G, R, V)
    h, grad = tile(hs, G, R, V), tile(gs, G, R, V)
    decay = grad * tile(kept, G, R, V)
    dx = grad * b_t
    ddelta_t = tl.where(ok, (x_u * dx + decay * A1) * slope, 0.0)
    tl.store(du, (dt * dx + dy * skip).to(du.dtype.element_ty), mask=ok)
    tl.store(ddelta, ddelta_t.to(ddelta.dtype.element_ty), mask=ok)
    return grad * dtu, dy * h, tl.sum(decay * dt, 2), tl.sum(dy * x_u, 2), tl.sum(ddelta_t, 2), left


@jit
def scan_backward_short(
    dout, dlast, u, delta, A, B, C, D, bias, du, ddelta, dBC, sums,
    batch, groups, per_group, length, blocks_each, parts,
    dout_b, dout_d, u_b, u_d, delta_b, delta_d, B_b, B_k, C_b, C_k, du_b, du_d,
    HAS_LAST: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    VEC: tl.constexpr, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """All gradients for N = 1 and a sequence that is one chunk: dB and dC stay in registers over the channel blocks."""
    pid = tl.program_id(0)
    k = ((pid // parts) % groups).to(tl.int64)
    b = (pid // (parts * groups)).to(tl.int64)
    part = (pid % parts).to(tl.int64)
    dim = groups * per_group
    g = tl.broadcast_to(tl.arange(0, G)[:, None], [G, R])
    t = tl.arange(0, G)[:, None, None] * V + tl.arange(0, V)[None, None, :]
    there = t < length * VEC
    b_t = load(B + (b * B_b + k * B_k) * VEC + t, there)
    c_t = load(C + (b * C_b + k * C_k) * VEC + t, there)
    dB, dC = tl.zeros([G, R, V], tl.float32), tl.zeros([G, R, V], tl.float32)
    sum_row = sums + b * dim * 3
    block = 0
    while block < blocks_each:
        r = (part * blocks_each + block) * R + tl.arange(0, R)
        row = r < per_group
        d = k * per_group + r
        ok = there & row[None, :, None]
        shift = load(bias + d, row)[None, :, None] if HAS_BIAS else 0.0
        skip = load(D + d, row)[None, :, None] if HAS_D else 0.0
        A1 = load(A + d, row)[None, :, None]
        carry = tl.zeros([G, R], tl.float32)
        if HAS_LAST:
            carry = tl.load(dlast + (b * dim + tl.max_contiguous(d, 1))[None, :] + g * 0, mask=row[None, :], other=0.0)
        out = ((b * du_b + d * du_d) * VEC)[None, :, None] + t
        x_u = tl.load(row_of(u, b, d, u_b, u_d, VEC) + t, ok, 0.0)
        dy = tl.load(row_of(dout, b, d, dout_b, dout_d, VEC) + t, ok, 0.0)
        z = load(row_of(delta, b, d, delta_b, delta_d, VEC) + t, ok) + shift
        more_B, more_C, dA, dD, dbias, _left = _chunk(
            x_u, dy, z, du + out, ddelta + out, ok, b_t, c_t, A1, skip, tl.zeros([G, R], tl.float32), carry,
            SOFTPLUS, G, R, V,
        )  # fmt: skip
        dB += more_B
        dC += more_C
        tl.store(sum_row + d, tl.sum(dA, 0), mask=row)
        tl.store(sum_row + dim + d, tl.sum(dD, 0), mask=row)
        tl.store(sum_row + dim * 2 + d, tl.sum(dbias, 0), mask=row)
        block += 1
    t_sum = tl.arange(0, G)[:, None] * V + tl.arange(0, V)[None, :]
    dBC_row = dBC + ((part * 2 * batch + b) * groups + k) * length * VEC + t_sum
    tl.store(dBC_row, tl.sum(dB, 1), mask=t_sum < length * VEC)
    tl.store(dBC_row + batch * groups * tl.cast(length, tl.int64) * VEC, tl.sum(dC, 1), mask=t_sum < length * VEC)


@jit
def scan_backward_one(
    dout, dlast, states, adjoint, u, delta, A, B, C, D, bias, du, ddelta, dBC, sums,
    batch, groups, per_group, N, length, chunks, total, level, blocks_each, parts,
    dout_b, dout_d, u_b, u_d, delta_b, delta_d, B_b, B_k, B_n, C_b, C_k, C_n, du_b, du_d,
    HAS_LAST: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, SPLIT: tl.constexpr,
    VEC: tl.constexpr, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """All gradients for N = 1. A program takes its channel blocks one after another, r in a register."""
    pid = tl.program_id(0)
    k = ((pid // parts) % groups).to(tl.int64)
    b = (pid // (parts * groups)).to(tl.int64)
    part = (pid % parts).to(tl.int64)
    segment = tl.program_id(1)
    dim = groups * per_group
    first = segment * chunks
    stop = tl.minimum(first + chunks, total)
    g = tl.broadcast_to(tl.arange(0, G)[:, None], [G, R])
    B_row = B + (b * B_b + k * B_k) * VEC
    C_row = C + (b * C_b + k * C_k) * VEC
    dB_row = dBC + ((part * 2 * batch + b) * groups + k) * length * VEC
    dC_row = dBC + (((part * 2 + 1) * batch + b) * groups + k) * length * VEC
    sum_row = sums + (segment.to(tl.int64) * batch + b) * dim * 3
    block = 0
    while block < blocks_each:
        r = (part * blocks_each + block) * R + tl.arange(0, R)
        row = r < per_group
        d = k * per_group + r
        rows = row[None, :]
        at_state = (b * dim + tl.max_contiguous(d, 1))[None, :] + g * 0  # hidden steps: see forward
        u_row = row_of(u, b, d, u_b, u_d, VEC)
        delta_row = row_of(delta, b, d, delta_b, delta_d, VEC)
        dout_row = row_of(dout, b, d, dout_b, dout_d, VEC)
        du_row = row_of(du, b, d, du_b, du_d, VEC)
        ddelta_row = row_of(ddelta, b, d, du_b, du_d, VEC)
        shift = load(bias + d, row)[None, :, None] if HAS_BIAS else 0.0
        skip = load(D + d, row)[None, :, None] if HAS_D else 0.0
        A1 = load(A + d, row)[None, :, None]
        dA, dD, dbias = tl.zeros([G, R], tl.float32), tl.zeros([G, R], tl.float32), tl.zeros([G, R], tl.float32)
        if SPLIT:
            carry = tl.load(adjoint + segment.to(tl.int64) * level + at_state, mask=rows, other=0.0)
        elif HAS_LAST:
            carry = tl.load(dlast + at_state, mask=rows, other=0.0)
        else:
            carry = tl.zeros([G, R], tl.float32)
        c = stop - 1
        t = c * (G * V) + tl.arange(0, G)[:, None, None] * V + tl.arange(0, V)[None, None, :]
        ok = (t < length * VEC) & row[None, :, None]
        u_next, dy_next, z_next = (
            tl.load(u_row + t, ok, 0.0),
            tl.load(dout_row + t, ok, 0.0),
            tl.load(delta_row + t, ok, 0.0),
        )
        b_next, c_next = tl.load(B_row + t, t < length * VEC, 0.0), tl.load(C_row + t, t < length * VEC, 0.0)
        h_next = tl.load(states + (c - 1).to(tl.int64) * level + at_state, rows & (c > 0), 0.0)
        while c >= first:
            t = c * (G * V) + tl.arange(0, G)[:, None, None] * V + tl.arange(0, V)[None, None, :]
            t_sum = c * (G * V) + tl.arange(0, G)[:, None] * V + tl.arange(0, V)[None, :]
            there_sum = t_sum < length * VEC
            ok = (t < length * VEC) & row[None, :, None]
            x_u, dy, z, b_t, c_t, h0 = u_next, dy_next, z_next, b_next, c_next, h_next
            c -= 1  # the loads for the next chunk come before this one's stores, which they could not pass
            t_next = t - G * V
            more = row[None, :, None] & (c >= first)
            u_next, dy_next = tl.load(u_row + t_next, more, 0.0), tl.load(dout_row + t_next, more, 0.0)
            z_next = tl.load(delta_row + t_next, more, 0.0)
            b_next, c_next = tl.load(B_row + t_next, c >= first, 0.0), tl.load(C_row + t_next, c >= first, 0.0)
            h_next = tl.load(states + (c - 1).to(tl.int64) * level + at_state, rows & (c > 0) & (c >= first), 0.0)
            dB, dC, more_A, more_D, more_bias, carry = _chunk(
                x_u, dy, z.to(tl.float32) + shift, du_row + t, ddelta_row + t, ok,
                b_t.to(tl.float32), c_t.to(tl.float32), A1, skip, h0, carry, SOFTPLUS, G, R, V,
            )  # fmt: skip
            _add(dB_row + t_sum, tl.sum(dB, 1), there_sum, block > 0)
            _add(dC_row + t_sum, tl.sum(dC, 1), there_sum, block > 0)
            dA += more_A
            dD += more_D
            dbias += more_bias
        tl.store(sum_row + d, tl.sum(dA, 0), mask=row)
        tl.store(sum_row + dim + d, tl.sum(dD, 0), mask=row)
        tl.store(sum_row + dim * 2 + d, tl.sum(dbias, 0), mask=row)
        block += 1


@jit
def scan_backward_many(
    dout, dlast, states, adjoint, u, delta, A, B, C, D, bias, du, ddelta, dBC, sums,
    batch, groups, per_group, N, length, chunks, total, level, blocks_each, parts,
    dout_b, dout_d, u_b, u_d, delta_b, delta_d, B_b, B_k, B_n, C_b, C_k, C_n, du_b, du_d,
    HAS_LAST: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, SPLIT: tl.constexpr,
    VEC: tl.constexpr, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """All gradients for any N. A program takes its channel blocks chunk by chunk, so that a chunk's dB and dC, to which
    every block adds, stay in the cache."""
    pid = tl.program_id(0)
    k = ((pid // parts) % groups).to(tl.int64)
    b = (pid // (parts * groups)).to(tl.int64)
    part = (pid % parts).to(tl.int64)
    segment = tl.program_id(1)
    dim = groups * per_group
    first = segment * chunks
    stop = tl.minimum(first + chunks, total)
    g = tl.broadcast_to(tl.arange(0, G)[:, None], [G, R])
    B_row = B + (b * B_b + k * B_k) * VEC
    C_row = C + (b * C_b + k * C_k) * VEC
    dB_row = dBC + (((part * 2 * batch + b) * groups + k) * N * length) * VEC
    dC_row = dBC + ((((part * 2 + 1) * batch + b) * groups + k) * N * length) * VEC
    sum_row = sums + (segment.to(tl.int64) * batch + b) * dim * (N + 2)
    c = stop - 1
    while c >= first:
        t = c * (G * V) + tl.arange(0, G)[:, None, None] * V + tl.arange(0, V)[None, None, :]
        t_sum = c * (G * V) + tl.arange(0, G)[:, None] * V + tl.arange(0, V)[None, :]
        there = t < length * VEC
        there_sum = t_sum < length * VEC
        later = c < stop - 1
        block = 0
        while block < blocks_each:
            r = (part * blocks_each + block) * R + tl.arange(0, R)
            row = r < per_group
            d = k * per_group + r
            rows = row[None, :]
            at_state = ((b * dim + tl.max_contiguous(d, 1)) * N)[None, :] + g * 0  # hidden steps: see forward
            here = states + (c - 1).to(tl.int64) * level + at_state
            passed = adjoint + segment.to(tl.int64) * level + at_state
            ok = there & row[None, :, None]
            x_u = load(row_of(u, b, d, u_b, u_d, VEC) + t, ok)
            dy = load(row_of(dout, b, d, dout_b, dout_d, VEC) + t, ok)
            z = load(row_of(delta, b, d, delta_b, delta_d, VEC) + t, ok)
            if HAS_BIAS:
                z += load(bias + d, row)[None, :, None]
            skip = load(D + d, row)[None, :, None] if HAS_D else 0.0
            dt, slope = step(z, SOFTPLUS)
            dt = tl.where(ok, dt, 0.0)
            dtu = dt * x_u
            dx, ddt = tl.zeros([G, R, V], tl.float32), tl.zeros([G, R, V], tl.float32)
            # What enters from the right: of the segment's last chunk dlast or nothing, unless SPLIT has it prepared.
            from_right = (dlast + at_state) if HAS_LAST and not SPLIT else passed
            entering = tl.where(later, passed, from_right)
            known = rows & (later | SPLIT | HAS_LAST)
            b_next, c_next = tl.load(B_row + t, there, 0.0), tl.load(C_row + t, there, 0.0)
            h_next, r_next = tl.load(here, rows & (c > 0), 0.0), tl.load(entering, known, 0.0)
            n = 0
            while n < N:
                A1 = load(A + d * N + n, row)[None, :, None]
                b_t, c_t, h0, carry = b_next.to(tl.float32), c_next.to(tl.float32), h_next, r_next
                at = n * length * VEC + t_sum
                sum_at = sum_row + d * N + n
                dB_old = tl.load(dB_row + at, mask=there_sum & (block > 0), other=0.0)
                dC_old = tl.load(dC_row + at, mask=there_sum & (block > 0), other=0.0)
                dA_old = tl.load(sum_at, mask=row & later, other=0.0)
                n += 1  # the loads for the next state come before this one's stores, which they could not pass
                more = n < N
                b_next = tl.load(B_row + n * B_n * VEC + t, there & more, 0.0)
                c_next = tl.load(C_row + n * C_n * VEC + t, there & more, 0.0)
                h_next = tl.load(here + n, rows & (c > 0) & more, 0.0)
                r_next = tl.load(entering + n, known & more, 0.0)
                a = pieces(exp2(dt * (A1 * LOG2E)), G, R, V)
                P = product(a, V)
                hs, kept, _ends = prefix(a, pieces(dtu * b_t, G, R, V), P, h0, G, R, V)
                gs, left = suffix(a, pieces(dy * c_t, G, R, V), P, carry, G, R, V)
                h, grad = tile(hs, G, R, V), tile(gs, G, R, V)
                tl.store(dB_row + at, dB_old + tl.sum(grad * dtu, 1), mask=there_sum)
                tl.store(dC_row + at, dC_old + tl.sum(dy * h, 1), mask=there_sum)
                decay = grad * tile(kept, G, R, V)
                dx += grad * b_t
                ddt += decay * A1
                tl.store(sum_at, dA_old + tl.sum(tl.sum(decay * dt, 2), 0), mask=row)
                tl.store(passed + n - 1, left, mask=rows & (g == 0))
            ddelta_t = tl.where(ok, (x_u * dx + ddt) * slope, 0.0)
            out = ((b * du_b + d * du_d) * VEC)[None, :, None] + t
            tl.store(du + out, (dt * dx + dy * skip).to(du.dtype.element_ty), mask=ok)
            tl.store(ddelta + out, ddelta_t.to(ddelta.dtype.element_ty), mask=ok)
            _add(sum_row + dim * N + d, tl.sum(tl.sum(dy * x_u, 2), 0), row, later)
            _add(sum_row + dim * (N + 1) + d, tl.sum(tl.sum(ddelta_t, 2), 0), row, later)
            tl.debug_barrier()  # the next block adds to this one's dB and dC, the next chunk reads what it passed on
            block += 1
        c -= 1
