"""How the points of a sweep stand: what their run folders say, put together with what SLURM or the process list says.

Reads files and asks SLURM once; no torch, no Hydra, no MLflow.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from vmamba.launch import pool, queue
from vmamba.launch.folder import SweepFolder
from vmamba.tracking.atomic import read_json
from vmamba.tracking.folder import ENDED, LOST, RunFolder
from vmamba.tracking.process import alive
from vmamba.tracking.series import best


@dataclass(frozen=True)
class Point:
    """One point. ``state``: queued, running, finished, failed or killed; times are seconds since 1970."""

    number: int
    state: str
    attempt: int  # submissions
    preempted: int  # interruptions after which it was put back in the queue
    job: str
    overrides: list[str]
    folder: Path
    log: Path
    last: str  # why it ended, or the last line of its log
    metric: str  # the name of the task's metric, "" where neither run nor sweep folder says
    value: float | None  # the best of it, of a run that has finished
    so_far: float | None  # the best of it up to now, of another
    started: float | None
    ended: float | None

    @property
    def broken(self) -> bool:
        """Ended, and not as it should."""
        return self.state in ("failed", "killed")

    def words(self) -> str:
        """The state as it is shown: "running, preempted 2x"."""
        return self.state + (f", preempted {self.preempted}x" if self.preempted else "")


def points(folder: str | os.PathLike) -> list[Point]:
    """The points of the sweep in ``folder``, by number. UserError if it is not a sweep folder."""
    sweep = SweepFolder.existing(folder)
    lines = list(sweep.latest().values())
    statuses = {line["point"]: sweep.run(line).read_status() for line in lines}
    asked = [line["job"] for line in lines if line["launcher"] == "slurm" and not _final(statuses[line["point"]])]
    jobs = queue.states(asked) if asked else {}
    info = sweep.read_info()
    return [_point(sweep, line, statuses[line["point"]], jobs, info) for line in lines]


def _final(status: dict) -> bool:
    """Whether the run folder's word is the last one: "killed" is not, SLURM may have put the job back."""
    return status.get("state") in ("finished", "failed")


def _point(sweep: SweepFolder, line: dict, status: dict, jobs: dict[str, queue.Job], info: dict) -> Point:
    run, log = sweep.run(line), sweep.log(line)
    state, why = _state(line, status, jobs)
    result = read_json(run.result) if state == "finished" else {}
    metric = str(result.get("metric") or info.get("metric") or "")
    value = (result.get("best") or {}).get(metric)
    unfinished = metric and state != "finished"
    return Point(
        number=line["point"],
        state=state,
        attempt=line["attempt"],
        preempted=int(status.get("preempted", 0)),
        job=line["job"],
        overrides=line["overrides"],
        folder=run.path,
        log=log,
        last=why or ("" if state in ("queued", "finished") else _last_line(run, log)),
        metric=metric,
        value=float(value) if value is not None else None,
        so_far=best(run.metrics, metric, info.get("higher_is_better", True)) if unfinished else None,
        started=status.get("started"),
        ended=status.get("ended") if state in ENDED else None,
    )


def _state(line: dict, status: dict, jobs: dict[str, queue.Job]) -> tuple[str, str]:
    """The state, and why where it is not as it should be."""
    said = status.get("state", "queued")
    if _final(status):
        return said, status.get("error", "") if said == "failed" else ""
    if line["launcher"] == "slurm":
        job = jobs.get(line["job"])
        return (said, status.get("error", "")) if job is None else job.judge(said, status.get("error", ""))
    here = line.get("host", socket.gethostname()) == socket.gethostname()
    between = said == "killed" and (status.get("error") == LOST or alive(status))
    if here and between and pool.alive(line["job"]):
        return "running", ""  # whoever hands out the points is about to put it back in the queue, or to end it for good
    if said == "killed" or not here or pool.alive(line["job"]):
        return said, status.get("error", "") if said == "killed" else ""
    if said == "running" and alive(status):
        return "running", ""
    return "killed", LOST if said == "running" else "the process that was to run it is gone"


def _last_line(run: RunFolder, log: Path) -> str:
    """The last line of the run's log, or of its job's where it has none yet."""
    for path in (run.log, log):
        try:
            with open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        if text := next((text for text in reversed(lines) if text.strip()), ""):
            return text.strip()
    return ""
