"""Writing a comparison into a folder: report.md, report.csv, report.html."""

from dataclasses import dataclass
from pathlib import Path

from vmamba.compare import groups, tables
from vmamba.compare.points import Point
from vmamba.config.errors import UserError
from vmamba.tracking.atomic import write_text


@dataclass(frozen=True)
class Report:
    """What was written where, and the table for the terminal."""

    markdown: Path
    csv: Path
    html: Path
    text: str


def write(
    points: list[Point],
    folder: Path,
    title: str,
    *,
    metric: str | None = None,
    baseline: str | None = None,
    link: str = "",
) -> Report:
    """Compares ``points`` by ``metric`` (default: the one their task chooses by) and writes the report in ``folder``.

    ``baseline``: "key=value,…" of a row (default: the first with a score). ``link``: MLflow's page on the same runs.
    UserError for no points, a metric that no run has, or a baseline that is not one row.
    """
    if not points:
        raise UserError("nothing to compare: name a sweep folder or run folders")
    name = metric or points[0].metric
    if metric and all(point.score(metric) is None for point in points):
        known = dict.fromkeys(key for point in points for key in point.result.get("final", {}))
        raise UserError(f"--metric {metric}: no run has it; choose from: {', '.join(known) or 'none yet'}")
    keys = groups.axes(points)
    rows = groups.group(points, keys, name, baseline)
    from vmamba.compare.page import page

    folder.mkdir(parents=True, exist_ok=True)
    found = Report(
        folder / "report.md",
        folder / "report.csv",
        folder / "report.html",
        tables.markdown(title, points, rows, keys, name),
    )
    write_text(found.markdown, found.text)
    tables.write_csv(found.csv, points, keys, name)
    write_text(found.html, page(title, points, rows, keys, name, link))
    return found
