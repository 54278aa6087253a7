"""``python -m vmamba.bench.interruptions --runs 100``: interrupted runs against one that was not, on the CPU.

A small run (44 updates; augmentation, mixup, drop path, EMA, a loader worker; a checkpoint every 5 updates) is ended at
random steps by SIGTERM, SIGUSR2, SIGKILL and by SLURM's signals at a time limit, and started again in the same folder,
once to three times a run. Afterwards the last checkpoint must equal the uninterrupted run's bit for bit (weights,
averaged weights, optimizer), and every value of every step must be in metrics.jsonl and in MLflow once.

Every life is delivered to MLflow when it has ended, by one process that stays; every tenth run instead by the feeder it
starts itself, while it trains. Exit code 1 if anything differs; the folders of such runs are kept.
"""

import multiprocessing
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from vmamba.bench import report
from vmamba.bench.measure import card
from vmamba.config.words import Parser
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.store import connect

WORDS = [
    "name=small", "model.depths=[1,1]", "model.dims=[8,16]", "data.img_size=16", "data.workers=1", "device=cpu",
    "scan=naive", "precision=fp32", "recipe.epochs=2", "recipe.augment.mixup=0.8", "recipe.augment.cutmix=1.0",
    "recipe.augment.reprob=0.3", "model.drop_path=0.2", "recipe.ema.enabled=true", "recipe.ema.decay=0.9",
    "checkpoint.every_steps=5", "log_every=1", "tracking.system_metrics=false", "tracking.log_checkpoint=false",
]  # fmt: skip
STORES = ("mlflow", "none")
FED = 10  # every so many runs feed MLflow by themselves
TIMED = ("images_per_s", "data_wait")  # parts of the names of metrics that tell the time


@dataclass
class Told:
    """One run: how it was interrupted, and what is wrong with it afterwards."""

    kind: str
    codes: list[int]
    seconds: float
    wrong: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    """Interrupts the runs, prints the table, writes the CSV; returns the exit code."""
    given = _parser().parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="vmamba-interruptions-", ignore_cleanup_errors=True) as root:
        told, seconds = _all(Path(root), given.runs, given.seed)
        wrong = [(number, run) for number, run in enumerate(told) if run.wrong]
        for number, run in wrong:
            kept = Path(tempfile.mkdtemp(prefix="vmamba-interrupted-")) / str(number)
            shutil.copytree(Path(root) / str(number), kept)
            print(f"run {number} ({run.kind}, exit codes {run.codes}): {'; '.join(run.wrong)}; kept in {kept}")
    rows = [_row(kind, [run for run in told if run.kind == kind]) for kind in dict.fromkeys(r.kind for r in told)]
    rows.append(_row("all", told))
    report.show(rows)
    print(f"{seconds:.0f} s in all")
    if given.out:
        conditions = {"words": " ".join(WORDS), "seed": given.seed}
        print(f"written to {report.save('interruptions', card(torch.device('cpu')), rows, given.out, conditions)}")
    return 1 if wrong else 0


def _all(root: Path, runs: int, seed: int) -> tuple[list[Told], float]:
    """Every run, one after another, and the time they took together (s)."""
    from vmamba.bench.lives import KINDS, Life, warm
    from vmamba.config.compose import compose

    fed, silent = (compose([*WORDS, f"outputs={root}", f"tracking={store}"], cuda=False)[1] for store in STORES)
    warm()
    connect(f"sqlite:///{root / 'mlflow.db'}")
    ours, theirs = multiprocessing.Pipe()
    deliverer = multiprocessing.get_context("spawn").Process(target=_deliver, args=(theirs, root), daemon=True)
    deliverer.start()
    _frozen(root / "whole", silent)
    if Life.begin(root / "whole").wait() != 0:
        raise RuntimeError(f"the uninterrupted run failed: {(root / 'whole.out').read_text()[-2000:]}")
    chance, told, began = random.Random(seed), [], time.monotonic()
    for number in range(runs):
        path, itself = root / str(number), number % FED == FED - 1
        _frozen(path, fed if itself else silent)
        run = _one(path, KINDS[number % len(KINDS)], chance, None if itself else ours)
        run.wrong += differences(root / "whole", path, root / "mlflow.db")
        told.append(run)
        if not run.wrong:
            shutil.rmtree(path)
        print(f"\r{number + 1} of {runs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    ours.send(None)
    deliverer.join(30)
    return told, time.monotonic() - began


def _frozen(path: Path, cfg) -> None:
    """The run folder as the launcher leaves it for its job."""
    folder = RunFolder(path)
    path.mkdir()
    folder.write_config(cfg)
    folder.write_status("queued")


def _one(path: Path, kind: str, chance: random.Random, deliverer) -> Told:
    """One run from its first life to its last."""
    from vmamba.bench.lives import Life

    began, codes = time.monotonic(), []
    steps = sorted(chance.sample(range(1, 43), chance.choice((1, 1, 2, 3))))
    for step in steps:
        if any(record["step"] >= step for record in RunFolder(path).records()):
            continue  # the life before got further before it ended
        life = Life.begin(path)
        codes.append(life.interrupt(kind, chance) if life.reaches(step) else life.wait())
        _delivered(deliverer, path)
    codes.append(Life.begin(path).wait())
    _delivered(deliverer, path)
    wrong = [] if codes[-1] == 0 else [f"did not resume, exit code {codes[-1]}"]
    wrong += ["ended before it was interrupted"] * (0 in codes[:-1])
    return Told(kind, codes, time.monotonic() - began, wrong)


def _delivered(deliverer, path: Path) -> None:
    if deliverer is not None:
        deliverer.send(path)
        deliverer.recv()


def _deliver(requests, root: Path) -> None:
    """The process that brings run folders into MLflow on request."""
    from vmamba.track import sync

    sys.stdout = sys.stderr = open(root / "deliverer.log", "w")  # noqa: SIM115
    while (path := requests.recv()) is not None:
        requests.send(sync([path], f"sqlite:///{root / 'mlflow.db'}"))


def differences(whole: Path, path: Path, store: Path) -> list[str]:
    """What of a run is not as in the uninterrupted one; nothing, if all is well."""
    from vmamba.engine import checkpoint

    found = []
    left, right = (checkpoint.load_newest(folder / "checkpoints")[1] for folder in (path, whole))
    found += [f"{part} differs" for part in ("model", "ema", "optimizer") if not equal(left[part], right[part])]
    ours, expected = _records(path), _records(whole)
    if [record[:2] for record in ours] != [record[:2] for record in expected]:
        found.append(f"metrics.jsonl has {len(ours)} records, not the {len(expected)} of the uninterrupted run")
    elif ours != expected:
        found.append("metrics.jsonl has other values")
    found += _differences_in_store(path, store)
    return found


def equal(left, right) -> bool:
    """Whether two checkpoints' contents are the same to the last bit."""
    import torch

    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return torch.equal(left, right) if torch.is_tensor(left) else left == right


def _records(path: Path) -> list[tuple]:
    """(step, epoch, values that do not tell the time) of every record."""
    return [
        (record["step"], record["epoch"], {k: v for k, v in record["metrics"].items() if not _timed(k)})
        for record in RunFolder(path).records()
    ]


def _timed(name: str) -> bool:
    return any(part in name for part in TIMED)


def _differences_in_store(path: Path, store: Path) -> list[str]:
    """Whether MLflow has every value of metrics.jsonl, once."""
    query = (
        "SELECT m.key, m.step, m.value FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid "
        "WHERE t.key = 'vmamba.uid' AND t.value = ?"
    )
    with closing(sqlite3.connect(store)) as database:
        rows = database.execute(query, (RunFolder(path).uid,)).fetchall()
    stored = {(key, step): value for key, step, value in rows}
    records = list(RunFolder(path).records())
    names = {name for record in records for name in record["metrics"]}
    rows = [row for row in rows if row[0] in names]
    wanted = {(name, r["step"]): value for r in records for name, value in r["metrics"].items()}
    found = []
    if len(rows) != len({row[:2] for row in rows}):
        found.append("MLflow has a step twice")
    if missing := [key for key in wanted if key not in stored]:
        found.append(f"MLflow lacks {len(missing)} of {len(wanted)} values, {missing[0]} among them")
    if [key for key, value in wanted.items() if not _timed(key[0]) and stored.get(key, value) != value]:
        found.append("MLflow has other values")
    return found


def _row(kind: str, runs: list[Told]) -> report.Row:
    """One line of the table."""
    return {
        "ended by": kind,
        "runs": len(runs),
        "interruptions": sum(len(run.codes) - 1 for run in runs),
        "resumed": sum(run.codes[-1] == 0 for run in runs),
        "all equal": sum(not run.wrong for run in runs),
        "exit codes": " ".join(sorted({str(code) for run in runs for code in run.codes[:-1]})),
        "s a run": sum(run.seconds for run in runs) / max(1, len(runs)),
    }


def _parser() -> Parser:
    parser = Parser(prog="python -m vmamba.bench.interruptions", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the steps and moments (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for a CSV of the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
