"""``python -m vmamba.bench.reports``: how long the report of a large sweep takes, on run folders of real size.

Makes a sweep of ``--runs`` ImageNet runs (configurations as composed, ``--steps`` updates in ``metrics.jsonl`` with a
record every ``--every``, as many notes on MLflow as a real run has) and a store with its parent run, calls
``python -m vmamba.compare`` on it, and prints the seconds.
"""

import argparse
import itertools
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from vmamba.config.compose import compose
from vmamba.tracking import store
from vmamba.tracking.folder import RunFolder

STATES, SEEDS = (1, 2, 4, 8, 16), 10
EVALUATIONS = 40
FINAL = ("val/acc1", "val/acc5", "val/loss")


def main(argv: list[str] | None = None) -> int:
    """Prints a line for what was made and one for how long the report took; the exit code is the report's."""
    given = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="vmamba-reports-", dir=given.folder) as folder:
        began = time.perf_counter()
        sweep = make(Path(folder), given.runs, given.steps, given.every)
        size = sum(path.stat().st_size for path in sweep.rglob("*") if path.is_file()) / 1e9
        print(f"{given.runs} runs of {given.steps} steps: {size:.2f} GB in {time.perf_counter() - began:.0f} s")
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "vmamba.compare", str(sweep)], capture_output=True, text=True)
        seconds = time.perf_counter() - began
        html = sweep / "report" / "report.html"
        size = html.stat().st_size / 1e6 if html.is_file() else 0
        print(done.stderr, end="")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime
        lines = len(done.stdout.splitlines())
        print(f"report: {seconds:.1f} s ({cpu:.1f} s of a CPU core), {lines} lines printed, a page of {size:.1f} MB")
    return done.returncode


def make(root: Path, runs: int, steps: int, every: int) -> Path:
    """A sweep folder below ``root`` with that many finished runs, and ``mlflow.db`` with its parent run beside it."""
    sweep, uri = root / "sweep-large", f"sqlite:///{root / 'mlflow.db'}"
    sweep.mkdir(parents=True)
    client = store.connect(uri)
    experiment = store.experiment(client, uri, "vmamba", root)
    parent = client.create_run(experiment, run_name=sweep.name).info.run_id
    rates = [1e-4 * 1.1**number for number in range(math.ceil(runs / len(STATES) / SEEDS))]
    lines = []
    for number, (state, rate, seed) in enumerate(itertools.product(STATES, rates, range(SEEDS))):
        if number == runs:
            break
        words = [f"model.d_state={state}", f"recipe.lr={rate:.3g}", f"seed={seed}"]
        folder = RunFolder(sweep / str(number)).create()
        base = ["experiment=imagenet_tiny_0230", "data.root=/data/imagenet"]
        if number % (SEEDS * len(rates)) == 0:  # composed once a state: the words of the others are exchanged
            _, cfg = compose([*base, *words, f"outputs={root}"])
            folder.write_config(cfg, [*base, *words])
            text = folder.config.read_text()
        changed = text.replace(f"lr: {rates[0]:.3g}\n", f"lr: {rate:.3g}\n").replace("\nseed: 0\n", f"\nseed: {seed}\n")
        folder.config.write_text(changed)
        folder.overrides.write_text(yaml.safe_dump([*base, *words]))
        folder.status.write_text(json.dumps({"state": "finished", "uid": f"u{number}", "started": 1.0, "ended": 2.0}))
        _fill(folder, random.Random(number), 75 + math.log2(state) - abs(math.log(rate / 5e-4)), steps, every)
        _note(folder, uri, experiment, f"{number:032x}", steps)
        lines.append({"point": number, "attempt": 1, "launcher": "subprocess", "job": f"4194399.{number}"})
        lines[-1] |= {"overrides": words, "folder": str(number), "log": f"logs/{number}.log", "time": 1.0}
    (sweep / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = {"uid": "u", "name": sweep.name, "created": 1.0, "command": ["-m"], "varied": [], "points": runs}
    (sweep / "sweep.json").write_text(json.dumps(info | {"stores": {uri: parent}}))
    return sweep


def _fill(folder: RunFolder, chance: random.Random, level: float, steps: int, every: int) -> None:
    """Records of the size that training writes, and a result; ``level``: where the accuracy goes."""
    rows, due = [], max(1, steps // EVALUATIONS)
    for step in range(1, steps + 1):
        values = {}
        if step % every == 0:
            loss = 7 * math.exp(-3 * step / steps) + chance.random()
            values = {"loss": loss, "grad_norm": chance.random(), "lr": chance.random() * 1e-3}
            values |= {"images_per_s": 500 * chance.random(), "data_wait": chance.random(), "gpu_memory_gib": 30.5}
            values = {f"train/{name}": value for name, value in values.items()}
        if step % due == 0:
            score = level * (1 - math.exp(-4 * step / steps)) + chance.gauss(0, 0.3)
            values |= {"val/acc1": score, "val/acc5": score + 15, "val/loss": 5 - score / 25}
        if values:
            rows.append(json.dumps({"step": step, "epoch": step / 1250, "time": 1.7e9 + step, "metrics": values}))
    folder.metrics.write_text("\n".join(rows) + "\n")
    best = {name: values[name] for name in FINAL}
    result = {"mode": "train", "metric": "val/acc1", "final": values, "best": best | {"step": steps, "epoch": 8.0}}
    result |= {"seconds": 3600.0, "images_per_s": 2000 + 500 * chance.random(), "params": 30_706_792, "gflops": 4.858}
    folder.write_result(result | {"gpu_peak_gib": 30.5})


def _note(folder: RunFolder, uri: str, experiment: str, run: str, steps: int) -> None:
    """``mlflow.json`` as a delivered run has it."""
    keys = [*(f"train/{number}" for number in range(8)), *(f"final/{number}" for number in range(20)), *FINAL]
    sent = {f"file{number}": [run, 1000 + number, 1_795_657_180_706_859_624] for number in range(8)}
    state = {"experiment_id": experiment, "run_id": run, "steps": dict.fromkeys(keys, steps), "open": False}
    folder.mlflow.write_text(json.dumps({"delivered": True, "stores": {uri: state | {"artifacts": sent}}}, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vmamba.bench.reports", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=10_000, help="updates of each; default: %(default)s")
    parser.add_argument("--every", type=int, default=10, help="updates a record (log_every); default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where the runs are made and removed again; default: the system's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
