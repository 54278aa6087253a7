"""``python -m vmamba.bench.writers --writers 16 --steps 1000``: many runs logging at once into one MLflow store.

Each writer is a process with a run folder and a feeder of its own, as a training process has them, that records eight
values a step. All begin together, on an SQLite file that is not there yet, or on the server that ``--uri`` names.
Afterwards every value of every run is asked for. Exit code 1 if one is missing or there twice, or a run not finished.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

from vmamba.bench import report
from vmamba.bench.delivered import check
from vmamba.tracking import store
from vmamba.tracking.folder import RunFolder

EXPERIMENT = "vmamba-writers"
VALUES = 8


def main(argv: list[str] | None = None) -> int:
    """Runs the writers, prints the table; returns the exit code."""
    given = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="vmamba-writers-") as root:
        row = run(Path(root), given.writers, given.steps, given.uri, given.pause / 1000)
    report.show([row])
    return 0 if row["well"] else 1


def run(root: Path, writers: int, steps: int, uri: str | None = None, pause: float = 0.01) -> report.Row:
    """The writers' runs below ``root``, delivered and checked. ``pause``: between two steps (s)."""
    uri = store.absolute(uri, Path.cwd()) if uri else f"sqlite:///{root / 'mlflow.db'}"
    folders = [RunFolder(root / f"writer-{number}") for number in range(writers)]
    context = multiprocessing.get_context("spawn")
    gate, told, began = context.Barrier(writers), context.Queue(), time.monotonic()
    processes = [context.Process(target=_write, args=(f.path, uri, steps, pause, gate, told)) for f in folders]
    for process in processes:
        process.start()
    times = [told.get(timeout=1200) for _ in processes]
    for process in processes:
        process.join()
    seconds = time.monotonic() - began
    found = check(store.connect(uri), EXPERIMENT, folders)
    blocked = sorted(second for logged, _, _ in times for second in logged)
    return {
        "store": uri.split(":")[0],
        "writers": writers,
        "steps": steps,
        "values": found.values,
        "lost": found.lost,
        "doubled": found.doubled + found.runs_doubled,
        "runs failed": found.runs_failed + found.runs_missing + sum(not delivered for _, delivered, _ in times),
        "seconds": seconds,
        "longest wait for the delivery (s)": max(waited for _, _, waited in times),
        "log (us)": 1e6 * median(blocked),
        "log, 99.9 % (us)": 1e6 * blocked[int(0.999 * len(blocked))],
        "well": found.well and found.values == writers * steps * VALUES and all(delivered for _, delivered, _ in times),
    }


def _write(path: Path, uri: str, steps: int, pause: float, gate, told) -> None:
    """One writer: tells how long each record took (s), whether all was delivered, and how long that took at the end."""
    from vmamba.tracking.feeder import Feeder

    folder = RunFolder(path).create()
    tracking = {"uri": uri, "experiment": EXPERIMENT, "system_metrics": False}
    folder.write_config({"outputs": str(path.parent), "tracking": tracking})
    gate.wait(300)
    folder.write_status("running")
    feeder, times = Feeder(folder, SimpleNamespace(store="mlflow")).start(), []
    with folder.writer() as writer:
        for step in range(1, steps + 1):
            values = {f"train/m{number}": step + number / VALUES for number in range(VALUES)}
            began = time.perf_counter()
            writer.log(step, step / steps, values)
            times.append(time.perf_counter() - began)
            time.sleep(pause)
    folder.write_status("finished")
    ended = time.monotonic()
    outcome = feeder.finish(900)
    told.put((times, outcome.delivered, time.monotonic() - ended))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vmamba.bench.writers", description=__doc__)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--uri", help="http://host:port of a server (default: a new SQLite file)")
    parser.add_argument("--pause", type=float, default=10.0, help="milliseconds between steps (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
