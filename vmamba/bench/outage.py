"""``python -m vmamba.bench.outage --seconds 60``: the MLflow server is killed in mid-training and comes back.

A small training run (``vmamba.run``, a record every step) logs to a server that this command starts. After so many
seconds all of the server's processes get SIGKILL, after as many again it is started, and as long again the training
goes on. The table has, for each of these parts, the median time of a step, and how long the training process itself
spent on recording (measured inside of it: every call that writes a record, and the start of the feeder). Then every
value is asked for. Exit code 1 if one is missing or there twice, or the run did not finish.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from vmamba.bench import report
from vmamba.bench.delivered import check
from vmamba.bench.server import Server
from vmamba.tracking import store
from vmamba.tracking.folder import RunFolder

WORDS = [
    "model.depths=[1,1]", "model.dims=[16,32]", "device=cpu", "precision=fp32", "data.img_size=16", "log_every=1",
    "recipe.epochs=10000", "recipe.eval_every=10000", "checkpoint.every_epochs=10000",
    "tracking.experiment=vmamba-outage",
]  # fmt: skip
TRAIN = "from vmamba.bench.outage import train; train()"


def main(argv: list[str] | None = None) -> int:
    """Runs it, prints the table; returns the exit code."""
    given = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="vmamba-outage-") as root, Server(Path(root), given.backend) as server:
        rows, told, _ = run(Path(root), server, given.seconds)
    report.show(rows)
    print(told)
    return 0 if told.well else 1


def run(root: Path, server: Server, seconds: float, words: tuple[str, ...] = (), **env: str):
    """Trains below ``root`` while ``server``, which runs, is away for ``seconds``, and as long before and after.

    ``words``, ``env``: further overrides and environment of the training. Returns the table's rows, what
    ``delivered.check`` found, and the run folder. RuntimeError with what it said if the training fails.
    """
    times, over = root / "times.json", root / "over"
    words = [*WORDS, f"outputs={root / 'outputs'}", f"tracking.uri={server.uri}", *words]
    with open(root / "train.out", "wb") as output:
        training = subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(times), str(over), *words],
            cwd=root, env=os.environ | env, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        folder = RunFolder(_first(training, root, "outputs/*/metrics.jsonl").parent)
        _first(training, folder.path, "mlflow.json", holding='"metrics.jsonl"')  # the first records are delivered
        time.sleep(seconds)
        gone = time.time()
        server.stop(signal.SIGKILL)
        time.sleep(seconds)
        server.start()
        back = time.time()
        time.sleep(seconds)
        over.touch()
        if training.wait(300):
            raise RuntimeError((root / "train.out").read_text()[-2000:])
    finally:
        training.kill()
    rows = _rows(folder, json.loads(times.read_text()), gone, back)
    return rows, check(store.connect(server.uri), "vmamba-outage", [folder]), folder


def train() -> None:
    """``vmamba.run`` with a stopwatch on what records: [when, how long (s)] of each call, into the file named first.

    Its last step is the one during which the file named second appears.
    """
    from vmamba.engine.hooks import Record
    from vmamba.run import main
    from vmamba.tracking.feeder import Feeder
    from vmamba.tracking.folder import MetricsWriter

    times: list[tuple[float, float]] = []

    def timed(call):
        def timing(*words, **named):
            began = time.perf_counter()
            try:
                return call(*words, **named)
            finally:
                times.append((time.time(), time.perf_counter() - began))

        return timing

    def end_when_told(_, loop, seconds):
        if over.exists():
            loop.plan = replace(loop.plan, stop=loop.state.step)

    target, over = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
    MetricsWriter.log, Feeder.start, Record.on_step = timed(MetricsWriter.log), timed(Feeder.start), end_when_told
    try:
        main()
    finally:
        target.write_text(json.dumps(times))


def _rows(folder: RunFolder, times: list, gone: float, back: float) -> list[report.Row]:
    """One row a part of the run: before the outage, during, after, all."""
    ends = [record["time"] for record in folder.records() if "train/loss" in record["metrics"]]
    steps = [(now, now - before) for before, now in pairwise(ends)]
    parts = {"before": (0.0, gone), "during": (gone, back), "after": (back, ends[-1]), "all": (0.0, ends[-1])}
    rows = []
    for name, (first, last) in parts.items():
        taken = [second for when, second in steps if first < when <= last]
        spent = [second for when, second in times if first < when <= last]
        rows.append(
            {
                "part": name,
                "seconds": sum(taken),
                "steps": len(taken),
                "step, median (ms)": 1e3 * median(taken),
                "recording, mean (ms a step)": 1e3 * sum(spent) / len(taken),
                "recording, longest (ms)": 1e3 * max(spent),
                "recording (% of the time)": 100 * sum(spent) / sum(taken),
            }
        )
    return rows


def _first(training: subprocess.Popen, root: Path, pattern: str, holding: str = "") -> Path:
    """The first such file below ``root`` with these words in it, waited for as long as the training lives."""
    while True:
        if found := [path for path in root.glob(pattern) if holding in path.read_text()]:
            return found[0]
        if training.poll() is not None:
            raise RuntimeError(f"the training was over too early: {(root / 'train.out').read_text()[-2000:]}")
        time.sleep(0.05)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vmamba.bench.outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each part (default: %(default)s)")
    parser.add_argument("--backend", metavar="URI", help="the server's database (default: a new SQLite file)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
