"""The selective scan in CUDA C++ (scan.cu, compiled by ``nvrtc``): variants ``core``, ``oflex``, nrow 1, 2 and 4.

``vmamba_ops::selective_scan_cuda`` and its backward are ``torch.library`` operators with fake kernels, so
``torch.compile``, ``torch.export`` and dispatch modes see them; plain eager calls go around the dispatcher.
Results do not change from run to run: every sum has a fixed order.
"""

from dataclasses import dataclass
from functools import cache, reduce
from operator import or_

import torch
from torch import Tensor

from .. import flops, nvrtc
from ..eager import plain
from . import plan as plans
from .autograd import Eager, gradients

_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_NROWS = (0, 1, 2, 4)
_ALONE = 16  # parts that one thread adds

torch.library.define(
    "vmamba_ops::selective_scan_cuda",
    "(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, bool delta_softplus, "
    "ScalarType out_dtype, int nrow, int back_nrow) -> (Tensor out, Tensor last_state, Tensor saved)",
)
torch.library.define(
    "vmamba_ops::selective_scan_cuda_backward",
    "(Tensor dout, Tensor? dlast, Tensor saved, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? delta_bias, bool delta_softplus, int nrow) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@cache
def _arch(device: int) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        raise RuntimeError(
            f"cuda:{device} ({torch.cuda.get_device_name(device)}) has compute capability {major}.{minor}; the CUDA "
            "scan takes 8.0 and newer; use backend=naive"
        )
    return f"sm_{major}{minor}"


@cache
def _kernel(plan: plans.Plan, device: int) -> nvrtc.Kernel:
    with torch.cuda.device(device):
        source = plans.source(plan.kernel)
        return nvrtc.Kernel(source, "scan", plan.macros(), _arch(device), plan.entry, device)


@cache
def _adder(device: int) -> nvrtc.Kernel:
    any_plan = plans.plan("backward", 64, 1, "float32", "float32", True, 1)
    with torch.cuda.device(device):
        return nvrtc.Kernel(plans.source("backward"), "scan", any_plan.macros(), _arch(device), "scan_sums", device)


def _common(u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> torch.dtype:
    """The dtype kernels read: that of the inputs, float32 where they differ."""
    return u.dtype if u.dtype is delta.dtype and u.dtype is B.dtype and u.dtype is C.dtype else torch.float32


def _dense(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return (tensor if tensor.dtype is dtype else tensor.to(dtype)).contiguous()


def _rows(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As it lies in memory, if its last dimension is dense."""
    tensor = tensor if tensor.dtype is dtype else tensor.to(dtype)
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _vector(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _dense(tensor, torch.float32)


def _ready(u, delta, A, B, C, D, delta_bias) -> tuple:
    """The inputs as kernels read them."""
    dtype = _common(u, delta, B, C)
    wide = _dense(u, dtype), _dense(delta, dtype), _rows(B, dtype), _rows(C, dtype)
    return (*wide, _vector(A), _vector(D), _vector(delta_bias))


@dataclass(frozen=True)
class _Launch:
    """All of a launch that does not change between calls of one shape; a slice is some of the states."""

    kernel: nvrtc.Kernel
    grid: tuple[int, int]
    threads: int
    splits: int
    slices: tuple[tuple[int, tuple[int, ...]], ...]  # bytes of shared memory, Problem's fields from B_image to staging

    def __call__(self, inputs: tuple[int, ...], results: tuple[int, ...]) -> None:
        """Addresses: u, delta, B, C, A, D, bias; saved, out, last, dout, dlast, du, ddelta, dB, dC, dA, dD, dbias."""
        for shared, fields in self.slices:
            self.kernel.start(self.grid, self.threads, shared, (*inputs, *fields, *results))
            inputs = (*inputs[:5], 0, inputs[6])  # D counts once


@cache
def _launch(direction, device, u_shape, B_shape, B_strides, C_strides, dtype, out, softplus, nrow, aligned) -> _Launch:
    """``aligned``: every tensor starts at 16 bytes."""
    (batch, dim, length), (_, groups, states, _) = u_shape, B_shape
    per_group, most, units = dim // groups, min(states, plans.SLICE), batch * groups
    strides, name = (*B_strides[:3], *C_strides[:3]), _NAMES[dtype]
    aligned = aligned and not reduce(or_, strides) * dtype.itemsize & 15
    plan = plans.plan(direction, length, most, name, _NAMES[out], softplus, nrow, aligned, states > plans.SLICE)
    rows = plan.rows(per_group, units, most)
    splits, tiles = -(-per_group // rows), plans.tiles(length, states, name)
    slices = []
    for first in range(0, states, plans.SLICE):
        here = min(plans.SLICE, states - first)
        staging, shared = plan.shared(rows, here)
        sizes = (groups, per_group, length, tiles, splits, rows, here, first, states, staging)
        slices.append((shared, (*strides, *sizes)))
    return _Launch(_kernel(plan, device), (units * splits, 1), plan.warps * 32, splits, tuple(slices))


def _addresses(u, delta, B, C, A, D, bias) -> tuple[tuple[int, ...], bool]:
    """Of all inputs, and whether the large ones start at 16 bytes."""
    u_, delta_, B_, C_ = u.data_ptr(), delta.data_ptr(), B.data_ptr(), C.data_ptr()
    small = A.data_ptr(), 0 if D is None else D.data_ptr(), 0 if bias is None else bias.data_ptr()
    return (u_, delta_, B_, C_, *small), not (u_ | delta_ | B_ | C_) & 15


def _forward(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, nrow, back_nrow, save=True):
    u, delta, B, C, A, D, bias = _ready(u, delta, A, B, C, D, delta_bias)
    states, dtype = A.shape[1], u.dtype
    sliced = states > plans.SLICE
    direct = out_dtype if (out_dtype is torch.float32 or out_dtype is dtype) and not sliced else torch.float32
    inputs, aligned = _addresses(u, delta, B, C, A, D, bias)
    how = u.device.index, u.shape, B.shape, B.stride(), C.stride(), dtype, direct, delta_softplus, nrow, aligned
    launch = _launch("forward", *how)
    out = (torch.zeros_like if sliced else torch.empty_like)(u, dtype=direct)
    last = A.new_empty((u.shape[0], *A.shape))
    saved = A.new_empty(_saved_shape(u.shape, states, dtype)) if save else None
    launch(inputs, (saved.data_ptr() if save else 0, out.data_ptr(), last.data_ptr(), 0, 0, 0, 0, 0, 0, 0, 0, 0))
    return out if direct is out_dtype else out.to(out_dtype), last, saved


def _saved_shape(u_shape: tuple[int, ...], states: int, dtype: torch.dtype) -> tuple[int, ...]:
    """Room at the starts of the shortest tiles, whatever the plan: a compiler's length may be a symbol."""
    batch, dim, length = u_shape
    return batch, (length - 1) // plans.shortest(_NAMES[dtype]), dim, states


def _backward(dout, dlast, saved, u, delta, A, B, C, D, delta_bias, delta_softplus, nrow):
    given = (u, delta, A, B, C, D, delta_bias)
    u, delta, B, C, A, D, bias = _ready(*given)
    (batch, dim, _), states, dtype = u.shape, A.shape[1], u.dtype
    incoming = dout.dtype if dout.dtype is torch.float32 or dout.dtype is dtype else torch.float32
    dout, dlast = _dense(dout, incoming), _vector(dlast)
    inputs, aligned = _addresses(u, delta, B, C, A, D, bias)
    aligned = aligned and not dout.data_ptr() & 15
    how = u.device.index, u.shape, B.shape, B.stride(), C.stride(), dtype, incoming, delta_softplus, nrow, aligned
    launch = _launch("backward", *how)
    if states > plans.SLICE:
        du, ddelta = torch.zeros_like(u, dtype=torch.float32), torch.zeros_like(u, dtype=torch.float32)
    else:
        du, ddelta = torch.empty_like(u), torch.empty_like(u)
    # One buffer for the parts: dB and dC (split, B.shape), dA (image, channel, state), dD and dbias (image, channel).
    size, rates, channels = B.numel(), batch * dim * states, batch * dim
    parts = A.new_empty(2 * launch.splits * size + rates + 2 * channels)
    dB = parts.data_ptr()
    dC = dB + 4 * launch.splits * size
    dA = dC + 4 * launch.splits * size
    dD = dA + 4 * rates
    dbias = dD + 4 * channels
    out = (saved.data_ptr(), 0, 0, dout.data_ptr(), 0 if dlast is None else dlast.data_ptr())
    launch(inputs, (*out, du.data_ptr(), ddelta.data_ptr(), dB, dC, dA, dD, dbias))

    total_B, total_C = u.new_empty(B.shape), u.new_empty(B.shape)
    total_A, total_D, total_bias = torch.empty_like(A), A.new_empty(dim), A.new_empty(dim)
    code = plans.CODES[_NAMES[dtype]]
    jobs = (
        (dB, total_B.data_ptr(), launch.splits, size, code),
        (dC, total_C.data_ptr(), launch.splits, size, code),
        (dA, total_A.data_ptr(), batch, dim * states, 0),
        (dD, total_D.data_ptr(), batch, dim, 0),
        (dbias, total_bias.data_ptr(), batch, dim, 0),
    )
    fields, blocks = [], 0
    for job in jobs:
        shares = 8 if job[2] > _ALONE else 1
        blocks += -(-job[3] * shares // 256)
        fields += (*job, shares, blocks)
    _adder(u.device.index).start((blocks, 1), 256, 0, tuple(fields))
    results = (du, ddelta, total_A, total_B, total_C, total_D, total_bias)
    return tuple(
        [
            u.new_empty(0) if t is None else g if g.dtype is t.dtype else g.to(t.dtype)
            for g, t in zip(results, given, strict=True)
        ]
    )


@torch.library.register_fake("vmamba_ops::selective_scan_cuda")
def _forward_fake(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, nrow, back_nrow):
    batch, dim, _ = u.shape
    states = A.shape[1]
    saved = _saved_shape(u.shape, states, _common(u, delta, B, C))

    def empty(shape: tuple, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=u.device)

    return empty(u.shape, out_dtype), empty((batch, dim, states), torch.float32), empty(saved, torch.float32)


@torch.library.register_fake("vmamba_ops::selective_scan_cuda_backward")
def _backward_fake(dout, dlast, saved, u, delta, A, B, C, D, delta_bias, delta_softplus, nrow):
    def like(t: Tensor | None) -> Tensor:
        return u.new_empty(0) if t is None else torch.empty(t.shape, dtype=t.dtype, device=t.device)

    return tuple(like(t) for t in (u, delta, A, B, C, D, delta_bias))


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, _, _, ctx.back_nrow = inputs
    ctx.save_for_backward(output[2], *tensors)
    ctx.set_materialize_grads(False)


def _gradients(ctx, dout, dlast, _):
    run = torch.ops.vmamba_ops.selective_scan_cuda_backward
    return (*gradients(ctx, run, (ctx.delta_softplus, ctx.back_nrow), dout, dlast), None, None, None, None)


torch.library.impl("vmamba_ops::selective_scan_cuda", "CUDA", _forward)
torch.library.impl("vmamba_ops::selective_scan_cuda_backward", "CUDA", _backward)
torch.library.register_autograd("vmamba_ops::selective_scan_cuda", _gradients, setup_context=_save)
flops.register("selective_scan_cuda")


def selective_scan(
    u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, *, nrow: int = 0, back_nrow: int = 0
) -> tuple[Tensor, Tensor]:
    """As ``naive.selective_scan``, with a first derivative only: "oflex", out written in ``out_dtype``.

    Args:
        nrow, back_nrow: rows that a warp's lanes hold at a time, forward and backward: 1, 2 or 4; 0 for the faster. Of
            several states the backward holds one row, whatever ``back_nrow`` says.
    Raises:
        ValueError: another nrow. RuntimeError: the GPU is older than compute capability 8.0, or NVRTC is missing.
    """
    for name, value in (("nrow", nrow), ("back_nrow", back_nrow)):
        if value not in _NROWS:
            raise ValueError(f"selective_scan: {name} is {value!r}; it takes 1, 2, 4, or 0 for the fastest")
    tensors = (u, delta, A, B, C, D, delta_bias)
    options = (delta_softplus, out_dtype, nrow, back_nrow)
    if u.device.type != "cuda" or not plain(*tensors):
        return torch.ops.vmamba_ops.selective_scan_cuda(*tensors, *options)[:2]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return Eager.apply(_forward, options, _backward, (delta_softplus, back_nrow), *tensors)
    return _forward(*tensors, *options, save=False)[:2]


def core(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, **nrows: int) -> tuple[Tensor, Tensor]:
    """The variant "core": the kernel writes the dtype of ``u``; another ``out_dtype`` is converted to afterwards."""
    out, last = selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, u.dtype, **nrows)
    return out.to(out_dtype), last
