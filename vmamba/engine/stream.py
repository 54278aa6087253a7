"""Training data by position: any batch of any epoch, without the ones before it.

``EpochStream`` decides which samples come in which order and with which random numbers; it is an IterableDataset
and goes INTO a DataLoader (timm's ``create_loader``), which adds transforms, workers and collation. ``EpochLoader``
is what the loop iterates: it moves the stream to (epoch, batch) and starts the loader there.
"""

import time
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch.multiprocessing as mp
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from vmamba.config.errors import UserError
from vmamba.engine.seeding import mix, seed_sample


class EpochStream(IterableDataset):
    """One epoch of a map-style data set after another, in whole batches, for one rank.

    The order is a permutation drawn from (seed, epoch). Global batch b of it is cut into one slice a rank, so that
    N processes with batch B see what one process with batch N x B sees. The remainder of less than a global batch
    is left out of the epoch. Before each sample, python, numpy and torch are seeded from (seed, epoch, index), so a
    sample depends on nothing else. Worker w of W yields batches w, w + W, ... from the start batch on: the loader,
    which asks its workers in turn, gives the same sequence for every W.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.batches = len(dataset) // (batch_size * world_size)
        if not self.batches:
            raise UserError(
                f"the training set has {len(dataset)} images, one batch of all processes takes "
                f"{batch_size * world_size}: make recipe.batch_size smaller"
            )
        self.collate = default_collate  # how the loader makes a batch of its samples
        self._position = mp.Array("q", 2)  # epoch, start batch: seen by persistent workers too

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        epoch, start = self._position
        order = self.order(epoch)
        for batch in range(start + worker, self.batches, workers):
            for index in order[batch]:
                yield self.sample(epoch, int(index))

    def move(self, epoch: int, batch: int) -> None:
        """Where the next iteration starts."""
        self._position[:] = [epoch, batch]

    def order(self, epoch: int) -> np.ndarray:
        """The data set's indices of every batch of this rank: (batches, batch_size)."""
        whole = self.permutation(epoch)[: self.batches * self.world_size * self.batch_size]
        return whole.reshape(self.batches, self.world_size, self.batch_size)[:, self.rank]

    def permutation(self, epoch: int) -> np.ndarray:
        """All indices of the data set in this epoch's order, the same on every rank."""
        return np.random.Generator(np.random.PCG64(mix(self.seed, epoch))).permutation(len(self.dataset))

    def sample(self, epoch: int, index: int):
        """The sample as this epoch has it; leaves the generators seeded with it."""
        seed_sample(mix(self.seed, epoch, index, 1))
        return self.dataset[index]

    @property
    def transform(self):
        return self.dataset.transform

    @transform.setter
    def transform(self, value) -> None:
        self.dataset.transform = value


class EpochLoader:
    """The training batches of a run: ``len`` batches an epoch, from any one on.

    ``loader`` is a DataLoader (or timm's prefetching one) over ``dataset``: an ``EpochStream``, or a streaming
    reader of timm (wds, tfds, hfids), which can only be read from the start. There, resuming reads the consumed
    batches again and throws them away, and what they look like depends on the reader's own seeds.
    ``guard`` is a ``SkipBroken`` to check after every batch, or None.
    """

    def __init__(self, loader, dataset, guard=None) -> None:
        self.loader, self.dataset, self.guard = loader, dataset, guard
        self.waited = 0.0  # seconds spent waiting for data, in all

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, start: int = 0) -> Iterator:
        """The batches ``start``, ``start + 1``, ... of an epoch."""
        skip = 0
        if isinstance(self.dataset, EpochStream):
            self.dataset.move(epoch, start)
        else:
            skip = start
            self.dataset.set_epoch(epoch)
        batches = iter(self.loader)
        while True:
            began = time.perf_counter()
            batch = self._next(batches)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            if skip:
                skip -= 1
            else:
                yield batch

    def close(self) -> None:
        """Ends the loader's workers."""
        close(self.loader)

    def _next(self, batches: Iterator):
        try:
            return next(batches, None)
        finally:
            if self.guard:
                self.guard.check()


def evaluation(loader: Iterable, limit: int | None, guard=None) -> Iterator:
    """The first ``limit`` batches (None: all); at their end, and where reading fails, ``guard`` is checked."""
    try:
        yield from islice(loader, limit)
    except Exception:  # too many broken images in a row, unless the guard has let them pass
        if guard is not None:
            guard.check()
        raise
    if guard is not None:
        guard.check()


def close(loader) -> None:
    """Ends the persistent workers of a DataLoader (or timm's prefetching one) now.

    Left to the garbage collector, which may take their queues away first, they hold up the exit by seconds each.
    """
    loader = getattr(loader, "loader", loader)
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None


class Shard(Dataset):
    """Every ``world_size``-th sample of a map-style data set from ``rank`` on: no padding, nothing counted twice."""

    def __init__(self, dataset: Dataset, rank: int = 0, world_size: int = 1) -> None:
        self.dataset, self.rank, self.world_size = dataset, rank, world_size

    def __len__(self) -> int:
        return len(range(self.rank, len(self.dataset), self.world_size))

    def __getitem__(self, index: int):
        return self.dataset[self.rank + index * self.world_size]

    @property
    def transform(self):
        return self.dataset.transform

    @transform.setter
    def transform(self, value) -> None:
        self.dataset.transform = value
