"""Writing a comparison into a folder: report.md, report.csv, report.html."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmamba.compare import groups, tables
from vmamba.compare.points import Point
from vmamba.config.errors import UserError
from vmamba.config.paths import writable
from vmamba.tracking.atomic import write_text

SHOWN = 30  # rows on a terminal


@dataclass(frozen=True)
class About:
    """What a reader is to know beside the numbers."""

    links: dict[str, str] = field(default_factory=dict)  # words to addresses, of MLflow's pages on the same runs
    server: str = ""  # the command that starts MLflow, where the links need one
    command: str = ""  # what started the runs
    again: str = ""  # what runs those that did not finish
    remarks: Sequence[str] = ()


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
    about: About,
) -> Report:
    """Compares ``points`` by ``metric`` (default: the one their task chooses by) and writes the report in ``folder``.

    ``baseline``: "key=value,…" of a row (default: the first with a score).
    UserError for a metric that no run has, or a baseline that is not one row.
    """
    name = metric or groups.metric_of(points)
    if metric and all(point.score(metric) is None for point in points):
        named = dict.fromkeys(key for point in points for key in point.result.get("final", {}))
        known = [key for key in named if any(point.score(key) is not None for point in points)]
        raise UserError(f"--metric {metric}: no run has it; choose from: {', '.join(known) or 'none yet'}")
    keys = groups.axes(points)
    higher = next((point for point in points if point.metric == name), points[0]).higher_is_better(name)
    rows = tables.ranked(groups.group(points, keys, name, baseline), higher)
    from vmamba.compare.page import Page

    writable(folder, str(folder), "give a folder for the report, --out FOLDER")
    markdown, csv, html = (folder / f"report.{kind}" for kind in ("md", "csv", "html"))
    write_text(markdown, tables.markdown(title, points, rows, keys, name) + _foot(points, about))
    tables.write_csv(csv, points, keys, name)
    write_text(html, Page(title, points, rows, keys, name, higher, about).text())
    text = tables.markdown(title, points, rows, keys, name, SHOWN)
    return Report(markdown, csv, html, text, name, higher, keys)


def _foot(points: list[Point], about: About) -> str:
    """The lines below everything else in report.md."""
    lines = [*about.remarks]
    if about.again and tables.unfinished(points):
        lines.append(f"To run what is left: `{about.again}`")
    server = f" (start it: `{about.server}`)" if about.server else ""
    lines += [f"In MLflow{server}: [{words}]({address})" for words, address in about.links.items()]
    if about.command:
        lines.append(f"Started by `{about.command}`")
    return "\n".join(["", *(f"- {line}" for line in lines)]) + "\n" if lines else ""
