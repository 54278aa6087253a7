"""The table of a sweep's points on the terminal, live if asked to, and the commands to follow them."""

import os
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


def console() -> Console:
    """A terminal as wide as it is, a pipe wide enough for a line a point."""
    return Console(width=None if Console().is_terminal else PIPE_WIDTH, highlight=False, soft_wrap=False)


def show(rows: list[Point]) -> None:
    """Prints the table, and under it where the points that did not finish have their logs."""
    out = console()
    out.print(table(rows))
    for row in rows:
        if row.broken:
            out.print(
                f"point {row.number} {row.state}: {row.last}\n  log: {relative(row.log)}", soft_wrap=True, markup=False
            )
    out.print(summary(rows), markup=False)


def show_submitted(lines: list[dict]) -> None:
    """Prints which point went into which job."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("point", "right"), ("job", "left"), ("overrides", "left")):
        grid.add_column(name, justify=justify, no_wrap=name != "overrides")
    for line in lines:
        grid.add_row(str(line["point"]), line["job"], Text(" ".join(line["overrides"])))
    console().print(grid)


def table(rows: list[Point]) -> Table:
    """A row a point."""
    metric = next((row.metric for row in rows if row.metric), "")
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("point", "right"), ("job", "left"), ("state", "left"), (metric, "right"), ("time", "right")):
        grid.add_column(name, justify=justify, no_wrap=True)
    grid.add_column("overrides", overflow="fold")
    grid.add_column("last line", no_wrap=True, overflow="ellipsis")
    for row in rows:
        value = f"{row.value:.4g}" if row.value is not None else ""
        words = " ".join(row.overrides)
        state = Text(row.words(), COLOURS[row.state])
        grid.add_row(str(row.number), row.job, state, value, _time(row), Text(words), Text(row.last[:LAST]))
    return grid


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
                if known.get(row.number) != row.words():
                    why = f": {row.last}" if row.broken else ""
                    out.print(f"point {row.number} {row.words()}{why}", soft_wrap=True, markup=False)
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


def _all_ended(rows: list[Point]) -> bool:
    return all(row.state in ENDED for row in rows)


def _time(row: Point) -> str:
    if not row.started or row.state == "queued":
        return ""
    seconds = int((row.ended or time.time()) - row.started)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
