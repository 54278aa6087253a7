"""Depthwise 3 x 3 convolution and SiLU of a channels-last map in CUDA C++ (rows.cu, compiled by ``nvrtc``).

``vmamba_ops::dwconv_silu`` and its backward are ``torch.library`` operators with fake kernels, which plain eager calls
go around; sums have a fixed order.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import nvrtc, partials
from ..eager import plain
from ..half import kind
from . import plan as plans

_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}

torch.library.define("vmamba_ops::dwconv_silu", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
torch.library.define(
    "vmamba_ops::dwconv_silu_backward", "(Tensor dy, Tensor x, Tensor weight, Tensor? bias) -> (Tensor, Tensor, Tensor)"
)


@dataclass(frozen=True)
class _Launch:
    """All of a launch that does not change between calls of one shape."""

    kernel: nvrtc.Kernel
    grid: tuple[int, int]
    shared: int
    tasks: int  # each with sums of its own
    sizes: tuple[int, ...]  # Problem's fields from images on

    def __call__(self, *tensors: Tensor | None) -> None:
        """``tensors`` are Problem's, None for a null pointer."""
        fields = (*[0 if t is None else t.data_ptr() for t in tensors], *self.sizes)
        self.kernel.start(self.grid, plans.THREADS, self.shared, fields)


@cache
def _launch(direction: str, device: int, shape: tuple[int, ...], dtype: torch.dtype, bias: bool) -> _Launch:
    found = torch.cuda.get_device_properties(device)
    plan = plans.plan(direction, _NAMES[dtype], *shape, found.multi_processor_count)
    arch, entry = f"sm_{found.major}{found.minor}", f"dwconv_{direction}"
    with torch.cuda.device(device):
        kernel = nvrtc.Kernel(plans.source(direction), "dwconv", plan.macros(bias), arch, entry, device)
    return _Launch(kernel, (plan.tasks * plan.groups, 1), plan.shared, plan.tasks, plan.fields)


def _forward(x, weight, bias):
    y = torch.empty_like(x)
    _launch("forward", x.device.index, tuple(x.shape), x.dtype, bias is not None)(x, weight, bias, y, *[None] * 4)
    return y


def _backward(dy, x, weight, bias):
    launch = _launch("backward", x.device.index, tuple(x.shape), x.dtype, bias is not None)
    dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), weight.new_empty(0)
    parts = weight.new_empty((launch.tasks, *weight.shape))
    if bias is None:
        launch(x, weight, None, None, dy, dx, parts, None)
        partials.add((parts, dweight))
        return dx, dweight, dbias
    dbias, bias_parts = torch.empty_like(bias), bias.new_empty((launch.tasks, *bias.shape))
    launch(x, weight, bias, None, dy, dx, parts, bias_parts)
    partials.add((parts, dweight), (bias_parts, dbias))
    return dx, dweight, dbias


@torch.library.register_fake("vmamba_ops::dwconv_silu")
def _forward_fake(x, weight, bias):
    return torch.empty_like(x)


@torch.library.register_fake("vmamba_ops::dwconv_silu_backward")
def _backward_fake(dy, x, weight, bias):
    return (
        torch.empty_like(x),
        torch.empty_like(weight),
        weight.new_empty(0) if bias is None else torch.empty_like(bias),
    )


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, dy):
    x, weight, bias = ctx.saved_tensors
    results = torch.ops.vmamba_ops.dwconv_silu_backward(dy.to(x.dtype).contiguous(), x, weight, bias)
    return (*results[:2], None if bias is None else results[2])


class _Eager(torch.autograd.Function):
    """The same for plain eager calls, without the dispatcher."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight, bias)
        return _forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias = ctx.saved_tensors
        results = _backward(dy.to(x.dtype).contiguous(), x, weight, bias)
        return (*results[:2], None if bias is None else results[2])


torch.library.impl("vmamba_ops::dwconv_silu", "CUDA", _forward)
torch.library.impl("vmamba_ops::dwconv_silu_backward", "CUDA", _backward)
torch.library.register_autograd("vmamba_ops::dwconv_silu", _gradients, setup_context=_save)


def dwconv_silu(x_BHWD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As the public function, on a GPU."""
    x_BHWD = x_BHWD.to(kind(x_BHWD))
    tensors = (x_BHWD.contiguous(), *[None if t is None else t.float().contiguous() for t in (weight, bias)])
    if not (x_BHWD.is_cuda and plain(x_BHWD, weight, bias)):
        return torch.ops.vmamba_ops.dwconv_silu(*tensors)
    return _Eager.apply(*tensors) if torch.is_grad_enabled() else _forward(*tensors)
