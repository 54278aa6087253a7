"""What changes the size of the map: patch embeddings and downsampling, in both layouts.

The positions in each ``Sequential`` are part of the checkpoint format: norms sit after a layout change that is the
identity when the features are channel-first.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from vmamba.models.layers import LayerNorm, Permute, channel_first, hooked, make_linear, make_norm, to_first
from vmamba_ops import conv_norm_gelu
from vmamba_ops.conv_norm_gelu import fits


def _normed(norm: str, channels: int, enabled: bool, wide: bool = True) -> list[nn.Module]:
    """From the (B, C, H, W) of a convolution to the network's layout, normalised there (two modules); ``wide`` where
    the residual stream begins."""
    change = nn.Identity() if channel_first(norm) else Permute(0, 2, 3, 1)
    return [change, make_norm(norm, channels, wide=wide) if enabled else nn.Identity()]


def patch_embed(version: str, in_chans: int, channels: int, patch_size: int, norm: str, normed: bool) -> nn.Module:
    """(B, in_chans, H, W) -> the network's layout, H and W over ``patch_size``.

    v1: one convolution, kernel = stride = patch_size. v2: two overlapping ones of stride patch_size / 2 and kernel
    stride + 1, padding 1, with norm and GELU between.
    """
    if version == "v1":
        return nn.Sequential(nn.Conv2d(in_chans, channels, patch_size, patch_size), *_normed(norm, channels, normed))
    stride, half = patch_size // 2, channels // 2
    back = nn.Identity() if channel_first(norm) else Permute(0, 3, 1, 2)
    return Overlapping(
        nn.Conv2d(in_chans, half, stride + 1, stride, padding=1),
        *_normed(norm, half, normed, wide=False),
        back,
        nn.GELU(),
        nn.Conv2d(half, channels, stride + 1, stride, padding=1),
        *_normed(norm, channels, normed),
    )


class Overlapping(nn.Sequential):
    """Patch embedding v2; in channels-last networks its first half is one operator where ``fits`` says so."""

    HEAD = 5  # convolution, change of layout, norm, change back, GELU

    def forward(self, x: Tensor) -> Tensor:
        head, rest = list(self)[: self.HEAD], list(self)[self.HEAD :]
        if self._ordinary(*head) and fits(x, head[0].weight):
            conv, norm = head[0], head[2]
            x = conv_norm_gelu(x, conv.weight, conv.bias, norm.weight, norm.bias, norm.eps)
        else:
            rest = (*head, *rest)
        for module in rest:
            x = module(x)
        return x

    def _ordinary(self, conv: nn.Module, change: nn.Module, norm: nn.Module, back: nn.Module, act: nn.Module) -> bool:
        """Whether the first half is ``vmamba_ops.conv_norm_gelu``, nothing exchanged or hooked."""
        plain = type(conv) is nn.Conv2d and conv.stride == (2, 2) and conv.bias is not None
        known = type(norm) is LayerNorm and type(act) is nn.GELU and act.approximate == "none"
        return plain and known and not hooked(conv, change, norm, back, act)


class PatchMerging(nn.Module):
    """Downsample v1: the four pixels of a 2 x 2 square as 4C channels, norm, linear (no bias) to ``out``.

    Order (row, column): (0, 0), (1, 0), (0, 1), (1, 1). Odd sides are padded with zeros at the right and bottom, or
    with ``crop`` cut, as the first release did.
    """

    def __init__(self, channels: int, out: int, norm: str, crop: bool) -> None:
        super().__init__()
        self.first, self.crop = channel_first(norm), crop
        self.norm = make_norm(norm, 4 * channels)
        self.reduction = make_linear(self.first)(4 * channels, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:] if self.first else x.shape[1:3]
        odd_h, odd_w = height % 2, width % 2
        if self.crop:
            rows, columns = height - odd_h, width - odd_w
            x = x[:, :, :rows, :columns] if self.first else x[:, :rows, :columns]
        elif odd_h or odd_w:
            x = F.pad(x, (0, odd_w, 0, odd_h) if self.first else (0, 0, 0, odd_w, 0, odd_h))
        # the column within the square outermost, then the row, then the channel: the order above
        if self.first:
            x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 5, 3, 1, 2, 4).flatten(1, 3)
        else:
            x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


def downsample(version: str, channels: int, out: int, norm: str, crop: bool) -> nn.Module:
    """Halves the map and widens it from ``channels`` to ``out``: v1 merging, v2 2x2 or v3 3x3 convolution, or none."""
    if version == "none":
        return nn.Identity()
    if version == "v1":
        return PatchMerging(channels, out, norm, crop)
    change = nn.Identity() if channel_first(norm) else Permute(0, 3, 1, 2)
    kernel, padding = (2, 0) if version == "v2" else (3, 1)
    return nn.Sequential(change, nn.Conv2d(channels, out, kernel, 2, padding), *_normed(norm, out, True))


def as_nchw(x: Tensor, first: bool) -> Tensor:
    """Features of either layout as contiguous (B, C, H, W)."""
    return (x if first else to_first(x)).contiguous()
