"""Taking back a submission that came to nothing: a user's mistake, or Ctrl-C."""

import shutil
import sys
from typing import NoReturn

from vmamba.launch import table
from vmamba.launch.folder import SweepFolder
from vmamba.tracking.folder import RunFolder


def interrupted(sweep: SweepFolder) -> NoReturn:
    """Ctrl-C while points are composed or submitted. Leaves with 130."""
    if sweep.jobs.is_file() or sweep.slurm.is_dir():
        where = table.relative(sweep.path)
        print(
            f"vmamba: interrupted in the middle of submitting; see python -m vmamba.sweep status {where}",
            file=sys.stderr,
        )
    else:
        forget(sweep)
        print("vmamba: interrupted; nothing was started", file=sys.stderr)
    sys.exit(130)


def forget(sweep: SweepFolder) -> None:
    """Removes what a refused submission has written: the points that nothing has run in, and the folder if it is then
    empty of anything else."""
    if sweep.jobs.is_file() or not sweep.path.is_dir():
        return
    for folder in (sweep.path, *(path for path in sweep.path.iterdir() if path.name.isdigit())):
        run = RunFolder(folder)
        if run.read_status().get("state") == "queued" and "started" not in run.read_status():
            for path in (run.config, run.overrides, run.status):
                path.unlink(missing_ok=True)
            if folder != sweep.path and not any(folder.iterdir()):
                folder.rmdir()
    for folder in (sweep.code, sweep.slurm):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (sweep.info, sweep.pool_log, sweep.search, sweep.study, sweep.locked):
        path.unlink(missing_ok=True)
    if {path.name for path in sweep.path.iterdir()} <= {"multirun.yaml", "run.log", ".parent.lock"}:
        shutil.rmtree(sweep.path)
