"""The selective scan in CUDA C++ (scan.cu, compiled by ``nvrtc``): variants ``core``, ``oflex``, nrow 1, 2 and 4.

``vmamba_ops::selective_scan_cuda`` and its backward are ``torch.library`` operators with fake kernels, so
``torch.compile``, ``torch.export`` and dispatch modes see them; plain eager calls go around the dispatcher.
Results do not change from run to run: every sum has a fixed order.
"""

import functools
from dataclasses import dataclass
from functools import cache
from operator import or_

import torch
from torch import Tensor

from .. import flops, nvrtc
from ..eager import plain
from . import plan as plans

_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_NROWS = (0, 1, 2, 4)

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
        source = plans.source(plan.direction)
        return nvrtc.Kernel(source, "scan", plan.macros(), _arch(device), plan.direction, device)


@cache
def _adder(device: int) -> nvrtc.Kernel:
    any_plan = plans.plan("backward", 64, 1, "float32", "float32", True, 1)
    with torch.cuda.device(device):
        return nvrtc.Kernel(plans.source("backward"), "scan", any_plan.macros(), _arch(device), "add_parts", device)


def _common(*tensors: Tensor) -> torch.dtype:
    """The dtype kernels read: that of the inputs, float32 where they differ."""
    return tensors[0].dtype if len({t.dtype for t in tensors}) == 1 else torch.float32


def _dense(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return (tensor if tensor.dtype == dtype else tensor.to(dtype)).contiguous()


def _rows(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As it lies in memory, if its last dimension is dense."""
    tensor = tensor if tensor.dtype == dtype else tensor.to(dtype)
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _vector(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _dense(tensor, torch.float32)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


@dataclass(frozen=True)
class _Launch:
    """All of a launch that does not change between calls of one shape; a slice is some of the states."""

    kernel: nvrtc.Kernel
    grid: tuple[int, int]
    threads: int
    splits: int
    slices: tuple[tuple[int, tuple[int, ...]], ...]  # bytes of shared memory, Problem's fields from groups to staging


@cache
def _launch(direction, device, shape, dtype, out, softplus, nrow, aligned) -> _Launch:
    """``shape`` is (batch, groups, channels a group, length, states)."""
    batch, groups, per_group, length, states = shape
    most, units = min(states, plans.SLICE), batch * groups
    name = _NAMES[dtype]
    plan = plans.plan(direction, length, most, name, _NAMES[out], softplus, nrow, aligned, states > plans.SLICE)
    rows = plan.rows(per_group, units, most)
    splits, tiles = -(-per_group // rows), plans.tiles(length, states, name)
    slices = []
    for first in range(0, states, plans.SLICE):
        here = min(plans.SLICE, states - first)
        staging, shared = plan.shared(rows, here)
        slices.append((shared, (groups, per_group, length, tiles, splits, rows, here, first, states, staging)))
    kernel = _kernel(plan, device)
    return _Launch(kernel, (units * splits, 1), plan.warps * 32, splits, tuple(slices))


def _start(kernel: nvrtc.Kernel, grid: tuple[int, int], threads: int, shared: int, fields: tuple[int, ...]) -> None:
    """Launch on the current stream of the kernel's device, which need not be the current device."""
    stream = torch._C._cuda_getCurrentRawStream(kernel.device)
    if kernel.device == torch.cuda.current_device():
        kernel.launch(grid, threads, shared, stream, fields)
        return
    with torch.cuda.device(kernel.device):
        kernel.launch(grid, threads, shared, stream, fields)


class _Call:
    """The inputs as kernels read them, and their addresses."""

    def __init__(self, u, delta, A, B, C, D, delta_bias):
        self.dtype = dtype = _common(u, delta, B, C)
        self.u, self.delta = _dense(u, dtype), _dense(delta, dtype)
        self.B, self.C = _rows(B, dtype), _rows(C, dtype)
        self.A, self.D, self.bias = _vector(A), _vector(D), _vector(delta_bias)
        batch, dim, length = u.shape
        groups, states = B.shape[1], A.shape[1]
        self.shape = (batch, groups, dim // groups, length, states)
        self.device = u.device.index
        wide = [self.u.data_ptr(), self.delta.data_ptr(), self.B.data_ptr(), self.C.data_ptr()]
        self.strides = (*self.B.stride()[:3], *self.C.stride()[:3])
        self.inputs = (*wide, self.A.data_ptr(), _address(self.D), _address(self.bias))
        size = self.u.element_size()
        self.aligned = not (functools.reduce(or_, wide) | functools.reduce(or_, self.strides) * size) & 15

    def launch(self, launch: _Launch, *results: int) -> None:
        """``results``: saved, out, last, dout, dlast, du, ddelta, dB, dC, dA, dD, dbias; 0 for what does not apply."""
        inputs = self.inputs
        for shared, sizes in launch.slices:
            fields = (*inputs, *self.strides, *sizes, *results)
            _start(launch.kernel, launch.grid, launch.threads, shared, fields)
            inputs = (*inputs[:5], 0, inputs[6])  # D counts once


def _float(u: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=u.device)


def _forward(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, nrow, back_nrow, save=True):
    call = _Call(u, delta, A, B, C, D, delta_bias)
    batch, groups, per_group, _, states = call.shape
    sliced = states > plans.SLICE
    direct = out_dtype if out_dtype in (torch.float32, call.dtype) and not sliced else torch.float32
    launch = _launch("forward", call.device, call.shape, call.dtype, direct, delta_softplus, nrow, call.aligned)
    out = (torch.zeros if sliced else torch.empty)(u.shape, dtype=direct, device=u.device)
    last = _float(u, batch, groups * per_group, states)
    saved = _float(u, *_saved_shape(call.shape, call.dtype)) if save else None
    call.launch(launch, _address(saved), out.data_ptr(), last.data_ptr(), *[0] * 9)
    return out if direct == out_dtype else out.to(out_dtype), last, saved


def _saved_shape(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[int, ...]:
    batch, groups, per_group, length, states = shape
    return batch, plans.tiles(length, states, _NAMES[dtype]) - 1, groups * per_group, states


def _backward(dout, dlast, saved, u, delta, A, B, C, D, delta_bias, delta_softplus, nrow):
    call = _Call(u, delta, A, B, C, D, delta_bias)
    batch, groups, per_group, _, states = call.shape
    dim = groups * per_group
    incoming = dout.dtype if dout.dtype in (torch.float32, call.dtype) else torch.float32
    dout, dlast = _dense(dout, incoming), _vector(dlast)
    aligned = call.aligned and not dout.data_ptr() & 15
    launch = _launch("backward", call.device, call.shape, call.dtype, incoming, delta_softplus, nrow, aligned)
    if states > plans.SLICE:
        du, ddelta = (torch.zeros(u.shape, dtype=torch.float32, device=u.device) for _ in range(2))
    else:
        du, ddelta = torch.empty_like(call.u), torch.empty_like(call.u)
    shared = _float(u, 2, launch.splits, *B.shape)
    scalars = _float(u, batch * dim * (states + 2))
    dA, dD = scalars.data_ptr(), scalars.data_ptr() + batch * dim * states * 4
    dB, parts = shared.data_ptr(), shared.numel() * 2
    results = (du.data_ptr(), ddelta.data_ptr(), dB, dB + parts, dA, dD, dD + batch * dim * 4)
    call.launch(launch, saved.data_ptr(), 0, 0, dout.data_ptr(), _address(dlast), *results)

    summed = [torch.empty(B.shape, dtype=call.dtype, device=u.device) for _ in range(2)]
    totals = [_float(u, dim, states), _float(u, dim), _float(u, dim)]
    size, code = B.numel(), plans.CODES[_NAMES[call.dtype]]
    jobs = (
        *(dB, summed[0].data_ptr(), launch.splits, size, code),
        *(dB + parts, summed[1].data_ptr(), launch.splits, size, code),
        *(dA, totals[0].data_ptr(), batch, dim * states, 0),
        *(dD, totals[1].data_ptr(), batch, dim, 0),
        *(dD + batch * dim * 4, totals[2].data_ptr(), batch, dim, 0),
    )
    _start(_adder(call.device), (-(-max(size, dim * states) // 32), 5), 256, 0, jobs)
    gradients = (du, ddelta, totals[0], *summed, *totals[1:])
    return tuple(
        g.new_empty(0) if t is None else g.to(t.dtype)
        for g, t in zip(gradients, (u, delta, A, B, C, D, delta_bias), strict=True)
    )


@torch.library.register_fake("vmamba_ops::selective_scan_cuda")
def _forward_fake(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, nrow, back_nrow):
    batch, dim, length = u.shape
    states, groups = A.shape[1], B.shape[1]
    saved = _saved_shape((batch, groups, dim // groups, length, states), _common(u, delta, B, C))

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


def _gradients_by(run):
    def gradients(ctx, dout, dlast, _=None):
        saved, *tensors = ctx.saved_tensors
        if dout is None and dlast is None:
            return (None,) * 11
        if dout is None:
            dout = tensors[0].new_zeros(tensors[0].shape)
        results = run(dout, dlast, saved, *tensors, ctx.delta_softplus, ctx.back_nrow)
        return (*(None if t is None else g for t, g in zip(tensors, results, strict=True)), *(None,) * 4)

    return gradients


torch.library.impl("vmamba_ops::selective_scan_cuda", "CUDA", _forward)
torch.library.impl("vmamba_ops::selective_scan_cuda_backward", "CUDA", _backward)
torch.library.register_autograd(
    "vmamba_ops::selective_scan_cuda",
    _gradients_by(torch.ops.vmamba_ops.selective_scan_cuda_backward),
    setup_context=_save,
)
flops.register("selective_scan_cuda")


class _Eager(torch.autograd.Function):
    """The operator's derivative without the dispatcher, which costs tens of microseconds a call."""

    @staticmethod
    def forward(ctx, *inputs):
        out, last, saved = _forward(*inputs)
        _save(ctx, inputs, (out, last, saved))
        return out, last

    backward = staticmethod(torch.autograd.function.once_differentiable(_gradients_by(_backward)))


def selective_scan(
    u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, *, nrow: int = 0, back_nrow: int = 0
) -> tuple[Tensor, Tensor]:
    """As ``naive.selective_scan``, with a first derivative only: "oflex", out written in ``out_dtype``.

    Args:
        nrow, back_nrow: rows that a warp's lanes hold at a time, forward and backward: 1, 2 or 4; 0 for the faster.
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
        return _Eager.apply(*tensors, *options)
    return _forward(*tensors, *options, save=False)[:2]


def core(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype, **nrows: int) -> tuple[Tensor, Tensor]:
    """The variant "core": the kernel writes the dtype of ``u``; another ``out_dtype`` is converted to afterwards."""
    out, last = selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, u.dtype, **nrows)
    return out.to(out_dtype), last
