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


def classes(dataset: Dataset) -> list[str]:
    """The names of a split's classes in the order of their labels, where its reader knows them; else none."""
    reader = getattr(dataset, "reader", None)
    numbers = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    names = sorted(numbers, key=numbers.get) if numbers else getattr(dataset, "classes", None) or ()
    return [str(name) for name in names]


def check_classes(data, dataset: Dataset, train: bool) -> None:
    """Refuses a split whose number of classes, where its reader knows it, is not ``data.num_classes``."""
    names = classes(dataset)
    if names and len(names) != data.num_classes:
        split = "training" if train else "validation"
        where = getattr(getattr(dataset, "reader", dataset), "root", data.root or data.name)
        raise UserError(
            f"data.num_classes={data.num_classes}, but {where} has {len(names)} classes ({_some(names)}): set "
            f"data.num_classes={len(names)}, or check that the {split} set is whole"
        )


def check_same(train: list[str], val: list[str]) -> None:
    """Refuses a validation set with other classes than the training set's: its labels would mean something else."""
    if train and val and train != val:
        only = [sorted(set(one) - set(other)) for one, other in ((train, val), (val, train))]
        raise UserError(
            f"the training and the validation set have different classes: {_some(only[0]) or 'none'} only in training, "
            f"{_some(only[1]) or 'none'} only in validation; give both the same class folders"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)


def _with_classes(folder: Path) -> Path:
    images = sum(entry.suffix.lower() in get_img_extensions() and entry.is_file() for entry in folder.iterdir())
    if any(entry.is_dir() for entry in folder.iterdir()):
        if images:  # timm would make a class without a name of them
            raise UserError(
                f"{folder} has {images} images directly in it, beside its class folders: move them into one, or away"
            )
        return folder
    found = f"{images} images" if images else "nothing"
    raise UserError(f"{folder} has no class folders ({found} directly in it): expected {EXPECTED}")


def _listing(root: Path) -> str:
    return _some(sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())) or "nothing in it"
