"""``launcher=subprocess``: a process that outlives the terminal runs the points on this machine, N at a time.

``submit`` starts it (``python -m vmamba.launch.pool SWEEP``) and tells it on standard input which points are its own.
An interrupted or killed point goes back to the end of its queue. SIGTERM: the running points save and leave.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from vmamba.config import rules
from vmamba.config.errors import UserError
from vmamba.launch import report, snapshot, turns
from vmamba.launch.folder import SweepFolder
from vmamba.tracking.folder import LOST, RunFolder

log = logging.getLogger("vmamba.pool")
POLL = 0.2


def submit(sweep: SweepFolder, lines: list[dict], launcher: dict) -> tuple[subprocess.Popen, list[dict]]:
    """Starts the process, which waits for ``begin``; returns it beside the lines with their job ids."""
    slots(launcher)
    code = sweep.code if sweep.code.is_dir() else None
    env = os.environ | snapshot.environment(code, os.getcwd()) | launcher["env"]
    with open(sweep.pool_log, "ab") as output:
        pool = subprocess.Popen(
            [sys.executable, "-m", "vmamba.launch.pool", str(sweep.path)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=env,
            start_new_session=True,  # the terminal's Ctrl-C and hang-up are not for it
        )
    host = socket.gethostname()
    return pool, [
        line | {"job": f"{pool.pid}.{line['point']}", "host": host, "log": f"logs/{line['point']}.log"}
        for line in lines
    ]


def begin(pool: subprocess.Popen, lines: list[dict], launcher: dict) -> None:
    """Lets the process go on with its points."""
    pool.stdin.write(json.dumps({"lines": lines, "launcher": launcher}).encode())
    pool.stdin.close()


def slots(launcher: dict) -> list[str | None]:
    """What each of the points running at the same time gets: CUDA_VISIBLE_DEVICES, or None to leave it alone.

    UserError when a point asks for more GPUs than there are.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = rules.cuda_devices()
    names = [name for name in visible.split(",") if name] if visible else [str(number) for number in range(count)]
    each = launcher["gpus"] if launcher["gpus"] is not None else min(1, count)
    if each > count:
        raise UserError(f"launcher.gpus={each}: this machine has {count}; take fewer, or launcher=slurm")
    if not each:
        return [None if launcher["gpus"] is None else ""] * (launcher["parallel"] or 1)
    groups = [",".join(names[start : start + each]) for start in range(0, count - each + 1, each)]
    return [groups[slot % len(groups)] for slot in range(launcher["parallel"] or len(groups))]


def main() -> None:
    """The process itself."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    given = sys.stdin.read()
    if given:  # nothing: the submission went wrong
        Pool(SweepFolder(sys.argv[1]), **json.loads(given)).run()


class Pool:
    """The points waiting, and those running, each in its slot."""

    def __init__(self, sweep: SweepFolder, lines: list[dict], launcher: dict) -> None:
        self.sweep, self.launcher = sweep, launcher
        self.waiting = deque(lines)
        self.free = deque(slots(launcher))
        self.threads = max(1, (os.cpu_count() or 1) // len(self.free))
        self.running: list[tuple[subprocess.Popen, dict, str | None]] = []
        self.turns: dict[int, int] = {}  # how often a point had been interrupted when it was started
        self.leaving = False
        signal.signal(signal.SIGTERM, self._leave)

    def run(self) -> None:
        """Until every point has ended."""
        while self.running or (self.waiting and not self.leaving):
            while self.waiting and self.free and not self.leaving:
                line = self.waiting.popleft()
                folder = self.sweep.run(line)
                if turns.cancelled(folder) or turns.superseded(folder, line["attempt"]):
                    continue
                self._start(line, self.free.popleft())
            time.sleep(POLL)
            for entry in [entry for entry in self.running if entry[0].poll() is not None]:
                self.running.remove(entry)
                self._ended(*entry)
        report.write_at_end(self.sweep)

    def _start(self, line: dict, slot: str | None) -> None:
        folder, tasks = self.sweep.run(line), self.launcher["tasks"] or (slot or "").count(",") + 1
        command = [sys.executable, "-m"]
        if tasks > 1:
            command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(tasks), "-m"]
        env = {"OMP_NUM_THREADS": str(self.threads)} | os.environ | {turns.ATTEMPT: str(line["attempt"])}
        if slot is not None:
            env["CUDA_VISIBLE_DEVICES"] = slot
        output = self.sweep.log(line)
        output.parent.mkdir(exist_ok=True)
        with open(output, "ab") as file:
            child = subprocess.Popen(
                [*command, "vmamba.launch.worker", str(folder.path)],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, start_new_session=True,
            )  # fmt: skip
        log.info("point %d: process %d%s", line["point"], child.pid, f", GPU {slot}" if slot else "")
        self.turns[line["point"]] = folder.read_status().get("preempted", 0)
        self.running.append((child, line, slot))

    def _ended(self, child: subprocess.Popen, line: dict, slot: str | None) -> None:
        self.free.append(slot)
        folder = self.sweep.run(line)
        if turns.superseded(folder, line["attempt"]):
            log.info("point %d ended with %d; it has been submitted again", line["point"], child.returncode)
            return
        status = folder.read_status()
        state = status.get("state")
        again = state == "queued" and status.get("preempted", 0) > self.turns[line["point"]]
        lost = state == "killed" and status.get("error") == LOST  # a SIGKILL that the feeder was the first to see
        if (lost or state in ("running", "queued")) and not again:
            again = self._died(folder, child.returncode, lost)
        log.info(
            "point %d ended with %d%s", line["point"], child.returncode, ", goes back to the queue" if again else ""
        )
        if again:
            self.waiting.append(line)

    def _died(self, folder: RunFolder, code: int, lost: bool) -> bool:
        """A process that left no word: killed by a signal it may run again; whatever else is its own fault."""
        if lost or code < 0:
            return turns.interrupted(folder, self.launcher["requeues"])
        folder.write_status("failed", error=f"the process ended with code {code} and no word")
        return False

    def _leave(self, signum: int, frame) -> None:
        self.leaving = True
        for child, _, _ in self.running:
            child.send_signal(signal.SIGTERM)


def alive(job: str) -> bool:
    """Whether the process of a job id "pid.point" is there, on this host."""
    pid = job.partition(".")[0]
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        if not words:  # for an instant, of a process that is starting
            time.sleep(POLL)
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc").is_dir() and subprocess.run(["ps", "-p", pid], capture_output=True).returncode == 0
    return b"vmamba" in words


if __name__ == "__main__":
    main()
