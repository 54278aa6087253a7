"""Depthwise 3 x 3 convolution and SiLU of a channels-last map in CUDA C++ (dwconv.cu, compiled by ``nvrtc``).

``vmamba_ops::dwconv_silu`` and its backward are ``torch.library`` operators with fake kernels, which plain eager calls
go around; sums have a fixed order.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import nvrtc
from ..eager import plain

CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
WIDTH = 4  # channels of a thread
_THREADS = 128
_SEGMENT = 64  # the most positions of a row that a thread walks
_BLOCKS = {"forward": 12, "backward": 3}  # a multiprocessor; the backward's each have sums, so as many as it holds
_AHEAD = {"forward": 2, "backward": 1}  # positions loaded ahead: the backward has no registers for more

torch.library.define("vmamba_ops::dwconv_silu", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
torch.library.define(
    "vmamba_ops::dwconv_silu_backward", "(Tensor dy, Tensor x, Tensor weight, Tensor? bias) -> (Tensor, Tensor, Tensor)"
)


def source() -> str:
    return (Path(__file__).parent / "dwconv.cu").read_text()


def macros_of(entry: str, dtype: torch.dtype, bias: bool, flip: bool) -> dict[str, int]:
    """What the source wants defined for "forward" (with ``flip`` the gradient of x) or "backward"."""
    flags = {"BIAS": int(bias), "ACT": int(not flip), "FLIP": int(flip)}
    return {"IN": CODES[dtype], "AHEAD": _AHEAD[entry], "THREADS": _THREADS, "BLOCKS": _BLOCKS["backward"]} | flags


@dataclass(frozen=True)
class _Launch:
    """All of a launch that does not change between calls of one shape."""

    kernel: nvrtc.Kernel
    grid: tuple[int, int]
    sizes: tuple[int, ...]

    def __call__(self, *tensors: Tensor | None) -> None:
        """``tensors`` are Problem's, None for a null pointer."""
        fields = (*[0 if t is None else t.data_ptr() for t in tensors], *self.sizes)
        stream = torch._C._cuda_getCurrentRawStream(self.kernel.device)
        if self.kernel.device == torch._C._cuda_getDevice():
            self.kernel.launch(self.grid, _THREADS, 0, stream, fields)
            return
        with torch.cuda.device(self.kernel.device):
            self.kernel.launch(self.grid, _THREADS, 0, stream, fields)


@cache
def _launch(entry: str, device: int, shape: tuple[int, ...], dtype: torch.dtype, bias: bool, flip: bool) -> _Launch:
    images, height, width, dim = shape
    found = torch.cuda.get_device_properties(device)
    groups = dim // WIDTH
    lanes = max(n for n in range(1, 33) if groups % n == 0)
    slots, segments = _THREADS // lanes, -(-width // _SEGMENT)
    tasks = images * height * segments
    blocks = min(-(-tasks // slots), max(1, found.multi_processor_count * _BLOCKS[entry] * lanes // groups))
    macros = macros_of(entry, dtype, bias, flip)
    with torch.cuda.device(device):
        kernel = nvrtc.Kernel(source(), "dwconv", macros, f"sm_{found.major}{found.minor}", f"dwconv_{entry}", device)
    sizes = (images * height, height, width, dim, lanes, segments, -(-width // segments))
    return _Launch(kernel, (blocks, groups // lanes), sizes)


def _forward(x, weight, bias):
    y = torch.empty_like(x)
    _launch("forward", x.device.index, tuple(x.shape), x.dtype, bias is not None, False)(
        x, weight, bias, y, *[None] * 3
    )
    return y


def _backward(dy, x, weight, bias):
    launch = _launch("backward", x.device.index, tuple(x.shape), x.dtype, bias is not None, False)
    dpre, dx = torch.empty_like(x), torch.empty_like(x)
    parts = weight.new_empty((launch.grid[0], 10, x.shape[3]))
    launch(x, weight, bias, None, dy, dpre, parts)
    _launch("forward", x.device.index, tuple(x.shape), x.dtype, False, True)(dpre, weight, None, dx, *[None] * 3)
    sums = parts.sum(0)
    return dx, sums[:9].t().reshape(weight.shape).contiguous(), weight.new_empty(0) if bias is None else sums[9].clone()


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
    if x_BHWD.is_cuda and torch.is_autocast_enabled("cuda"):
        x_BHWD = x_BHWD.to(torch.get_autocast_dtype("cuda"))
    own = [None if t is None else t.float().contiguous() for t in (weight, bias)]
    eager = x_BHWD.is_cuda and plain(x_BHWD, weight, bias)
    call = _Eager.apply if eager else torch.ops.vmamba_ops.dwconv_silu
    return call(x_BHWD.contiguous(), *own)
