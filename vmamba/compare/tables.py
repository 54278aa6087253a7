"""The comparison as Markdown and as CSV."""

import csv
import io
import math
import statistics
from pathlib import Path

from vmamba.compare.groups import SEED, Group, heads, measured
from vmamba.compare.points import MEASURES, Point

HEADS = {
    "images_per_s": "train images/s",
    "params": "params (M)",
    "gflops": "GFLOPs",
    "gpu_peak_gib": "GPU peak (GiB)",
    "rss_peak_gib": "process peak (GiB)",
    "seconds": "wall time (s)",
}
CSV = {"params": "params_M"}


def header(rows: list[Group], keys: list[str], metric: str) -> list[str]:
    """The columns of the table: the axes, runs, the metric, the difference, its worth, and what else was measured."""
    held = heads(key for key in keys if key != SEED)
    return [
        *["run"] * _named(rows),
        *held,
        "runs",
        metric,
        "vs baseline",
        "significance",
        *(HEADS[name] for name in measured(rows)),
    ]


def body(rows: list[Group]) -> list[list[str]]:
    """The rows as text, below ``header``."""
    names, named = measured(rows), _named(rows)
    return [[*([row.label] if row.named else [""]) * named, *_cells(row, names)] for row in rows]


def changed(rows: list[Group]) -> set[tuple[int, int]]:
    """Row and column of the values that are not the baseline's: what is looked for in a table of many axes."""
    base = next((list(row.values.values()) for row in rows if row.baseline), [])
    return {
        (line, place + _named(rows))
        for line, row in enumerate(rows)
        for place, (value, usual) in enumerate(zip(row.values.values(), base, strict=True))
        if value != usual
    }


def _named(rows: list[Group]) -> bool:
    return any(row.named for row in rows)


def _cells(row: Group, names: list[str]) -> list[str]:
    """One row, its name left out. Runs of another task show their own metric, and are compared with nothing."""
    difference = "" if row.difference is None else signed(row)
    own = [] if row.scores else [(point.score(point.metric), point.metric) for point in row.points]
    own = [(score, metric) for score, metric in own if score is not None]
    done, all_ = len(row.scores or own), len(row.points)
    runs = str(done) if done == all_ else f"{done} of {all_}"
    score = f"{_rounded(statistics.fmean(score for score, _ in own))} {own[0][1]}" if own else spread(row)
    return [*row.values.values(), runs, score, difference, row.hint, *(number(row.measure(name)) for name in names)]


def spread(row: Group) -> str:
    """ "82.13 ± 0.15", without the second where there is none, "–" without a score."""
    if row.mean is None:
        return "–"
    places = decimals(row.mean)
    return _rounded(row.mean) + ("" if row.std is None else f" ± {row.std:.{places}f}")


def signed(row: Group) -> str:
    """ "+1.93", and "+0.00" for what is next to nothing on either side."""
    places = decimals(row.mean)
    return f"{round(row.difference, places) + 0.0:+.{places}f}"


def decimals(value: float) -> int:
    """Places behind the point of a metric: two for percentages, four for what is below one."""
    return 2 if abs(value) >= 1 else 4


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "–"
    if abs(value) >= 100 or not value:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def ranked(rows: list[Group], higher: bool) -> list[Group]:
    """Best first; rows without a score last."""
    return sorted(rows, key=lambda row: (row.mean is None, -(row.mean or 0) if higher else (row.mean or 0)))


def headline(rows: list[Group], metric: str) -> str:
    """What came out, in one sentence. ``rows``: best first."""
    scored = [row for row in rows if row.mean is not None]
    if not scored:
        higher = rows[0].points[0].higher_is_better(metric)
        known = [(value, row) for row in rows for point in row.points if (value := point.so_far(metric)) is not None]
        if not known:
            return f"No run has {metric} yet."
        value, row = (max if higher else min)(known, key=lambda one: one[0])
        return f"No run has finished. Best so far: {row.label}, {metric} {_rounded(value)}."
    best, said = scored[0], f"{metric} {spread(scored[0])}"
    if len(scored) == 1:
        return f"{best.label}: {said}."
    if best.difference is None and not best.baseline:  # a baseline that was asked for, and has no score
        return f"Best: {best.label}, {said}."
    if best.baseline:
        return f"Best is the baseline, {best.label}: {said}. Next, {against(scored[1])}."
    return f"Best: {best.label}, {said}, {against(best, named=False)}."


def against(row: Group, named: bool = True) -> str:
    """A row's distance from the baseline, and what it is worth."""
    worth = f" ({row.hint})" if row.hint else ""
    distance = f"{signed(row)} against the baseline{worth}"
    return f"{row.label}: {distance}" if named else distance


def markdown(
    title: str, points: list[Point], rows: list[Group], keys: list[str], metric: str, most: int | None = None
) -> str:
    """The report as text: what came out, the table, the runs, what did not end well. ``most``: rows shown, at most."""
    text = [f"# {title}", "", f"{counts(points)}. {headline(rows, metric)}", ""]
    text += _table(header(rows, keys, metric), body(rows)[:most])
    if most is not None and len(rows) > most:
        text += ["", f"… and {len(rows) - most} more rows, in the report."]
    text += ["", explain(rows, metric)]
    if most is None and each_run_matters(points, rows):
        text += ["", "## Every run", "", *_table(*every_run(points, keys, metric))]
    if bad := unfinished(points):
        text += ["", "## Not finished", "", *(f"- {line}" for line in bad[:most])]
        if most is not None and len(bad) > most:
            text += [f"- … and {len(bad) - most} more, in the report"]
    return "\n".join(text) + "\n"


def explain(rows: list[Group], metric: str) -> str:
    """One line under the table: what its numbers are."""
    said = f"{metric} of each run's best evaluation"
    if any(row.std is not None for row in rows):
        said += ": mean ± sample standard deviation over the runs of a row"
    others = {point.metric for row in rows for point in row.points if not row.scores} - {metric}
    if others:
        said += f"; of runs without it their own, {', '.join(sorted(others))} (--metric compares by another)"
    tests = sum(row.p is not None for row in rows)
    if sum(row.mean is not None for row in rows) > 1:
        base = next(row for row in rows if row.baseline)
        said += f". The baseline is {base.label}" + ", which has no score" * (not base.scores)
        said += "; Welch's t-test against it" if tests else ""
        said += " where both have two runs or more" * any(0 < len(row.scores) < 2 for row in rows) * bool(tests)
    many = f" These are {tests} tests: at p < 0.05 one in twenty is significant by chance." if tests > 3 else ""
    return f"{said}.{many}"


def counts(points: list[Point]) -> str:
    """ "12 runs: 10 finished, 1 failed, 1 running"."""
    states = [point.state for point in points]
    order = dict.fromkeys(("finished", "running", "queued", *states))
    parts = [f"{states.count(state)} {state}" for state in order if state in states]
    return f"{len(points)} run{'s' * (len(points) != 1)}: {', '.join(parts)}"


def each_run_matters(points: list[Point], rows: list[Group]) -> bool:
    """Whether the runs say more than the rows do: not those of a sweep, one a row, which have but numbers."""
    known = _named(rows) or all(point.name.isdigit() for point in points)
    return len(rows) < len(points) or not known or any(point.note or point.state != "finished" for point in points)


def every_run(points: list[Point], keys: list[str], metric: str) -> tuple[list[str], list[list[str]]]:
    """A row a run: its axes, how it stands, its score, and what it took."""
    found = []
    for point in points:
        took = [number(point.measures.get(name)) for name in ("images_per_s", "seconds")]
        found.append([point.name, *(point.value(key) for key in keys), point.standing, achieved(point, metric), *took])
    return ["run", *heads(keys), "state", metric, HEADS["images_per_s"], HEADS["seconds"]], found


def achieved(point: Point, metric: str) -> str:
    """A run's score; "94.10 so far" of one that has not finished; its own metric, with its name, of another task's."""
    for name, words in ((metric, ""), (point.metric, f" {point.metric}")):
        if (score := point.score(name)) is not None:
            return _rounded(score) + words
        if (score := point.so_far(name)) is not None:
            return f"{_rounded(score)} so far{words}"
    return "–"


def unfinished(points: list[Point]) -> list[str]:
    """One line for every run that has not finished, with the reason where one is known."""
    return [
        f"{point.name}: {point.standing}{': ' + point.error.splitlines()[0] if point.error else ''} "
        f"({point.log or point.folder.path})"
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


def _rounded(value: float) -> str:
    return f"{value:.{decimals(value)}f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    all_ = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in all_]
