"""The sweep folder: its files, and how they are read and written (the layout is in the package's docstring)."""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vmamba.config.errors import UserError
from vmamba.tracking.atomic import no_space, read_json, write_json
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.refusals import Held
from vmamba.tracking.store import locked


class SweepFolder:
    """Paths, readers and writers of one sweep folder. Making the object touches nothing."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).absolute()
        self.jobs = self.path / "jobs.jsonl"
        self.info = self.path / "sweep.json"
        self.code = self.path / "code"
        self.logs = self.path / "logs"
        self.slurm = self.path / "slurm"
        self.search = self.path / "search.json"
        self.study = self.path / "study.journal"
        self.locked = self.path / ".lock"
        self.pool_log = self.path / "pool.log"

    def __repr__(self) -> str:
        return f"SweepFolder({str(self.path)!r})"

    @classmethod
    def existing(cls, path: str | os.PathLike) -> "SweepFolder":
        """The sweep in ``path``; UserError if there is none."""
        folder = cls(path)
        if not folder.path.is_dir():
            raise UserError(f"{path}: no such folder; give a sweep's, outputs/sweep-NAME-DATE_TIME")
        if not folder.jobs.is_file():
            kind = "a run folder, not a sweep's" if (folder.path / "config.yaml").is_file() else "not a sweep folder"
            raise UserError(f"{path}: {kind} (it has no jobs.jsonl); give outputs/sweep-NAME-DATE_TIME")
        return folder

    def read_info(self) -> dict:
        """What ``sweep.json`` says, empty if there is none."""
        return read_json(self.info)

    def write_info(self, info: dict) -> None:
        write_json(self.info, info)

    def submissions(self) -> list[dict]:
        """The lines of ``jobs.jsonl`` in order; a half-written last one is left out."""
        found = []
        for line in self.jobs.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                found.append(json.loads(line))
        return found

    def latest(self) -> dict[int, dict]:
        """The last line of every point, by its number, in order."""
        found = {line["point"]: line for line in self.submissions()}
        return dict(sorted(found.items()))

    def submitted(self, lines: Iterable[dict]) -> None:
        """Appends one line a point, all in one write."""
        text = "".join(json.dumps(line | {"time": time.time()}) + "\n" for line in lines)
        with no_space(self.jobs), open(self.jobs, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def run(self, line: dict) -> RunFolder:
        """The run folder of a line."""
        return RunFolder(self.path / line["folder"])

    def log(self, line: dict) -> Path:
        """The file a line's job prints into."""
        return self.path / line["log"]

    def busy(self) -> bool:
        """Whether a process is submitting points: for a search, as long as it lives."""
        try:
            with locked(self.locked, seconds=0.0):
                return False
        except Held:
            return True

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process at a time submits; UserError if another one is at it."""
        try:
            with locked(self.locked, seconds=30.0):
                yield
        except Held:
            raise UserError(f"{self.path}: another process is submitting this sweep's points; try again") from None
