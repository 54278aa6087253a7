"""The data sets of classification: scikit-learn's digits, and whatever timm's readers open.

``open_split`` gives a ``SkipBroken`` over a map-style data set, or timm's ``IterableImageDataset`` for the streaming
readers (wds, tfds, hfids). Every misfit of a data set and its configuration is one line, before training.
"""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data import IterableImageDataset, create_dataset
from timm.data.readers.img_extensions import get_img_extensions
from torch.utils.data import Dataset

from vmamba.config.errors import UserError
from vmamba.engine.broken import SkipBroken
from vmamba.engine.checkpoint import first_line
from vmamba_tasks.classification import layout
from vmamba_tasks.classification.synthetic import Synthetic

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # PIL's, by channels
NEEDS = {"hfds": "datasets", "hfids": "datasets", "tfds": "tensorflow-datasets", "wds": "webdataset"}
DIGITS_VAL = 0.2


def open_split(cfg, env, *, train: bool) -> SkipBroken | IterableImageDataset | Synthetic:
    """The training or the validation images of ``cfg.data``, without transform. Raises UserError if it cannot."""
    data = cfg.data
    if data.in_chans not in MODES:
        raise UserError(f"data.in_chans={data.in_chans}: images have 1, 3 or 4 channels")
    if data.source == "synthetic":
        return Synthetic(cfg, env.device, train)
    if data.source == "digits":
        digits = Digits(train, MODES[data.in_chans])
        layout.check_classes(data, digits, train)
        return SkipBroken(digits, ignore=not train)
    kind = data.reader.partition("/")[0].lower()
    dataset = _from_reader(cfg, kind, train) if kind else _from_folder(layout.find(data, train))
    if isinstance(dataset, IterableImageDataset):
        return dataset
    layout.check_classes(data, dataset, train)
    images = Images(dataset, MODES[data.in_chans])
    return SkipBroken(images, images.name, ignore=not train)


def classes(dataset: SkipBroken | IterableImageDataset | Synthetic) -> list[str]:
    """The names of an opened split's classes in the order of their labels; none where they are not known."""
    images = getattr(dataset, "read", None)
    return layout.classes(images.dataset) if isinstance(images, Images) else []


def fingerprint(dataset: SkipBroken | IterableImageDataset) -> dict:
    """Number of images and a digest of what they are: file names and labels, or the digits' pixels."""
    found = {"images": len(dataset)}
    if isinstance(dataset, SkipBroken):
        found["sha256"] = dataset.read.digest()
    return found


class Digits(Dataset):
    """scikit-learn's ``load_digits``: 1,797 handwritten digits of 8 x 8 pixels, 10 classes, no download.

    A fixed fifth of every class (359 images) is the validation set. ``[i]`` is (PIL image, label); the transforms
    bring it to the model's size.
    """

    classes = tuple("0123456789")

    def __init__(self, train: bool, mode: str) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # 17 grey levels: 0 .. 16
        shuffle = np.random.RandomState(0)  # its stream is frozen, so the split is the same with every numpy
        held_out = np.zeros(len(pixels), dtype=bool)
        for label in range(10):
            members = shuffle.permutation(np.flatnonzero(digits.target == label))
            held_out[members[: round(DIGITS_VAL * len(members))]] = True
        chosen = ~held_out if train else held_out
        self.pixels, self.labels = pixels[chosen], digits.target[chosen]
        self.images = [Image.fromarray(image).convert(mode) for image in self.pixels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.images[index], int(self.labels[index])

    def digest(self) -> str:
        return hashlib.sha256(self.pixels.tobytes() + self.labels.astype(np.int64).tobytes()).hexdigest()


class Images(Dataset):
    """A map-style data set of timm or torchvision as (PIL image in ``mode``, label); raises on a broken image."""

    def __init__(self, dataset: Dataset, mode: str) -> None:
        self.dataset, self.mode = dataset, mode
        self.reader = getattr(dataset, "reader", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        if self.reader is None:
            image, label = self.dataset[index]
            return _in(image, self.mode), int(label)
        stream, label, *_ = self.reader[index]
        with stream, Image.open(stream) as image:
            return _in(image, self.mode), int(label)

    def name(self, index: int) -> str:
        """The image's file, as far as its reader knows it."""
        return f"image {index}" if self.reader is None else str(self.dataset.filename(index, absolute=True))

    def digest(self) -> str | None:
        """Over file names and labels, for readers that keep both in memory; None for the others."""
        samples = getattr(self.reader, "samples", None)
        if samples is None:
            return None
        digest = hashlib.sha256()
        for index, name in enumerate(self.dataset.filenames()):
            label = self.reader.targets[index] if hasattr(self.reader, "targets") else samples[index][1]
            digest.update(f"{name} {label}\n".encode())
        return digest.hexdigest()


def _in(image: Image.Image, mode: str) -> Image.Image:
    """``image`` with the channels of ``mode``. Of 16 bits the upper eight: PIL itself makes all above 255 white."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert(mode)


def _from_folder(place: Path) -> Dataset:
    """Class folders, or a tar file of them."""
    try:
        return create_dataset("", root=str(place), search_split=False)
    except (OSError, RuntimeError, ValueError, tarfile.TarError) as error:
        none = "to unpack" in str(error)  # what timm says of a tar file without images
        reason = "there are none" if none else first_line(error)
        if "Found 0 images" in reason:
            reason += f", whose names end in {', '.join(get_img_extensions())}"
        raise UserError(
            f"{place}: no images could be read from it ({reason}): check that it is whole; expected {layout.EXPECTED}"
        ) from None


def _from_reader(cfg, kind: str, train: bool) -> Dataset:
    data = cfg.data
    if kind not in (*NEEDS, "torch"):
        raise UserError(f"data.reader={data.reader}: choose wds/…, hfds/…, hfids/…, tfds/…, torch/…, or nothing")
    if data.root is None and kind not in ("hfds", "hfids"):
        raise UserError(f"data={data.name}: data.root is missing. {data.how_to_get}".strip())
    if data.root is not None and "://" not in data.root and kind != "tfds" and not Path(data.root).exists():
        raise UserError(f"data.root={data.root}: no such folder. {data.how_to_get}".strip())
    try:
        return create_dataset(
            data.reader,
            root=data.root,
            split=data.train_split if train else data.val_split,
            is_training=train,
            batch_size=cfg.recipe.batch_size,
            seed=cfg.seed,
            input_img_mode=MODES[data.in_chans],
        )
    except ImportError:
        raise UserError(f"data.reader={data.reader} needs a package: pip install {NEEDS.get(kind, kind)}") from None
    except (AssertionError, OSError, RuntimeError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"data.reader={data.reader}, data.root={data.root} cannot be opened: {reason}") from None
