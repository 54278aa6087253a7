"""Feeding MLflow beside the training process: it starts a child, never waits for it, and hears at the end how it went.

The child (``python -m vmamba.track follow``) is told of its parent's end through a pipe: a word when the run is over,
end-of-file when the parent is gone without one.
"""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from vmamba.config.errors import UserError
from vmamba.tracking import curves
from vmamba.tracking.atomic import read_json, write_json
from vmamba.tracking.describe import config_of
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.mlflow_view import View
from vmamba.tracking.refusals import NotDelivered, one_line
from vmamba.tracking.store import locked, probe, uri_of

log = logging.getLogger("vmamba.feeder")
INTERVAL = 3.0  # seconds between deliveries
SLOWEST = 60.0  # longest pause between attempts on a store that fails
NICE = 10
OVER = b"over\n"
LOST = "the process ended without a word (SIGKILL, or out of memory)"


@dataclass(frozen=True)
class Outcome:
    """How the delivery went: whether everything arrived, and one line for the log."""

    delivered: bool
    message: str


class Feeder:
    """The training process's side. Nothing here raises because of MLflow, and only ``finish`` ever waits."""

    def __init__(self, folder: RunFolder, tracking: Any):
        """``tracking``: a ``schema.Tracking``; the child reads the same from the folder's config.yaml."""
        self.folder, self.store = folder, str(tracking.store)
        self._child: subprocess.Popen | None = None
        self._problem = "the feeder was not started"

    def start(self) -> "Feeder":
        """Starts the child (some milliseconds); with store=none nothing happens."""
        if self.store == "none":
            return self
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "vmamba.track", "follow", str(self.folder.path), "--parent", str(os.getpid())]
        try:
            with open(self.folder.feeder_log, "ab") as output:
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the trainer
                )
        except OSError as error:
            self._problem = f"the feeder did not start ({error})"
        return self

    def finish(self, timeout: float = 20.0) -> Outcome:
        """Says that the run is over and waits for the delivery, at most ``timeout`` seconds. Call it after the status.

        A child that needs longer is left to finish by itself.
        """
        if self.store == "none":
            return Outcome(True, f"tracking: none; into MLflow at any time: {self._remedy()}")
        if self._child is None:
            return self._undelivered(self._problem)
        try:
            self._child.stdin.write(OVER)
            self._child.stdin.close()
        except OSError:
            pass  # the child is gone; its exit code says so
        try:
            code = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            still = (
                f"MLflow: still being delivered by process {self._child.pid}; should it not arrive: {self._remedy()}"
            )
            return Outcome(False, still)
        notes = read_json(self.folder.mlflow)
        if code == 0 and notes.get("delivered"):
            return Outcome(True, notes["message"])
        return self._undelivered(
            notes.get("message") or f"the feeder ended with code {code}, see {self.folder.feeder_log}"
        )

    def _undelivered(self, why: str) -> Outcome:
        return Outcome(
            False, f"MLflow: not delivered, {why}; the records are safe, deliver them later: {self._remedy()}"
        )

    def _remedy(self) -> str:
        return f"python -m vmamba.track sync {self.folder.path}"


def follow(folder: RunFolder, parent: int) -> int:
    """The child's side: delivers every few seconds until the parent is done or gone. Returns the exit code.

    A parent that is gone without a final status leaves its run as killed.
    """
    os.nice(NICE)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    over = _Over(parent)
    note(folder, False, "")
    try:
        with locked(folder.path / ".feeder.lock"):
            return _Follower(folder, over).run()
    except (NotDelivered, UserError, OSError) as error:
        log.error("%s", error)
        note(folder, False, one_line(error))
        return 1


def settle(folder: RunFolder, pid: int | None = None) -> None:
    """Marks a run as killed, and draws it, whose status says running while its process is gone.

    ``pid``: a process known to be gone; otherwise it is looked for, on its own host only.
    """
    status = folder.read_status()
    if status.get("state") != "running" or status.get("host") != socket.gethostname():
        return
    if status.get("pid") == pid or not _alive(status.get("pid")):
        folder.write_status("killed", error=LOST)
        if folder.metrics.is_file():
            curves.draw(folder)


def owner(folder: RunFolder) -> int | None:
    """The process that is writing this run folder right now, if it is alive on this host and not this one."""
    status = folder.read_status()
    pid = status.get("pid")
    here = status.get("state") == "running" and status.get("host") == socket.gethostname()
    return pid if here and pid != os.getpid() and _alive(pid) else None


def note(folder: RunFolder, delivered: bool, message: str) -> None:
    """Leaves word of the last delivery in ``mlflow.json``, beside the notes on the stores."""
    write_json(folder.mlflow, read_json(folder.mlflow) | {"delivered": delivered, "message": message})


class _Over(threading.Event):
    """Set once the parent has said so on our standard input, or is gone."""

    def __init__(self, parent: int):
        super().__init__()
        self.parent = parent
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while not select.select([0], [], [], 1.0)[0]:
            if os.getppid() != self.parent:  # the pipe may still be held open by the parent's own children
                break
        self.set()


class _Follower:
    def __init__(self, folder: RunFolder, over: _Over):
        self.folder, self.over = folder, over
        self.view = self.monitor = None
        self.uri = ""

    def run(self) -> int:
        pause = INTERVAL
        while not self.over.is_set():
            pause = INTERVAL if self._attempt(last=False) else min(pause * 2, SLOWEST)
            self.over.wait(pause)
        settle(self.folder, self.over.parent)
        for pause in (1.0, 5.0, 0.0):
            if self._attempt(last=True):
                return 0
            if self.view is None and self.uri.startswith("http"):
                break
            time.sleep(pause)
        return 1

    def _attempt(self, last: bool) -> bool:
        """One delivery; a failure is noted and the next attempt starts afresh."""
        try:
            if self.view is None:
                view = View(self.folder, uri_of(self.folder, config_of(self.folder)))
                self.uri = view.uri
                self.view = view.open()
                if not last:
                    self._watch()
            probe(self.uri)
            if last:
                self._unwatch()
                self.view.close()
                note(self.folder, True, f"MLflow: {self.view.where()}")
            else:
                self.view.deliver()
            return True
        except (NotDelivered, UserError, OSError) as error:
            log.warning("%s", error)
            if not last:
                self._unwatch()
            self.view = None
            note(self.folder, False, one_line(error))
            return False

    def _watch(self) -> None:
        """Starts MLflow's system metrics (the whole machine's, not this process's)."""
        if not (self.view.config.get("tracking") or {}).get("system_metrics", True):
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self.monitor = SystemMetricsMonitor(
            self.view.run_id, sampling_interval=10, resume_logging=True, tracking_uri=self.uri
        )
        self.monitor.start()

    def _unwatch(self) -> None:
        if self.monitor is not None:
            self.monitor.finish()
            self.monitor = None


def _alive(pid: int | None) -> bool:
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
