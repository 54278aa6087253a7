"""The comparison as Markdown and as CSV."""

import csv
import io
from pathlib import Path

from vmamba.compare.groups import SEED, Group, measured, short
from vmamba.compare.points import MEASURES, Point

HEADS = {
    "images_per_s": "train images/s",
    "params": "params (M)",
    "gflops": "GFLOPs",
    "gpu_peak_gib": "GPU peak (GiB)",
    "rss_peak_gib": "process peak (GiB)",
    "seconds": "seconds",
}


CSV = {"params": "params_M"}


def header(rows: list[Group], keys: list[str], metric: str) -> list[str]:
    """The columns of the table: the axes, runs, the metric, the difference, its worth, and what else was measured."""
    held = [short(key) for key in keys if key != SEED] or ["run"]
    return [*held, "runs", metric, "difference", "", *(HEADS[name] for name in measured(rows))]


def cells(row: Group, names: list[str]) -> list[str]:
    """One row, as text."""
    left = list(row.values.values()) or [row.points[0].name]
    score = "–" if row.mean is None else f"{row.mean:.2f}" if row.std is None else f"{row.mean:.2f} ± {row.std:.2f}"
    difference = "" if row.difference is None else f"{row.difference:+.2f}"
    done, all_ = len(row.scores), len(row.points)
    runs = str(done) if done == all_ else f"{done} of {all_}"
    return [*left, runs, score, difference, row.hint, *(number(row.measure(name)) for name in names)]


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ranked(rows: list[Group], higher: bool) -> list[Group]:
    """Best first; rows without a score last."""
    return sorted(rows, key=lambda row: (row.mean is None, -(row.mean or 0) if higher else (row.mean or 0)))


def markdown(title: str, points: list[Point], rows: list[Group], keys: list[str], metric: str) -> str:
    """The report as text: what there is, the table, and what did not end well."""
    names = measured(rows)
    head = header(rows, keys, metric)
    lines = [
        f"# {title}",
        "",
        counts(points),
        "",
        "| " + " | ".join(head) + " |",
        "| " + " | ".join("---" for _ in head) + " |",
    ]
    lines += ["| " + " | ".join(_escaped(cell) for cell in cells(row, names)) + " |" for row in rows]
    lines += ["", explain(rows, metric)]
    if bad := unfinished(points):
        lines += ["", "## Not finished", "", *(f"- {line}" for line in bad)]
    return "\n".join(lines) + "\n"


def explain(rows: list[Group], metric: str) -> str:
    """One line under the table: what its numbers are."""
    base = next((row.label for row in rows if row.baseline), "none")
    return (
        f"{metric} of each run's best evaluation: mean ± sample standard deviation over the runs of a row. "
        f"Difference to the baseline ({base}), with Welch's t-test where both have two runs or more."
    )


def counts(points: list[Point]) -> str:
    """ "12 runs: 10 finished, 1 failed, 1 running"."""
    states = [point.state for point in points]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return f"{len(points)} run{'s' * (len(points) != 1)}: {', '.join(parts)}"


def unfinished(points: list[Point]) -> list[str]:
    """One line for every run that has not finished, with the reason where one is known."""
    return [
        f"{point.name}: {point.state}{': ' + point.error.splitlines()[0] if point.error else ''} ({point.folder.path})"
        for point in points
        if point.state != "finished" or point.error
    ]


def write_csv(path: Path, points: list[Point], keys: list[str], metric: str) -> None:
    """One line a run: its axes, state, score and measures, exact numbers."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["run", *keys, "state", metric, *(CSV.get(name, name) for name in MEASURES), "folder"])
    for point in points:
        measures = [point.measures.get(name, "") for name in MEASURES]
        score = point.score(metric)
        row = [point.name, *(point.value(key) for key in keys), point.state, "" if score is None else score]
        table.writerow([*row, *measures, point.folder.path])
    path.write_text(text.getvalue(), encoding="utf-8")


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
