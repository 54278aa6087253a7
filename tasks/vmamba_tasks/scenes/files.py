"""The scenes as files, in the layouts of COCO (boxes, instance masks) and ADE20K (class maps).

::

    <root>/images/{train,val}/0000.png               RGB
    <root>/annotations/instances_{train,val}.json    COCO: 10 categories, boxes, masks as uncompressed run lengths
    <root>/annotations/{train,val}/0000.png          class maps, uint8: 0 background, 1 .. 10 the digits
    <root>/scenes.json                               what was written; there once everything else is
"""

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from vmamba.config.errors import UserError
from vmamba.tracking.atomic import read_json
from vmamba_tasks.scenes import compose
from vmamba_tasks.scenes.compose import CLASSES, COUNTS, Scene, scene

MARK = "scenes.json"


def fingerprint() -> str:
    """12 hex digits that change with the code that composes or writes the scenes."""
    sources = Path(compose.__file__).read_bytes() + Path(__file__).read_bytes()
    return hashlib.sha256(sources).hexdigest()[:12]


def default_root() -> Path:
    """``$XDG_CACHE_HOME/vmamba/scenes-<fingerprint>``, or the same under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vmamba" / f"scenes-{fingerprint()}"


def make(root: Path) -> Path:
    """Writes the scenes to ``root`` unless they lie there whole; returns ``root``.

    They are written beside it and renamed, so any number of processes may call this at once. Raises UserError if the
    folder holds something else, or only part of a data set, or cannot be written.
    """
    root = Path(root)
    if root.exists() and _whole(root):
        return root
    temp = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
        for split in COUNTS:
            _write_split(temp, split)
        (temp / MARK).write_text(json.dumps({"fingerprint": fingerprint(), "scenes": COUNTS}) + "\n")
        temp.chmod(0o755)
        with suppress(FileExistsError):  # another process was first
            _take_place(temp, root)
    except OSError as error:
        raise UserError(f"the scenes cannot be written to {root}: {error.strerror}; give data.root=/a/folder") from None
    finally:
        if temp is not None:
            shutil.rmtree(temp, ignore_errors=True)
    return root


def _take_place(temp: Path, root: Path) -> None:
    try:
        os.rename(temp, root)
    except OSError:
        if root.is_dir() and _whole(root):
            raise FileExistsError from None
        raise


def _whole(root: Path) -> bool:
    """False for an empty folder; UserError for one that is neither empty nor a whole set of scenes."""
    if not root.is_dir():
        raise UserError(f"data.root={root} is no folder: data=scenes is written into a new or empty one")
    if not any(root.iterdir()):
        return False
    marked = read_json(root / MARK).get("scenes")
    if not marked:
        raise UserError(f"data.root={root} holds other files: data=scenes is written into a new or empty folder")
    folders = {f"{kind}/{split}": count for kind in ("images", "annotations") for split, count in marked.items()}
    for folder, count in folders.items():
        found = len(list((root / folder).glob("*.png")))
        if found != count:
            raise UserError(f"{root / folder} has {found} of {count} images: delete {root}, it is written anew")
    return True


def _write_split(root: Path, split: str) -> None:
    images, maps = root / "images" / split, root / "annotations" / split
    images.mkdir(parents=True)
    maps.mkdir(parents=True)
    listed, instances = [], []
    for index in range(COUNTS[split]):
        made, name = scene(split, index), f"{index:04d}.png"
        Image.fromarray(made.image).save(images / name)
        Image.fromarray(made.class_map()).save(maps / name)
        height, width = made.owner.shape
        listed.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        instances += _instances(made, index + 1, len(instances) + 1)
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    found = {"images": listed, "annotations": instances, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(found))


def _instances(made: Scene, image_id: int, first_id: int) -> list[dict]:
    """COCO's annotation of every digit: box (x, y, width, height) and mask of its visible part, in pixels."""
    found = []
    for number, label in enumerate(made.labels, 1):
        mask = made.owner == number
        ys, xs = np.nonzero(mask)
        x, y = int(xs.min()), int(ys.min())
        found.append(
            {
                "id": first_id + number - 1,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(mask.shape), "counts": _run_lengths(mask)},
            }
        )
    return found


def _run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: down the columns, zeros first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths
