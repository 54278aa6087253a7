"""The published recipes, field by field. Source: upstream's configuration files, merged with their OpenMMLab bases."""

import pytest
import torch
from torch import nn

from vmamba.config.compose import choices, compose
from vmamba.engine import optim
from vmamba.engine.plan import Plan
from vmamba_tasks.detection import config as det
from vmamba_tasks.openmm import parts
from vmamba_tasks.segmentation import config as seg

NO_DECAY = ["norm", "absolute_pos_embed", "relative_position_bias_table"]
DROP_PATH = {"tiny": 0.2, "small": 0.3, "base": 0.6}
WIDTHS = {"tiny": [96, 192, 384, 768], "small": [96, 192, 384, 768], "base": [128, 256, 512, 1024]}
BACKBONE = {"tiny": 29_481_408, "small": 49_380_096, "base": 87_534_592}
EXPERIMENTS = [name for name in choices("experiment") if name.startswith(("coco", "ade20k"))]


def run_of(name: str):
    return compose([f"experiment={name}", "data.root=/data"])[0]


def size_of(name: str) -> str:
    return next(size for size in ("swin_tiny", *DROP_PATH) if size in name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_optimizer_and_backbone(name):
    run, size = run_of(name), size_of(name)
    recipe, coco = run.recipe, name.startswith("coco")
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("adamw", *((1e-4, 0.05) if coco else (6e-5, 0.01)))
    assert recipe.betas == [0.9, 0.999] and recipe.clip_grad is None and recipe.no_decay == NO_DECAY
    assert recipe.batch_size == 2 and recipe.lr_batch == 0 and recipe.accumulate == 1 and not recipe.ema.enabled
    assert run.model.drop_path == (DROP_PATH | {"swin_tiny": 0.2 if coco else 0.3})[size]
    config = (det if coco else seg).model_config(run)
    assert config["backbone"]["type"] == ("TimmBackbone" if size == "swin_tiny" else "VMambaBackbone")
    widths = (config["neck"] if coco else config["decode_head"])["in_channels"]
    assert widths == WIDTHS.get(size, WIDTHS["tiny"])
    assert config["data_preprocessor"]["mean"] == [123.675, 116.28, 103.53]
    assert config["data_preprocessor"]["std"] == [58.395, 57.12, 57.375] and config["data_preprocessor"]["bgr_to_rgb"]


@pytest.mark.parametrize(("name", "epochs", "falls"), [("1x", 12, [8, 11]), ("3x", 36, [27, 33])])
def test_detection_schedule(name, epochs, falls):
    run = run_of(f"coco_tiny_{name}")
    plan = Plan.make(run, 7330)
    assert (plan.total, plan.warmup, plan.eval_every, plan.save_every) == (epochs * 7330, 1000, 7330, 7330)
    rate = rates(run, plan)
    assert rate(0) == pytest.approx(1e-7) and rate(999) == pytest.approx(1e-4) and rate(500) < 0.6e-4
    assert rate(falls[0] * 7330 - 1) == pytest.approx(1e-4) and rate(falls[0] * 7330) == pytest.approx(1e-5)
    assert rate(falls[1] * 7330 - 1) == pytest.approx(1e-5) and rate(falls[1] * 7330) == pytest.approx(1e-6)


def test_detection_pipelines():
    load = [{"type": "LoadAnnotatedImage"}, {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}]
    resize = {"type": "Resize", "scale": [1333, 800], "keep_ratio": True}
    flip, pack = {"type": "RandomFlip", "prob": 0.5}, {"type": "PackDetInputs"}
    model = det.model_config(run_of("coco_tiny_1x"))
    data = det.data_config(run_of("coco_tiny_1x"), model)
    assert data["train"]["pipeline"] == [*load, resize, flip, pack]
    assert data["train"]["filter_cfg"] == {"filter_empty_gt": True, "min_size": 32}
    assert data["val"]["pipeline"][:3] == [load[0], resize, load[1]] and data["val"]["test_mode"]
    assert data["metric"] == {
        "type": "CocoMetric", "ann_file": "/data/annotations/instances_val2017.json", "metric": ["bbox", "segm"],
    }  # fmt: skip
    sides = {"type": "RandomChoiceResize", "scales": [[s, 1333] for s in range(480, 801, 32)], "keep_ratio": True}
    first = {"type": "RandomChoiceResize", "scales": [[s, 1333] for s in (400, 500, 600)], "keep_ratio": True}
    crop = {"type": "RandomCrop", "crop_type": "absolute_range", "crop_size": [384, 600], "allow_negative_crop": True}
    ways = {"type": "RandomChoice", "transforms": [[sides], [first, crop, sides]]}
    assert det.data_config(run_of("coco_tiny_3x"), model)["train"]["pipeline"] == [*load, flip, ways, pack]


def test_detection_model():
    config = det.model_config(run_of("coco_base_1x"))
    prepared = config["data_preprocessor"]
    assert (prepared["type"], prepared["pad_mask"], prepared["pad_size_divisor"]) == ("DetDataPreprocessor", True, 32)
    assert config["neck"] == {"type": "FPN", "in_channels": WIDTHS["base"], "out_channels": 256, "num_outs": 5}
    anchors = config["rpn_head"]["anchor_generator"]
    assert (anchors["scales"], anchors["ratios"], anchors["strides"]) == ([8], [0.5, 1.0, 2.0], [4, 8, 16, 32, 64])
    box, mask = config["roi_head"]["bbox_head"], config["roi_head"]["mask_head"]
    assert (box["fc_out_channels"], box["num_classes"], box["reg_class_agnostic"]) == (1024, 80, False)
    assert box["bbox_coder"]["target_stds"] == [0.1, 0.1, 0.2, 0.2]
    assert (mask["num_convs"], mask["conv_out_channels"], mask["num_classes"]) == (4, 256, 80)
    layers = [config["roi_head"][f"{kind}_roi_extractor"]["roi_layer"] for kind in ("bbox", "mask")]
    assert [(r["type"], r["output_size"], r["sampling_ratio"]) for r in layers] == [
        ("RoIAlign", 7, 0),
        ("RoIAlign", 14, 0),
    ]
    train, test = config["train_cfg"], config["test_cfg"]
    assigned = {"type": "MaxIoUAssigner", "match_low_quality": True, "ignore_iof_thr": -1}
    assert train["rpn"]["assigner"] == assigned | {"pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3}
    assert train["rcnn"]["assigner"] == assigned | {"pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5}
    samplers = [(s["num"], s["pos_fraction"], s["add_gt_as_proposals"]) for s in
                (train["rpn"]["sampler"], train["rcnn"]["sampler"])]  # fmt: skip
    assert samplers == [(256, 0.5, False), (512, 0.25, True)]
    proposals = {"max_per_img": 1000, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}
    assert train["rpn_proposal"] == proposals | {"nms_pre": 2000} and test["rpn"] == proposals | {"nms_pre": 1000}
    assert train["rpn"]["allowed_border"] == -1 and train["rcnn"]["mask_size"] == 28
    assert test["rcnn"] == {
        "score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100, "mask_thr_binary": 0.5,
    }  # fmt: skip


def test_segmentation_schedule():
    run = run_of("ade20k_tiny")
    plan = Plan.make(run, 1263)
    assert (plan.total, plan.warmup, plan.eval_every, plan.save_every) == (160_000, 1500, 16_000, 16_000)
    rate = rates(run, plan)
    assert rate(0) == pytest.approx(6e-11) and rate(1499) == rate(1500) == pytest.approx(6e-5)
    assert rate(80_750) == pytest.approx(3e-5, rel=1e-3) and rate(159_999) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("name", "crop"), [("ade20k_small", 512), ("ade20k_small_640", 640)])
def test_segmentation_pipelines_and_model(name, crop):
    run = run_of(name)
    config = seg.model_config(run)
    data = seg.data_config(run, config)
    label = {"type": "LoadAnnotations", "reduce_zero_label": True}
    assert data["train"]["pipeline"] == [
        {"type": "LoadAnnotatedImage"},
        label,
        {"type": "RandomResize", "scale": [4 * crop, crop], "ratio_range": [0.5, 2.0], "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": [crop, crop], "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]
    resize = {"type": "Resize", "scale": [4 * crop, crop], "keep_ratio": True}
    assert data["val"]["pipeline"] == [data["train"]["pipeline"][0], resize, label, {"type": "PackSegInputs"}]
    scales, flips, *_ = data["tta"]["pipeline"][1]["transforms"]
    assert [way["scale_factor"] for way in scales] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert [way["prob"] for way in flips] == [0.0, 1.0]
    assert data["train"]["type"] == "ADE20KDataset" and data["metric"]["iou_metrics"] == ["mIoU"]
    assert config["data_preprocessor"]["size"] == [crop, crop] and config["data_preprocessor"]["seg_pad_val"] == 255
    head, aux = config["decode_head"], config["auxiliary_head"]
    assert (head["type"], head["channels"], head["pool_scales"]) == ("UPerHead", 512, [1, 2, 3, 6])
    assert (aux["type"], aux["channels"], aux["in_index"], aux["num_convs"], aux["concat_input"]) == (
        "FCNHead", 256, 2, 1, False,
    )  # fmt: skip
    assert aux["in_channels"] == 384 and aux["loss_decode"]["loss_weight"] == 0.4
    for part in (head, aux):
        assert (part["num_classes"], part["dropout_ratio"], part["align_corners"]) == (150, 0.1, False)
        assert part["norm_cfg"] == {"type": "SyncBN", "requires_grad": True}
    assert head["loss_decode"] == {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0}
    assert config["test_cfg"] == {"mode": "whole"}


@pytest.mark.parametrize(("size", "exempt", "decayed"), [("tiny", 92, 188), ("base", 134, 272)])
def test_backbone_and_what_weight_decay_leaves_out(size, exempt, decayed):
    """Measured on upstream's own configurations: mmengine's rule by name decays biases and the scan's A and D."""
    run = run_of(f"ade20k_{size}")
    with parts.scope("mmseg"), torch.device("meta"):
        from mmengine.registry import MODELS

        backbone = MODELS.build(seg.model_config(run)["backbone"])
    assert sum(p.numel() for p in backbone.parameters()) == BACKBONE[size]
    names = {name for name, _ in backbone.named_parameters()}
    assert {f"outnorm{i}.{leaf}" for i in range(4) for leaf in ("weight", "bias")} <= names
    assert not any(name.startswith("classifier") for name in names)
    groups = optim._by_name(backbone, run.recipe.no_decay)
    sizes = [len(group["params"]) for group in groups]
    assert groups[1]["weight_decay"] == 0 and sizes == [decayed, exempt]


def rates(run, plan):
    """Update -> the optimizer's rate."""
    opt = torch.optim.AdamW(nn.Linear(1, 1).parameters(), lr=run.recipe.lr)
    schedule = optim.schedule(opt, run.recipe, 16, plan.total, plan.warmup, plan.unit)

    def rate(step: int) -> float:
        schedule.step_update(step)
        return opt.param_groups[0]["lr"]

    return rate
