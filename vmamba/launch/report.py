"""When a sweep's report is written: as its last point ends, by whoever is there. What is in it: ``vmamba.compare``.

With ``local`` and ``subprocess`` that is the process that hands out the points, with SLURM the last job, or anybody who
waits for the sweep.
"""

import logging
from pathlib import Path

from vmamba.launch.folder import SweepFolder
from vmamba.tracking.folder import ENDED

log = logging.getLogger("vmamba")


def write(sweep: SweepFolder) -> None:
    """Writes it, also when points failed; it is not to spoil what has been run, so a failure is a line in the log.

    A run that was sent elsewhere by itself has nothing to be compared with, and gets none.
    """
    if _alone(sweep):
        return
    try:
        from vmamba.compare.make import make

        for remark in make([sweep.path]).remarks:
            log.warning("report: %s", remark)
    except Exception:
        log.exception("the report was not written")


def write_at_end(sweep: SweepFolder) -> None:
    """Called where the last point that was submitted has ended; a search, which may submit more, writes its own."""
    if not sweep.search.is_file():
        write(sweep)


def write_if_last(run: Path) -> None:
    """Called where a job ends: writes the report if no other point of its sweep is queued or running.

    Every job leaves its last word before it looks, so the last one sees them all.
    """
    sweep = SweepFolder(run.parent)
    if not sweep.jobs.is_file():
        return
    states = [sweep.run(line).read_status().get("state") for line in sweep.latest().values()]
    if all(state in ENDED for state in states):
        write_at_end(sweep)


def say(sweep: SweepFolder) -> None:
    """Prints where the report is, and MLflow's pages on the same runs."""
    from vmamba.compare.make import where

    if not _alone(sweep):
        print("\n".join(where(sweep)), flush=True)


def _alone(sweep: SweepFolder) -> bool:
    return all(line["folder"] == "." for line in sweep.latest().values())
