"""The child beside a training process (``python -m vmamba.track follow``): the run folder into MLflow as it grows."""

import logging
import os
import select
import signal
import threading
import time
from contextlib import suppress

from vmamba.config.errors import UserError
from vmamba.tracking.describe import config_of
from vmamba.tracking.feeder import note, settle
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.mlflow_view import View
from vmamba.tracking.refusals import Busy, NotDelivered, one_line
from vmamba.tracking.store import locked, probe, uri_of
from vmamba.tracking.system import Sampler

log = logging.getLogger("vmamba.feeder")
INTERVAL = 3.0  # seconds between deliveries
SLOWEST = 60.0  # longest pause between attempts on a store that fails
PATIENCE = 600.0  # at the end, with a store that is there and too slow
NICE = 10


def follow(folder: RunFolder, parent: int) -> int:
    """The child's side: delivers every few seconds until the parent is done or gone. Returns the exit code.

    A parent that is gone without a final status leaves its run as killed.
    """
    os.nice(NICE)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    over, voice = _Over(parent), os.dup(1)
    os.dup2(2, 1)  # whatever else is printed goes to feeder.log
    note(folder, False, "")
    try:
        with locked(folder.path / ".feeder.lock"):
            return Follower(folder, over, voice).run()
    except (NotDelivered, UserError, OSError) as error:
        log.error("%s", error)
        note(folder, False, one_line(error))
        return 1


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


class Follower:
    """What brings one run folder to its store until ``over`` is set. ``voice``: the file descriptor to the parent."""

    def __init__(self, folder: RunFolder, over: _Over, voice: int):
        self.folder, self.over, self.voice = folder, over, voice
        self.view: View | None = None
        self.busy = False  # the last failure may pass by itself
        self.uri = ""
        self.lost = 0.0  # when the store was, 0 while it is there

    def run(self) -> int:
        """Delivers until the end; returns the exit code."""
        sampler = self._sampler()
        pause = INTERVAL
        while not self.over.is_set():
            pause = INTERVAL if self.attempt(last=False) else min(pause * 2, SLOWEST)
            self.over.wait(pause)
        settle(self.folder, self.over.parent)
        if sampler:
            sampler.stop()
        end, pause = time.monotonic() + PATIENCE, 1.0
        while not self.attempt(last=True):
            if not self.busy or time.monotonic() > end:
                return 1
            time.sleep(pause)
            pause = min(pause * 2, SLOWEST)
        return 0

    def attempt(self, last: bool) -> bool:
        """One delivery; a failure is noted and the next attempt starts afresh."""
        try:
            if self.view is None:
                view = View(self.folder, uri_of(self.folder, config_of(self.folder)))
                self.uri = view.uri
                self.view = view.open()
            probe(self.uri)
            if last:
                self.view.close()
                note(self.folder, True, f"MLflow: {self.view.where()}")
            else:
                self.view.deliver()
            self._there()
            return True
        except (NotDelivered, UserError, OSError) as error:
            log.warning("%s", error)
            self.view, self.busy = None, isinstance(error, Busy)
            note(self.folder, False, one_line(error))
            self._gone(one_line(error))
            return False

    def _there(self) -> None:
        if self.lost:
            self._say(f"reached again after {time.monotonic() - self.lost:.0f} s; what was recorded meanwhile is there")
            self.lost = 0.0

    def _gone(self, why: str) -> None:
        if not self.lost:
            self.lost = time.monotonic()
            self._say(f"{why}; training goes on, the records wait in the run folder")

    def _say(self, line: str) -> None:
        with suppress(OSError):  # the parent is gone
            os.write(self.voice, f"{line}\n".encode())

    def _sampler(self) -> Sampler | None:
        if not (config_of(self.folder).get("tracking") or {}).get("system_metrics", True):
            return None
        sampler = Sampler(self.folder)
        sampler.start()
        return sampler
