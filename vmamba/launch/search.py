"""A search: a sweep whose points are chosen, batch after batch, from what those before them came to.

The run folders are what is known; the study is made from them before each batch, so a search whose process is gone goes
on (``vmamba.sweep resume``) as if it had never left.
"""

import logging
import math
import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from vmamba.compare.points import read
from vmamba.config.errors import UserError
from vmamba.launch import pool, report, table, turns
from vmamba.launch.folder import SweepFolder
from vmamba.launch.freeze import Frozen
from vmamba.launch.points import Point, points
from vmamba.launch.settings import plain
from vmamba.launch.space import Space, make
from vmamba.launch.study import Study, Tried, needed
from vmamba.launch.submit import composed_by, launch
from vmamba.launch.withdraw import forget
from vmamba.tracking.folder import ENDED, RunFolder

log = logging.getLogger("vmamba")
PROPOSALS = 200  # in a row that are no valid run, or have been tried, before the search has nothing left
SLURM_BATCH = 4  # trials at a time where launcher.parallel says nothing


def from_hydra(loader, config: DictConfig, words: list[str], lines: Sequence[str]) -> None:
    """What Hydra's sweeper does with ``search.trials``. Leaves with 2 and one line on a user's mistake, with 1 if a
    trial failed."""
    sweep = SweepFolder(config.hydra.sweep.dir)
    try:
        needed()
        if lines:
            raise UserError(
                "search.trials: this sweep is a list of points, and a search takes axes: key=1,2 or intervals"
            )
        space = make(lambda chosen: composed_by(loader, config, chosen), words)
        sweep.path.mkdir(parents=True, exist_ok=True)
        with sweep.lock():
            space.write(sweep)
            go_on(sweep, space)
    except UserError as mistake:
        forget(sweep)
        print(f"vmamba: {mistake}", file=sys.stderr)
        sys.exit(2)
    if any(row.broken for row in points(sweep.path)):
        sys.exit(1)


def go_on(sweep: SweepFolder, space: Space) -> None:
    """Tries points until there are as many as asked for; the caller holds the sweep's lock, and all points have ended.

    Prints the table and the best point. Raises UserError where nothing can be tried, or nothing is measured.
    """
    study = Study(sweep.study, space.axes, space.sampler, space.seed, trials=space.trials, minimize=space.minimize)
    try:
        while True:
            rows = points(sweep.path) if sweep.jobs.is_file() else []
            study.renew(_tried(row, space) for row in rows)
            stop = len(rows) >= space.trials or turns.cancelled(RunFolder(sweep.path))
            batch = [] if stop else _batch(study, space, rows)
            if not batch:
                break
            launch(sweep, batch, wait=True, tables=False)
            if len(rows) + len(batch) < space.trials:
                print(summary(sweep, space, points(sweep.path)), flush=True)
    except SystemExit as left:
        if left.code == 130:
            print(f"no further trial until: python -m vmamba.sweep resume {table.relative(sweep.path)}")
        raise
    table.show(rows, sweep.path)
    report.write(sweep)
    report.say(sweep)
    print(summary(sweep, space, rows))
    print(f"study: {table.relative(study.file)} (an Optuna journal)")


def summary(sweep: SweepFolder, space: Space, rows: list[Point]) -> str:
    """How far the search is, and its best point, in one or two lines."""
    said = f"search: {len(rows)} of {space.trials} trials"
    values = {row.number: _value(row, space) for row in rows if row.state == "finished"}
    found = {number: value for number, value in values.items() if value is not None and math.isfinite(value)}
    if not found:
        return said
    best = (min if space.minimize else max)(found, key=found.get)
    row = next(row for row in rows if row.number == best)
    return (
        f"{said}; best {space.objective} {found[best]:.4g}, point {best}: {' '.join(row.overrides)}\n"
        f"  again: python -m vmamba.run --from {table.relative(row.folder)}"
    )


def _batch(study: Study, space: Space, rows: list[Point]) -> list[Frozen]:
    """The next points, all different from each other and from those before; fewer, or none, where no more are found."""
    known = {tuple(row.overrides) for row in rows}
    found: list[Frozen] = []
    why = "all of them have been tried"
    for _ in range(PROPOSALS):
        trial, words = study.propose()
        if words in known:
            study.refuse(trial)
            continue
        try:
            point = space.frozen(words, len(rows) + len(found))
        except UserError as mistake:
            log.warning("%s is no valid run, another is asked for: %s", " ".join(words), mistake)
            why = str(mistake)
            study.refuse(trial)
            known.add(words)
            continue
        found.append(point)
        known.add(words)
        if len(found) == min(_size(space, point), space.trials - len(rows)):
            return found
    if not rows and not found:
        raise UserError(f"search: none of {PROPOSALS} proposals is a valid run; the last one: {why}")
    if not found:
        print(f"search: no further point among {PROPOSALS} proposals: {why}")
    return found


def _size(space: Space, point: Frozen) -> int:
    """Trials at a time: as many as run side by side, unless the search says how many."""
    launcher = plain(point.run.launcher)
    if space.batch or launcher["kind"] == "local":
        return space.batch or 1
    return len(pool.slots(launcher)) if launcher["kind"] == "subprocess" else launcher["parallel"] or SLURM_BATCH


def _tried(row: Point, space: Space) -> Tried:
    """What the study is told of a point. UserError if it finished and there is no such value."""
    if row.state not in ENDED:
        return Tried(tuple(row.overrides), None)
    if row.state != "finished":
        return Tried(tuple(row.overrides), math.nan)
    value = _value(row, space)
    if value is None:
        result = read(row.folder).result
        names = sorted({*(result.get("best") or {}), *(result.get("final") or {})})
        raise UserError(
            f"search.objective={space.objective}: point {row.number} has finished without it; choose one of "
            f"{', '.join(names) or 'those a longer run records (it evaluated nothing)'}"
        )
    return Tried(tuple(row.overrides), value)


def _value(row: Point, space: Space) -> float | None:
    run = read(row.folder)
    value = run.score(space.objective)
    return run.measures.get(space.objective) if value is None else value
