"""Parameters and FLOPs of Mask R-CNN at 1280 x 800 and UperNet at 2048 x 512 around the published backbones.

Counted as upstream counted its rows: one image through everything that inference runs, with the most regions that the
heads can see: 1,000 proposals in the box head, 100 boxes in the mask head. RoIAlign and NMS do not count, nor does the
auxiliary head of UperNet, whose parameters do.
"""

from importlib import import_module

import torch
from torch import nn

from vmamba.bench import complexity
from vmamba.bench.report import Row
from vmamba.config.compose import compose
from vmamba_tasks.openmm import parts

DETECTOR, SEGMENTOR = (800, 1280), (512, 2048)  # height, width
MASKED = 100  # boxes of an image that get a mask: test_cfg.rcnn.max_per_img
# Millions of parameters and GFLOPs by upstream's counter, where its README rounds them (and prints VMamba-S's 348.9 G
# as 384 G); the Swin rows are the README's.
PUBLISHED = {
    ("det", "tiny_0230"): (50.212, 270.186),
    ("det", "tiny"): (49.755, 271.16),
    ("det", "small"): (69.654, 348.92),
    ("det", "base"): (108, 485.50),
    ("det", "swin_tiny"): (48, 267),
    ("det", "swin_small"): (69, 354),
    ("det", "swin_base"): (107, 496),
    ("seg", "tiny_0230"): (62.359, 947.78),
    ("seg", "tiny"): (61.903, 948.78),
    ("seg", "small"): (81.801, 1028.40),
    ("seg", "base"): (122.069, 1170.34),
    ("seg", "swin_tiny"): (60, 945),
    ("seg", "swin_small"): (81, 1039),
    ("seg", "swin_base"): (121, 1188),
}


def rows(small: bool) -> list[Row]:
    """A row for each published one; ``small``: those of VMamba-T alone."""
    return [row(*key) for key in PUBLISHED if not small or key[1] == "tiny"]


def row(task: str, name: str) -> Row:
    """The row of ``task`` (det, seg) with the backbone ``name`` (a file of conf/model)."""
    folder, scope, data, count, size = {
        "det": ("detection", "mmdet", "coco", detector, DETECTOR),
        "seg": ("segmentation", "mmseg", "ade20k", segmentor, SEGMENTOR),
    }[task]
    cfg, _ = compose([f"task={task}", f"model={name}", f"data={data}", "recipe.sync_bn=false"])
    model = parts.model(scope, import_module(f"vmamba_tasks.{folder}.config").model_config(cfg)).eval()
    with complexity.fake():
        found = count(model, *size)
    shown = f"{size[1]}x{size[0]}"
    return complexity.row(task, name, shown, complexity.millions(model), found / 1e9, PUBLISHED[task, name])


def detector(model: nn.Module, height: int, width: int) -> float:
    """FLOPs of a two-stage detector with masks, for one image."""
    heads = model.roi_head
    total, features = complexity.flops(lambda: model.extract_feat(torch.empty(1, 3, height, width)))
    total += complexity.flops(lambda: model.rpn_head(features))[0]
    for head, extractor, regions in (
        (heads.bbox_head, heads.bbox_roi_extractor, model.test_cfg.rpn.max_per_img),
        (heads.mask_head, heads.mask_roi_extractor, MASKED),
    ):
        pooled = torch.empty(regions, extractor.out_channels, *extractor.roi_layers[0].output_size)
        total += complexity.flops(lambda head=head, pooled=pooled: head(pooled))[0]
    return total


def segmentor(model: nn.Module, height: int, width: int) -> float:
    """FLOPs of an encoder and its decoding head, for one image; the last resizing to the image's size is not in it."""
    return complexity.flops(lambda: model(torch.empty(1, 3, height, width), mode="tensor"))[0]
