"""Triton kernels of the selective scan: forward, and the two that join segments of a sequence.

A program owns R channels of one group of one image and walks its segment of the sequence in chunks of G * V positions;
a small batch is cut into several segments so that it fills the GPU. The state at every chunk's end is saved, and the
backward recomputes the states inside a chunk from it. With one state a channel (ONE) the running state is a register;
with more, it passes from chunk to chunk through memory (``states`` forward, ``adjoint`` backward), so that the loop
over states is a loop and not N copies of the code.

Lengths and strides come in units of VEC elements, a power of two that divides them all: the compiler then sees how wide
a load may be. states is (saved, B, D, N): level i after chunk i of the backward.
"""

from inspect import signature

import triton
import triton.language as tl

from .triton_scan import LOG2E, exp2, pieces, prefix, product, step, suffix, tile

# Sizes and strides the compiler need not know anything about: one compilation serves every shape.
_STRIDES = [f"{t}_{axis}" for t in ("u", "delta", "dout", "out", "du", "v") for axis in "bd"]
_STRIDES += [f"{t}_{axis}" for t in "BCW" for axis in "bkn"]
_SIZES = ["batch", "groups", "per_group", "N", "length", "chunks", "total", "level", "saved", "blocks_each", "parts"]


def jit(kernel):
    return triton.jit(kernel, do_not_specialize=[n for n in signature(kernel).parameters if n in _SIZES + _STRIDES])


@triton.jit
def load(pointer, mask):
    """In float32, 0 outside the mask."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def row_of(pointer, b, d, stride_b, stride_d, VEC: tl.constexpr):
    """Where image b's channels d [R] start, as [1, R, 1]."""
    return pointer + ((b * stride_b + d * stride_d) * VEC)[None, :, None]


@jit
def scan_forward_short(
    u, delta, A, B, C, D, bias, out, last,
    groups, per_group, length, blocks_each, parts,
    u_b, u_d, delta_b, delta_d, B_b, B_k, C_b, C_k, out_b, out_d,
    HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    VEC: tl.constexpr, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """N = 1 and a sequence that is one chunk: a program takes ``blocks_each`` channel blocks with one load of B, C."""
    pid = tl.program_id(0)
    k = ((pid // parts) % groups).to(tl.int64)
    b = (pid // (parts * groups)).to(tl.int64)
    g = tl.broadcast_to(tl.arange(0, G)[:, None], [G, R])
    t = tl.arange(0, G)[:, None, None] * V + tl.arange(0, V)[None, None, :]
    there = t < length * VEC
    b_t = load(B + (b * B_b + k * B_k) * VEC + t, there)
    c_t = load(C + (b * C_b + k * C_k) * VEC + t, there)
    block = 0
    while block < blocks_each:
        r = ((pid % parts) * blocks_each + block) * R + tl.arange(0, R)
        row = r < per_group
        d = k * per_group + r
        ok = there & row[None, :, None]
        x_u = load(row_of(u, b, d, u_b, u_d, VEC) + t, ok)
        z = load(row_of(delta, b, d, delta_b, delta_d, VEC) + t, ok)
        if HAS_BIAS:
            z += load(bias + d, row)[None, :, None]
        dt, _slope = step(z, SOFTPLUS)
        dt = tl.where(ok, dt, 0.0)
        A2 = (load(A + d, row) * LOG2E)[None, :, None]
        a = pieces(exp2(dt * A2), G, R, V)
        x = pieces(dt * x_u * b_t, G, R, V)
        hs, _kept, ends = prefix(a, x, product(a, V), tl.zeros([G, R], tl.float32), G, R, V)
        y = tile(hs, G, R, V) * c_t
        if HAS_D:
            y += x_u * load(D + d, row)[None, :, None]
        tl.store(row_of(out, b, d, out_b, out_d, VEC) + t, y.to(out.dtype.element_ty), mask=ok)
        at = (b * groups * per_group + tl.max_contiguous(d, 1))[None, :] + g * 0
        tl.store(last + at, ends, mask=row[None, :] & (g == G - 1))
        block += 1


@jit
def scan_forward(
    u, delta, A, B, C, D, bias, out, states,
    groups, per_group, N, length, chunks, total, level, saved,
    u_b, u_d, delta_b, delta_d, B_b, B_k, B_n, C_b, C_k, C_n, out_b, out_d,
    ONE: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, SPLIT: tl.constexpr,
    EVERY: tl.constexpr, VEC: tl.constexpr, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """out, and the state after every EVERY groups; with SPLIT, ``states`` already holds it at the segments' starts."""
    blocks = tl.cdiv(per_group, R)
    pid = tl.program_id(0)
    k = ((pid // blocks) % groups).to(tl.int64)
    b = (pid // (blocks * groups)).to(tl.int64)
    r = (pid % blocks) * R + tl.arange(0, R)
    row = r < per_group
    d = k * per_group + r
    rows = row[None, :]
    g = tl.broadcast_to(tl.arange(0, G)[:, None], [G, R])
    # Hiding that d runs in steps of 1 keeps the compiler from a layout of its own for the states.
    state = states + ((b * groups * per_group + tl.max_contiguous(d, 1)) * N)[None, :] + g * 0
    u_row = row_of(u, b, d, u_b, u_d, VEC)
    delta_row = row_of(delta, b, d, delta_b, delta_d, VEC)
    out_row = row_of(out, b, d, out_b, out_d, VEC)
    B_row = B + (b * B_b + k * B_k) * VEC
    C_row = C + (b * C_b + k * C_k) * VEC
    shift = load(bias + d, row)[None, :, None] if HAS_BIAS else 0.0
    skip = load(D + d, row)[None, :, None] if HAS_D else 0.0
    first = tl.program_id(1) * chunks
    stop = tl.minimum(first + chunks, total)
    if ONE:
        A2 = (load(A + d, row) * LOG2E)[None, :, None]
        carry = (
            tl.load(state + (first * (G // EVERY) - 1).to(tl.int64) * level, mask=rows & (first > 0), other=0.0)
            if SPLIT
            else tl.zeros([G, R], tl.float32)
        )
    c = first
    while c < stop:
        t = c * (G * V) + tl.arange(0, G)[:, None, None] * V + tl.arange(0, V)[None, None, :]
        there = t < length * VEC
        ok = there & row[None, :, None]
        x_u = load(u_row + t, ok)
        dt, _slope = step(load(delta_row + t, ok) + shift, SOFTPLUS)
        dt = tl.where(ok, dt, 0.0)
        dtu = dt * x_u
        here = state + (c * (G // EVERY) - 1).to(tl.int64) * level
        reached = c * (G // EVERY) + (g + 1) // EVERY
        keep = (
            rows & ((g + 1) % EVERY == 0) & ((reached < stop * (G // EVERY)) | (reached == saved)) & (reached <= saved)
        )
        there_state = state + (reached - 1).to(tl.int64) * level
        y = x_u * skip
        if ONE:
            b_t, c_t = load(B_row + t, there), load(C_row + t, there)
            a = pieces(exp2(dt * A2), G, R, V)
            hs, _kept, ends = prefix(a, pieces(dtu * b_t, G, R, V), product(a, V), carry, G, R, V)
            carry = tl.gather(ends, g * 0 + (G - 1), 0)
            y += tile(hs, G, R, V) * c_t
            tl.store(there_state, ends, mask=keep)
        else:
            known = rows & (c > 0) & ((c > first) | SPLIT)
            b_next, c_next = tl.load(B_row + t, there, 0.0), tl.load(C_row + t, there, 0.0)
            h_next = tl.load(here, known, 0.0)
            n = 0
            while n < N:
                A2 = (load(A + d * N + n, row) * LOG2E)[None, :, None]
                b_t, c_t, carry = b_next.to(tl.float32), c_next.to(tl.float32), h_next
                n += 1  # the loads for the next state come before this one's stores, which they could not pass
                more = n < N
                b_next = tl.load(B_row + n * B_n * VEC + t, there & more, 0.0)
                c_next = tl.load(C_row + n * C_n * VEC + t, there & more, 0.0)
                h_next = tl.load(here + n, known & more, 0.0)
                a = pieces(exp2(dt * A2), G, R, V)
                hs, _kept, ends = prefix(a, pieces(dtu * b_t, G, R, V), product(a, V), carry, G, R, V)
                y += tile(hs, G, R, V) * c_t
                tl.store(there_state + n - 1, ends, mask=keep)
            tl.debug_barrier()  # the next chunk reads the states that this one wrote
        tl.store(out_row + t, y.to(out.dtype.element_ty), mask=ok)
        c += 1


@jit
def scan_segment_ends(
    v, delta, A, W, bias, ends, steps,
    groups, per_group, N, length, chunks, total, level,
    v_b, v_d, delta_b, delta_d, W_b, W_k, W_n,
    REVERSE: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    VEC: tl.constexpr, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """What every segment adds by itself, and the sum of its dt: u, B as v, W give h at its end; dout, C r at its start.

    ends (segments, B, D, N), steps (segments, B, D).
    """
    blocks = tl.cdiv(per_group, R)
    pid = tl.program_id(0)
    k = ((pid // blocks) % groups).to(tl.int64)
    b = (pid // (blocks * groups)).to(tl.int64)
    segment = tl.program_id(1)
    r = (pid % blocks) * R + tl.arange(0, R)
    row = r < per_group
    d = k * per_group + r
    rows = row[None, :]
    g = tl.broadcast_to(tl.arange(0, G)[:, None], [G, R])
    index = b * groups * per_group + tl.max_contiguous(d, 1)
    end = ends + segment.to(tl.int64) * level + (index * N)[None, :] + g * 0
    v_row = row_of(v, b, d, v_b, v_d, VEC)
    delta_row = row_of(delta, b, d, delta_b, delta_d, VEC)
    W_row = W + (b * W_b + k * W_k) * VEC
    shift = load(bias + d, row)[None, :, None] if HAS_BIAS else 0.0
    elapsed = tl.zeros([G, R], tl.float32)
    first = segment * chunks
    count = tl.minimum(first + chunks, total) - first
    i = 0
    while i < count:
        c = first + (count - 1 - i if REVERSE else i)
        t = c * (G * V) + tl.arange(0, G)[:, None, None] * V + tl.arange(0, V)[None, None, :]
        there = t < length * VEC
        ok = there & row[None, :, None]
        dt, _slope = step(load(delta_row + t, ok) + shift, SOFTPLUS)
        dt = tl.where(ok, dt, 0.0)
        elapsed += tl.sum(dt, 2)
        x_v = load(v_row + t, ok)
        n = 0
        while n < N:
            A2 = (load(A + d * N + n, row) * LOG2E)[None, :, None]
            w_t = load(W_row + n * W_n * VEC + t, there)
            carry = tl.load(end + n, mask=rows & (i > 0), other=0.0)
            a = pieces(exp2(dt * A2), G, R, V)
            if REVERSE:
                _gs, carry = suffix(a, pieces(x_v * w_t, G, R, V), product(a, V), carry, G, R, V)
            else:
                _hs, _kept, group_ends = prefix(a, pieces(dt * x_v * w_t, G, R, V), product(a, V), carry, G, R, V)
                carry = tl.gather(group_ends, g * 0 + (G - 1), 0)
            tl.store(end + n, carry, mask=rows & (g == 0))
            n += 1
        tl.debug_barrier()
        i += 1
    tl.store(steps + segment.to(tl.int64) * (level // N) + index, tl.sum(elapsed, 0), mask=row)


@triton.jit(do_not_specialize=["N", "dim", "size", "segments", "stride", "before"])
def scan_carries(
    ends, steps, A, start, target, N, dim, size, segments, stride, before,
    REVERSE: tl.constexpr, HAS_START: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Run through the segments of each of ``size`` = B * D * N states: what enters segment s goes to
    s * stride - before of target, if that is not outside."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = i < size
    rate = tl.load(A + i % (dim * N), mask=ok, other=0.0) * LOG2E
    carry = tl.load(start + i, mask=ok, other=0.0) if HAS_START else tl.zeros([BLOCK], tl.float32)
    j = 0
    while j < segments:
        s = (segments - 1 - j if REVERSE else j) + i * 0
        tl.store(target + s * stride - before + i, carry, mask=ok & (s * stride >= before))
        decay = exp2(rate * tl.load(steps + s * (size // N) + i // N, mask=ok, other=0.0))
        carry = decay * carry + tl.load(ends + s * size + i, mask=ok, other=0.0)
        j += 1
