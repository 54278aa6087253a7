"""Checkpoints: written whole or not at all, read back with weights-only.

A training checkpoint (``step_*.pt``) holds everything a run needs to go on; ``best.pt`` only weights.
"""

import logging
import re
import zipfile
from pathlib import Path

import torch

from vmamba.tracking.atomic import replacing

log = logging.getLogger("vmamba")
STEP = re.compile(r"step_(\d+)\.pt")


class _Disk:
    """A binary file that remembers the OS error of a write, which torch's writer hides behind one of its own."""

    def __init__(self, file) -> None:
        self.file, self.error = file, None

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def write(path: Path, content: dict) -> None:
    """Saves ``content`` under ``path`` durably; on failure the old file, if any, is untouched.

    Raises UserError when the disk is full, OSError for other trouble with it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        disk = _Disk(file)
        try:
            torch.save(content, disk)
        except RuntimeError:
            if disk.error is None:
                raise
            raise disk.error from None


def read(path: Path) -> dict:
    """The content of a file written by ``write`` (or by torch), on the CPU. Raises some error for a damaged file.

    torch does not look at the checksums of the archive it writes, so they are looked at here.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (entry := archive.testzip()) is not None:
                raise RuntimeError(f"wrong checksum of {entry}")
    return torch.load(path, map_location="cpu", weights_only=True)


def steps(folder: Path) -> list[Path]:
    """The training checkpoints of a folder, newest first."""
    found = [(int(match[1]), path) for path in folder.glob("step_*.pt") if (match := STEP.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def load_newest(folder: Path) -> tuple[Path, dict] | None:
    """The newest readable training checkpoint of a folder; a damaged one is named in the log and passed over."""
    for path in steps(folder):
        try:
            return path, read(path)
        except Exception as error:
            log.warning("%s is damaged (%s): falling back to the one before", path, first_line(error))
    return None


def first_line(error: BaseException) -> str:
    """An error's first sentence, without the rest of torch's advice."""
    return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]


class Keeper:
    """The checkpoints folder of a run (rank 0): the last ``keep_last`` (from 1) training checkpoints, and
    the best weights."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder, self.keep_last = folder, keep_last

    def save(self, step: int, content: dict) -> Path:
        """Writes the training checkpoint of an update step, then lets go of the ones too many.

        One of a later step is of a past that the run has left: it went on from an earlier one, or counts otherwise.
        """
        path = self.folder / f"step_{step:08d}.pt"
        write(path, content)
        found = steps(self.folder)
        at = found.index(path)
        for old in (*found[:at], *found[at + self.keep_last :]):
            old.unlink(missing_ok=True)
        return path

    def save_best(self, content: dict) -> Path:
        """Writes ``best.pt``."""
        path = self.folder / "best.pt"
        write(path, content)
        return path
