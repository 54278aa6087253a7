"""Feeding MLflow beside the training process: it starts a child, never waits for it, and hears at the end how it went.

The child (``python -m vmamba.track follow``) is told of its parent's end through a pipe: a word when the run is over,
end-of-file when the parent is gone without one. Through another it says when the store is lost and when it is back,
which the parent puts into the run's log.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

from vmamba.tracking import curves
from vmamba.tracking.atomic import read_json, write_json
from vmamba.tracking.folder import LOST, RunFolder
from vmamba.tracking.process import alive

log = logging.getLogger("vmamba")
OVER = b"over\n"


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
        self._over = False  # what finish returns says the rest

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
                    stdout=subprocess.PIPE,
                    stderr=output,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the trainer
                )
        except OSError as error:
            self._problem = f"the feeder did not start ({error})"
        else:
            threading.Thread(target=self._pass_on, daemon=True).start()
        return self

    def finish(self, timeout: float = 20.0) -> Outcome:
        """Says that the run is over and waits for the delivery, at most ``timeout`` seconds. Call it after the status.

        A child that needs longer is left to finish by itself.
        """
        if self.store == "none":
            return Outcome(True, f"tracking: none; into MLflow at any time: {self._remedy()}")
        if self._child is None:
            return self._undelivered(self._problem)
        self._over = True
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

    def _pass_on(self) -> None:
        """Puts what the child says into the run's log, as it comes."""
        for line in self._child.stdout:
            if not self._over:
                log.warning("MLflow: %s", line.decode().strip())

    def _undelivered(self, why: str) -> Outcome:
        return Outcome(
            False, f"MLflow: not delivered, {why}; the records are safe, deliver them later: {self._remedy()}"
        )

    def _remedy(self) -> str:
        return f"python -m vmamba.track sync {self.folder.path}"


def settle(folder: RunFolder, pid: int | None = None) -> None:
    """Marks a run as killed, and draws it, whose status says running while its process is gone.

    ``pid``: a process known to be gone; otherwise it is looked for, on its own host only.
    """
    status = folder.read_status()
    if status.get("state") != "running" or status.get("host") != socket.gethostname():
        return
    if status.get("pid") == pid or not alive(status):
        folder.write_status("killed", error=LOST)
        if folder.metrics.is_file():
            curves.draw(folder)


def owner(folder: RunFolder) -> int | None:
    """The process that is writing this run folder right now, if it is alive on this host and not this one."""
    status = folder.read_status()
    pid = status.get("pid")
    here = status.get("state") == "running" and status.get("host") == socket.gethostname()
    return pid if here and pid != os.getpid() and alive(status) else None


def note(folder: RunFolder, delivered: bool, message: str) -> None:
    """Leaves word of the last delivery in ``mlflow.json``, beside the notes on the stores."""
    write_json(folder.mlflow, read_json(folder.mlflow) | {"delivered": delivered, "message": message})
