"""Whether images and class maps are what the configuration says; one line if not."""

import logging
from pathlib import Path

import numpy as np
from PIL import Image

from vmamba.config.errors import UserError
from vmamba_tasks.dense import layout
from vmamba_tasks.segmentation.config import IGNORED, IMAGES, names, num_classes

log = logging.getLogger("vmamba")
ADE20K = 150  # classes


def maps(cfg) -> None:
    """Checks the splits that the run needs. Raises UserError for missing folders, images, maps, or foreign values."""
    _check_names(cfg)
    splits = ("train", "val") if cfg.mode == "train" else ("val",)
    for split in splits:
        images, folder = layout.need(cfg.data, f"{split}_split", True), layout.need(cfg.data, f"{split}_maps", True)
        found = {name for name in layout.names(images) if Path(name).suffix.lower() in IMAGES}
        if not found:
            raise UserError(f"{images} has no images ({', '.join(IMAGES)}): {cfg.data.how_to_get or 'check data.root'}")
        if len(suffixes := {Path(name).suffix for name in found}) > 1:
            raise UserError(
                f"{images} has images with several suffixes ({', '.join(sorted(suffixes))}), of which mmseg reads one: "
                "convert or rename the others"
            )
        maps_of = {str(Path(name).with_suffix(".png")): name for name in sorted(found)}
        layout.whole(set(maps_of), layout.names(folder), folder, "class maps", cfg.data)
        seen = [_check_map(cfg, folder / name, images / maps_of[name]) for name in layout.some(sorted(maps_of))]
        _check_seen(cfg, set().union(*seen), folder)


def _check_names(cfg) -> None:
    """A metric over another number of classes than the model's would leave some out without a word.

    So would mmseg, which reads every map as bytes, of which 255 (and 0, where it stands for none) is no class.
    """
    if num_classes(cfg) > (most := IGNORED - cfg.data.reduce_zero_label):
        key = "data.map_classes" if cfg.data.map_classes else "data.num_classes"
        raise UserError(
            f"{key}={num_classes(cfg)}: class maps are read as bytes, which tell {most} classes apart at most: join or "
            "leave out some"
        )
    named = len(names(cfg.data)) if cfg.data.classes else ADE20K
    if named != num_classes(cfg):
        whose = "data.classes" if cfg.data.classes else "ADE20K, whose names are taken without data.classes,"
        raise UserError(
            f"{whose} has {named} classes, while the maps are said to have {num_classes(cfg)}: set data.classes=[…] to "
            "their names and data.num_classes to their number"
        )
    if cfg.data.classes and cfg.data.reduce_zero_label:
        log.info(
            "data.reduce_zero_label=true: 0 in the class maps stands for none, 1 for %s; false if 0 is the first class",
            cfg.data.classes[0],
        )


def _check_seen(cfg, seen: set[int], folder: Path) -> None:
    """Warns of maps that tell nothing apart: 255 is often written for the foreground, and stands for no class."""
    none = {0, IGNORED} if cfg.data.reduce_zero_label else {IGNORED}
    known = seen - none
    if not known or (len(known) == 1 and IGNORED in seen):
        log.warning(
            "%s: all pixels of the maps looked at are %s, and %s is no class: write 0, 1, 2, … for classes",
            folder, " or ".join(map(str, sorted(seen))), " or ".join(map(str, sorted(none))),
        )  # fmt: skip


def _check_map(cfg, path: Path, image: Path) -> set[int]:
    """The values of a map. A class that the model does not have would stop the training; another image's map would be
    learned.
    """
    most = num_classes(cfg) - 1 + cfg.data.reduce_zero_label
    try:
        values = np.asarray(Image.open(path))
    except OSError:
        raise UserError(f"{path} is not readable as an image: it is damaged; get the data set again") from None
    if values.ndim != 2:
        raise UserError(f"{path} has {values.ndim} dimensions: a class map is a grey PNG, one class number a pixel")
    sides = layout.sides(image)
    if sides and sorted(sides) != sorted(values.shape):
        raise UserError(
            f"{path} is {values.shape[1]} x {values.shape[0]}, its image {image} {sides[0]} x {sides[1]}: a class map "
            "has its image's size; put the two there that belong together"
        )
    seen = set(map(int, np.unique(values)))
    largest = max(seen - {IGNORED}, default=0)
    if largest > most:
        key = "data.map_classes" if cfg.data.map_classes else "data.num_classes"
        raise UserError(
            f"{path} has class {largest}, while {key}={num_classes(cfg)} allows {most} at most: set {key} (and "
            "data.classes) to the maps' classes, or data.reduce_zero_label=true if 0 stands for none"
        )
    return seen
