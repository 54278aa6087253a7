"""Whether COCO files and image folders are what the configuration says; one line if not."""

import json
import logging
import os
from numbers import Real
from pathlib import Path
from typing import Any

from vmamba.config.errors import UserError
from vmamba_tasks.dense import layout
from vmamba_tasks.openmm import parts

log = logging.getLogger("vmamba")


def boxes(cfg, masks: bool) -> None:
    """Checks the splits that the run needs. Raises UserError for a missing or foreign file, classes or images.

    ``masks``: every object must have one.
    """
    splits = ("train", "val") if cfg.mode == "train" else ("val",)
    for split in splits:
        folder = layout.need(cfg.data, f"{split}_split", True)
        path = layout.need(cfg.data, f"{split}_boxes", False)
        content = _read(path)
        _check_classes(cfg.data, content, path)
        _check_objects(content, path)
        if masks:
            _check_masks(content, path, split == "train")
        wanted = {os.path.normpath(image["file_name"]) for image in content["images"]}
        layout.whole(wanted, layout.names(folder), folder, "images", cfg.data)
        _check_sizes(content["images"], folder, path)
        if split == "train":
            _check_training(cfg, content, path)


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON ({error}): it is damaged; get it again") from None
    for key, fields in (("images", ("id", "file_name", "width", "height")), ("categories", ("id", "name")),
                        ("annotations", ("id", "image_id", "category_id", "bbox", "area"))):  # fmt: skip
        entries = content.get(key) if isinstance(content, dict) else None
        lacks = [f for f in fields if any(f not in entry for entry in entries)] if _list_of_dicts(entries) else [key]
        if lacks:
            raise UserError(
                f"{path} is not a COCO instances file (no {lacks[0]}): it needs images, categories and boxes"
            )
    return content


def _list_of_dicts(entries: Any) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)


def _check_classes(data, content: dict, path: Path) -> None:
    """mmdet numbers the classes by the file's order, whatever that of ``data.classes`` is; names are ours to keep."""
    there = [category["name"] for category in content["categories"]]
    wanted = list(data.classes) or _coco()
    missing = [name for name in wanted if name not in there]
    more = len(there) > len(wanted) and not data.classes  # to leave some out is a choice, to be made by name
    if missing or more or len(wanted) != data.num_classes:
        lacks = f", among them no {missing[0]}" if missing else ""
        raise UserError(
            f"{path} has {len(there)} categories ({', '.join(there[:3])}, …){lacks}, while data.num_classes="
            f"{data.num_classes} and data.classes names {len(wanted)}: set data.classes=[…] to the file's names, or "
            "those to be learned, and data.num_classes to their number"
        )
    if (order := [name for name in there if name in wanted]) != wanted:
        raise UserError(
            f"{path} has its categories in another order than data.classes, or one twice: {', '.join(order[:10])}"
            f"{', …' if len(order) > 10 else ''}. Give data.classes in the file's order, the same in train and val"
        )
    if left := len(there) - len(wanted):
        log.info("%s: %d of %d categories are not in data.classes, and are left out", path, left, len(there))


def _check_objects(content: dict, path: Path) -> None:
    """Boxes of four numbers and ids of their own, without which mmdet and pycocotools stop in the middle."""
    seen = set()
    for note in content["annotations"]:
        box = note["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(number, Real) for number in box):
            raise UserError(f"{path}: annotation {note['id']} has bbox {box}: it must be [x, y, width, height]")
        if note["id"] in seen:
            raise UserError(f"{path}: two annotations have id {note['id']}: number them anew, each once in the file")
        seen.add(note["id"])
    for key, those in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in content[those]}
        lost = [note[key] for note in content["annotations"] if note[key] not in known]
        if lost:
            log.warning(
                "%s: %d of %d annotations are left out, e.g. one of %s %s, which none of its %s has",
                path, len(lost), len(content["annotations"]), key, lost[0], those,
            )  # fmt: skip


def _check_masks(content: dict, path: Path, training: bool) -> None:
    """Every object needs a mask of its image's size. In training mmdet itself leaves out objects without area."""
    real = content["annotations"]
    if training:
        real = [note for note in real if note["area"] > 0 and min(note["bbox"][2:]) >= 1]
    bare = sum(not note.get("segmentation") for note in real)
    if bare:
        raise UserError(
            f"{path}: {bare} of {len(real)} objects have no segmentation, which Mask R-CNN learns and is measured by: "
            "add it, or take a detector of boxes alone by task.base=/path/to/mm_config.py (Faster R-CNN, RetinaNet, …)"
        )
    sides = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    for note in real:
        mask, size = note["segmentation"], sides.get(note["image_id"])
        if isinstance(mask, list) and not (isinstance(mask[0], list) and len(mask[0]) >= 6):
            raise UserError(
                f"{path}: the mask of annotation {note['id']} must be a list of polygons [[x, y, x, y, x, y, …], …] of "
                "three points or more, or run lengths: correct it, or take the annotation out"
            )
        if isinstance(mask, dict) and size and mask.get("size") != size:
            raise UserError(
                f"{path}: the mask of annotation {note['id']} has size {mask.get('size')}, its image (id "
                f"{note['image_id']}) {size}, height first: write the masks again for the images as they are"
            )


def _check_sizes(images: list[dict], folder: Path, path: Path) -> None:
    """A look at some images: annotations for another size of them would be learned without a word."""
    for image in layout.some(images):
        sides, told = layout.sides(folder / image["file_name"]), (image["width"], image["height"])
        if sides and sorted(sides) != sorted(told):
            raise UserError(
                f"{folder / image['file_name']} is {sides[0]} x {sides[1]}, while {path} has boxes for {told[0]} x "
                f"{told[1]}: put the images there that were annotated, or scale the annotations with them"
            )


def _check_training(cfg, content: dict, path: Path) -> None:
    """What training leaves out, said once; nothing left is a mistake."""
    classes = {c["id"] for c in content["categories"] if not cfg.data.classes or c["name"] in cfg.data.classes}
    with_boxes = {a["image_id"] for a in content["annotations"] if a["category_id"] in classes}
    small = cfg.recipe.det.min_size
    usable = sum(i["id"] in with_boxes and min(i["width"], i["height"]) >= small for i in content["images"])
    if not usable:
        raise UserError(
            f"{path}: none of its {len(content['images'])} images has a box and sides of at least recipe.det.min_size="
            f"{small}: check the annotations, or make recipe.det.min_size smaller"
        )
    if left := len(content["images"]) - usable:
        log.info(
            "%s: %d of %d images have no box or are too small, and are left out", path, left, len(content["images"])
        )


def _coco() -> list[str]:
    with parts.scope("mmdet"):
        from mmdet.datasets import CocoDataset

    return list(CocoDataset.METAINFO["classes"])
