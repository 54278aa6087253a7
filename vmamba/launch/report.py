"""The table of a sweep: a row a point, a row a setting where seeds vary, and a line for each point that went wrong.

Written from the run folders, so it can be written at any time and of a copy; where SLURM can be asked, it has a say in
how the points stand. ``python -m vmamba.compare`` draws the curves and tests the differences.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from vmamba.compare import groups, tables
from vmamba.compare.points import Point as Run
from vmamba.compare.points import read
from vmamba.config.errors import UserError
from vmamba.launch.folder import SweepFolder
from vmamba.launch.points import points
from vmamba.launch.table import relative
from vmamba.tracking.atomic import write_text
from vmamba.tracking.folder import STATES


@dataclass(frozen=True)
class Row:
    """One point: what was asked and measured, how it stands in words, and the last it said."""

    number: int
    run: Run
    state: str
    words: str
    last: str
    log: Path


def report(folder: Path) -> Path:
    """Writes ``report.md`` into the sweep folder and returns its path. UserError if that is not a sweep folder."""
    sweep = SweepFolder.existing(folder)
    rows, note = _rows(sweep)
    runs = [row.run for row in rows]
    metric, keys = runs[0].metric, groups.axes(runs)
    info = sweep.read_info()
    lines = [f"# {info.get('name', sweep.path.name)}", "", f"`{shlex.join(['vmamba', *info.get('command', [])])}`", ""]
    lines += [_counts(rows) + (f" ({note})" if note else ""), ""]
    lines += _table(["point", *map(groups.short, keys), "state", metric, "train images/s", "seconds"])
    lines += [_cells(row, keys, metric) for row in rows]
    if groups.SEED in keys:
        lines += ["", "## Over the seeds", "", *_over_seeds(runs, keys, metric)]
    if broken := [row for row in rows if row.state in ("failed", "killed")]:
        lines += ["", "## What went wrong", ""]
        lines += [f"- point {row.number} {row.words}: {row.last or 'no word'} (log: {row.log})" for row in broken]
    lines += ["", f"Curves, and tests of the differences: `python -m vmamba.compare {relative(sweep.path)}`"]
    path = sweep.path / "report.md"
    write_text(path, "\n".join(lines) + "\n")
    return path


def _rows(sweep: SweepFolder) -> tuple[list[Row], str]:
    """The points, and why SLURM had no say, if it had none."""
    try:
        return [
            Row(row.number, read(row.folder), row.state, row.words(), row.last, row.log) for row in points(sweep.path)
        ], ""
    except UserError as reason:
        found = []
        for number, line in sweep.latest().items():
            run = read(sweep.run(line).path)
            found.append(Row(number, run, run.state, run.state, run.error, sweep.log(line)))
        return found, f"by the run folders alone: {reason}"


def _counts(rows: list[Row]) -> str:
    states = [row.state for row in rows]
    order = [*dict.fromkeys(("finished", "running", "queued", *STATES))]
    parts = [f"{states.count(state)} {state}" for state in order if state in states]
    return f"{len(rows)} point{'s' * (len(rows) != 1)}: {', '.join(parts)}"


def _table(names: list[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + " --- |" * len(names)]


def _cells(row: Row, keys: list[str], metric: str) -> str:
    score, measures = row.run.score(metric), row.run.measures
    cells = [str(row.number), *(row.run.value(key) for key in keys), row.words]
    cells += ["–" if score is None else f"{score:.2f}"]
    cells += [tables.number(measures.get(name)) for name in ("images_per_s", "seconds")]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _over_seeds(runs: list[Run], keys: list[str], metric: str) -> list[str]:
    settings = groups.group(runs, keys, metric)
    measured = groups.measured(settings)
    lines = _table(tables.header(settings, keys, metric))
    lines += [f"| {' | '.join(tables.cells(setting, measured))} |" for setting in settings]
    return [*lines, "", tables.explain(settings, metric)]
