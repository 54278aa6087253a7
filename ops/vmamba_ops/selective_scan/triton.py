"""The selective scan in Triton: torch operators around the kernels of ``triton_kernels``.

``vmamba_ops::selective_scan_triton`` and its backward are ``triton_op``s: ``torch.compile`` and ``torch.export`` see
the kernels themselves. Plain eager calls go around the dispatcher, through an ``autograd.Function`` over the same code.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.library import triton_op

from .. import flops
from ..eager import plain
from ..triton_launch import Launch
from . import triton_backward, triton_kernels
from .autograd import Eager, gradients
from .triton_plan import Tile, blocks_each, ceil_div, segments, tiles, unit


def _rows(tensor: Tensor) -> Tensor:
    """``tensor`` with a last stride of 1: the only demand on strides."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _plain(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """The small tensors, contiguous in float32; ``stand_in`` where there is none."""
    return stand_in if tensor is None else tensor.float().contiguous()


class _Problem:
    """All that follows from shapes, strides, dtypes and flags: sizes in units of the strides, tiles, and launches."""

    def __init__(self, device, u_shape, B_shape, strides, dtypes, has_D, has_bias, softplus):
        self.batch, self.dim, self.positions = u_shape
        self.groups, self.states = B_shape[1:3]
        self.per_group = self.dim // self.groups
        self.level = self.batch * self.dim * self.states
        self.vec = unit(self.positions, *(s for of in strides for s in of[:-1]))
        self.length = self.positions // self.vec
        self.strides = [self.units(of) for of in strides]  # of u, delta, B, C
        self.scalars = {"HAS_D": has_D, "HAS_BIAS": has_bias, "SOFTPLUS": softplus}
        self.forward, self.backward = tiles(self.positions, self.states, dtypes[0].itemsize, self.vec)
        outer = self.batch * self.groups
        self.forward_each = blocks_each(device, self.per_group, self.forward, outer)
        self.backward_each = blocks_each(device, self.per_group, self.backward, outer)
        each = self.backward_each[1]
        self.forward_parts = segments(device, self.grid(self.forward) * self.forward.warps, self.chunks(self.forward))
        self.backward_parts = segments(device, outer * each * self.backward.warps, self.chunks(self.backward))
        self._launches: dict[tuple, Launch] = {}

    def units(self, strides: tuple) -> tuple:
        """All strides but the last, which is 1."""
        return tuple(s // self.vec for s in strides[:-1])

    @property
    def dense(self) -> tuple:
        """The strides of out, du and ddelta."""
        return self.dim * self.length, self.length

    def chunks(self, tile: Tile) -> int:
        return ceil_div(self.positions, tile.positions)

    def grid(self, tile: Tile) -> int:
        return self.batch * self.groups * ceil_div(self.per_group, tile.rows)

    def sizes(self, tile: Tile) -> dict:
        return {"VEC": self.vec, "G": tile.groups, "R": tile.rows, "V": tile.each}

    def run(self, wrap: bool, key: tuple, make: Callable[[], tuple], *tensors: Tensor) -> None:
        """Start the launch of that key; ``make`` gives what ``Launch`` takes, when it is first needed."""
        launch = None if wrap else self._launches.get(key)
        if launch is None:
            kernel, grid, scalars, constants, tile = make()
            launch = Launch(kernel, grid, scalars, constants, tile.warps, tile.registers)
            if not wrap:  # then sizes may be symbols, in the key too
                self._launches[key] = launch
        launch(*tensors, wrap=wrap)


known = cache(_Problem)


def _problem(wrap, u, delta, B, C, has_D, has_bias, softplus) -> _Problem:
    make = _Problem if wrap else known  # a compiler's sizes may be symbols, which cannot be looked up
    strides, dtypes = (u.stride(), delta.stride(), B.stride(), C.stride()), (u.dtype, delta.dtype, B.dtype, C.dtype)
    return make(u.device, u.shape, B.shape, strides, dtypes, has_D, has_bias, softplus)


def _segment_carries(p, reverse, wrap, v, v_strides, delta, A, W, bias, start, target, stride):
    """Fill ``target`` with what enters each segment of the sequence; v and W are u and B, or in ``reverse`` dout and C.

    That of segment s goes to s * ``stride``; forward to one level before, where a chunk looks for what came before it.
    """
    tile, (parts, chunks) = (p.backward, p.backward_parts) if reverse else (p.forward, p.forward_parts)
    ends, steps = A.new_empty((parts, p.level)), A.new_empty((parts, p.batch * p.dim))
    key = reverse, v.dtype, v_strides, start is None

    def make_ends():
        scalars = (p.groups, p.per_group, p.states, p.length, chunks, p.chunks(tile), p.level)
        scalars += (*v_strides, *p.strides[1], *p.strides[3 if reverse else 2])
        flags = {name: p.scalars[name] for name in ("HAS_BIAS", "SOFTPLUS")}
        constants = flags | {"REVERSE": reverse} | p.sizes(tile)
        return triton_kernels.scan_segment_ends, (p.grid(tile), parts), scalars, constants, tile

    def make_carries():
        block = 128
        scalars = (p.states, p.dim, p.level, parts, stride, 0 if reverse else p.level)
        constants = {"REVERSE": reverse, "HAS_START": start is not None, "BLOCK": block}
        return triton_kernels.scan_carries, (ceil_div(p.level, block),), scalars, constants, Tile(1, 1, block, 4)

    p.run(wrap, ("ends", *key), make_ends, v, delta, A, W, bias, ends, steps)
    p.run(wrap, ("carries", *key), make_carries, ends, steps, A, ends if start is None else start, target)


def _forward(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, wrap=False):
    """out, and the states after every chunk of the backward, (saved, B, D, N): the last level is the last state."""
    u, delta, B, C = _rows(u), _rows(delta), _rows(B), _rows(C)
    A = _plain(A, A)
    p = _problem(wrap, u, delta, B, C, D is not None, delta_bias is not None, delta_softplus)
    D, bias = _plain(D, A), _plain(delta_bias, A)
    tile, spacing = p.forward, p.backward.positions
    saved = p.chunks(p.backward)
    out = torch.empty((p.batch, p.dim, p.positions), dtype=out_dtype, device=u.device)
    states = A.new_empty((saved, p.batch, p.dim, p.states))
    if p.states == 1 and saved == 1:

        def make_short():
            each, blocks = p.forward_each
            scalars = (p.groups, p.per_group, p.length, each, blocks)
            scalars += (*p.strides[0], *p.strides[1], *p.strides[2][:2], *p.strides[3][:2], *p.dense)
            grid = (p.batch * p.groups * blocks,)
            return triton_kernels.scan_forward_short, grid, scalars, p.scalars | p.sizes(tile), tile

        p.run(wrap, ("short", out_dtype), make_short, u, delta, A, B, C, D, bias, out, states)
        return out, states
    parts, chunks = p.forward_parts
    if parts > 1:
        stride = chunks * (tile.positions // spacing) * p.level
        _segment_carries(p, False, wrap, u, p.strides[0], delta, A, B, bias, None, states, stride)

    def make():
        scalars = (p.groups, p.per_group, p.states, p.length, chunks, p.chunks(tile), p.level, saved)
        scalars += (*(s for of in p.strides for s in of), *p.dense)
        constants = {"ONE": p.states == 1, **p.scalars, "SPLIT": parts > 1, "EVERY": spacing // tile.each}
        return triton_kernels.scan_forward, (p.grid(tile), parts), scalars, constants | p.sizes(tile), tile

    p.run(wrap, ("forward", out_dtype), make, u, delta, A, B, C, D, bias, out, states)
    return out, states


def _backward(dout, dlast, states, u, delta, A, B, C, D, delta_bias, delta_softplus, wrap=False):
    given = (u, delta, A, B, C, D, delta_bias)
    u, delta, B, C, dout = _rows(u), _rows(delta), _rows(B), _rows(C), _rows(dout)
    A = _plain(A, A)
    p = _problem(wrap, u, delta, B, C, D is not None, delta_bias is not None, delta_softplus)
    D, bias = _plain(D, A), _plain(delta_bias, A)
    if any(s % p.vec for s in dout.stride()[:-1]):  # the unit is the forward's, because the tiles follow from it
        dout = dout.contiguous()
    dout_strides = p.units(dout.stride())
    tile, (each, blocks), (parts, chunks) = p.backward, p.backward_each, p.backward_parts
    total, wide = p.chunks(tile), (p.batch, p.dim, p.positions)
    du = torch.empty(wide, dtype=u.dtype, device=u.device)
    ddelta = torch.empty(wide, dtype=delta.dtype, device=u.device)
    dBC = A.new_empty((blocks, 2, *B.shape))
    sums = A.new_empty((parts * p.batch, p.dim * (p.states + 2)))
    adjoint = A.new_empty((parts, p.level)) if parts > 1 or p.states > 1 else states
    last = None if dlast is None else dlast.float().contiguous()
    if parts > 1:
        _segment_carries(p, True, wrap, dout, dout_strides, delta, A, C, bias, last, adjoint, p.level)
    flags = {"HAS_LAST": last is not None, **p.scalars}
    key = dout.dtype, dout_strides, last is None
    results = (du, ddelta, dBC, sums)
    if p.states == 1 and total == 1:

        def make_short():
            scalars = (p.batch, p.groups, p.per_group, p.length, each, blocks, *dout_strides)
            scalars += (*p.strides[0], *p.strides[1], *p.strides[2][:2], *p.strides[3][:2], *p.dense)
            grid = (p.batch * p.groups * blocks,)
            return triton_backward.scan_backward_short, grid, scalars, flags | p.sizes(tile), tile

        inputs = (dout, dout if last is None else last, u, delta, A, B, C, D, bias)
        p.run(wrap, ("short", *key), make_short, *inputs, *results)
    else:

        def make():
            scalars = (p.batch, p.groups, p.per_group, p.states, p.length, chunks, total, p.level, each, blocks)
            scalars += (*dout_strides, *(s for of in p.strides for s in of), *p.dense)
            kernel = triton_backward.scan_backward_one if p.states == 1 else triton_backward.scan_backward_many
            grid = (p.batch * p.groups * blocks, parts)
            return kernel, grid, scalars, flags | {"SPLIT": parts > 1} | p.sizes(tile), tile

        inputs = (dout, states if last is None else last, states, adjoint, u, delta, A, B, C, D, bias)
        p.run(wrap, ("backward", *key), make, *inputs, *results)
    dBC = dBC[0] if blocks == 1 else dBC.sum(0)
    sums = sums[0] if len(sums) == 1 else sums.sum(0)
    dA, dD, dbias = sums.split((p.dim * p.states, p.dim, p.dim))
    results = (du, ddelta, dA.view(p.dim, p.states), dBC[0], dBC[1], dD, dbias)
    # All but the first two are views of one buffer, which an operator's outputs may not share: there they are copied.
    return tuple(
        [
            None if t is None else g.to(t.dtype, copy=wrap and i > 1)
            for i, (g, t) in enumerate(zip(results, given, strict=True))
        ]
    )


@triton_op("vmamba_ops::selective_scan_triton", mutates_args={})
def _scan_op(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    return _forward(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, wrap=True)


@triton_op("vmamba_ops::selective_scan_triton_backward", mutates_args={})
def _backward_op(
    dout: Tensor,
    dlast: Tensor | None,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    gradients = _backward(dout, dlast, states, u, delta, A, B, C, D, delta_bias, delta_softplus, wrap=True)
    return tuple(u.new_empty(0) if g is None else g for g in gradients)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, _ = inputs
    ctx.save_for_backward(output[1], *tensors)
    ctx.set_materialize_grads(False)


def _gradients(ctx, dout, dstates):
    dlast = None if dstates is None else dstates[-1]  # callers see no other level
    run = torch.ops.vmamba_ops.selective_scan_triton_backward
    return (*gradients(ctx, run, (ctx.delta_softplus,), dout, dlast), None, None)


_scan_op.register_autograd(_gradients, setup_context=_save)
flops.register("selective_scan_triton")


def _eager(*inputs):
    out, states = _forward(*inputs)
    return out, states[-1], states


def selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype) -> tuple[Tensor, Tensor]:
    """As ``naive.selective_scan``, with a first derivative only."""
    tensors = (u, delta, A, B, C, D, delta_bias)
    if plain(*tensors):
        return Eager.apply(_eager, (delta_softplus, out_dtype), _backward, (delta_softplus,), *tensors)
    out, states = torch.ops.vmamba_ops.selective_scan_triton(*tensors, delta_softplus, out_dtype)
    return out, states[-1]
