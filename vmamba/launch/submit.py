"""A sweep, or a single run elsewhere, from its words to its jobs.

The order: compose and validate every point, write their run folders, make the tracking store with the parent run, copy
the code, and only then let the first job start. What goes wrong before that leaves nothing behind.
"""

import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from vmamba.config.compose import explained
from vmamba.config.errors import UserError
from vmamba.config.schema import Run
from vmamba.engine.signals import Killed
from vmamba.launch import local, pool, report, settings, slurm, snapshot, table, turns
from vmamba.launch.folder import SweepFolder
from vmamba.launch.freeze import Frozen, freeze
from vmamba.launch.points import points
from vmamba.launch.store import Store
from vmamba.launch.withdraw import forget, interrupted

log = logging.getLogger("vmamba")


def from_hydra(loader, config: DictConfig, words: list[list[str]], first: int) -> Sequence[JobReturn]:
    """What Hydra's launcher does: points ``first``, ``first + 1``, … of the sweep in ``hydra.sweep.dir``.

    A sweeper that learns from the results (not this project's) is waited for and given them. Leaves with 2 and one line
    on a user's mistake, with 1 if a point failed.
    """
    learns = not str(config.hydra.sweeper._target_).startswith("hydra_plugins.vmamba_sweeps.")
    sweep = SweepFolder(config.hydra.sweep.dir)
    try:
        frozen = freeze(lambda chosen: composed_by(loader, config, chosen), words, settings.cuda_there, first)
        values = launch(sweep, frozen, wait=True if learns else None)
    except UserError as mistake:
        forget(sweep)
        print(f"vmamba: {mistake}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        interrupted(sweep)
    if learns:
        return [_returned(point, values.get(number)) for number, point in enumerate(words, first)]
    if any(row.broken for row in points(sweep.path)):
        sys.exit(1)
    return []


def single(cfg: DictConfig, run: Run, path: Path, words: list[str]) -> None:
    """One run that ``launcher=`` sends elsewhere: a sweep of one point, in its own run folder."""
    sweep = SweepFolder(path)
    plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    try:
        launch(sweep, [Frozen(0, words, words, run, plain)], alone=True)
    except KeyboardInterrupt:
        interrupted(sweep)
    if any(row.broken for row in points(sweep.path)):
        sys.exit(1)


def launch(
    sweep: SweepFolder, frozen: list[Frozen], wait: bool | None = None, alone: bool = False, tables: bool = True
) -> dict:
    """Submits the points; returns the best metric of each that has ended by the time this returns.

    ``wait`` overrides ``launcher.wait``; ``alone``: the sweep folder is the run folder of its only point; ``tables``:
    print what was submitted, and how it ended.
    """
    launcher = settings.plain(frozen[0].run.launcher)
    store = None
    try:
        settings.check(launcher)
        store = Store(sweep, frozen[0].run)
        lines = _prepare(sweep, frozen, alone)
        store.make(lines[0]["folder"])
        if launcher["snapshot"] and launcher["kind"] != "local" and not sweep.code.is_dir():
            snapshot.take(sweep.code)
        return _go(sweep, lines, launcher, wait, tables)
    except UserError:
        forget(sweep)
        raise
    finally:
        if store is not None:
            store.close()


def again(
    sweep: SweepFolder,
    lines: list[dict],
    launcher: dict,
    wait: bool | None = None,
    begun: Callable[[], None] = lambda: None,
) -> dict:
    """Submits points once more, from their latest checkpoints; the caller holds the sweep's lock.

    ``begun`` is called once they are submitted, before any waiting.
    """
    for line in lines:
        turns.afresh(sweep.run(line), line["attempt"] + 1)
    fresh = [
        {key: line[key] for key in ("point", "overrides", "folder")}
        | {"attempt": line["attempt"] + 1, "launcher": launcher["kind"]}
        for line in lines
    ]
    return _go(sweep, fresh, launcher, wait, begun=begun)


def _prepare(sweep: SweepFolder, frozen: list[Frozen], alone: bool) -> list[dict]:
    """The folders of sweep and points. Returns the lines for ``jobs.jsonl``, still without job ids."""
    run, launcher = frozen[0].run, frozen[0].run.launcher
    lines = []
    for point in frozen:
        name = "." if alone else str(point.number)
        line = {
            "point": point.number,
            "attempt": 1,
            "launcher": str(launcher.kind),
            "overrides": point.own,
            "folder": name,
        }
        folder = sweep.run(line)
        with open_dict(point.cfg):
            point.cfg.outputs = str(Path(point.cfg.outputs).resolve())
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_config(point.cfg, point.words)
        folder.write_status("queued")
        lines.append(line)
    info = sweep.read_info() or {
        "uid": uuid.uuid4().hex,
        "name": sweep.path.name,
        "created": time.time(),
        "command": sys.argv[1:],
        "cwd": os.getcwd(),
        "python": sys.executable,
        "metric": run.task.metric,
        "higher_is_better": run.task.higher_is_better,
        "stores": {},
    }
    varied = {word.partition("=")[0] for point in frozen for word in point.own}
    info |= {
        "launcher": settings.plain(launcher),
        "varied": sorted(varied | set(info.get("varied", []))),
        "points": max(frozen[-1].number + 1, run.search.trials),
    }
    sweep.write_info(info)
    return lines


def _go(
    sweep: SweepFolder,
    lines: list[dict],
    launcher: dict,
    wait: bool | None,
    tables: bool = True,
    begun: Callable[[], None] = lambda: None,
) -> dict:
    """Hands the lines to the launcher of their kind, and stays as long as it is to."""
    wait = launcher["wait"] if wait is None else wait
    if launcher["kind"] == "local":
        sweep.submitted(local.submit(sweep, lines))
        begun()
        return _here(sweep, lines, tables)
    process = None
    if launcher["kind"] == "slurm":
        lines, wait = slurm.submit(sweep, lines, launcher), bool(wait)
    else:
        process, lines = pool.submit(sweep, lines, launcher)
        sweep.submitted(lines)
        pool.begin(process, lines, launcher)
    begun()
    if tables or lines[0]["point"] == 0:
        table.show_submitted(lines)
        print(f"sweep folder: {sweep.path}\n{table.commands(sweep.path)}", flush=True)
    return _followed(sweep, process, tables) if wait is not False else {}


def _followed(sweep: SweepFolder, process, tables: bool) -> dict:
    """Stays until the points have ended; Ctrl-C leaves the table, not the sweep."""
    try:
        rows = table.follow(sweep.path, 0.5 if process else 5.0, old=tables)
        if process:
            process.wait()  # it writes the report
        else:
            report.write_at_end(sweep)
    except KeyboardInterrupt:
        where = table.relative(sweep.path)
        print(f"\nthe sweep goes on without this terminal; it ends with: python -m vmamba.sweep cancel {where}")
        sys.exit(130)
    if tables:
        table.show(rows, sweep.path)
        report.say(sweep)
    return {row.number: row.value for row in rows if row.state == "finished"}


def _here(sweep: SweepFolder, lines: list[dict], tables: bool) -> dict:
    try:
        values = local.run(sweep, lines)
    except (KeyboardInterrupt, Killed, SystemExit):
        log.warning("the sweep goes on with: python -m vmamba.sweep resume %s", table.relative(sweep.path))
        raise
    finally:
        report.write_at_end(sweep)
    if tables:
        table.show(points(sweep.path), sweep.path)
        report.say(sweep)
    return values


def composed_by(loader, config: DictConfig, words: list[str]) -> DictConfig:
    """The configuration of a point, by Hydra's own loader; UserError for words that do not compose."""
    with explained():
        cfg = loader.load_sweep_config(config, words)
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra", None)
    return cfg


def _returned(words: list[str], value: float | None) -> JobReturn:
    status = JobStatus.COMPLETED if value is not None else JobStatus.FAILED
    outcome = JobReturn(overrides=words, status=status)
    outcome.return_value = value if value is not None else RuntimeError("the point failed")
    return outcome
