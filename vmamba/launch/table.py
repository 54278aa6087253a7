"""The table of a sweep's points on the terminal, live if asked to, and the commands to follow them."""

import os
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vmamba.launch.points import Point, points
from vmamba.tracking.folder import ENDED

COLOURS = {"finished": "green", "failed": "red", "killed": "red", "running": "yellow", "queued": "dim"}
PIPE_WIDTH = 160
LAST = 60  # characters of a last line; a longer one would push the other columns out
NAMED = 20  # numbers of points in a line, at most


def console() -> Console:
    """A terminal as wide as it is, a pipe wide enough for a line a point."""
    return Console(width=None if Console().is_terminal else PIPE_WIDTH, highlight=False, soft_wrap=False)


def show(rows: list[Point], folder: Path) -> None:
    """Prints the table of the sweep in ``folder``, under it why points did not finish, and how they are run again."""
    out = console()
    out.print(table(rows))
    reasons: dict[tuple[str, str], list[Point]] = {}
    for row in rows:
        if row.broken:  # a reason may name the run's own folder, as it was then
            own = rf"/\S*{re.escape(f'{row.folder.parent.name}/{row.folder.name}')}\b"
            reasons.setdefault((row.state, re.sub(own, "RUN_FOLDER", row.last)), []).append(row)
    for (state, why), same in reasons.items():
        first, many = same[0], len(same) > 1
        out.print(f"{_named(same)} {state}: {why if many else first.last}", soft_wrap=True, markup=False)
        if first.log.is_file():
            each = ", and so on" if many else ""
            out.print(f"  log: {relative(first.log)}{each}", soft_wrap=True, markup=False)
    out.print(summary(rows), markup=False)
    if reasons and all(row.state in ENDED for row in rows):
        again = f"run what is left, from the last checkpoints: python -m vmamba.sweep resume {relative(folder)}"
        out.print(f"  {again}", soft_wrap=True, markup=False)


def show_submitted(lines: list[dict]) -> None:
    """Prints which point went into which job."""
    jobs = any(line["launcher"] == "slurm" for line in lines)
    grid = _grid(("point", "right"), *[("job", "left")] * jobs, ("overrides", "left"))
    for line in lines:
        words = Text(" ".join(line["overrides"]))
        grid.add_row(str(line["point"]), *[line["job"]] * jobs, words)
    console().print(grid)


def table(rows: list[Point]) -> Table:
    """A row a point; the column of job ids where SLURM has them, which is where they are of use."""
    metric = next((row.metric for row in rows if row.metric), "")
    jobs = any("." not in row.job for row in rows)  # not "pid.point"
    grid = _grid(
        ("point", "right"), *[("job", "left")] * jobs, ("state", "left"), (metric, "right"), ("time", "right"),
        ("overrides", "left"), ("last line", "left"),
    )  # fmt: skip
    for row in rows:
        words, state = Text(" ".join(row.overrides)), Text(row.words(), COLOURS[row.state])
        cells = [str(row.number), *[row.job] * jobs, state, score(row), _time(row), words, Text(row.last[:LAST])]
        grid.add_row(*cells)
    return grid


def score(row: Point) -> str:
    """The best of the metric: "97.21", "94.1 so far" of a run that has not finished."""
    if row.value is not None:
        return f"{row.value:.4g}"
    return f"{row.so_far:.4g} so far" if row.so_far is not None else ""


def summary(rows: list[Point]) -> str:
    """ "8 points: 5 finished, 2 running, 1 failed"."""
    counts = Counter(row.state for row in rows)
    order = ("finished", "running", "queued", "failed", "killed")
    return f"{len(rows)} point{'s' * (len(rows) != 1)}: " + ", ".join(f"{counts[s]} {s}" for s in order if counts[s])


def commands(folder: Path) -> str:
    """The three lines to follow a sweep with."""
    where = relative(folder)
    return "\n".join(f"  python -m vmamba.sweep {word} {where}" for word in ("status", "wait", "report"))


def follow(
    folder: Path, seconds: float = 2.0, more: Callable[[], bool] = lambda: False, old: bool = True
) -> list[Point]:
    """Shows the table until every point has ended and no ``more`` will come, on a pipe only what changes (``old``: and
    what had ended before). Returns the points."""
    out, rows = console(), points(folder)
    known = {} if old else {row.number: row.words() for row in rows if row.state in ENDED}
    if not out.is_terminal:
        while True:
            for row in rows:
                waits = row.state == "queued" and row.number not in known  # as everything does at first
                if not waits and known.get(row.number) != row.words():
                    out.print(_changed(row), soft_wrap=True, markup=False)
                    known[row.number] = row.words()
            if _all_ended(rows) and not more():
                return rows
            time.sleep(seconds)
            rows = points(folder)
    with Live(table(rows), console=out, refresh_per_second=2) as live:
        while not _all_ended(rows) or more():
            time.sleep(seconds)
            rows = points(folder)
            live.update(table(rows))
    return rows


def relative(path: Path) -> str:
    """A path as short as it can be typed from here."""
    here = os.path.relpath(path)
    return here if len(here) < len(str(path)) else str(path)


def _grid(*columns: tuple[str, str]) -> Table:
    """A table without lines. Overrides are wrapped, a last line is cut, whatever else keeps its width."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in columns:
        wraps = name == "overrides"
        grid.add_column(name, justify=justify, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis")
    return grid


def _changed(row: Point) -> str:
    """A point's new state, in a line."""
    said = f"point {row.number} {row.words()}"
    what = " ".join(row.overrides)
    if row.broken:
        return f"{said}: {row.last}" + (f"  ({what})" if what else "")
    value = f"{row.metric} {score(row)}" if row.state == "finished" and row.value is not None else ""
    return "  ".join(part for part in (said, what, value) if part)


def _named(rows: list[Point]) -> str:
    """ "point 3", "points 3, 4, 7", with an end to it."""
    numbers = ", ".join(str(row.number) for row in rows[:NAMED])
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"point{'s' * (len(rows) > 1)} {numbers}{more}"


def _all_ended(rows: list[Point]) -> bool:
    return all(row.state in ENDED for row in rows)


def _time(row: Point) -> str:
    if not row.started or row.state == "queued":
        return ""
    seconds = int((row.ended or time.time()) - row.started)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
