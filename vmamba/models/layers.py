"""Small modules in both layouts: channel-last (B, H, W, C) for norm=ln, channel-first (B, C, H, W) for ln2d and bn.

Weights have the same names and shapes in either layout, so one checkpoint serves both.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from vmamba_ops import add_layer_norm, layer_norm, mlp
from vmamba_ops.half import autocast, kind
from vmamba_ops.layer_norm import add, takes
from vmamba_ops.mlp import fits

ACTIVATIONS = {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}


def channel_first(norm: str) -> bool:
    """Whether a network with this norm keeps its features as (B, C, H, W)."""
    return norm != "ln"


def activation(name: str) -> nn.Module:
    """The activation ``name``: silu, gelu (exact erf form), relu or sigmoid."""
    return ACTIVATIONS[name]()


def in_compiled_step() -> bool:
    """Whether this goes into a graph with gradients, for which ``fused_training`` says who takes operators of ours."""
    return torch.is_grad_enabled() and torch.compiler.is_compiling()


class Stream(NamedTuple):
    """The residual stream with its last branch not yet added: x + scale * branch.

    The norm that comes next adds them. scale: (B,), stochastic depth's factor of each image, or None for 1.
    """

    x: Tensor
    branch: Tensor | None = None
    scale: Tensor | None = None

    def added(self) -> Tensor:
        """The sum, of x's shape."""
        return add(*self)


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis, eps 1e-5.

    Under autocast on a GPU its result is in autocast's type, as a matrix product behind it would read it; with ``wide``
    in float32, as torch's own: for what becomes the residual stream or leaves the network.
    """

    def __init__(self, channels: int, *, wide: bool = False) -> None:
        super().__init__(channels)
        self.wide = wide
        self.fused_training = False  # whether a compiled training step takes the operator: see compiling.py

    def _out_dtype(self, x: Tensor) -> torch.dtype | None:
        return kind(x) if autocast(x) and not self.wide else None

    def _how(self, x: Tensor) -> dict:
        out_dtype = self._out_dtype(x)
        ours = self.fused_training and in_compiled_step() and out_dtype is not None and takes(x)
        return {"out_dtype": out_dtype, "backend": "triton" if ours else "auto"}

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps, **self._how(x))

    def after(self, stream: Stream) -> tuple[Tensor, Tensor]:
        """The sum of the stream, and the norm of it."""
        x, branch, scale = stream
        return add_layer_norm(x, branch, self.weight, self.bias, self.eps, scale=scale, **self._how(x))


class LayerNorm2d(LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return to_first(super().forward(to_last(x)))

    def after(self, stream: Stream) -> tuple[Tensor, Tensor]:
        total = stream.added()
        return total, self(total)


class Linear2d(nn.Linear):
    """A linear map of the channels of (B, C, H, W); the weight is (out, in), as a Linear's."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class Permute(nn.Module):
    """Transposes between the layouts; ``dims`` as in ``Tensor.permute``."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


def to_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def to_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def make_norm(kind: str, channels: int, *, wide: bool = False) -> nn.Module:
    """The normalisation of a network with norm ``kind`` (ln, ln2d, bn), in its layout; ``wide`` as in ``LayerNorm``."""
    if kind == "bn":
        return nn.BatchNorm2d(channels)
    return LayerNorm2d(channels, wide=wide) if channel_first(kind) else LayerNorm(channels, wide=wide)


def normed(norm: nn.Module, stream: Stream) -> tuple[Tensor, Tensor]:
    """The sum of the stream and ``norm`` of it, together where that is faster."""
    if isinstance(norm, LayerNorm) and not hooked(norm):
        return norm.after(stream)
    total = stream.added()
    return total, norm(total)


def dropped(path: nn.Module, x: Tensor, branch: Tensor) -> Stream:
    """The stream ``x`` with a branch that goes through ``path``, timm's stochastic depth or nothing."""
    if type(path) is not DropPath or hooked(path):
        return Stream(x, path(branch))
    if not path.training or path.drop_prob == 0:
        return Stream(x, branch)
    keep = 1 - path.drop_prob
    scale = x.new_empty(x.shape[0], dtype=torch.float32).bernoulli_(keep)
    return Stream(x, branch, scale / keep if path.scale_by_keep and keep > 0 else scale)


def make_linear(first: bool) -> Callable[..., nn.Linear]:
    """The class of linear maps in this layout."""
    return Linear2d if first else nn.Linear


def hooked(*modules: nn.Module) -> bool:
    """Whether somebody watches or changes what goes through one of these modules, which must then be called."""
    return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in modules)


class Mlp(nn.Module):
    """act(x W1 + b1) W2 + b2; with ``gated``, half of the first map passes through act and multiplies the other half.

    Input and output: (B, H, W, C), or (B, C, H, W) with ``first``.
    """

    def __init__(self, channels: int, hidden: int, act: str, *, gated: bool, first: bool) -> None:
        super().__init__()
        linear = make_linear(first)
        self.gated = gated
        self.axis = 1 if first else -1
        self.fc1 = linear(channels, 2 * hidden if gated else hidden)
        self.act = activation(act)
        self.fc2 = linear(hidden, channels)
        self.fused_training = False  # whether a compiled training step takes the one operator: see compiling.py

    def own(self) -> tuple[Tensor, ...]:
        """The parameters of both maps, as ``vmamba_ops.mlp`` takes them."""
        return self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias

    def ordinary(self) -> bool:
        """Whether this is ``vmamba_ops.mlp``: no gate, the exact GELU, channels last, nothing exchanged or hooked."""
        linears = type(self.fc1) is type(self.fc2) is nn.Linear and None not in (self.fc1.bias, self.fc2.bias)
        gelu = type(self.act) is nn.GELU and self.act.approximate == "none"
        return linears and gelu and not self.gated and not hooked(self.fc1, self.act, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        if (self.fused_training or not in_compiled_step()) and self.ordinary() and fits(x, self.fc1.weight):
            return mlp(x, *self.own())
        x = self.fc1(x)
        if self.gated:
            x, z = x.chunk(2, dim=self.axis)
            return self.fc2(x * self.act(z))
        return self.fc2(self.act(x))


class SpatialSoftmax(nn.Module):
    """Softmax over the H * W positions, for each channel."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        start = 2 if self.first else 1
        flat = x.flatten(start, start + 1)
        return torch.softmax(flat, dim=start).view(x.shape)


def make_out_norm(kind: str, channels: int, first: bool) -> nn.Module:
    """What follows the scan: ln, none, dwconv3, cnorm (ln then dwconv3), softmax (over positions) or sigmoid."""
    norm = LayerNorm2d if first else LayerNorm
    if kind == "ln":
        return norm(channels)
    if kind == "none":
        return nn.Identity()
    if kind == "softmax":
        return SpatialSoftmax(first)
    if kind == "sigmoid":
        return nn.Sigmoid()
    before = nn.Identity() if first else Permute(0, 3, 1, 2)
    after = nn.Identity() if first else Permute(0, 2, 3, 1)
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    if kind == "dwconv3":
        return nn.Sequential(before, conv, after)
    return nn.Sequential(norm(channels), before, conv, after)
