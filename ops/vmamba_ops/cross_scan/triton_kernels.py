"""Triton kernels of cross scan and cross merge: a tile [C, H, W] of the image against its four places in the sequences.

Route k is read along the rows, or with ``TURN`` and odd k along the columns; with ``BACK`` the last two run backwards.
A column route wants its tile turned (the compiler passes it through shared memory), and a backward one would be stored
element by element, its addresses falling: instead, groups of V positions are flipped in registers and stored whole.
Strides come in units of XV and YV elements, sides in units of VH and VW: powers of two that show how wide an access
may be.
"""

import triton
import triton.language as tl

# Sizes and strides the compiler need not know anything about: one compilation serves every shape.
_OPEN = ["HU", "WU", "blocks_c", "blocks_h", "blocks_w", "x_b", "x_k", "x_c", "x_h", "x_w", "y_b", "y_k", "y_c", "y_l"]


@triton.jit
def _flip(x, V: tl.constexpr):
    """Reverse every group of V positions along the last of three axes."""
    if V == 1:
        return x
    else:
        shape: tl.constexpr = x.shape
        even, odd = tl.split(tl.reshape(x, [shape[0], shape[1], shape[2] // 2, 2]))
        return tl.reshape(tl.join(_flip(odd, V // 2), _flip(even, V // 2)), [shape[0], shape[1], shape[2]])


@triton.jit
def _place(i, j, stride, length, V: tl.constexpr, BACKWARD: tl.constexpr):
    """Where (i, j), j the faster, is in the sequence; running backwards, where the flipped group of V puts it."""
    if BACKWARD:
        return length - V - i * stride - (j // V) * V + j % V
    else:
        return i * stride + j


@triton.jit
def _tile(blocks_c, blocks_h, blocks_w, BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr):
    """This program's image and its channels, rows and columns."""
    pid = tl.program_id(0)
    w = (pid % blocks_w) * BW + tl.arange(0, BW)
    pid = pid // blocks_w
    h = (pid % blocks_h) * BH + tl.arange(0, BH)
    pid = pid // blocks_h
    c = (pid % blocks_c) * BC + tl.arange(0, BC)
    return (pid // blocks_c).to(tl.int64), c, h, w


@triton.jit
def _image(x, c, h, w, x_c, x_h, x_w, CF: tl.constexpr, XV: tl.constexpr):
    """Pointers [C, H, W] into one image, channel-first or channel-last."""
    c, h, w = c.to(tl.int64)[:, None, None], h.to(tl.int64)[None, :, None], w[None, None, :]
    if CF:
        return x + (c * x_c + h * x_h) * XV + w
    else:
        return x + (h * x_h + w * x_w) * XV + c


@triton.jit
def _pointers(
    y, c, h, w, H, W, y_c, y_l, TURNED: tl.constexpr, BACKWARD: tl.constexpr,
    CF: tl.constexpr, YV: tl.constexpr, VH: tl.constexpr, VW: tl.constexpr,
):  # fmt: skip
    """Pointers into one route's sequence: [C, H, W], or turned [C, W, H]."""
    if TURNED:
        l = _place(w[None, :, None], h[None, None, :], H, H * W, VH if CF else 1, BACKWARD)
    else:
        l = _place(h[None, :, None], w[None, None, :], W, H * W, VW if CF else 1, BACKWARD)
    c = c.to(tl.int64)[:, None, None]
    return y + c * y_c * YV + l if CF else y + l.to(tl.int64) * y_l * YV + c


@triton.jit
def _put(
    y, value, c, h, w, C, H, W, y_c, y_l, TURNED: tl.constexpr, BACKWARD: tl.constexpr,
    CF: tl.constexpr, YV: tl.constexpr, VH: tl.constexpr, VW: tl.constexpr,
):  # fmt: skip
    """Store the tile [C, H, W] into one route's sequence."""
    pointer = _pointers(y, c, h, w, H, W, y_c, y_l, TURNED, BACKWARD, CF, YV, VH, VW)
    if TURNED:
        ok = (c < C)[:, None, None] & (w < W)[None, :, None] & (h < H)[None, None, :]
        value = tl.permute(value, (0, 2, 1))
        tl.store(pointer, _flip(value, VH) if BACKWARD and CF else value, mask=ok)
    else:
        ok = (c < C)[:, None, None] & (h < H)[None, :, None] & (w < W)[None, None, :]
        tl.store(pointer, _flip(value, VW) if BACKWARD and CF else value, mask=ok)


@triton.jit
def _get(
    y, c, h, w, C, H, W, y_c, y_l, TURNED: tl.constexpr, BACKWARD: tl.constexpr,
    CF: tl.constexpr, YV: tl.constexpr, VH: tl.constexpr, VW: tl.constexpr,
):  # fmt: skip
    """The tile [C, H, W] of one route's sequence."""
    pointer = _pointers(y, c, h, w, H, W, y_c, y_l, TURNED, BACKWARD, CF, YV, VH, VW)
    if TURNED:
        ok = (c < C)[:, None, None] & (w < W)[None, :, None] & (h < H)[None, None, :]
        value = tl.load(pointer, mask=ok)
        return tl.permute(_flip(value, VH) if BACKWARD and CF else value, (0, 2, 1))
    else:
        ok = (c < C)[:, None, None] & (h < H)[None, :, None] & (w < W)[None, None, :]
        value = tl.load(pointer, mask=ok)
        return _flip(value, VW) if BACKWARD and CF else value


@triton.jit(do_not_specialize=_OPEN)
def cross_scan(
    x, y, C, HU, WU, blocks_c, blocks_h, blocks_w, x_b, x_k, x_c, x_h, x_w, y_b, y_k, y_c, y_l,
    TURN: tl.constexpr, BACK: tl.constexpr, SLICES: tl.constexpr, X_CF: tl.constexpr, Y_CF: tl.constexpr,
    XV: tl.constexpr, YV: tl.constexpr, VH: tl.constexpr, VW: tl.constexpr,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Every route's sequence from the image, or from its own slice of it."""
    b, c, h, w = _tile(blocks_c, blocks_h, blocks_w, BC, BH, BW)
    H, W = HU * VH, WU * VW
    ok = (c < C)[:, None, None] & (h < H)[None, :, None] & (w < W)[None, None, :]
    image = _image(x + b * x_b * XV, c, h, w, x_c, x_h, x_w, X_CF, XV)
    value = tl.load(image, mask=ok)
    for k in tl.static_range(4):
        if SLICES > 1 and k > 0:
            value = tl.load(image + k * x_k * XV, mask=ok)
        route = y + (b * y_b + k * y_k) * YV
        _put(route, value, c, h, w, C, H, W, y_c, y_l, TURN and k % 2 == 1, BACK and k > 1, Y_CF, YV, VH, VW)


@triton.jit(do_not_specialize=_OPEN)
def cross_merge(
    x, y, C, HU, WU, blocks_c, blocks_h, blocks_w, x_b, x_k, x_c, x_h, x_w, y_b, y_k, y_c, y_l,
    TURN: tl.constexpr, BACK: tl.constexpr, SLICES: tl.constexpr, X_CF: tl.constexpr, Y_CF: tl.constexpr,
    XV: tl.constexpr, YV: tl.constexpr, VH: tl.constexpr, VW: tl.constexpr,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The adjoint: the four routes put back, added in float32 (float64 if WIDE), or each its own slice."""
    b, c, h, w = _tile(blocks_c, blocks_h, blocks_w, BC, BH, BW)
    H, W = HU * VH, WU * VW
    ok = (c < C)[:, None, None] & (h < H)[None, :, None] & (w < W)[None, None, :]
    image = _image(x + b * x_b * XV, c, h, w, x_c, x_h, x_w, X_CF, XV)
    values = ()
    for k in tl.static_range(4):
        route = y + (b * y_b + k * y_k) * YV
        value = _get(route, c, h, w, C, H, W, y_c, y_l, TURN and k % 2 == 1, BACK and k > 1, Y_CF, YV, VH, VW)
        if SLICES > 1:
            tl.store(image + k * x_k * XV, value, mask=ok)
        else:
            values = values + (value.to(tl.float64 if WIDE else tl.float32),)  # noqa: RUF005 (Triton has no starred tuples)
    if SLICES == 1:
        # Backward routes next to their forward ones, as the definition adds them; unidi in order.
        if BACK:
            total = (values[0] + values[2]) + (values[1] + values[3])
        else:
            total = values[0] + values[1] + values[2] + values[3]
        tl.store(image, total.to(x.dtype.element_ty), mask=ok)
