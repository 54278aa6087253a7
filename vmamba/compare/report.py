"""Writing a comparison into a folder: report.md, report.csv, report.html."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmamba.compare import groups, tables
from vmamba.compare.points import Point
from vmamba.config.errors import UserError
from vmamba.tracking.atomic import write_text

SHOWN = 30  # rows on a terminal


@dataclass(frozen=True)
class Report:
    """What was written where, the table for the terminal, and what the comparison is by."""

    markdown: Path
    csv: Path
    html: Path
    text: str
    metric: str
    higher: bool
    axes: list[str]


def write(
    points: list[Point],
    folder: Path,
    title: str,
    *,
    metric: str | None = None,
    baseline: str | None = None,
    links: dict[str, str] | None = None,
    command: str = "",
    remarks: Sequence[str] = (),
) -> Report:
    """Compares ``points`` by ``metric`` (default: the one their task chooses by) and writes the report in ``folder``.

    ``baseline``: "key=value,…" of a row (default: the first with a score). ``links``: words to addresses, of MLflow's
    pages on the same runs. ``command``: what started them. ``remarks``: what else the reader is to know, a line each.
    UserError for a metric that no run has, or a baseline that is not one row.
    """
    name = metric or points[0].metric
    if metric and all(point.score(metric) is None for point in points):
        known = dict.fromkeys(key for point in points for key in point.result.get("final", {}))
        raise UserError(f"--metric {metric}: no run has it; choose from: {', '.join(known) or 'none yet'}")
    keys, higher = groups.axes(points), points[0].higher_is_better(name)
    rows = tables.ranked(groups.group(points, keys, name, baseline), higher)
    from vmamba.compare.page import Page

    folder.mkdir(parents=True, exist_ok=True)
    markdown, csv, html = (folder / f"report.{kind}" for kind in ("md", "csv", "html"))
    about = [*remarks, *(f"In MLflow: [{words}]({address})" for words, address in (links or {}).items())]
    about += [f"Started by `{command}`"] * bool(command)
    foot = "\n".join(["", *(f"- {line}" for line in about)]) + "\n" if about else ""
    write_text(markdown, tables.markdown(title, points, rows, keys, name) + foot)
    tables.write_csv(csv, points, keys, name)
    write_text(html, Page(title, points, rows, keys, name, higher, links or {}, command, remarks).text())
    text = tables.markdown(title, points, rows, keys, name, SHOWN)
    return Report(markdown, csv, html, text, name, higher, keys)
