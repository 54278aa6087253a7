"""Our backbones and timm's in mmengine's root registry, where mmdet and mmseg both find them.

An OpenMMLab config reaches them with ``custom_imports = dict(imports=["vmamba_tasks.openmm.backbones"])``; importing
this module also puts torchvision's operators in the place of mmcv's compiled ones, where those are missing.
"""

from collections.abc import Sequence
from typing import Any

import timm
from mmengine.registry import MODELS
from timm.layers import LayerNorm2d
from timm.models import swin_transformer, swin_transformer_v2
from torch import Tensor, nn
from torch.nn.functional import pad

from vmamba.config.errors import UserError
from vmamba.models import Backbone
from vmamba_tasks.openmm import ext

ext.install()
STAGES = 4  # what the heads of both tasks take


@MODELS.register_module()
class VMambaBackbone(Backbone):
    """``vmamba.models.Backbone`` for OpenMMLab: images (B, 3, H, W) -> a tuple of four maps, strides 4 to 32.

    Takes the plain fields of ``VMamba``; state-dict names below ``backbone.`` are those of the published checkpoints.
    ``init_cfg`` is accepted for the sake of base configs, and ignored.
    """

    def __init__(self, init_cfg: Any = None, **fields: Any) -> None:
        super().__init__(**fields)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(super().forward(x))


@MODELS.register_module()
class TimmBackbone(nn.Module):
    """A model of timm as backbone: images (B, 3, H, W) -> of its last four scales ``out_indices``, (B, C, H', W') each.

    A network that normalises its last features by a layer norm (Swin, ConvNeXt) gets such a norm, ``outnorm0`` to
    ``outnorm3``, on every output, as its published dense models have; others (ResNet) give their features as they are.
    Raises UserError for a network that timm does not have, or with fewer scales.
    """

    def __init__(
        self, name: str, init_cfg: Any = None, out_indices: Sequence[int] = tuple(range(STAGES)), **kwargs: Any
    ) -> None:
        super().__init__()
        self.out_indices = tuple(out_indices)
        self.body, self.channels = body(name, **kwargs)
        self.multiple = 4 if name.startswith("swin") else 1  # timm's patch embedding of Swin pads nothing
        norm = getattr(self.body, "norm", None) or getattr(getattr(self.body, "head", None), "norm", None)
        self.normed = isinstance(norm, nn.LayerNorm)
        self.body.prune_intermediate_layers(STAGES, prune_norm=True, prune_head=True)
        for i in self.out_indices if self.normed else ():
            self.add_module(f"outnorm{i}", LayerNorm2d(self.channels[i]))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        bottom, right = (-side % self.multiple for side in x.shape[2:])
        if bottom or right:
            x = pad(x, (0, right, 0, bottom))
        maps = self.body.forward_intermediates(x, indices=STAGES, output_fmt="NCHW", intermediates_only=True)
        return tuple(getattr(self, f"outnorm{i}")(maps[i]) if self.normed else maps[i] for i in self.out_indices)


class PadsFirst:
    """Mixed into timm's Swin blocks: a map that is not of whole windows is padded, then shifted, as in mmdet.

    timm shifts first. Its mask, made for the padded map, then lets opposite edges of the map attend to each other.
    """

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        bottom, right = (-side % window for side, window in zip((height, width), self.window_size, strict=True))
        if bottom or right:
            x = pad(x, (0, 0, 0, right, 0, bottom))
        return super()._attn(x)[:, :height, :width]


class SwinBlock(PadsFirst, swin_transformer.SwinTransformerBlock):
    """Swin's."""


class SwinV2Block(PadsFirst, swin_transformer_v2.SwinTransformerV2Block):
    """Swin V2's."""


PADDED = {block.__mro__[2]: block for block in (SwinBlock, SwinV2Block)}


def body(name: str, **kwargs: Any) -> tuple[nn.Module, list[int]]:
    """timm's network without classifier, and the channels of its last four scales."""
    if name.startswith("swin"):  # its last map is one window at 224 x 224, and timm would never shift it
        kwargs = {"strict_img_size": False, "always_partition": True} | kwargs
    try:
        network = timm.create_model(name, num_classes=0, **kwargs)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"model.name={name}, model.kwargs={kwargs}: timm cannot build it ({error})") from None
    for module in network.modules():
        if type(module) in PADDED:
            module.__class__ = PADDED[type(module)]
    scales = [(found["reduction"], found["num_chs"]) for found in getattr(network, "feature_info", [])][-STAGES:]
    if len({reduction for reduction, _ in scales}) < STAGES or not hasattr(network, "forward_intermediates"):
        raise UserError(
            f"model.name={name} does not give features of four scales, which the heads of det and seg take: "
            "choose a hierarchical model (swin_*, convnext_*, resnet*)"
        )
    return network, [channels for _, channels in scales]
