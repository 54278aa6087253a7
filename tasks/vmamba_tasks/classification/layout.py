"""A folder of images: where its splits are, and whether it is what the configuration says."""

from pathlib import Path

from timm.data.readers.img_extensions import get_img_extensions
from torch.utils.data import Dataset

from vmamba.config.errors import UserError

SYNONYMS = {True: ("train", "training"), False: ("validation", "val", "valid", "eval", "evaluation", "test")}
EXPECTED = "<root>/train/<class>/<image> and <root>/val/<class>/<image> (or train.tar and val.tar of the same)"


def find(data, train: bool) -> Path:
    """The folder, or the tar file, of a split. Raises UserError when it is not there or not of the expected layout."""
    key = "data.train_split" if train else "data.val_split"
    split = data.train_split if train else data.val_split
    if data.root is None:
        raise UserError(f"data={data.name}: data.root is missing. {data.how_to_get}".strip())
    root = Path(data.root).expanduser()
    if not root.exists():
        raise UserError(f"data.root={root}: no such folder. {data.how_to_get}".strip())
    if not root.is_dir():
        raise UserError(f"data.root={root} is a file: give the folder that has both splits, {EXPECTED}")
    names = [split, *(name for name in SYNONYMS[train] if split in SYNONYMS[train])]
    for name in names:
        if (root / name).is_dir():
            return _with_classes(root / name)
        if (root / f"{name}.tar").is_file():
            return root / f"{name}.tar"
    raise UserError(f"data.root={root} has {_listing(root)} but no {split} ({key}): expected {EXPECTED}")


def check_classes(data, dataset: Dataset, train: bool) -> None:
    """Refuses a split whose number of classes, where its reader knows it, is not ``data.num_classes``."""
    reader = getattr(dataset, "reader", None)
    known = (
        getattr(reader, "class_to_idx", None),
        getattr(reader, "class_name_to_idx", None),
        getattr(dataset, "classes", None),
    )
    classes = [str(name) for name in next(filter(None, known), ())]
    if classes and len(classes) != data.num_classes:
        split = "training" if train else "validation"
        raise UserError(
            f"data.num_classes={data.num_classes}, but {getattr(reader or dataset, 'root', data.root)} has "
            f"{len(classes)} classes ({', '.join(classes[:3])}, …): set data.num_classes={len(classes)}, "
            f"or check that the {split} set is whole"
        )


def _with_classes(folder: Path) -> Path:
    if any(entry.is_dir() for entry in folder.iterdir()):
        return folder
    images = sum(entry.suffix.lower() in get_img_extensions() for entry in folder.iterdir())
    found = f"{images} images" if images else "nothing"
    raise UserError(f"{folder} has no class folders ({found} directly in it): expected {EXPECTED}")


def _listing(root: Path) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "") if names else "nothing in it"
