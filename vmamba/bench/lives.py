"""Processes that live through a run, or not: forked from one that has everything imported, and ended by signals.

A life is what a job is: a session of its own, the same entry (``vmamba.launch.worker``), the signals sent to the whole
group as SLURM sends them. Only the seconds of importing are saved.
"""

import importlib
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from vmamba.engine.signals import hold
from vmamba.launch.worker import work

POLL = 0.002  # s between looks at the metrics
LIMIT = 120.0  # s that a life may last
WARM = ("vmamba.engine.fit", "vmamba_tasks.classification", "sklearn.datasets", "matplotlib.pyplot", "torch._dynamo")
KINDS = ("SIGTERM", "SIGUSR2", "SIGKILL", "time-out")


def warm() -> None:
    """Imports what a run imports on its way, so that the lives begun later have it."""
    for name in WARM:
        importlib.import_module(name)


@dataclass
class Life:
    """A running process and the run folder it works in."""

    pid: int
    folder: Path

    @classmethod
    def begin(cls, folder: Path) -> "Life":
        """Starts, or goes on with, the run frozen in ``folder``, in a process of its own."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return cls(pid, folder)
        os.setsid()
        code = 1
        try:
            _quietly(folder)
            hold()
            code = work(folder)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self, seconds: float = LIMIT) -> int:
        """Its exit code, minus the number of the signal that ended it. TimeoutError after ``seconds``."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if (code := self.ended()) is not None:
                return code
            time.sleep(POLL)
        self.send(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(f"{self.folder}: still running after {seconds:.0f} s")

    def ended(self) -> int | None:
        """The exit code, None while it lives."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def send(self, number: int) -> None:
        """A signal to all of its processes."""
        os.killpg(self.pid, number)

    def reaches(self, step: int) -> bool:
        """Waits until the record of a step is written; False if the process ended before."""
        path, until = self.folder / "metrics.jsonl", time.monotonic() + LIMIT
        needle = b'{"step": %d,' % step
        while time.monotonic() < until:
            if path.is_file() and needle in path.read_bytes():
                return True
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            time.sleep(POLL)
        raise TimeoutError(f"{self.folder}: step {step} not reached in {LIMIT:.0f} s")

    def interrupt(self, kind: str, chance: random.Random) -> int:
        """Ends it in one of ``KINDS``, some milliseconds from now; returns the exit code.

        time-out: what SLURM sends at a job's time limit, in its order and closer together: SIGUSR2, SIGTERM, SIGKILL.
        """
        time.sleep(chance.uniform(0, 0.03))
        if kind != "time-out":
            self.send(getattr(signal, kind))
            return self.wait()
        for number, longest in ((signal.SIGUSR2, 0.05), (signal.SIGTERM, 0.3), (signal.SIGKILL, 0.0)):
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            self.send(number)
            time.sleep(chance.uniform(0, longest))
        return self.wait()


def _quietly(folder: Path) -> None:
    """What the process prints goes into a file beside the run folder; it has no input."""
    log = os.open(folder.with_suffix(".out"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
