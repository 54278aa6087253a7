"""What is left of a job whose Python was ended by SIGKILL: ``python -m vmamba.launch.lost SWEEP``, run by its wrapper.

The job goes back to the queue, counted as an interruption like another; one that ran out of memory would do so again,
and is a failed point that says so.
"""

import logging
import os
import sys
import time
from pathlib import Path

import yaml

from vmamba.launch import slurm_job, turns
from vmamba.launch.folder import SweepFolder
from vmamba.tracking.folder import RunFolder

log = logging.getLogger("vmamba")
KILLED = 137  # the exit code that a shell gives for SIGKILL


def main() -> int:
    """Does not come back if the job is put into the queue: that ends it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S")
    sweep, job = SweepFolder(sys.argv[1]), slurm_job.job()
    line = next((line for line in sweep.latest().values() if line["job"] == job), None)
    if line is None or not slurm_job.running():  # SLURM is ending the job by itself, and says why
        return KILLED
    if again(sweep.run(line)):
        slurm_job.requeue()
        time.sleep(slurm_job.PATIENCE)
    return KILLED


def again(folder: RunFolder) -> bool:
    """Whether the point may run again; its status says so, or why not."""
    settings = yaml.safe_load(folder.config.read_text())["launcher"]
    if out_of_memory():
        given = "what the cluster gives" if settings["memory"] is None else f"{settings['memory']:g} GB a node"
        error = f"out of memory ({given}): more with vmamba.sweep resume FOLDER launcher.memory=N"
        log.error("%s", error)
        folder.write_status("failed", error=error)
        return False
    log.warning("killed without a word (SIGKILL)")
    # another process of the same job may have counted it; one that missed a killed one failed of that
    return folder.read_status().get("state") == "queued" or turns.interrupted(folder, settings["requeues"])


def out_of_memory(cgroups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> bool:
    """Whether the kernel has ended a process of this job for want of memory, by the job's control groups (v1 and v2).

    False where SLURM makes none.
    """
    job = f"job_{os.environ['SLURM_JOB_ID']}"
    for line in cgroups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder = root / ("memory" if controllers else "") / path.lstrip("/")
        while job in folder.parts:
            if any(_kills(folder / name) for name in ("memory.events", "memory.oom_control")):
                return True
            folder = folder.parent
    return False


def _kills(file: Path) -> int:
    try:
        counts = dict(line.split() for line in file.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("oom_kill", 0))


if __name__ == "__main__":
    sys.exit(main())
