"""Images that cannot be read: skipped, counted, named once; too many of them stop the run."""

import logging
import struct
import zlib
from collections.abc import Callable

import torch.multiprocessing as mp
from PIL.Image import DecompressionBombError
from torch.utils.data import Dataset

from vmamba.config.errors import UserError

log = logging.getLogger("vmamba")
# what PIL's decoders raise
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, DecompressionBombError)
FEW = 5  # this many broken reads are always let pass
SHARE = 0.01  # of all reads
GIVE_UP = 50  # neighbours tried in a row
NAMED = 256  # broken files remembered by name


class SkipBroken(Dataset):
    """A map-style data set that survives broken samples.

    ``read`` is a map-style data set of (image, target), whose ``__getitem__`` raises on a broken one. Its place is
    taken by the next readable index, so the result depends on the index alone; with ``ignore`` (evaluation) the
    stand-in's target is -1, which no metric counts. The broken read is counted over all loader workers; ``check``,
    called where the loader is consumed, logs each broken file once and raises UserError when more than 1 % of the
    reads (and more than ``FEW``) were broken. ``transform`` is applied after reading: an error in it is not hidden.
    """

    def __init__(self, read: Dataset, name: Callable[[int], str] = str, *, ignore: bool = False) -> None:
        self.read, self.name, self.ignore = read, name, ignore
        self.transform = None
        self.reads = mp.Value("q", 0)
        self.broken = mp.Value("q", 0)
        self._indices = mp.Array("q", NAMED)
        self._named = mp.Value("q", 0)
        self._logged = 0

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, index: int):
        image, target, broken = self._readable(index)
        if self.transform is not None:
            image = self.transform(image)
        return image, -1 if broken and self.ignore else target

    def check(self) -> None:
        """Raises UserError when too much is broken; else logs what newly is."""
        reads, broken = self.reads.value, self.broken.value
        if broken > max(FEW, SHARE * reads):
            raise UserError(
                f"{broken} of {reads} images read were broken, e.g. {self.name(self._indices[0])}: "
                "check that the data set was downloaded and unpacked whole (up to 1 % are skipped)"
            )
        while self._logged < self._named.value:
            log.warning("broken image, skipped: %s", self.name(self._indices[self._logged]))
            self._logged += 1

    def _readable(self, index: int):
        for distance in range(GIVE_UP):
            candidate = (index + distance) % len(self.read)
            with self.reads.get_lock():
                self.reads.value += 1
            try:
                image, target = self.read[candidate]
                return image, target, distance > 0
            except UNREADABLE:
                self._note(candidate)
        raise RuntimeError(f"{GIVE_UP} images in a row cannot be read, from {self.name(index)} on")

    def _note(self, index: int) -> None:
        with self.broken.get_lock():
            self.broken.value += 1
        with self._named.get_lock():
            count = self._named.value
            if count < NAMED and index not in self._indices[:count]:
                self._indices[count] = index
                self._named.value = count + 1
