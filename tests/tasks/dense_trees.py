"""Small trees in the layouts of COCO 2017 and ADE20K, and runs of small models on them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vmamba.config.compose import compose
from vmamba.engine import distributed, fit
from vmamba.tracking.folder import RunFolder
from vmamba_tasks.openmm import parts

SMALL = ["model=nano", "model.depths=[1,1,1,1]", "model.dims=[8,16,24,32]", "model.drop_path=0.2", "tracking=none",
         "device=cpu", "log_every=1", "data.workers=0"]  # fmt: skip
DET = [*SMALL, "task=det", "data=coco", "recipe=scenes_det", "recipe.det.channels=16", "recipe.det.hidden=16",
       "recipe.det.mask_convs=1", "recipe.det.flip=0.5", "recipe.det.min_size=1", "recipe.batch_size=2",
       "recipe.warmup=0", "recipe.epochs=2", "recipe.eval_every=1"]  # fmt: skip
SEG = [*SMALL, "task=seg", "data=ade20k", "recipe=scenes_seg", "recipe.seg.channels=16", "recipe.seg.aux_channels=16",
       "recipe.seg.flip=0.5", "recipe.seg.crop=64", "recipe.seg.scale=[96,64]", "recipe.batch_size=2",
       "recipe.warmup=0", "recipe.epochs=2", "recipe.eval_every=1"]  # fmt: skip
COUNTS = {"train": 6, "val": 3}
METRICS = {
    "det": {f"val/{kind}_{name}" for kind in ("bbox", "segm") for name in ("mAP", "AP50", "AP75")},
    "seg": {"val/mIoU", "val/mAcc", "val/aAcc"},
}


def words(task: str, coco: Path, ade: Path, *more: str) -> list[str]:
    """The words of a small run of ``task`` on one of the trees."""
    return [*DET, f"data.root={coco}", *more] if task == "det" else [*SEG, f"data.root={ade}", *more]


def size(index: int) -> tuple[int, int]:
    """Height and width: wide and tall ones."""
    return (48, 72) if index % 2 else (72, 48)


def picture(index: int) -> np.ndarray:
    return np.random.RandomState(index).randint(0, 255, (*size(index), 3)).astype(np.uint8)


def coco_tree(root: Path) -> Path:
    """The categories are COCO's 80, with its holes in the numbering; the first training image has no box."""
    with parts.scope("mmdet"):
        from mmdet.datasets import CocoDataset

    numbers = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    categories = [{"id": n, "name": c} for n, c in zip(numbers, CocoDataset.METAINFO["classes"], strict=True)]
    (root / "annotations").mkdir(parents=True)
    for split, count in COUNTS.items():
        (root / f"{split}2017").mkdir()
        images, annotations = [], []
        for index in range(count):
            height, width = size(index)
            name = f"{index:012d}.jpg"
            Image.fromarray(picture(index)).save(root / f"{split}2017" / name)
            images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
            for k in range(0 if split == "train" and index == 0 else 2):
                x, y, side = 4 + 20 * k, 6 + 8 * k, 18
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": numbers[(index + k) % 80],
                        "bbox": [x, y, side, side],
                        "area": side * side,
                        "iscrowd": 0,
                        "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def ade_tree(root: Path) -> Path:
    """Maps with 0 ("other") and some of the 150 classes."""
    for split, count in (("training", COUNTS["train"]), ("validation", COUNTS["val"])):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            height, width = size(index)
            maps = np.zeros((height, width), np.uint8)
            maps[8:, 8:], maps[20:40, 20:40] = 1 + index % 3, 150
            Image.fromarray(picture(index)).save(root / "images" / split / f"ADE_{index}.jpg")
            Image.fromarray(maps).save(root / "annotations" / split / f"ADE_{index}.png")
    return root


def run(words: list[str], path: Path, hooks=()) -> dict:
    """What the command does between composing and the feeder, in this process."""
    cfg, _ = compose(words)
    env = distributed.start(cfg)
    folder = RunFolder(path)
    try:
        if env.is_main:
            folder.create()
        distributed.barrier()
        return fit.run(cfg, folder, env, hooks)
    finally:
        distributed.stop()


def task_of(words: list[str]):
    """The task of a run, with its data opened."""
    cfg, _ = compose(words)
    return fit.build_task(cfg, distributed.start(cfg))
