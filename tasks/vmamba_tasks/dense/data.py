"""OpenMMLab's data sets in the engine's streams: a sample depends on (seed, epoch, index) alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, get_worker_info

from vmamba.engine.broken import SkipBroken
from vmamba.engine.signals import leave_to_parent
from vmamba.engine.stream import EpochLoader, EpochStream, Shard

BROKEN = -1  # SkipBroken's target of a stand-in


class Samples(Dataset):
    """An OpenMMLab data set as (sample, index), which raises OSError where the image cannot be read."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[dict, int]:
        try:
            return self.dataset[index], index
        except OSError:
            raise
        except Exception as error:
            if _readable(self.name(index)):  # no broken image: not to be taken for one
                raise RuntimeError(f"{self.name(index)}: {type(error).__name__} in its pipeline ({error})") from error
            raise OSError(f"{self.name(index)}: not readable ({type(error).__name__})") from error

    def name(self, index: int) -> str:
        """The image's file."""
        return self.dataset.get_data_info(index)["img_path"]


class GroupedStream(EpochStream):
    """An ``EpochStream`` whose batches hold wide images only or tall images only, as mmdet's: less padding.

    ``tall``: bool (N,). A global batch of all ranks is of one kind; what is left of both kinds at an epoch's end fills
    the last batches together.
    """

    def __init__(self, dataset: Dataset, tall: np.ndarray, batch_size: int, *args: Any) -> None:
        super().__init__(dataset, batch_size, *args)
        self.tall = tall

    def order(self, epoch: int) -> np.ndarray:
        whole = self.batch_size * self.world_size
        drawn = self.permutation(epoch)
        waiting: tuple[list[int], list[int]] = ([], [])
        batches: list[list[int]] = []
        for index in drawn:
            kind = waiting[int(self.tall[index])]
            kind.append(int(index))
            if len(kind) == whole:
                batches.append(kind.copy())
                kind.clear()
        left = waiting[0] + waiting[1]
        batches += [left[start : start + whole] for start in range(0, len(left) - whole + 1, whole)]
        return np.array(batches).reshape(self.batches, self.world_size, self.batch_size)[:, self.rank]


def guarded(dataset: Any, *, train: bool) -> SkipBroken:
    """``dataset`` with unreadable images counted and, in training, replaced by the next."""
    samples = Samples(dataset)
    return SkipBroken(samples, samples.name, ignore=not train)


def training(cfg, env, dataset: SkipBroken, tall: np.ndarray | None = None) -> EpochLoader:
    """Augmented batches by position; ``tall`` (N,) groups them by aspect ratio."""
    place = (cfg.recipe.batch_size, cfg.seed, env.rank, env.world_size)
    stream = EpochStream(dataset, *place) if tall is None else GroupedStream(dataset, tall, *place)
    stream.collate = collate
    loader = DataLoader(stream, cfg.recipe.batch_size, **_common(cfg))
    return EpochLoader(loader, stream, dataset)


def evaluation(cfg, env, dataset: SkipBroken) -> DataLoader:
    """This rank's share of the validation set; nothing is padded or seen twice. A batch may be None: all broken.

    With ``tta`` one image at a time, which is many by itself.
    """
    batch = 1 if cfg.tta else cfg.data.eval_batch
    return DataLoader(Shard(dataset, env.rank, env.world_size), batch, **_common(cfg))


def collate(batch: list[tuple[dict, int]]) -> Any:
    """OpenMMLab's batch, lists of inputs and data samples, of those that could be read; None if there is none."""
    from mmengine.dataset import pseudo_collate

    read = [sample for sample, target in batch if target != BROKEN]
    return pseudo_collate(read) if read else None


def by_size(predict: Callable[[dict], list], batch: dict) -> list:
    """What ``predict`` says of a collated batch, in its order, asked of images of one size at a time."""
    groups: dict[tuple, list[int]] = {}
    for place, image in enumerate(batch["inputs"]):
        groups.setdefault(tuple(image.shape), []).append(place)
    found = {}
    for places in groups.values():
        part = {key: [values[place] for place in places] for key, values in batch.items()}
        found |= dict(zip(places, predict(part), strict=True))
    return [found[place] for place in range(len(batch["inputs"]))]


def _common(cfg) -> dict:
    workers = cfg.data.workers
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "collate_fn": collate,
        "worker_init_fn": _start_worker,
    }


def _start_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    leave_to_parent(get_worker_info())


def _readable(path: str) -> bool:
    import cv2

    return cv2.imread(path) is not None
