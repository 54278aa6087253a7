"""VMamba, the network: patch embedding, four stages, classifier, and timm's interface to it."""

from collections.abc import Sequence
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F

from vmamba.config.errors import UserError
from vmamba.config.network import check, choose, patch_grid
from vmamba.models.block import Block, Stage
from vmamba.models.init import init_weights
from vmamba.models.layers import channel_first, make_norm, to_first, to_last
from vmamba.models.ss2d import SS2D, runs_channels_last
from vmamba.models.stem import as_nchw, downsample, patch_embed

SCAN_FIELDS = tuple(name for name in signature(SS2D.__init__).parameters if name not in ("self", "channels", "first"))


class Classifier(nn.Module):
    """Norm, average over the positions, linear; ``num_classes=0`` leaves the linear map out."""

    def __init__(self, channels: int, num_classes: int, norm: str, drop_rate: float) -> None:
        super().__init__()
        self.norm = make_norm(norm, channels, wide=True)
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(channels, num_classes) if num_classes else nn.Identity()


class VMamba(nn.Module):
    """VMamba (arXiv 2401.10166). Images (B, in_chans, H, W) -> logits (B, num_classes).

    Images may have any size that leaves every stage a position (with the defaults, any at all).

    The arguments are the fields of ``schema.Model``, ``schema.ForwardType``, ``schema.Norm`` and ``schema.Scan``;
    the state dict has the published names. For a GPU's scan a network of norm=ln2d keeps its features channels-last
    inside and hands them out as (B, C, H, W) all the same (``ss2d.runs_channels_last``).
    ``img_size`` matters only to ``pos_embed``, whose grid is resized to the image's on the way. ``crop_odd`` cuts odd
    maps in downsample=v1 instead of padding them, as the first release did.
    Raises ``UserError`` for what does not fit together.
    """

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        drop_rate: float = 0.0,
        drop_path: float = 0.0,
        grad_checkpointing: bool = False,
        global_pool: str = "avg",
        patch_size: int = 4,
        patch_embed: str = "v2",
        patch_norm: bool = True,
        pos_embed: bool = False,
        downsample: str = "v3",
        crop_odd: bool = False,
        d_state: int = 1,
        ssm_ratio: float = 2.0,
        dt_rank: int | None = None,
        ssm_act: str = "silu",
        conv: int = 3,
        conv_bias: bool = False,
        gate: str = "none",
        out_norm: str = "ln",
        out_act: bool = False,
        routes: str = "cross2d",
        init: str = "v0",
        mlp: str = "mlp",
        mlp_ratio: float = 4.0,
        mlp_act: str = "gelu",
        norm: str = "ln2d",
        projection: str = "einsum",
        cross_scan: str = "torch",
        scan_in: str = "float32",
        scan_out: str = "float32",
        sequential: bool = False,
        backend: str = "auto",
    ) -> None:
        args = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        check(args)
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.output_fmt = "NCHW" if channel_first(norm) else "NHWC"
        self.norm_kind = args["norm"] = "ln" if runs_channels_last(args) else norm  # a layer norm in either layout
        self.first = channel_first(self.norm_kind)
        self.num_features = self.head_hidden_size = dims[-1]
        self.drop_path_rate = drop_path
        self.feature_info = [
            {
                "num_chs": width,
                "reduction": patch_size * 2 ** (0 if downsample == "none" else i),
                "module": f"layers.{i}",
            }
            for i, width in enumerate(dims)
        ]
        self._set_pool(global_pool)

        self._build(args)
        self.apply(init_weights)
        self.set_grad_checkpointing(grad_checkpointing)

    def _build(self, args: dict[str, Any]) -> None:
        depths, dims, norm = args["depths"], args["dims"], args["norm"]
        version, patch = args["patch_embed"], args["patch_size"]
        self.patch_embed = patch_embed(version, self.in_chans, dims[0], patch, norm, args["patch_norm"])
        self.pos_embed = None
        if args["pos_embed"]:
            size = args["img_size"]
            grid = patch_grid(version, patch, (size, size) if isinstance(size, int) else tuple(size))
            if min(grid) < 1:
                raise UserError(f"img_size={size} is smaller than patch_size={patch}: take larger images")
            self.pos_embed = nn.Parameter(torch.zeros(1, dims[0], *grid))
            trunc_normal_(self.pos_embed, std=0.02)
        scan = {name: args[name] for name in SCAN_FIELDS}
        mlp = {name: args[name] for name in ("mlp", "mlp_ratio", "mlp_act")}
        rates = iter(torch.linspace(0, args["drop_path"], sum(depths), device="cpu").tolist())
        downs = [downsample(args["downsample"], a, b, norm, args["crop_odd"]) for a, b in pairwise(dims)]
        self.layers = nn.Sequential(
            *(
                Stage([Block(width, norm=norm, drop_path=next(rates), scan=scan, **mlp) for _ in range(depth)], down)
                for depth, width, down in zip(depths, dims, [*downs, nn.Identity()], strict=True)
            )
        )
        self.classifier = Classifier(dims[-1], self.num_classes, norm, self.drop_rate)

    def _set_pool(self, global_pool: str) -> None:
        self.global_pool = choose("global_pool", global_pool, ("avg", ""))

    def _stem(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise UserError(
                f"images of shape {tuple(x.shape)}: this model takes (batch, {self.in_chans}, height, width)"
            )
        if x.is_cuda and not self.first:  # else the convolutions behind would change the layout, map by map
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            grid = x.shape[2:] if self.first else x.shape[1:3]
            pos = resize_grid(self.pos_embed, grid)
            x = x + (pos if self.first else to_last(pos))
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's normalised features, (B, C, H, W) or (B, H, W, C): see ``output_fmt``."""
        return self._outward(self._features(x))

    def _features(self, x: Tensor) -> Tensor:
        x = self._stem(x)
        for stage in self.layers:
            x = stage.downsample(stage(x))
        return self.classifier.norm(x)

    def _outward(self, x: Tensor) -> Tensor:
        """From the layout inside to ``output_fmt``."""
        return to_first(x) if self.output_fmt == "NCHW" and not self.first else x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, num_classes) of ``forward_features``' result; with ``pre_logits`` the pooled features (B, C)."""
        first = self.output_fmt == "NCHW"
        if self.global_pool:
            x = x.mean((2, 3) if first else (1, 2))
        elif first and not pre_logits:
            x = to_last(x)
        if pre_logits:
            return x
        return self.classifier.head(self.classifier.drop(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def feature_norm(self, stage: int, x: Tensor) -> Tensor:
        """The norm that ``forward_intermediates(norm=True)`` applies to a stage: the classifier's, to the last."""
        return self.classifier.norm(x) if stage == len(self.layers) - 1 else x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The stages' outputs before their downsampling, as timm's method of that name.

        Args:
            x: images (B, in_chans, H, W).
            indices: which stages (a list), the last n (an int), or all.
            norm: apply the norm of that stage, where there is one.
            stop_early: leave out the stages after the last one asked for.
            output_fmt: "NCHW" or "NHWC" features, whatever the network's own layout.
            intermediates_only: only the list; else (features of the last stage as ``forward_features``, list).
        """
        choose("output_fmt", output_fmt, ("NCHW", "NHWC"))
        take, last = feature_take_indices(len(self.layers), indices)
        x, found = self._stem(x), []
        stages = self.layers[: last + 1] if stop_early else self.layers
        for i, stage in enumerate(stages):
            x = stage(x)
            if i in take:
                feature = as_nchw(self.feature_norm(i, x) if norm else x, self.first)
                found.append(feature if output_fmt == "NCHW" else to_last(feature))
            if i + 1 < len(stages):
                x = stage.downsample(x)
        if intermediates_only:
            return found
        return self._outward(self.classifier.norm(x) if len(stages) == len(self.layers) else x), found

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what no stage of ``indices`` needs (timm's features_only); returns their absolute indices."""
        take, last = feature_take_indices(len(self.layers), indices)
        shortened = last < len(self.layers) - 1
        self.layers = self.layers[: last + 1]
        self.layers[-1].downsample = nn.Identity()
        if prune_norm or shortened:
            self.classifier.norm = nn.Identity()
        if shortened:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """The linear map to the classes."""
        return self.classifier.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier of ``num_classes`` (0: none); ``global_pool`` is "avg", or "" to keep the positions."""
        if global_pool is not None:
            self._set_pool(global_pool)
        self.num_classes = num_classes
        like = next(self.layers.parameters())
        head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype) if num_classes else None
        self.classifier.head = head or nn.Identity()
        init_weights(self.classifier.head)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.layers:
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names exempt from weight decay beyond timm's rule (1-D tensors and names ending in .bias): pos_embed.

        That is the published recipe: upstream marks A_logs and Ds as exempt, but its optimizer never read the marks,
        so A_logs and dt_projs_bias (both 2-D) are decayed, and Ds is not for being 1-D.
        """
        return {"pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's parameter groups by depth (layer-wise learning rates): stem, stages or blocks, classifier norm."""
        fine = [
            (r"^layers\.(\d+)\.downsample", (0,)),
            (r"^layers\.(\d+)\.blocks\.(\d+)", None),
            (r"^(?:classifier\.norm|outnorm)", (99999,)),
        ]
        return {"stem": r"^(?:patch_embed|pos_embed)", "blocks": r"^layers\.(\d+)" if coarse else fine}


def resize_grid(pos_BCHW: Tensor, grid: Sequence[int]) -> Tensor:
    """A positional embedding (1, C, H, W) on another grid, bicubically; unchanged if it fits."""
    if tuple(pos_BCHW.shape[2:]) == tuple(grid):
        return pos_BCHW
    resized = F.interpolate(pos_BCHW.float(), size=tuple(grid), mode="bicubic", align_corners=False)
    return resized.to(pos_BCHW.dtype)
