"""Tile-level parts of the Triton scan: softplus, the tile's layout, and the linear recurrence both ways.

A tile is [G, R, V]: R channels by G * V consecutive positions, position g * V + v. The V positions of a group lie in
one thread and the groups across lanes, so the recurrence is: each group's (product, end) in registers, a prefix over
the groups by log2(G) lane exchanges (Kogge-Stone), and each group again from its true start. Both directions cost the
same, which ``tl.associative_scan(reverse=True)`` does not give: it flips every element across the lanes and back.
The axis order matters: with G first the compiler puts the groups, not the channels, across the lanes.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)

if triton.knobs.runtime.interpret:

    @triton.jit
    def exp2(x):
        return tl.exp2(x)

    @triton.jit
    def _log2(x):
        return tl.log2(x)

    @triton.jit
    def _reciprocal(x):
        return 1.0 / x
else:
    # The hardware's own, flushing denormals: Triton's exp2 spends three more instructions on them, its log2 is a
    # library call of about 20, its division one of about 8. Errors: 2 ulp, 2^-22 absolute, 1 ulp.

    @triton.jit
    def exp2(x):
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)

    @triton.jit
    def _log2(x):
        return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)

    @triton.jit
    def _reciprocal(x):
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def step(z, SOFTPLUS: tl.constexpr):
    """(dt, d dt / d z); softplus is linear above 20, as torch's, and exact to rounding where exp(z) is small."""
    if SOFTPLUS:
        e = exp2(z * LOG2E)
        series = e * (1.0 - e * (0.5 - e * (0.33333334 - e * (0.25 - e * 0.2))))
        dt = tl.where(e < 0.0625, series, _log2(1.0 + e) * _LN2)
        return tl.where(z > 20.0, z, dt), tl.where(z > 20.0, 1.0, e * _reciprocal(1.0 + e))
    else:
        return z, tl.full(z.shape, 1.0, tl.float32)


@triton.jit
def pieces(x, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr):
    """[G, R, V] -> V tensors [G, R]; the split halves are even and odd positions, so their pieces interleave."""
    if V == 1:
        return (tl.reshape(x, [G, R]),)
    elif V == 2:
        even, odd = tl.split(x)
        return (even, odd)
    else:
        even, odd = tl.split(tl.reshape(x, [G, R, V // 2, 2]))
        e = pieces(even, G, R, V // 2)
        o = pieces(odd, G, R, V // 2)
        if V == 4:
            return (e[0], o[0], e[1], o[1])
        else:
            return (e[0], o[0], e[1], o[1], e[2], o[2], e[3], o[3])


@triton.jit
def tile(p, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr):
    """The inverse of ``pieces``."""
    if V == 1:
        x = p[0]
    elif V == 2:
        x = tl.join(p[0], p[1])
    elif V == 4:
        x = tl.join(tl.join(p[0], p[2]), tl.join(p[1], p[3]))
    else:
        even = tl.join(tl.join(p[0], p[4]), tl.join(p[2], p[6]))
        odd = tl.join(tl.join(p[1], p[5]), tl.join(p[3], p[7]))
        x = tl.join(even, odd)
    return tl.reshape(x, [G, R, V])


@triton.jit
def product(a, V: tl.constexpr):
    """The product of V tensors."""
    P = a[0]
    for i in tl.static_range(1, V):
        P = P * a[i]
    return P


@triton.jit
def prefix(a, x, P, carry, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr):
    """h[t] = a[t] h[t-1] + x[t] from ``carry`` [G, R] (the same for every g).

    Returns V tensors h [G, R], V tensors a[t] h[t-1] (h - x would lose it where x is large), and each group's last h.
    """
    g = tl.broadcast_to(tl.arange(0, G)[:, None], [G, R])
    Q = x[0]
    for i in tl.static_range(1, V):
        Q = a[i] * Q + x[i]
    # With the carry in group 0 and its product set to 0, an exchange beyond the left edge adds 0: no selects needed.
    Q = tl.where(g == 0, P * carry + Q, Q)
    P = tl.where(g == 0, 0.0, P)
    for j in tl.static_range(6):
        if (1 << j) < G:
            left = tl.maximum(g - (1 << j), 0)
            Q = P * tl.gather(Q, left, 0) + Q
            P = P * tl.gather(P, left, 0)
    h = tl.where(g == 0, carry, tl.gather(Q, tl.maximum(g - 1, 0), 0))
    hs, kept = (), ()
    for i in tl.static_range(V):
        kept = kept + (a[i] * h,)  # noqa: RUF005
        h = a[i] * h + x[i]
        hs = hs + (h,)  # noqa: RUF005
    return hs, kept, Q


@triton.jit
def suffix(a, c, P, carry, G: tl.constexpr, R: tl.constexpr, V: tl.constexpr):
    """g[t] = c[t] + r[t+1], r[t] = a[t] g[t], from r = ``carry`` at the right: V tensors g [G, R] and r at the left."""
    g = tl.broadcast_to(tl.arange(0, G)[:, None], [G, R])
    Q = a[V - 1] * c[V - 1]
    for i in tl.static_range(1, V):
        Q = a[V - 1 - i] * (c[V - 1 - i] + Q)
    Q = tl.where(g == G - 1, P * carry + Q, Q)
    P = tl.where(g == G - 1, 0.0, P)
    for j in tl.static_range(6):
        if (1 << j) < G:
            right = tl.minimum(g + (1 << j), G - 1)
            Q = P * tl.gather(Q, right, 0) + Q
            P = P * tl.gather(P, right, 0)
    r = tl.where(g == G - 1, carry, tl.gather(Q, tl.minimum(g + 1, G - 1), 0))
    first = tl.gather(Q, g * 0, 0)
    gs = ()
    for i in tl.static_range(V):
        adjoint = c[V - 1 - i] + r
        r = a[V - 1 - i] * adjoint
        gs = (adjoint,) + gs  # noqa: RUF005 (Triton has no starred tuples)
    return gs, first
