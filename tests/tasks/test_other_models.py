"""``task.base``: other detectors and segmentors, from files of OpenMMLab's, with our backbone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from dense_trees import DET, METRICS, SEG, run, task_of

from vmamba.config.compose import compose
from vmamba.config.errors import UserError
from vmamba_tasks.dense import base
from vmamba_tasks.detection.config import model_config
from vmamba_tasks.openmm import ext
from vmamba_tasks.segmentation.config import model_config as segmentor

RETINA = """
_norm = 0
model = dict(type='RetinaNet', data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=50, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=16, start_level=1,
              add_extra_convs='on_input', num_outs=5),
    bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=16, stacked_convs=1, feat_channels=16,
        anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3,
                              ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'), loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss')),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
                   sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=9))
"""
DEEPLAB = """
norm = dict(type='SyncBN', requires_grad=True)
model = dict(type='EncoderDecoder', pretrained='open-mmlab://resnet50_v1c',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
    backbone=dict(type='ResNetV1c', depth=50),
    decode_head=dict(type='DepthwiseSeparableASPPHead', in_channels=2048, in_index=3, channels=16, dilations=(1, 6),
        c1_in_channels=256, c1_channels=8, dropout_ratio=0.1, num_classes=19, norm_cfg=norm, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(type='FCNHead', in_channels=1024, in_index=2, channels=8, num_convs=1, concat_input=False,
        num_classes=19, norm_cfg=norm, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
"""


def head_of(weights: list[float], tmp_path: Path) -> list[float]:
    """The class weights of a run with 150 classes around a file of three."""
    loss = f"loss_decode=[dict(type='CrossEntropyLoss', use_sigmoid=False, class_weight={weights})]"
    head = f"dict(type='FCNHead', in_channels=1024, in_index=2, channels=8, num_classes=3, {loss})"
    (tmp_path / "weighted.py").write_text(f"model = dict(type='EncoderDecoder', backbone=dict(), decode_head={head})")
    cfg, _ = compose([*SEG, "data.root=unused"])
    found = base.with_our_backbone(str(tmp_path / "weighted.py"), segmentor(cfg), "mmseg")
    return found["decode_head"]["loss_decode"][0]["class_weight"]


def test_class_weights_of_a_file_become_those_of_the_data(tmp_path):
    assert head_of([2.0, 2.0, 2.0], tmp_path) == [2.0] * 150
    assert head_of([1.0, 1.0, 1.0, 0.1], tmp_path) == [1.0] * 150 + [0.1]  # of no object, as in Mask2Former
    with pytest.raises(UserError, match="class_weight for each of 3 classes, while this run has 150: give one"):
        head_of([1.0, 0.8, 1.1], tmp_path)


def other(task: str, text: str, root: Path, tmp_path: Path) -> list[str]:
    """The words of two steps of another model, from a file of its own."""
    (tmp_path / "base.py").write_text(text)
    base = f"task.base={tmp_path / 'base.py'}"
    return [*(DET if task == "det" else SEG), f"data.root={root}", base, "limit.train_steps=2", "limit.eval_batches=1"]


def test_another_segmentor_with_our_backbone(ade, tmp_path):
    result = run(other("seg", DEEPLAB, ade, tmp_path), tmp_path / "r")
    assert result["steps"] == 2 and result["final"]["train/loss"] > 0 and METRICS["seg"] <= result["final"].keys()
    written = json.loads((tmp_path / "r" / "manifest.json").read_text())["model_config"]
    assert (
        written["decode_head"]["type"] == "DepthwiseSeparableASPPHead" and written["decode_head"]["in_channels"] == 32
    )


def test_a_detector_of_boxes_alone_by_the_operator_that_a_gpu_calls(coco, tmp_path, monkeypatch):
    """It reads no masks and is measured by boxes. mmdet takes mmcv's focal loss on a GPU alone, and its own on a CPU:
    a run by either trains alike."""
    from mmdet.models.losses import focal_loss

    root = shutil.copytree(coco, tmp_path / "boxes")
    for path in (root / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["annotations"] = [{k: v for k, v in a.items() if k != "segmentation"} for a in content["annotations"]]
        path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"10 of 10 objects have no segmentation.*task\.base="):
        task_of([*DET, f"data.root={root}"])
    told = other("det", RETINA, root, tmp_path)
    plain = run(told, tmp_path / "plain")
    assert {name for name in plain["final"] if "segm" in name} == set()
    assert all(0 <= plain["final"][name] <= 100 for name in METRICS["det"] if "bbox" in name)
    calls = []

    def operator(pred, hits, *args, **kwargs):  # on a CPU the classes come as one-hot rows, none for background
        calls.append(pred.shape)
        target = torch.where(hits.any(1), hits.argmax(1), hits.shape[1])
        return focal_loss.sigmoid_focal_loss(pred, target, *args, **kwargs)

    monkeypatch.setattr(focal_loss, "py_sigmoid_focal_loss", operator)
    result = run(told, tmp_path / "operator")
    assert len(calls) >= 10, "five scales, two steps"
    assert result["final"]["train/loss"] == pytest.approx(plain["final"]["train/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("model = dict(", "cannot be read"),
        ("x = 1", "no model"),
        (DEEPLAB, "other task"),
        (RETINA.replace("RetinaHead", "RetinaHaed"), "no type RetinaHaed; the nearest are RetinaHead"),
        (
            "model = dict(backbone=dict(), roi_head=dict(semantic_head=dict()))",
            "its semantic_head learns from class maps",
        ),
        (RETINA.replace("stacked_convs", "stacked"), "unexpected keyword argument 'stacked'"),
        (RETINA.replace("type='nms'", "type='soft_nms'"), "calls soft_nms, compiled code"),
    ],
)
def test_a_base_that_cannot_be_used_gets_one_line(text, message, tmp_path):
    path = tmp_path / "base.py"
    if text is not None:
        path.write_text(text)
    own = model_config(compose([*DET, "data.root=unused"])[0])
    with pytest.raises(UserError, match=f"task.base={path}.*{message}") as caught:
        base.build(str(path), base.with_our_backbone(str(path), own, "mmdet"), "mmdet", "cpu")
    assert "\n" not in str(caught.value)


def test_heads_are_connected_wherever_they_take_stages(tmp_path):
    """By in_index, all stages without it, or through a head of their own; inner widths stay."""
    stages = {"in_channels": [256, 512, 1024, 2048], "in_index": [0, 1, 2, 3], "num_classes": 19}
    inner = {"kernel_generate_head": stages, "kernel_update_head": [{"in_channels": 512, "num_classes": 19}]}
    own = {"backbone": {"type": "ours"}, "data_preprocessor": {},
           "decode_head": {"in_channels": [8, 16, 24, 32], "num_classes": 5}}  # fmt: skip
    for head, expected in (
        (inner, {"kernel_generate_head": stages | own["decode_head"],
                 "kernel_update_head": [{"in_channels": 512, "num_classes": 5}]}),
        ({"in_channels": [1, 2, 3, 4], "num_classes": 19}, own["decode_head"]),
        ({"in_channels": 2048, "in_index": 3, "c1_in_channels": 256},
         {"in_channels": 32, "in_index": 3, "c1_in_channels": 8}),
    ):  # fmt: skip
        (tmp_path / "base.py").write_text(f"model = dict(backbone=dict(), decode_head={head!r})")
        made = base.with_our_backbone(str(tmp_path / "base.py"), own, "mmseg")
        assert made["decode_head"] == expected and made["backbone"] == own["backbone"]


@pytest.mark.parametrize(
    ("given", "widths", "stages"),
    [([1, 2, 3, 4], [8, 16, 24, 32], None), ([1, 2, 3], [16, 24, 32], [1, 2, 3]), (2048, 32, [3])],
)
def test_a_neck_of_fewer_stages_takes_the_last(given, widths, stages, tmp_path):
    """YOLOX and RTMDet have strides 8 to 32: the map of stride 4 in the first one's place would pass in silence."""
    own = {"backbone": {"type": "ours"}, "data_preprocessor": {}, "neck": {"in_channels": [8, 16, 24, 32]},
           "roi_head": {"bbox_head": {"num_classes": 5}}}  # fmt: skip
    text = f"model = dict(backbone=dict(), bbox_head=dict(), neck=[dict(in_channels={given}), dict(in_channels=64)])"
    (tmp_path / "base.py").write_text(text)
    made = base.with_our_backbone(str(tmp_path / "base.py"), own, "mmdet")
    assert made["neck"] == [{"in_channels": widths}, {"in_channels": 64}]
    assert made["backbone"].get("out_indices") == stages and "out_indices" not in own["backbone"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_operators_that_nobody_provides_are_named_before_training(device):
    from mmcv.ops import DeformConv2dPack, MultiScaleDeformableAttention, RoIAlign

    model = torch.nn.ModuleList(
        [DeformConv2dPack(4, 4, 3), RoIAlign((7, 7)), MultiScaleDeformableAttention(32), torch.nn.Conv2d(3, 4, 1)]
    )
    found = ext.lacking(model, {"test_cfg": [{"nms": {"type": "nms"}}, {"nms": {"type": "nms_match"}}]}, device)
    attention = ["MultiScaleDeformableAttention"] if device == "cuda" else []  # plain torch on a CPU
    assert found == ["DeformConv2dPack", *attention, "nms_match"]
