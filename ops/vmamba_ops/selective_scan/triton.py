"""The selective scan in Triton: torch operators around the kernels of ``triton_kernels``.

``vmamba_ops::selective_scan_triton`` and its backward are ``triton_op``s: ``torch.compile`` and ``torch.export`` see
the kernels themselves. Plain eager calls go around the dispatcher, through an ``autograd.Function`` over the same code.
"""

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import triton_op, wrap_triton

from .. import flops
from ..eager import plain
from . import triton_backward, triton_kernels
from .triton_plan import Tile, blocks_each, ceil_div, segments, tiles, unit

_DIRECT = triton.knobs.runtime.interpret  # the interpreter's kernels are no JITFunctions, so they cannot be wrapped


def _rows(tensor: Tensor) -> Tensor:
    """``tensor`` with a last stride of 1: the only demand on strides."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _plain(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """The small tensors, contiguous in float32; ``stand_in`` where there is none."""
    return stand_in if tensor is None else tensor.float().contiguous()


def _launch(kernel, grid: tuple[int, int], wrap: bool, tile: Tile, *arguments, **constants) -> None:
    if wrap and not _DIRECT:
        wrap_triton(kernel)[grid](*arguments, **constants, num_warps=tile.warps)
    else:
        kernel[grid](*arguments, **constants, num_warps=tile.warps, maxnreg=tile.registers)


class _Problem:
    """One call's sizes, the unit of its strides, and the flags of every kernel."""

    def __init__(self, u, delta, A, B, C, D, delta_bias, softplus):
        self.batch, self.dim, length = u.shape
        self.groups, self.states = B.shape[1:3]
        self.per_group = self.dim // self.groups
        self.vec = unit(length, *(s for t in (u, delta, B, C) for s in t.stride()[:-1]))
        self.length = length // self.vec
        self.positions = length
        self.level = self.batch * self.dim * self.states
        self.scalars = {"HAS_D": D is not None, "HAS_BIAS": delta_bias is not None, "SOFTPLUS": softplus}

    def strides(self, *tensors: Tensor) -> list[int]:
        return [s // self.vec for t in tensors for s in t.stride()[:-1]]

    def shared(self, *tensors: Tensor) -> list[int]:
        """The strides of B and C that matter with one state."""
        return [s // self.vec for t in tensors for s in t.stride()[:2]]

    def chunks(self, tile: Tile) -> int:
        return ceil_div(self.positions, tile.positions)

    def grid(self, tile: Tile) -> int:
        return self.batch * self.groups * ceil_div(self.per_group, tile.rows)


def _segment_carries(p, tile, parts, chunks, wrap, v, delta, A, W, bias, start, target, stride, before):
    """Fill ``target`` with what enters each of ``parts`` segments of the sequence.

    Forward, that of segment s goes to s * ``stride`` - ``before``; backward (``before`` 0), to s * ``stride``.
    """
    reverse = before == 0
    ends = v.new_empty(parts, p.level, dtype=torch.float32)
    steps = v.new_empty(parts, p.batch * p.dim, dtype=torch.float32)
    flags = {name: p.scalars[name] for name in ("HAS_BIAS", "SOFTPLUS")}
    _launch(
        triton_kernels.segment_ends, (p.grid(tile), parts), wrap, tile,
        v, delta, A, W, bias, ends, steps,
        p.groups, p.per_group, p.states, p.length, chunks, p.chunks(tile), p.level, *p.strides(v, delta, W),
        REVERSE=reverse, **flags, VEC=p.vec, G=tile.groups, R=tile.rows, V=tile.each,
    )  # fmt: skip
    block = 128
    _launch(
        triton_kernels.carries, (ceil_div(p.level, block), 1), wrap, Tile(1, 1, block, 4),
        ends, steps, A, ends if start is None else start, target, p.states, p.dim, p.level, parts, stride, before,
        REVERSE=reverse, HAS_START=start is not None, BLOCK=block,
    )  # fmt: skip


def _forward(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, wrap):
    u, delta, B, C = _rows(u), _rows(delta), _rows(B), _rows(C)
    A = _plain(A, A)
    p = _Problem(u, delta, A, B, C, D, delta_bias, delta_softplus)
    tile, backward_tile = tiles(p.positions, p.states, u.element_size(), p.vec)
    spacing = backward_tile.positions
    total, saved = p.chunks(tile), ceil_div(p.positions, spacing)
    parts, chunks = segments(u.device, p.grid(tile) * tile.warps, total)
    out = torch.empty((p.batch, p.dim, p.positions), dtype=out_dtype, device=u.device)
    states = torch.empty((saved, p.batch, p.dim, p.states), dtype=torch.float32, device=u.device)
    D, bias = _plain(D, A), _plain(delta_bias, A)
    if p.states == 1 and saved == 1:
        each, blocks = blocks_each(u.device, p.per_group, tile, p.batch * p.groups)
        _launch(
            triton_kernels.forward_short, (p.batch * p.groups * blocks, 1), wrap, tile,
            u, delta, A, B, C, D, bias, out, states,
            p.groups, p.per_group, p.length, each, blocks,
            *p.strides(u, delta), *p.shared(B, C), *p.strides(out),
            **p.scalars, VEC=p.vec, G=tile.groups, R=tile.rows, V=tile.each,
        )  # fmt: skip
        return out, states
    if parts > 1:
        stride = chunks * (tile.positions // spacing) * p.level
        _segment_carries(p, tile, parts, chunks, wrap, u, delta, A, B, bias, None, states, stride, p.level)
    _launch(
        triton_kernels.forward, (p.grid(tile), parts), wrap, tile,
        u, delta, A, B, C, D, bias, out, states,
        p.groups, p.per_group, p.states, p.length, chunks, total, p.level, saved, *p.strides(u, delta, B, C, out),
        ONE=p.states == 1, **p.scalars, SPLIT=parts > 1, EVERY=spacing // tile.each, VEC=p.vec,
        G=tile.groups, R=tile.rows, V=tile.each,
    )  # fmt: skip
    return out, states


def _backward(dout, dlast, states, u, delta, A, B, C, D, delta_bias, delta_softplus, wrap):
    given = (u, delta, A, B, C, D, delta_bias)
    u, delta, B, C, dout = _rows(u), _rows(delta), _rows(B), _rows(C), _rows(dout)
    A = _plain(A, A)
    p = _Problem(u, delta, A, B, C, D, delta_bias, delta_softplus)
    if any(s % p.vec for s in dout.stride()[:-1]):  # the unit is the forward's, because the tiles follow from it
        dout = dout.contiguous()
    tile = tiles(p.positions, p.states, u.element_size(), p.vec)[1]
    total = p.chunks(tile)
    each, blocks = blocks_each(u.device, p.per_group, tile, p.batch * p.groups)
    parts, chunks = segments(u.device, p.batch * p.groups * blocks * tile.warps, total)

    def room(*shape, like=torch.float32):
        return torch.empty(shape, dtype=like, device=u.device)

    du = room(p.batch, p.dim, p.positions, like=u.dtype)
    ddelta = room(p.batch, p.dim, p.positions, like=delta.dtype)
    dBC = room(blocks, 2, *B.shape)
    sums = room(parts * p.batch, p.dim * (p.states + 2))
    adjoint = room(parts, p.level) if parts > 1 or p.states > 1 else states
    D, bias = _plain(D, A), _plain(delta_bias, A)
    last = None if dlast is None else dlast.float().contiguous()
    if parts > 1:
        _segment_carries(p, tile, parts, chunks, wrap, dout, delta, A, C, bias, last, adjoint, p.level, 0)
    if p.states == 1 and total == 1:
        _launch(
            triton_backward.backward_short, (p.batch * p.groups * blocks, 1), wrap, tile,
            dout, dout if last is None else last, u, delta, A, B, C, D, bias, du, ddelta, dBC, sums,
            p.batch, p.groups, p.per_group, p.length, each, blocks,
            *p.strides(dout, u, delta), *p.shared(B, C), *p.strides(du),
            HAS_LAST=last is not None, **p.scalars, VEC=p.vec, G=tile.groups, R=tile.rows, V=tile.each,
        )  # fmt: skip
    else:
        _launch(
            triton_backward.backward_one if p.states == 1 else triton_backward.backward_many,
            (p.batch * p.groups * blocks, parts), wrap, tile,
            dout, states if last is None else last, states, adjoint, u, delta, A, B, C, D, bias, du, ddelta, dBC, sums,
            p.batch, p.groups, p.per_group, p.states, p.length, chunks, total, p.level, each, blocks,
            *p.strides(dout, u, delta, B, C, du),
            HAS_LAST=last is not None, **p.scalars, SPLIT=parts > 1, VEC=p.vec,
            G=tile.groups, R=tile.rows, V=tile.each,
        )  # fmt: skip
    dBC = dBC[0] if blocks == 1 else dBC.sum(0)
    sums = sums[0] if len(sums) == 1 else sums.sum(0)
    dA, dD, dbias = sums.split((p.dim * p.states, p.dim, p.dim))
    gradients = (du, ddelta, dA.view(p.dim, p.states), dBC[0], dBC[1], dD, dbias)
    # An operator's outputs may not share memory, so it copies the slices that eager gives as they are.
    return tuple(
        None if t is None else g.to(t.dtype, copy=wrap and g._is_view()) for g, t in zip(gradients, given, strict=True)
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
    states, *tensors = ctx.saved_tensors
    if dout is None and dstates is None:
        return (None,) * 9
    if dout is None:
        dout = torch.zeros_like(tensors[0])
    dlast = None if dstates is None else dstates[-1]  # callers see no other level
    gradients = torch.ops.vmamba_ops.selective_scan_triton_backward(dout, dlast, states, *tensors, ctx.delta_softplus)
    return (*(None if t is None else g for t, g in zip(tensors, gradients, strict=True)), None, None)


_scan_op.register_autograd(_gradients, setup_context=_save)
flops.register("selective_scan_triton")


class _Scan(torch.autograd.Function):
    """The same for plain eager calls, without the dispatcher."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype):
        out, states = _forward(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, wrap=False)
        ctx.save_for_backward(states, u, delta, A, B, C, D, delta_bias)
        ctx.delta_softplus = delta_softplus
        ctx.set_materialize_grads(False)
        return out, states[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dlast):
        if dout is None and dlast is None:
            return (None,) * 9
        states, *tensors = ctx.saved_tensors
        if dout is None:
            dout = torch.zeros_like(tensors[0])
        return (*_backward(dout, dlast, states, *tensors, ctx.delta_softplus, wrap=False), None, None)


def selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype) -> tuple[Tensor, Tensor]:
    """As ``naive.selective_scan``, with a first derivative only."""
    if plain(u, delta, A, B, C, D, delta_bias):
        return _Scan.apply(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype)
    out, states = torch.ops.vmamba_ops.selective_scan_triton(
        u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype
    )
    return out, states[-1]
