"""How often a point has been interrupted, and whether it may go on: kept in its ``status.json``, not by SLURM."""

import os

from vmamba.tracking.folder import RunFolder

AGAIN = 75  # the exit code of a job that is to be run again (EX_TEMPFAIL)
ATTEMPT = "VMAMBA_ATTEMPT"  # tells a process of launcher=subprocess which submission it belongs to
CANCEL = ".cancel"  # this file in a run folder: its job is to end, not to be put back


def begin(folder: RunFolder, limit: int) -> bool:
    """Whether the point is to run now: it is not if it has finished, was cancelled, or was cut off too often.

    An attempt that ended without a word (SIGKILL, a lost node) is counted here.
    """
    status = folder.read_status()
    if over(folder):
        return False
    if superseded(folder, int(os.environ.get(ATTEMPT, status.get("attempt", 1)))):
        return False
    return status.get("state") not in ("running", "killed") or interrupted(folder, limit)


def over(folder: RunFolder) -> bool:
    """Whether there is nothing to run, whatever it was that started the point again."""
    return folder.read_status().get("state") == "finished" or cancelled(folder)


def interrupted(folder: RunFolder, limit: int) -> bool:
    """Counts an interruption and says how it stands: queued, and True, if the point may run again; else killed.

    ``limit`` bounds the interruptions in a row between which no new checkpoint was written.
    """
    status, at = folder.read_status(), _newest(folder)
    stuck = status.get("stuck", 0) + 1 if at == status.get("at") else 1
    counts = {"preempted": status.get("preempted", 0) + 1, "stuck": stuck, "at": at}
    if cancelled(folder):
        folder.write_status("killed", error="cancelled", **counts)
    elif stuck > limit:
        why = f"interrupted {stuck} times without a new checkpoint in between (launcher.requeues={limit})"
        folder.write_status("killed", error=why, **counts)
    else:
        folder.write_status("queued", **counts)
        return True
    return False


def afresh(folder: RunFolder, attempt: int) -> None:
    """Puts a point in the queue by hand: whatever ended it before is forgotten, its checkpoints are not.

    ``attempt``: the submission that is to run it; a process of one before that has yet to begin does not.
    """
    folder.write_status("queued", stuck=0, attempt=attempt)
    restore(folder)


def superseded(folder: RunFolder, attempt: int) -> bool:
    """Whether a later submission has the point."""
    return folder.read_status().get("attempt", 1) != attempt


def cancel(folder: RunFolder) -> None:
    """Leaves word for the point's job, wherever it runs: it is not to come back."""
    (folder.path / CANCEL).touch()


def restore(folder: RunFolder) -> None:
    """Takes that word back."""
    (folder.path / CANCEL).unlink(missing_ok=True)


def cancelled(folder: RunFolder) -> bool:
    return (folder.path / CANCEL).exists()


def _newest(folder: RunFolder) -> str | None:
    return max((path.name for path in folder.checkpoints.glob("step_*.pt")), default=None)
