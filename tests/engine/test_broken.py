import logging

import pytest
from torch.utils.data import DataLoader, Dataset

from vmamba.config.errors import UserError
from vmamba.engine import broken
from vmamba.engine.broken import SkipBroken
from vmamba.engine.stream import EpochLoader, EpochStream


class Holes(Dataset):
    """[i] is (i, 1), or an error at the given places."""

    def __init__(self, size: int, holes=(), error: type = OSError) -> None:
        self.size, self.holes, self.error = size, set(holes), error

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int):
        if index in self.holes:
            raise self.error("cannot identify image file")
        return index, 1


@pytest.mark.parametrize("error", [OSError, SyntaxError, ValueError])
def test_next_readable_takes_the_place(error):
    data = SkipBroken(Holes(10, {3, 4, 9}, error))
    assert [data[i][0] for i in (2, 3, 4, 9)] == [2, 5, 5, 0]
    assert (data.reads.value, data.broken.value) == (8, 4)


def test_stand_in_does_not_count_in_evaluation():
    data = SkipBroken(Holes(10, {3}), ignore=True)
    assert [data[i][1] for i in (2, 3, 4)] == [1, -1, 1]


def test_an_error_of_the_transform_is_not_hidden():
    data = SkipBroken(Holes(10))
    data.transform = lambda image: 1 / 0
    with pytest.raises(ZeroDivisionError):
        data[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_broken_file_is_named_once(workers, caplog):
    data = SkipBroken(Holes(40, {3, 17}), name=lambda index: f"file{index}.jpg")
    stream = EpochStream(data, 4, seed=0)
    batches = EpochLoader(DataLoader(stream, 4, num_workers=workers, drop_last=True), stream, data)
    with caplog.at_level(logging.WARNING, "vmamba"):
        for epoch in range(2):
            assert len(list(batches.epoch(epoch))) == 10
    messages = sorted(record.getMessage() for record in caplog.records)
    assert messages == ["broken image, skipped: file17.jpg", "broken image, skipped: file3.jpg"]
    assert data.broken.value == 4 and data.reads.value == 84


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_are_refused_in_one_line(workers):
    data = SkipBroken(Holes(100, range(50)), name=lambda index: f"file{index}.jpg")
    stream = EpochStream(data, 4, seed=0)
    loader = DataLoader(stream, 4, num_workers=workers, drop_last=True, persistent_workers=workers > 0)
    batches = EpochLoader(loader, stream, data)
    with pytest.raises(UserError, match=r"images read were broken, e.g. file\d+.jpg: check") as caught:
        list(batches.epoch(0))
    batches.close()
    assert "\n" not in str(caught.value)


def test_a_few_are_always_let_pass():
    data = SkipBroken(Holes(10, range(broken.FEW)))
    data[0]
    data.check()
    data[0]
    with pytest.raises(UserError, match="10 of 12 images"):
        data.check()
