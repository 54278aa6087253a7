"""The selective scan on the CPU: torch operators around the kernels of ``cpu_kernels``.

``vmamba_ops::selective_scan_cpu`` and its backward are ``torch.library`` operators with fake kernels, so
``torch.compile``, ``torch.export`` and dispatch modes see them. The third result, ``states``, is for the
backward alone.
"""

import torch
from torch import Tensor

from .. import flops, threads
from . import cpu_kernels as kernels
from .cpu_memory import empty

_UNITS = 16  # about so many parts the backward's work is cut into, so that it fills the threads at batch 1

torch.library.define(
    "vmamba_ops::selective_scan_cpu",
    "(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, bool delta_softplus, "
    "ScalarType out_dtype) -> (Tensor out, Tensor last_state, Tensor states)",
)
torch.library.define(
    "vmamba_ops::selective_scan_cpu_backward",
    "(Tensor dout, Tensor? dlast, Tensor states, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? delta_bias, bool delta_softplus) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def _state_dtype(*inputs: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in inputs) else torch.float32


def _flat(tensor: Tensor | None, dtype: torch.dtype):
    """The numbers of ``tensor`` in row-major order as a one-dimensional NumPy array; an empty one for None."""
    if tensor is None:
        return torch.empty(0, dtype=dtype).numpy()
    tensor = tensor.detach().contiguous()
    return (tensor if tensor.dtype == dtype else tensor.to(dtype)).numpy().reshape(-1)


def _shape(A: Tensor, B: Tensor) -> tuple[int, int, int, int]:
    groups, states, length = B.shape[1:]
    return groups, A.shape[0] // groups, states, length


def _tiles(per_group: int, dtype: torch.dtype) -> int:
    return -(-per_group // kernels.lanes(dtype.itemsize))


def _saved_shape(u: Tensor, A: Tensor, B: Tensor, dtype: torch.dtype) -> tuple[int, int, int, int]:
    groups, per_group, states, length = _shape(A, B)
    tiles = u.shape[0] * groups * _tiles(per_group, dtype)
    return tiles, -(-length // kernels.CHUNK), states, kernels.lanes(dtype.itemsize)


def _forward(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype):
    dtype = _state_dtype(u, delta, B, C)
    batch, dim, _ = u.shape
    shape = groups, per_group, states, _ = _shape(A, B)
    out = empty(u.shape, dtype)
    last = torch.empty(batch, dim, states, dtype=dtype)
    saved = empty(_saved_shape(u, A, B, dtype), dtype)
    inputs = [_flat(t, dtype) for t in (u, delta, A, B, C, D, delta_bias)]
    results = [_flat(t, dtype) for t in (out, saved, last)]

    def kernel(first: int, stop: int) -> None:
        kernels.forward(*inputs, delta_softplus, shape, *results, first, stop)

    threads.run(kernel, batch * groups * _tiles(per_group, dtype), u.numel() * states)
    return out.to(out_dtype), last, saved


def _backward(dout, dlast, states, u, delta, A, B, C, D, delta_bias, delta_softplus):
    dtype = states.dtype
    batch, dim, length = u.shape
    shape = groups, per_group, N, _ = _shape(A, B)
    tiles = _tiles(per_group, dtype)
    per_part = -(-tiles * batch * groups // _UNITS)
    parts = -(-tiles // per_part)
    inputs = [_flat(t, dtype) for t in (u, delta, A, B, C, D, delta_bias)]
    adjoints = [_flat(t, dtype) for t in (dout, u.new_zeros(batch, dim, N) if dlast is None else dlast, states)]
    du, ddelta = empty(u.shape, dtype), empty(u.shape, dtype)
    dA, dD, dbias = (torch.empty(1, batch, size, dtype=dtype) for size in (dim * N, dim, dim))
    dB, dC = (empty((batch * groups, parts, N * length), dtype) for _ in range(2))
    results = [_flat(t, dtype) for t in (du, ddelta, dA, dB, dC, dD, dbias)]

    def kernel(first: int, stop: int) -> None:
        kernels.backward(*inputs, delta_softplus, shape, parts, per_part, *adjoints, *results, first, stop)

    threads.run(kernel, batch * groups * parts, 2 * u.numel() * N)
    return (
        du.to(u.dtype),
        ddelta.to(delta.dtype),
        _total(dA, A),
        _total(dB, B),
        _total(dC, C),
        _total(dD, D) if D is not None else u.new_empty(0),
        _total(dbias, delta_bias) if delta_bias is not None else u.new_empty(0),
    )


def _total(x: Tensor, like: Tensor) -> Tensor:
    """x (outer, parts, size), summed over the parts in order, in the shape and dtype of ``like``."""
    outer, parts, size = x.shape
    if parts > 1:
        x, every = torch.empty(outer, size, dtype=x.dtype), x
        kernels.add_parts(_flat(every, x.dtype), _flat(x, x.dtype), parts, size)
    return x.reshape(like.shape).to(like.dtype)


@torch.library.register_fake("vmamba_ops::selective_scan_cpu")
def _forward_fake(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype):
    batch, dim, _ = u.shape
    dtype = _state_dtype(u, delta, B, C)
    out = torch.empty(u.shape, dtype=out_dtype, device=u.device)
    last = torch.empty((batch, dim, A.shape[1]), dtype=dtype, device=u.device)
    return out, last, torch.empty(_saved_shape(u, A, B, dtype), dtype=dtype, device=u.device)


@torch.library.register_fake("vmamba_ops::selective_scan_cpu_backward")
def _backward_fake(dout, dlast, states, u, delta, A, B, C, D, delta_bias, delta_softplus):
    def like(t: Tensor | None) -> Tensor:
        return u.new_empty(0) if t is None else torch.empty(t.shape, dtype=t.dtype, device=t.device)

    return tuple(like(t) for t in (u, delta, A, B, C, D, delta_bias))


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, _ = inputs
    ctx.save_for_backward(output[2], *tensors)
    ctx.set_materialize_grads(False)


def _gradients(ctx, dout, dlast, _):
    states, *tensors = ctx.saved_tensors
    u = tensors[0]
    if dout is None and dlast is None:
        return (None,) * 9
    if dout is None:
        dout = u.new_zeros(u.shape)
    gradients = torch.ops.vmamba_ops.selective_scan_cpu_backward(dout, dlast, states, *tensors, ctx.delta_softplus)
    return (*(None if t is None else g for t, g in zip(tensors, gradients, strict=True)), None, None)


def _refuse_second(*_):
    """Without it torch takes the gradients for constants, and says so in a warning alone."""
    raise RuntimeError("selective_scan: backend 'cpu' is differentiable once; for second derivatives use backend=naive")


torch.library.impl("vmamba_ops::selective_scan_cpu", "CPU", _forward)
torch.library.impl("vmamba_ops::selective_scan_cpu_backward", "CPU", _backward)
torch.library.register_autograd("vmamba_ops::selective_scan_cpu", _gradients, setup_context=_save)
torch.library.register_autograd("vmamba_ops::selective_scan_cpu_backward", _refuse_second)
flops.register("selective_scan_cpu")


def selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype) -> tuple[Tensor, Tensor]:
    """As ``naive.selective_scan``, with a first derivative only."""
    out, last, _ = torch.ops.vmamba_ops.selective_scan_cpu(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype)
    return out, last
