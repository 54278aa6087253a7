"""SS2D's core: the x-projection as one product, the four-route scan in CUDA C++ (ss2d.cu, compiled by ``nvrtc``).

One state a channel. ``vmamba_ops::ss2d`` and its backward are ``torch.library`` operators with fake kernels, which
plain eager calls go around. Results do not change from run to run: every sum has a fixed order.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .. import flops, nvrtc, partials
from ..eager import plain
from ..half import kind
from . import plan as plans

_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
K = 4

torch.library.define(
    "vmamba_ops::ss2d",
    "(Tensor x, Tensor x_proj, Tensor weight, Tensor bias, Tensor A_logs, Tensor Ds, bool save) "
    "-> (Tensor y, Tensor rows, Tensor states)",
)
torch.library.define(
    "vmamba_ops::ss2d_backward",
    "(Tensor dy, Tensor rows, Tensor states, Tensor x, Tensor x_proj, Tensor weight, Tensor bias, Tensor A_logs, "
    "Tensor Ds) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@dataclass(frozen=True)
class _Pass:
    """All of the start of a kernel that does not change between calls of one shape."""

    kernel: nvrtc.Kernel
    grid: tuple[int, int]
    threads: int
    shared: int
    sizes: tuple[int, ...]  # Problem's fields from images on


@dataclass(frozen=True)
class _Launch:
    """The same of a forward or a backward: one kernel after the other."""

    passes: tuple[_Pass, ...]
    outputs: int  # to be added
    groups: int  # of images and segments, each with sums of its own
    blocks: int  # of channels, likewise
    ends: tuple[int, ...]  # the shape of what a first pass over segments finds; empty without one

    def __call__(self, *tensors: Tensor | None) -> None:
        """Start them on the current stream of the device of ``tensors``: Problem's, None for a null pointer."""
        ends = tensors[0].new_empty(self.ends, dtype=torch.float32) if self.ends else None
        pointers = [0 if t is None else t.data_ptr() for t in (*tensors, ends)]
        for one in self.passes:
            one.kernel.start(one.grid, one.threads, one.shared, (*pointers, *one.sizes))


@cache
def _processor(device: int) -> tuple[str, int, int]:
    """The architecture, the number of multiprocessors, and the bytes of shared memory that a block may have."""
    found = torch.cuda.get_device_properties(device)
    if found.major < 8:
        raise RuntimeError(
            f"cuda:{device} ({found.name}) has compute capability {found.major}.{found.minor}; the fused SS2D takes "
            "8.0 and newer; use backend=composed"
        )
    return f"sm_{found.major}{found.minor}", found.multi_processor_count, found.shared_memory_per_block_optin


@cache
def _launch(direction: str, device: int, shape: tuple[int, ...], dtype: torch.dtype, rank: int) -> _Launch:
    images, height, width, dim = shape
    arch, processors, room = _processor(device)
    plan = plans.plan(direction, _NAMES[dtype], rank, height, width, dim, room)
    length = height * width
    cut = plan.spread(images, length, dim, processors, room)
    blocks, groups = dim // (plans.WIDTH * plan.warps), -(-images // cut.per) * cut.segments
    magic = -(-(1 << 32) // height) & 0xFFFFFFFF

    def start(name: str, shared: int, walks: int) -> _Pass:
        with torch.cuda.device(device):
            kernel = nvrtc.Kernel(plans.source(name), "ss2d", plan.macros(), arch, f"ss2d_{name}", device)
        sizes = (images, height, width, dim, plan.tiles(length), magic, walks, cut.per, blocks, cut.segments)
        return _Pass(kernel, (groups, blocks * (2 if walks == plans.APART else 1)), plan.threads, shared, sizes)

    passes = tuple(start(*one) for one in plan.passes(cut))
    ends = (images, K, cut.segments, dim, 2) if cut.segments > 1 else ()
    return _Launch(passes, cut.outputs, groups, blocks, ends)


def _forward(x, x_proj, weight, bias, A_logs, Ds, save):
    """y, and for the backward (else of size 0) the projected x and the states at the starts of tiles."""
    launch = _launch("forward", x.device.index, tuple(x.shape), x.dtype, weight.shape[2])
    rows = F.linear(x, x_proj)
    y = x.new_empty((launch.outputs, *x.shape))
    states = x.new_empty(_states_shape(x, save), dtype=torch.float32)
    launch(x, rows, weight, bias, A_logs, Ds, states if save else None, y, *[None] * 5)
    return y[0] if launch.outputs == 1 else torch.add(y[0], y[1]), rows if save else rows.new_empty(0), states


def _states_shape(x: Tensor, save: bool) -> tuple:
    """At the starts of the tiles of every route; as many as the shortest tiles make, whatever the plan."""
    images, height, width, dim = x.shape
    return (images, K, (height * width + 27) // 28, dim) if save else (0,)


def _backward(dy, rows, states, x, x_proj, weight, bias, A_logs, Ds):
    """Gradients of x, x_proj, weight, bias, A_logs, Ds."""
    rank, dim = weight.shape[2], x.shape[3]
    launch = _launch("backward", x.device.index, tuple(x.shape), x.dtype, rank)
    dx, drows = x.new_empty((launch.outputs, *x.shape)), rows.new_empty((launch.blocks, *rows.shape))
    dweight = weight.new_empty((launch.groups, *weight.shape))
    sums = weight.new_empty((launch.groups, 3, K, dim))
    launch(x, rows, weight, bias, A_logs, Ds, states, None, dy, dx, drows, dweight, sums)
    parts = (dx, drows, dweight)
    dx, drows, dweight = results = [p[0] if p.shape[0] == 1 else torch.empty_like(p[0]) for p in parts]
    jobs = [(p, r) for p, r in zip(parts, results, strict=True) if p.shape[0] > 1]
    dbias, dA, dD = torch.empty_like(bias), torch.empty_like(A_logs), torch.empty_like(Ds)
    # D's four routes read the same map: their gradients are alike, one of them is computed, and copied
    partials.add(*jobs, (sums[:, 0], dbias), (sums[:, 1], dA), (sums[:, 2, 0], dD))
    drows = drows.view(-1, x_proj.shape[0])
    dx.view(-1, dim).addmm_(drows, x_proj)  # the projection's share, added by the product itself
    return dx, drows.t() @ x.view(-1, dim), dweight, dbias, dA, dD


@torch.library.register_fake("vmamba_ops::ss2d")
def _forward_fake(x, x_proj, weight, bias, A_logs, Ds, save):
    rows = x.new_empty((*x.shape[:3], x_proj.shape[0]) if save else (0,))
    return torch.empty_like(x), rows, x.new_empty(_states_shape(x, save), dtype=torch.float32)


@torch.library.register_fake("vmamba_ops::ss2d_backward")
def _backward_fake(dy, rows, states, *inputs):
    return tuple(torch.empty_like(t) for t in inputs)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*output[1:], *inputs[:6])


def _gradients(ctx, dy, *_):
    rows, states, x, *rest = ctx.saved_tensors
    dy = dy.to(x.dtype).contiguous()
    return (*torch.ops.vmamba_ops.ss2d_backward(dy, rows, states, x, *rest), None)


class _Eager(torch.autograd.Function):
    """The same for plain eager calls, without the dispatcher."""

    @staticmethod
    def forward(ctx, *inputs):
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return output[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        rows, states, x, *rest = ctx.saved_tensors
        return (*_backward(dy.to(x.dtype).contiguous(), rows, states, x, *rest), None)


torch.library.impl("vmamba_ops::ss2d", "CUDA", _forward)
torch.library.impl("vmamba_ops::ss2d_backward", "CUDA", _backward)
torch.library.register_autograd("vmamba_ops::ss2d", _gradients, setup_context=_save)
flops.register_ss2d()


def ss2d(x_BHWD, x_proj_weight, dt_projs_weight, dt_projs_bias, A_logs, Ds) -> Tensor:
    """As the public function, for cross2d and one state a channel; differentiable once."""
    D, rank = dt_projs_weight.shape[1:]
    x_BHWD = x_BHWD.to(kind(x_BHWD))
    if rank % 2:  # the kernel reads pairs: zeros after an odd number of dt's
        zeros = x_proj_weight.new_zeros(K, 1, D)
        x_proj_weight = torch.cat((x_proj_weight[:, :rank], zeros, x_proj_weight[:, rank:]), 1)
        dt_projs_weight = F.pad(dt_projs_weight, (0, 1))
    rest = plans.padded(rank + rank % 2) - x_proj_weight.shape[1]  # rows of P start at 16 bytes
    x_proj_weight = F.pad(x_proj_weight, (0, 0, 0, rest)) if rest else x_proj_weight
    own = (dt_projs_weight, dt_projs_bias, A_logs.view(K, D), Ds.view(K, D))
    x_BHWD, x_proj = x_BHWD.contiguous(), x_proj_weight.flatten(0, 1).to(x_BHWD.dtype)
    inputs = (x_BHWD, x_proj, *[t.float().contiguous() for t in own])
    if x_BHWD.is_cuda and plain(*inputs):
        if not torch.is_grad_enabled():  # autograd's part of a call costs more than its kernel on small maps
            return _forward(*inputs, False)[0]
        return _Eager.apply(*inputs, True)
    return torch.ops.vmamba_ops.ss2d(*inputs, torch.is_grad_enabled())[0]
