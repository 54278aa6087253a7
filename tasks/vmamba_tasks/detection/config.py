"""Mask R-CNN with an FPN and its data, as plain OpenMMLab dicts of a run.

Numbers that the published recipe fixes are here; those that a small run changes are ``recipe.det``.
Source: mmdet 3.3.0, mask-rcnn_r50_fpn and coco_instance, as the published VMamba detectors inherit them.
"""

from pathlib import Path

from vmamba_tasks.openmm.backbone import backbone_config, channels, preprocessor

STRIDES = [4, 8, 16, 32]
ONES = [1.0, 1.0, 1.0, 1.0]
LOAD = {"type": "LoadAnnotatedImage"}


def model_config(cfg) -> dict:
    """The detector of ``cfg`` (a ``schema.Run``)."""
    det, classes = cfg.recipe.det, cfg.data.num_classes
    return {
        "type": "MaskRCNN",
        "data_preprocessor": {
            "type": "DetDataPreprocessor", **preprocessor(cfg), "pad_mask": True, "pad_size_divisor": 32,
        },
        "backbone": backbone_config(cfg),
        "neck": {"type": "FPN", "in_channels": channels(cfg), "out_channels": det.channels, "num_outs": 5},
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": det.channels,
            "feat_channels": det.channels,
            "anchor_generator": {
                "type": "AnchorGenerator", "scales": [det.anchor_scale], "ratios": [0.5, 1.0, 2.0],
                "strides": [*STRIDES, 64],
            },
            "bbox_coder": _coder(ONES),
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": _extractor(7, det.channels),
            "bbox_head": {
                "type": "Shared2FCBBoxHead",
                "in_channels": det.channels,
                "fc_out_channels": det.hidden,
                "roi_feat_size": 7,
                "num_classes": classes,
                "bbox_coder": _coder([0.1, 0.1, 0.2, 0.2]),
                "reg_class_agnostic": False,
                "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
                "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
            },
            "mask_roi_extractor": _extractor(14, det.channels),
            "mask_head": {
                "type": "FCNMaskHead",
                "num_convs": det.mask_convs,
                "in_channels": det.channels,
                "conv_out_channels": det.channels,
                "num_classes": classes,
                "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
            },
        },
        "train_cfg": _train_cfg(det),
        "test_cfg": {
            "rpn": _proposals(det, det.nms_pre // 2),
            "rcnn": {
                "score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100,
                "mask_thr_binary": 0.5,
            },
        },
    }  # fmt: skip


def has_masks(model: dict) -> bool:
    """Whether the detector of a config predicts instance masks."""
    heads = model.get("roi_head")  # a list in some cascades
    return any("mask_head" in part for part in (model, *(heads if isinstance(heads, list) else [heads or {}])))


def data_config(cfg, model: dict) -> dict:
    """The data sets of ``cfg`` with their pipelines, and the metric: ``train``, ``val``, ``metric``.

    ``model``: the detector's dict; one without masks neither reads nor measures any.
    """
    data, det, masks = cfg.data, cfg.recipe.det, has_masks(model)
    root = str(Path(data.root or "").expanduser())
    return {
        "train": _coco(data, root, data.train_boxes, data.train_split, train_pipeline(det, masks))
        | {"filter_cfg": {"filter_empty_gt": True, "min_size": det.min_size}},
        "val": _coco(data, root, data.val_boxes, data.val_split, test_pipeline(det, masks)) | {"test_mode": True},
        "metric": {
            "type": "CocoMetric", "ann_file": str(Path(root, data.val_boxes)),
            "metric": ["bbox", "segm"] if masks else ["bbox"],
        },
    }  # fmt: skip


def train_pipeline(det, masks: bool) -> list[dict]:
    """Resizing to ``det.scale``; with ``det.short_sides`` to one of them, and half of the images by way of a crop."""
    flip = {"type": "RandomFlip", "prob": det.flip}
    if not det.short_sides:
        steps = [_resize(det), flip]
    else:
        ways = [[_one_of(det, det.short_sides)]]
        if det.crop_sides:
            crop = {
                "type": "RandomCrop", "crop_type": "absolute_range", "crop_size": list(det.crop_range),
                "allow_negative_crop": True,
            }  # fmt: skip
            ways.append([_one_of(det, det.crop_sides), crop, _one_of(det, det.short_sides)])
        steps = [flip, {"type": "RandomChoice", "transforms": ways}]
    return [LOAD, _annotations(masks), *steps, {"type": "PackDetInputs"}]


def test_pipeline(det, masks: bool) -> list[dict]:
    """The annotations come after resizing: they stay those of the image as it is on disk."""
    keys = ["img_id", "img_path", "ori_shape", "img_shape", "scale_factor"]
    return [LOAD, _resize(det), _annotations(masks), {"type": "PackDetInputs", "meta_keys": keys}]


def _coder(stds: list[float]) -> dict:
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0, 0.0, 0.0, 0.0], "target_stds": stds}


def _extractor(side: int, width: int) -> dict:
    return {
        "type": "SingleRoIExtractor", "roi_layer": {"type": "RoIAlign", "output_size": side, "sampling_ratio": 0},
        "out_channels": width, "featmap_strides": STRIDES,
    }  # fmt: skip


def _train_cfg(det) -> dict:
    return {
        "rpn": {
            "assigner": _assigner(0.7, 0.3, 0.3),
            "sampler": _sampler(det.rpn_samples, 0.5, False),
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "rpn_proposal": _proposals(det, det.nms_pre),
        "rcnn": {
            "assigner": _assigner(0.5, 0.5, 0.5),
            "sampler": _sampler(det.roi_samples, 0.25, True),
            "mask_size": 28,
            "pos_weight": -1,
            "debug": False,
        },
    }


def _assigner(positive: float, negative: float, least: float) -> dict:
    return {
        "type": "MaxIoUAssigner", "pos_iou_thr": positive, "neg_iou_thr": negative, "min_pos_iou": least,
        "match_low_quality": True, "ignore_iof_thr": -1,
    }  # fmt: skip


def _sampler(number: int, share: float, with_truth: bool) -> dict:
    return {
        "type": "RandomSampler", "num": number, "pos_fraction": share, "neg_pos_ub": -1,
        "add_gt_as_proposals": with_truth,
    }  # fmt: skip


def _proposals(det, before: int) -> dict:
    nms = {"type": "nms", "iou_threshold": 0.7}
    return {"nms_pre": before, "max_per_img": det.proposals, "nms": nms, "min_bbox_size": 0}


def _coco(data, root: str, boxes: str, images: str, pipeline: list[dict]) -> dict:
    meta = {"metainfo": {"classes": list(data.classes)}} if data.classes else {}
    return {
        "type": "CocoDataset", "data_root": root, "ann_file": boxes, "data_prefix": {"img": f"{images}/"},
        "pipeline": pipeline, **meta,
    }  # fmt: skip


def _annotations(masks: bool) -> dict:
    return {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks}


def _resize(det) -> dict:
    return {"type": "Resize", "scale": list(det.scale), "keep_ratio": True}


def _one_of(det, sides: list[int]) -> dict:
    return {"type": "RandomChoiceResize", "scales": [[side, max(det.scale)] for side in sides], "keep_ratio": True}
