"""The tracking store of a sweep, made ready while its points are being composed."""

import logging
import subprocess
import sys

from vmamba.config.schema import Run
from vmamba.launch.folder import SweepFolder

log = logging.getLogger("vmamba")


class Store:
    """Makes the tracking store, the experiment and the parent run, in a process that imports MLflow meanwhile."""

    def __init__(self, sweep: SweepFolder, run: Run) -> None:
        self.process = None
        if run.tracking.store != "none":
            command = [sys.executable, "-m", "vmamba.tracking.parent", str(sweep.path)]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)

    def make(self, first: str) -> None:
        """Waits for it. ``first``: the folder of a point, whose configuration names the store."""
        if self.process is None:
            return
        said, _ = self.process.communicate(first + "\n")
        if self.process.returncode:
            log.warning("MLflow: %s; the runs deliver when they can", said.strip() or "the store was not made")

    def close(self) -> None:
        """Ends a process that nothing was asked of, or whose answer nobody waits for any more."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
