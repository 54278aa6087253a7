"""Ctrl-C, SIGTERM and SIGUSR2: finish the step, save, leave. A second one leaves at once."""

import logging
import signal
import threading

log = logging.getLogger("vmamba")
CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # USR2: SLURM's notice of a preemption or of the time limit
GRACE = 120  # seconds a loader worker stays after SIGTERM


class Killed(SystemExit):
    """The run was interrupted and has saved; the exit code is 128 + the signal's number (130, 140, 143)."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Signals:
    """While entered, the signals set ``received`` instead of interrupting; outside the main thread it does nothing.

    One that came before, while ``hold`` was on, counts.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._catch) for signum in CAUGHT}
            self.received = self.received or _held.pop("signal", 0)
        return self

    def __exit__(self, *_) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _catch(self, signum: int, frame) -> None:
        if self.received:
            if _held.get("patient") or signum != self.received or signum == signal.SIGUSR2:
                return  # SLURM follows its notice by SIGTERM while the checkpoint is being written
            for number in CAUGHT:
                signal.signal(number, signal.SIG_DFL)
            raise Killed(signum)
        self.received = signum
        log.warning(
            "%s: saving at the end of this step, then leaving; once more leaves at once", signal.Signals(signum).name
        )


_held: dict[str, int] = {}


def hold() -> None:
    """For jobs: a signal before the training loop is only noted, for the loop to see when it starts; a job that is
    still importing neither dies of it nor misses it. And no second signal ends the saving that a first began.
    """
    _held["patient"] = 1
    for signum in CAUGHT:
        signal.signal(signum, _note)


def _note(signum: int, frame) -> None:
    _held.setdefault("signal", signum)


def leave_to_parent(info) -> int:
    """For timm's ``worker_seeding``: a loader worker outlives signals sent to the whole group while its parent saves.

    A scheduler's SIGTERM reaches the workers too; one still there after ``GRACE`` seconds goes. Returns its seed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
    return info.seed
