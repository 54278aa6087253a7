"""Triton kernels of cross scan and cross merge for small maps that lie densely, channels first, on both sides.

Channel after channel without a gap, an image is one row of C * L numbers and so is each of its sequences: programs take
pieces of the row, whatever channels they fall into, so that no lane is idle and every store is 16 bytes wide where the
tile of ``triton_kernels`` would keep a power of two of rows and columns (7 x 7 of 8 x 8) and store 2 bytes at a time.
What is read out of order (columns, backward routes) lies within a map of at most ``LARGEST`` numbers, in the L1 cache.
"""

import triton
import triton.language as tl

LARGEST = 256  # positions; on larger maps turning a tile in shared memory is the faster way
BLOCK = 2048
WARPS = 4

_OPEN = ["size", "blocks", "x_b", "x_k", "y_b", "y_k"]


@triton.jit
def _place(o, l, H: tl.constexpr, W: tl.constexpr, TURNED: tl.constexpr, BACKWARD: tl.constexpr):
    """Where position ``l`` (at ``o`` in the row) of the one side is in the row of the other; turned, H counts fastest
    in ``l`` and W in the result."""
    if TURNED:
        at = (l % H) * W + l // H
        return o - l + (H * W - 1 - at if BACKWARD else at)
    else:
        return o - l + (H * W - 1 - l) if BACKWARD else o


@triton.jit(do_not_specialize=_OPEN)
def cross_scan(
    x, y, size, blocks, x_b, x_k, y_b, y_k,
    TURN: tl.constexpr, BACK: tl.constexpr, SLICES: tl.constexpr, V: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Every route's sequence from the image; ``size`` = C * L and the strides in units of V."""
    pid = tl.program_id(0)
    b = (pid // blocks).to(tl.int64)
    o = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    ok = o < size * V
    l = o % (H * W)
    for k in tl.static_range(4):
        image = x + (b * x_b + (k * x_k if SLICES > 1 else 0)) * V
        value = tl.load(image + _place(o, l, H, W, TURN and k % 2 == 1, BACK and k > 1), mask=ok)
        tl.store(y + (b * y_b + k * y_k) * V + o, value, mask=ok)


@triton.jit(do_not_specialize=_OPEN)
def cross_merge(
    x, y, size, blocks, x_b, x_k, y_b, y_k,
    TURN: tl.constexpr, BACK: tl.constexpr, SLICES: tl.constexpr, V: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The adjoint: the four routes put back, added in float32 (float64 if WIDE), or each its own slice."""
    pid = tl.program_id(0)
    b = (pid // blocks).to(tl.int64)
    o = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    ok = o < size * V
    l = o % (H * W)
    values = ()
    for k in tl.static_range(4):
        place = _place(o, l, W, H, TURN and k % 2 == 1, BACK and k > 1)
        value = tl.load(y + (b * y_b + k * y_k) * V + place, mask=ok)
        if SLICES > 1:
            tl.store(x + (b * x_b + k * x_k) * V + o, value, mask=ok)
        else:
            values = values + (value.to(tl.float64 if WIDE else tl.float32),)  # noqa: RUF005 (Triton has no starred tuples)
    if SLICES == 1:
        # Backward routes next to their forward ones, as the definition adds them; unidi in order.
        if BACK:
            total = (values[0] + values[2]) + (values[1] + values[3])
        else:
            total = values[0] + values[1] + values[2] + values[3]
        tl.store(x + b * x_b * V + o, total.to(x.dtype.element_ty), mask=ok)
