import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from vmamba.config.errors import UserError
from vmamba.engine.stream import EpochLoader, EpochStream, Shard


class Noisy(Dataset):
    """[i] is (i, three random numbers from three generators)."""

    transform = None

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int):
        draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return index, torch.tensor(draws, dtype=torch.float64)


def loader(workers=0, size=50, batch=4, rank=0, world=1, seed=3) -> EpochLoader:
    stream = EpochStream(Noisy(size), batch, seed, rank, world)
    return EpochLoader(
        DataLoader(stream, batch, num_workers=workers, drop_last=True, persistent_workers=workers > 0), stream
    )


def indices(batches) -> list[list[int]]:
    return [index.tolist() for index, _ in batches]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_same_batches_for_any_number_of_workers(workers):
    alone, many = loader(), loader(workers)
    for epoch, start in ((0, 0), (1, 5), (0, 11)):
        expected, got = list(alone.epoch(epoch, start)), list(many.epoch(epoch, start))
        assert len(got) == 12 - start
        for (index, noise), (other_index, other_noise) in zip(expected, got, strict=True):
            assert torch.equal(index, other_index) and torch.equal(noise, other_noise)


def test_epoch_is_a_permutation_and_epochs_differ():
    batches = loader()
    first, second = indices(batches.epoch(0)), indices(batches.epoch(1))
    assert len({index for batch in first for index in batch}) == 48 and first != second
    assert indices(batches.epoch(0, 5)) == first[5:]


def test_sample_depends_on_seed_epoch_and_index_alone():
    stream = EpochStream(Noisy(50), 4, seed=3)
    noise = stream.sample(1, 7)[1]
    stream.sample(1, 8)
    assert torch.equal(stream.sample(1, 7)[1], noise)
    for other in (EpochStream(Noisy(50), 4, seed=4).sample(1, 7), stream.sample(2, 7), stream.sample(1, 8)):
        assert not torch.equal(other[1], noise)


def test_ranks_cut_the_global_batch():
    whole = indices(loader(batch=8).epoch(2))
    parts = [indices(loader(batch=4, rank=rank, world=2).epoch(2)) for rank in range(2)]
    assert [left + right for left, right in zip(*parts, strict=True)] == whole


def test_too_few_images():
    with pytest.raises(UserError, match=r"has 5 images.*takes 8: make recipe.batch_size smaller"):
        EpochStream(Noisy(5), 4, seed=0, world_size=2)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shards_cover_everything_once(world):
    seen = [Shard(Noisy(20), rank, world)[i][0] for rank in range(world) for i in range(len(range(rank, 20, world)))]
    assert sorted(seen) == list(range(20))
    assert sum(len(Shard(Noisy(20), rank, world)) for rank in range(world)) == 20


class Reader(torch.utils.data.IterableDataset):
    """Like timm's streaming readers: from the start only, its own order by epoch."""

    count = 0

    def set_epoch(self, epoch: int) -> None:
        self.count = epoch

    def __iter__(self):
        yield from range(100 * self.count, 100 * self.count + 12)


def test_streaming_reader_skips_what_was_consumed():
    reader = Reader()
    batches = EpochLoader(DataLoader(reader, 4), reader)
    assert [batch.tolist() for batch in batches.epoch(1, 1)] == [[104, 105, 106, 107], [108, 109, 110, 111]]
