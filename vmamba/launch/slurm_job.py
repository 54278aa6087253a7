"""What runs in a SLURM job: one rank of one point. Pickled as a class name and a path, nothing else."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from vmamba.launch import report, turns
from vmamba.tracking.atomic import write_text

log = logging.getLogger("vmamba")
NOTICES = {signal.SIGUSR2, signal.SIGTERM}
PATIENCE = 300  # seconds to wait for the end that a requeue brings


class SlurmPoint:
    """The callable that submitit runs on every rank."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __setstate__(self, state: dict) -> None:
        # submitit installs its own handlers right after this, and they requeue by rules of their own:
        # hold signals back until ours are there
        signal.pthread_sigmask(signal.SIG_BLOCK, NOTICES)
        self.__dict__.update(state)

    def __call__(self) -> None:
        from vmamba.engine.signals import hold
        from vmamba.launch.worker import work

        hold()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NOTICES)
        join(os.environ, Path(self.folder))
        main = os.environ.get("RANK", "0") == "0"
        code = work(Path(self.folder))
        if code == turns.AGAIN:
            if main and running():
                requeue()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if not main or running():
                time.sleep(PATIENCE)  # the requeue ends this process; leaving first would make the job a failed one
        elif main:
            report.write_if_last(Path(self.folder))
        if code:
            sys.exit(code)


def join(env: dict, folder: Path) -> None:
    """Gives torch what it asks for when processes are to find each other, from SLURM's own variables.

    Names of nodes need not resolve, so the address is the one that SLURM noted of the host of the first rank; the port
    is one that is free there, which the others read in the run folder.
    """
    if int(env.get("SLURM_NTASKS", 1)) < 2:
        return
    env |= {
        "RANK": env["SLURM_PROCID"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "WORLD_SIZE": env["SLURM_NTASKS"],
        "MASTER_ADDR": env.get("SLURM_LAUNCH_NODE_IPADDR") or _first_host(),
        "MASTER_PORT": _port(env, folder / ".rendezvous"),
    }


def _port(env: dict, note: Path) -> str:
    """The port of this turn of the job: the first rank's choice, which it notes for the others."""
    turn = f"{env['SLURM_JOB_ID']}.{env.get('SLURM_RESTART_COUNT', 0)}"
    if env["SLURM_PROCID"] == "0":
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        write_text(note, f"{turn} {port}")
        return str(port)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        noted = note.read_text().split() if note.is_file() else []
        if noted[:1] == [turn]:
            return noted[1]
        time.sleep(0.2)
    raise RuntimeError(f"the first process of job {turn} did not say where it is within {PATIENCE} s")


def _first_host() -> str:
    from submitit import JobEnvironment

    return JobEnvironment().hostnames[0]


def running() -> bool:
    """Whether the job goes on, as far as SLURM is concerned.

    If not, SLURM is ending it by itself: to cancel it, which is to stay so, or to put it back in the queue.
    """
    try:
        done = subprocess.run(["scontrol", "show", "job", "-o", job()], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return True
    found = re.search(r"JobState=(\S+)", done.stdout)
    return found is None or found[1] == "RUNNING"


def requeue() -> None:
    """Puts this job back in the queue."""
    for _ in range(3):
        done = subprocess.run(["scontrol", "requeue", job()], capture_output=True, text=True)
        if done.returncode == 0 or "pending" in done.stderr.lower():
            log.info("job %s goes back to the queue", job())
            return
        log.warning("scontrol requeue %s: %s", job(), done.stderr.strip())
        time.sleep(5)


def job() -> str:
    """This job and no other: the last one of an array has the array's own number as SLURM_JOB_ID."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
