"""The run folder: every record of a run, written atomically. The truth that every view is made from.

config.yaml  overrides.yaml  manifest.json  metrics.jsonl  result.json  status.json
checkpoints/  curves.png  pictures/  run.log  system.jsonl  mlflow.json  feeder.log
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from vmamba.config.errors import UserError
from vmamba.tracking.atomic import no_space, plain, read_json, replacing, write_json, write_text
from vmamba.tracking.process import born

ENDED = ("finished", "failed", "killed")
LOST = "the process ended without a word (SIGKILL, or out of memory)"
STATES = ("queued", "running", *ENDED)
KEPT = ("uid", "created", "preempted", "stuck", "at", "attempt")  # entries of status.json that stay whatever happens
WRITER = ("started", "pid", "born", "host")  # those that say who wrote "running" last
SYNC_SECONDS = 5.0


class RunFolder:
    """Paths and writers of one run folder. Making the object touches nothing; ``create`` makes the folder."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).absolute()
        self.config = self.path / "config.yaml"
        self.overrides = self.path / "overrides.yaml"
        self.manifest = self.path / "manifest.json"
        self.metrics = self.path / "metrics.jsonl"
        self.system = self.path / "system.jsonl"
        self.result = self.path / "result.json"
        self.status = self.path / "status.json"
        self.checkpoints = self.path / "checkpoints"
        self.curves = self.path / "curves.png"
        self.pictures = self.path / "pictures"
        self.log = self.path / "run.log"
        self.mlflow = self.path / "mlflow.json"
        self.feeder_log = self.path / "feeder.log"

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The run's name: the path below the outputs folder's usual place, "sweep-x/3" for a job of a sweep."""
        parent = self.path.parent.name
        return f"{parent}/{self.path.name}" if self.path.name.isdigit() else self.path.name

    @property
    def uid(self) -> str:
        """The run's identity, the same after a copy or a move and in every store; made on first use."""
        status = read_json(self.status)
        if "uid" not in status:
            status["uid"] = uuid.uuid4().hex
            write_json(self.status, status)
        return status["uid"]

    def create(self) -> "RunFolder":
        """Makes the folder (an existing one is taken over, for a resume) and clears away half-written files."""
        with no_space(self.path):
            try:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise UserError(
                    f"{self.path}: a file is in the way of the run folder; choose another folder"
                ) from error
            except PermissionError as error:
                raise UserError(f"{self.path}: no permission to write there; choose outputs=/another/folder") from error
        for folder in (self.path, self.checkpoints):
            for left_over in folder.glob(".*.tmp"):
                left_over.unlink(missing_ok=True)
        _ = self.uid
        return self

    def write_config(self, cfg: Any, overrides: Iterable[str] = ()) -> None:
        """Writes ``cfg`` (an OmegaConf config, resolved here; Hydra's own node left out) and the words that made it."""
        from omegaconf import OmegaConf

        cfg = cfg if OmegaConf.is_config(cfg) else OmegaConf.create(cfg)
        values = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
        values.pop("hydra", None)
        write_text(self.config, _yaml(plain(values)))
        write_text(self.overrides, _yaml([str(word) for word in overrides]))

    def write_manifest(self, manifest: dict) -> None:
        """Writes what the run ran on: see ``manifest.collect``."""
        write_json(self.manifest, manifest)

    def write_result(self, result: dict) -> None:
        """Writes final and best metrics, wall time (s), images/s and parameter count."""
        write_json(self.result, result)

    def write_status(self, state: str, **info: Any) -> None:
        """Writes how the run stands: one of ``STATES``, with what the caller has to say (``error="…"``).

        ``running`` notes process, host and when both started, ``queued`` that nothing has ended; others note the end.
        """
        if state not in STATES:
            raise ValueError(f"state {state!r}: choose from {', '.join(STATES)}")
        now, old = time.time(), read_json(self.status)
        kept = {key: old[key] for key in (*KEPT, *WRITER) if key in old}
        status = {"state": state, "uid": uuid.uuid4().hex, "created": now} | kept
        if state == "running":
            pid = os.getpid()
            status |= {"started": now, "pid": pid, "born": born(pid), "host": socket.gethostname()}
        elif state != "queued":
            status["ended"] = now
        write_json(self.status, status | info)

    def read_status(self) -> dict:
        """The content of ``status.json``, empty if there is none."""
        return read_json(self.status)

    def writer(self, resume_step: int | None = None, here: Callable[[int], int] = int) -> "MetricsWriter":
        """The writer of ``metrics.jsonl``; see ``MetricsWriter``."""
        return MetricsWriter(self.metrics, resume_step, here)

    def records(self) -> Iterator[dict]:
        """The records of ``metrics.jsonl`` in order; see ``read_records``."""
        return read_records(self.metrics)


class MetricsWriter:
    """Appends records to ``metrics.jsonl``, one JSON line each, readable by others at once.

    ``resume_step``: the step of the checkpoint gone on from; records of later steps, and a half-written last line, are
    dropped first, so that no step is in the file twice. None keeps every whole line. ``here``: a step of those records
    in the steps of what will be written; another number where an epoch has another number of them.
    """

    def __init__(self, path: Path, resume_step: int | None = None, here: Callable[[int], int] = int):
        self.path = Path(path)
        self._repair(resume_step, here)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self._synced = time.monotonic()
        self._syncing: threading.Thread | None = None
        self._error: OSError | None = None

    def log(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """One record. ``step``: optimizer steps done; ``epoch``: epochs done (fraction); values: plain numbers."""
        values = {name: float(value) for name, value in metrics.items()}
        record = {"step": int(step), "epoch": float(epoch), "time": time.time(), "metrics": values}
        with no_space(self.path):
            if self._error:
                raise self._error
            self._file.write(json.dumps(plain(record), allow_nan=False) + "\n")
            self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS and not (self._syncing and self._syncing.is_alive()):
            self._syncing = threading.Thread(target=self._sync, daemon=True)
            self._syncing.start()
            self._synced = time.monotonic()

    def close(self) -> None:
        """Syncs and closes the file; may be called twice."""
        if self._file.closed:
            return
        if self._syncing:
            self._syncing.join()
        with no_space(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def _sync(self) -> None:
        """In a thread, since a busy disk takes its time; what goes wrong is raised by the next ``log``."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._error = error

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repair(self, resume_step: int | None, here: Callable[[int], int]) -> None:
        if not self.path.is_file():
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [kept for line in lines if (kept := _kept(line, resume_step, here))]
        if kept != lines:
            with replacing(self.path) as temp:
                temp.write_bytes(b"".join(kept))


def read_records(path: Path) -> Iterator[dict]:
    """The records of a ``metrics.jsonl``: step, epoch, time (s since 1970), metrics (floats, NaN and inf included).

    A missing file has none; lines that are not whole records are passed over.
    """
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for line in file:
            record = parse(line)
            if record is not None:
                yield record


def parse(line: bytes) -> dict | None:
    """One line as a record, or None if it is not a whole one."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
        record["metrics"] = {name: float(value) for name, value in record["metrics"].items()}
        record |= {"step": int(record["step"]), "epoch": float(record["epoch"]), "time": float(record["time"])}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return record


def _yaml(value: Any) -> str:
    """What OmegaConf reads back as ``value``; ten times as fast as its own writer, which counts in a sweep."""

    class Dumper(yaml.CSafeDumper):
        def represent_str(self, text: str) -> yaml.Node:
            return self.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _is_number(text) else None)

    Dumper.add_representer(str, Dumper.represent_str)
    return yaml.dump(value, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def _is_number(text: str) -> bool:
    """Whether a string would be read as a number: "1e-3" is one to OmegaConf."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _kept(line: bytes, resume_step: int | None, here: Callable[[int], int]) -> bytes:
    """The line with its step by ``here``, the same bytes where that is the same number; empty for one to be dropped."""
    record = parse(line)
    if record is None or (resume_step is not None and record["step"] > resume_step):
        return b""
    step = here(record["step"])
    if step == record["step"]:
        return line
    return json.dumps(json.loads(line) | {"step": step}).encode() + b"\n"
