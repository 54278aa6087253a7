"""What SLURM says of jobs: one call of squeue for all of them, and one of sacct for those it no longer has."""

import re
import shutil
import subprocess
from dataclasses import dataclass

from vmamba.config.errors import UserError

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD")
ACTIVE = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
SECONDS = 20


@dataclass(frozen=True)
class Job:
    """A job's state in SLURM's words, and SLURM's reason for it."""

    state: str
    reason: str = ""

    def judge(self, said: str, error: str) -> tuple[str, str]:
        """The point's state and why, given what its run folder says: queued, running or killed."""
        if self.state in WAITING:
            return "queued", "" if self.reason in ("None", "") else f"SLURM: {self.reason}"
        if self.state in ACTIVE:
            return "running", ""  # whatever its folder says: a job that is saving before it comes back is not over
        if said == "killed" and error:
            return "killed", error
        return "killed", f"SLURM: {self.state}" + (f" ({self.reason})" if self.reason not in ("None", "") else "")


GONE = Job("no longer in the queue, and it left no word")


def states(ids: list[str]) -> dict[str, Job]:
    """SLURM's word on each job; those nobody knows of are ``GONE``. UserError if SLURM does not answer."""
    if not shutil.which("squeue"):
        raise UserError("there is no squeue here: ask on a machine of the cluster")
    arrays = ",".join(sorted({job.partition("_")[0] for job in ids}))
    done = _call("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={arrays}")
    if done.returncode and "Invalid job id" not in done.stderr:
        raise UserError(f"squeue: {shortened(done.stderr)}")
    found = {}
    for row in done.stdout.splitlines():
        job, _, rest = row.partition("|")
        state, _, reason = rest.partition("|")
        found[job] = Job(state, reason)
    if missing := [job for job in ids if job not in found]:
        found |= _history(missing)
    return {job: found.get(job, GONE) for job in ids}


def cancel(ids: list[str]) -> None:
    """Ends jobs; those that have ended already are no mistake. UserError if SLURM refuses."""
    if not shutil.which("scancel"):
        raise UserError("there is no scancel here: cancel on a machine of the cluster")
    done = _call("scancel", *ids)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise UserError(f"scancel: {shortened(done.stderr)}")


def _history(ids: list[str]) -> dict[str, Job]:
    """The accounting's word; nothing where there is none."""
    if not shutil.which("sacct"):
        return {}
    arrays = ",".join(sorted({job.partition("_")[0] for job in ids}))
    done = _call("sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={arrays}")
    rows = (row.partition("|") for row in done.stdout.splitlines()) if done.returncode == 0 else ()
    return {job: Job(state.split(" ")[0]) for job, _, state in rows if state}


def _call(*command: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not answer within {SECONDS} s: is slurmctld up?") from None


def shortened(text: str) -> str:
    """What SLURM's commands print on an error, in one line: the reason, not who says it."""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in text.splitlines() if line.strip()]
    kept = list(dict.fromkeys(re.sub(r"^Batch job submission failed: ", "", line) for line in lines))
    return "; ".join(kept) or "no reason given"
