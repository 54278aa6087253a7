"""UperNet with an auxiliary FCN head and its data, as plain OpenMMLab dicts of a run.

Numbers that the published recipe fixes are here; those that a small run changes are ``recipe.seg``.
Source: mmseg 1.2.2, upernet_swin and ade20k, as the published VMamba segmentors inherit them.
"""

from collections import Counter
from pathlib import Path

from vmamba_tasks.dense import layout
from vmamba_tasks.openmm.backbone import backbone_config, channels, preprocessor

IMAGES = (".jpg", ".jpeg", ".png")
IGNORED = 255
LOAD = {"type": "LoadAnnotatedImage"}
MMSEG_STD = 0.01  # what its heads begin with when nothing is said


def model_config(cfg) -> dict:
    """The segmentor of ``cfg`` (a ``schema.Run``)."""
    seg, widths = cfg.recipe.seg, channels(cfg)
    common = {
        "dropout_ratio": seg.dropout,
        "num_classes": num_classes(cfg),
        "norm_cfg": {"type": "SyncBN" if cfg.recipe.sync_bn else "BN", "requires_grad": True},
        "align_corners": False,
    }
    if seg.init_std != MMSEG_STD:
        common["init_cfg"] = {"type": "Normal", "std": seg.init_std, "override": {"name": "conv_seg"}}
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor", **preprocessor(cfg), "pad_val": 0, "seg_pad_val": IGNORED,
            "size": [seg.crop, seg.crop],
        },
        "backbone": backbone_config(cfg),
        "decode_head": {
            "type": "UPerHead", "in_channels": widths, "in_index": [0, 1, 2, 3], "pool_scales": [1, 2, 3, 6],
            "channels": seg.channels, **common, "loss_decode": _cross_entropy(1.0),
        },
        "auxiliary_head": {
            "type": "FCNHead", "in_channels": widths[2], "in_index": 2, "channels": seg.aux_channels, "num_convs": 1,
            "concat_input": False, **common, "loss_decode": _cross_entropy(0.4),
        },
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }  # fmt: skip


def data_config(cfg, _model: dict) -> dict:
    """The data sets of ``cfg`` with their pipelines, and the metric: ``train``, ``val``, ``tta``, ``metric``."""
    data, seg = cfg.data, cfg.recipe.seg
    zero = {"reduce_zero_label": data.reduce_zero_label}
    label = {"type": "LoadAnnotations", **zero}
    train = [
        LOAD,
        label,
        {"type": "RandomResize", "scale": list(seg.scale), "ratio_range": list(seg.ratio), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": [seg.crop, seg.crop], "cat_max_ratio": seg.cat_max_ratio},
        {"type": "RandomFlip", "prob": seg.flip},
        *([{"type": "PhotoMetricDistortion"}] if seg.distort else []),
        {"type": "PackSegInputs"},
    ]
    resize = {"type": "Resize", "scale": list(seg.scale), "keep_ratio": True}
    test = [LOAD, resize, label, {"type": "PackSegInputs"}]
    ways = [
        [
            {"type": "Resize", "scale_factor": ratio, "keep_ratio": True} for ratio in seg.tta_ratios
        ],  # of the file's size
        [{"type": "RandomFlip", "prob": p, "direction": "horizontal"} for p in (0.0, 1.0)],
        [label],
        [{"type": "PackSegInputs"}],
    ]
    many = [LOAD, {"type": "TestTimeAug", "transforms": ways}]
    return {
        "train": _maps(data, data.train_split, data.train_maps, train),
        "val": _maps(data, data.val_split, data.val_maps, test) | {"test_mode": True},
        "tta": _maps(data, data.val_split, data.val_maps, many) | {"test_mode": True},
        "metric": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
    }


def num_classes(cfg) -> int:
    """Of the class maps."""
    return cfg.data.map_classes or cfg.data.num_classes


def names(data) -> list[str]:
    """Of the classes of the maps, as ``data.classes`` has them; the background comes first where it is one more."""
    return ["background", *data.classes] if data.map_classes == len(data.classes) + 1 else list(data.classes)


def suffix(folder: Path) -> str:
    """The most common image suffix below a folder (".jpg" if there is no image, or no folder)."""
    found = Counter(end for name in layout.names(folder) if (end := Path(name).suffix).lower() in IMAGES)
    return found.most_common(1)[0][0] if found else ".jpg"


def _cross_entropy(weight: float) -> dict:
    return {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": weight}


def _maps(data, images: str, maps: str, pipeline: list[dict]) -> dict:
    root = Path(data.root or "").expanduser()
    common = {
        "data_root": str(root),
        "data_prefix": {"img_path": images, "seg_map_path": maps},
        "img_suffix": suffix(root / images),
        "pipeline": pipeline,
    }
    if not data.classes:  # ADE20K's own names and colours
        return {"type": "ADE20KDataset", **common, "reduce_zero_label": data.reduce_zero_label}
    meta = {"metainfo": {"classes": names(data)}, "reduce_zero_label": data.reduce_zero_label}
    return {"type": "BaseSegDataset", **common, **meta}
