"""Vectors of 512 bits in Numba: 16 float32 or 8 float64 numbers that live in one register where the CPU has such.

LLVM splits them where registers are smaller. Its own vectoriser would need a test for overlap of every two arrays that
a loop touches, and stops at 256 bits; these operations say what is meant. Offsets are in numbers and are not checked.
"""

import math
import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, overload, register_model

BYTES = 64
_FUSE = ("contract",)


class Vector(types.Type):
    """The Numba type of ``lanes`` numbers of type ``scalar``."""

    def __init__(self, scalar: types.Float):
        self.scalar, self.lanes = scalar, BYTES * 8 // scalar.bitwidth
        super().__init__(name=f"vector({scalar} x {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.scalar).get_value_type(), kind.lanes))


def _define(op, method: str) -> None:
    class _Operator(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(args[0], *args)

    def lower(context, builder, sig, args):
        return getattr(builder, method)(*args, flags=_FUSE)

    infer_global(op)(_Operator)
    lower_builtin(op, Vector, Vector)(lower)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")


def _constant(kind: ir.VectorType, value) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _ints(kind: ir.VectorType) -> ir.VectorType:
    return ir.VectorType(ir.IntType(32 if isinstance(kind.element, ir.FloatType) else 64), kind.count)


def _pointer(context, builder, array_type, array, offset, kind=None):
    data = context.make_array(array_type)(context, builder, value=array).data
    place = builder.gep(data, [offset])
    return builder.bitcast(place, kind.as_pointer()) if kind else place


def _load(context, builder, array_type, array, offset, kind):
    return builder.load(
        _pointer(context, builder, array_type, array, offset, kind), align=array_type.dtype.bitwidth // 8
    )


def _store(context, builder, array_type, array, offset, vector):
    place = _pointer(context, builder, array_type, array, offset, vector.type)
    builder.store(vector, place, align=array_type.dtype.bitwidth // 8)


def _spread(builder, scalar, kind):
    lane = ir.IntType(32)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, lane(0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _constant(ir.VectorType(lane, kind.count), 0))


def _shuffles(builder, x, y, distance):
    """The two halves of swapping bit ``distance`` of the lane with the choice between x and y."""
    lanes = range(x.type.count)
    index = ir.VectorType(ir.IntType(32), x.type.count)
    low = [n if not n & distance else len(lanes) + n - distance for n in lanes]
    high = [n + distance if not n & distance else len(lanes) + n for n in lanes]
    return tuple(builder.shuffle_vector(x, y, ir.Constant(index, mask)) for mask in (low, high))


@overload(len)
def _lanes_of(x):
    if isinstance(x, Vector):
        lanes = x.lanes
        return lambda x: lanes


@intrinsic
def load(typing, array, offset):
    """array[offset : offset + lanes]."""
    vector = Vector(array.dtype)

    def generate(context, builder, sig, args):
        return _load(context, builder, sig.args[0], args[0], args[1], context.get_value_type(vector))

    return vector(array, types.intp), generate


@intrinsic
def store(typing, array, offset, vector):
    """array[offset : offset + lanes] = vector."""

    def generate(context, builder, sig, args):
        _store(context, builder, sig.args[0], *args)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def spread(typing, array, offset):
    """The number array[offset] in all lanes."""
    vector = Vector(array.dtype)

    def generate(context, builder, sig, args):
        number = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1]))
        return _spread(builder, number, context.get_value_type(vector))

    return vector(array, types.intp), generate


@intrinsic
def fill(typing, array, number):
    """``number`` in all lanes of a vector for ``array``."""
    vector = Vector(array.dtype)

    def generate(context, builder, sig, args):
        return _spread(builder, args[1], context.get_value_type(vector))

    return vector(array, array.dtype), generate


@intrinsic
def choose(typing, x, y, yes, no):
    """Lane by lane ``yes`` where x > y, else (and for NaN) ``no``."""

    def generate(context, builder, sig, args):
        x, y, yes, no = args
        return builder.select(builder.fcmp_ordered(">", x, y), yes, no)

    return x(x, x, x, x), generate


@intrinsic
def prefetch(typing, array, offset):
    """Begin to bring the cache line of array[offset] near."""

    def generate(context, builder, sig, args):
        place = _pointer(context, builder, sig.args[0], args[0], args[1])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, second_level, data = number(0), number(2), number(1)
        builder.call(function, [builder.bitcast(place, byte), read, second_level, data])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def turn(typing, source, i, i_stride, target, j, j_stride):
    """Transpose a square: target[j + c * j_stride + r] = source[i + r * i_stride + c] for c, r < lanes."""
    vector = Vector(source.dtype)

    def generate(context, builder, sig, args):
        source, i, i_stride, target, j, j_stride = args
        kind = context.get_value_type(vector)
        rows = []
        for _ in range(vector.lanes):
            rows.append(_load(context, builder, sig.args[0], source, i, kind))
            i = builder.add(i, i_stride)
        distance = 1
        while distance < vector.lanes:
            for r in range(vector.lanes):
                if not r & distance:
                    pair = rows[r], rows[r + distance]
                    rows[r], rows[r + distance] = _shuffles(builder, *pair, distance)
            distance *= 2
        for row in rows:
            _store(context, builder, sig.args[3], target, j, row)
            j = builder.add(j, j_stride)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate


@intrinsic
def sums(typing, array, offset):
    """The vector whose lane c is the sum of the c-th of ``lanes`` vectors that start at array[offset]."""
    vector = Vector(array.dtype)

    def generate(context, builder, sig, args):
        array, place = args
        kind = context.get_value_type(vector)
        rows = []
        for _ in range(vector.lanes):
            rows.append(_load(context, builder, sig.args[0], array, place, kind))
            place = builder.add(place, place.type(vector.lanes))
        distance = 1
        while distance < vector.lanes:
            pairs = zip(rows[::2], rows[1::2], strict=True)
            rows = [builder.fadd(*_shuffles(builder, x, y, distance)) for x, y in pairs]
            distance *= 2
        return rows[0]

    return vector(array, types.intp), generate


def _polynomial(builder, x, terms):
    """sum of terms[k] x^k."""
    *rest, total = (_constant(x.type, float(term)) for term in terms)
    for term in reversed(rest):
        total = builder.fadd(builder.fmul(total, x, flags=_FUSE), term, flags=_FUSE)
    return total


def _near(function, degree: int, low: float, high: float) -> np.ndarray:
    """Powers' coefficients of the polynomial through ``function`` at the Chebyshev points of [low, high]."""
    chebyshev = np.polynomial.Chebyshev.interpolate(function, degree, domain=[low, high])
    return chebyshev.convert(kind=np.polynomial.Polynomial).coef


def _exp2_slope(r):
    """(2^r - 1) / r."""
    return np.where(r == 0, math.log(2), np.expm1(r * math.log(2)) / np.where(r == 0, 1, r))


@intrinsic
def exp2(typing, x):
    """2^x: x = n + r, |r| <= 1/2, 2^r by a polynomial that is 1 at 0, 2^n by its bits.

    Subnormal results are 0; accurate to a unit or two in the last place.
    """
    single = x.scalar.bitwidth == 32
    mantissa, bias = (23, 127) if single else (52, 1023)
    terms = [1.0, *_near(_exp2_slope, 5 if single else 11, -0.5, 0.5)]

    def generate(context, builder, sig, args):
        (x,) = args
        kind, ints = x.type, _ints(x.type)
        low, high = _constant(kind, float(-bias)), _constant(kind, float(bias + 1))
        x = builder.select(builder.fcmp_ordered(">", low, x), low, x)
        x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
        magic = _constant(kind, 1.5 * 2.0**mantissa + bias)  # adding it leaves n + bias in the low bits
        shifted = builder.fadd(x, magic)
        power = builder.shl(builder.bitcast(shifted, ints), _constant(ints, mantissa))
        r = builder.fsub(x, builder.fsub(shifted, magic))
        return builder.fmul(_polynomial(builder, r, terms), builder.bitcast(power, kind))

    return x(x), generate


@intrinsic
def log1p(typing, z):
    """log(1 + z) for 0 <= z <= 1 as 2 atanh(s), s = z / (2 + z) <= 1/3."""
    terms = [2 / (2 * k + 1) for k in range(8 if z.scalar.bitwidth == 32 else 17)]

    def generate(context, builder, sig, args):
        (z,) = args
        s = builder.fdiv(z, builder.fadd(z, _constant(z.type, 2.0)))
        return builder.fmul(_polynomial(builder, builder.fmul(s, s), terms), s)

    return z(z), generate
