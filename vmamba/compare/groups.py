"""Points that differ in their seed alone, as one row: mean, spread, and the difference to a baseline."""

import math
import re
import statistics
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from vmamba.compare.points import CKPT, EVALUATED, MEASURES, Point, split
from vmamba.config.errors import UserError
from vmamba.tracking.describe import short

SEED = "seed"
COMMA = re.compile(r",(?![^\[]*\])")  # but for those within a list
LABELLED = 4  # values in a row's label, at most
# what differs between any two runs and says nothing about them
NOISE = (
    "name",
    "outputs",
    "resume",
    "log_every",
    "tracking",
    "tracking.",
    "launcher",
    "launcher.",
    "checkpoint.",
    "ablation",
    "sweep",
    "device",
)


@dataclass
class Group:
    """The points with the same value on every axis, and their scores. ``mean`` and ``std`` are None without any."""

    values: dict[str, str]
    points: list[Point]
    scores: list[float]
    mean: float | None = None
    std: float | None = None  # sample standard deviation; None for fewer than two
    difference: float | None = None  # mean minus the baseline's
    p: float | None = None  # Welch's t-test against the baseline, two-sided; None where it cannot be made
    untested: str = ""  # why it could not
    baseline: bool = False

    @property
    def named(self) -> bool:
        """Whether it goes by the name of its only run, which differs from others in nothing, or in too many things."""
        one = len(self.points) == 1 and not self.points[0].name.isdigit()  # a sweep's have but numbers
        return not self.values or (one and len(self.values) > LABELLED)

    @property
    def label(self) -> str:
        """Its values, "norm=ln, d_state=4", of many those that were asked for; or its name."""
        if self.named:
            return self.points[0].name
        names = dict(zip(self.values, heads(self.values), strict=True))
        asked = [key for key in names if key in self.points[0].asked]
        keys = asked if asked and len(names) > LABELLED else names
        told = [(names[key], self.values[key]) for key in keys]
        text = ", ".join(f"{name}={value}" for name, value in told[:LABELLED])
        return text + ", …" * (len(told) > LABELLED)

    def measure(self, name: str) -> float | None:
        """The mean of one of ``MEASURES`` over the points that have it."""
        found = [point.measures[name] for point in self.points if name in point.measures]
        return statistics.fmean(found) if found else None

    @property
    def hint(self) -> str:
        """What the difference is worth, in a word or two."""
        if self.baseline:
            return "baseline" if self.scores else ""
        if self.p is None:
            return self.untested
        stars = "significant" if self.p < 0.05 else "not significant"
        return f"p = {self.p:.2g}, {stars}"


def heads(keys: Iterable[str]) -> list[str]:
    """Dotted keys in short, as long as they can be told apart: "d_state", "warmup", but "ema.enabled"."""
    keys = list(keys)
    found = [short(key) for key in keys]
    return [name if found.count(name) == 1 else key for name, key in zip(found, keys, strict=True)]


def metric_of(points: list[Point]) -> str:
    """The metric that most of the runs choose their best checkpoint by."""
    names = [point.metric for point in points]
    return max(dict.fromkeys(names), key=names.count)


def axes(points: list[Point]) -> list[str]:
    """The overrides in which the points differ; without any, the configuration's keys in which they differ.

    Evaluations of run folders go by what was trained there, where that tells the checkpoints apart.
    """
    asked = _differing(points, [*(key for point in points for key in point.asked), *EVALUATED])
    if asked and CKPT not in asked:
        return asked
    settings = _settings(points)
    trained = [key for key in settings if key != CKPT]
    return trained if _told(points, trained) else asked or settings


def _differing(points: list[Point], keys: Iterable[str]) -> list[str]:
    kept = [key for key in dict.fromkeys(keys) if not _noise(key)]
    return [key for key in kept if len({point.value(key) for point in points}) > 1]


def _settings(points: list[Point]) -> list[str]:
    """The configuration's keys in which the points differ, without those that follow from another model or data set."""
    differing = _differing(points, [key for point in points for key in point.config])
    named = {key.removesuffix(".name") for key in differing if key.endswith(".name")}
    return [key for key in differing if key.endswith(".name") or key in EVALUATED or key.partition(".")[0] not in named]


def _told(points: list[Point], keys: list[str]) -> bool:
    """Whether all evaluated checkpoints are run folders' and no two of them have the same values, seed included."""
    evaluations = [point for point in points if point.evaluates]
    known: dict[tuple, str] = {}
    return all(
        point.of_folder
        and known.setdefault(tuple(point.value(key) for key in keys), point.value(CKPT)) == point.value(CKPT)
        for point in evaluations
    )


def group(points: list[Point], keys: list[str], metric: str, baseline: str | None = None) -> list[Group]:
    """The rows of the table, in the order of the points. ``baseline``: "key=value,…" of a row, None for the first."""
    rows: dict[tuple, Group] = {}
    held = [key for key in keys if key != SEED]
    for point in points:
        values = {key: point.value(key) for key in held}
        row = rows.setdefault(tuple(values.values()), Group(values, [], []))
        row.points.append(point)
        if (score := point.score(metric)) is not None and math.isfinite(score):
            row.scores.append(score)
    found = list(rows.values())
    for row in found:
        row.mean = statistics.fmean(row.scores) if row.scores else None
        row.std = statistics.stdev(row.scores) if len(row.scores) > 1 else None
    if found:
        _against(found, _baseline(found, baseline))
    return found


def measured(rows: list[Group]) -> list[str]:
    """Those of ``MEASURES`` that any row has."""
    return [name for name in MEASURES if any(row.measure(name) is not None for row in rows)]


def _noise(key: str) -> bool:
    return any(key == word or (word.endswith(".") and key.startswith(word)) for word in NOISE)


def _baseline(rows: list[Group], wanted: str | None) -> Group:
    if wanted is None:
        return next((row for row in rows if row.scores), rows[0])
    pairs = dict(split(part.strip()) for part in COMMA.split(wanted))
    fits = [row for row in rows if all(_has(row, key, value) for key, value in pairs.items())]
    if len(fits) != 1:
        what = "no row" if not fits else f"{len(fits)} rows"
        raise UserError(
            f"--baseline {wanted}: {what} of this comparison; the rows are: {'; '.join(r.label for r in rows)}"
        )
    return fits[0]


def _has(row: Group, key: str, value: str) -> bool:
    return any(value == own for name, own in row.values.items() if key in (name, short(name)))


def _against(rows: list[Group], base: Group) -> None:
    from scipy.stats import ttest_ind

    base.baseline = True
    for row in rows:
        if row is base or not row.scores or not base.scores:
            continue
        row.difference = row.mean - base.mean
        if len(row.scores) < 2 or len(base.scores) < 2:
            row.untested = "one seed: no test"
        elif not (row.std or base.std):
            row.untested = "no spread: no test"
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of runs that are all the same: it is in the table
                p = float(ttest_ind(row.scores, base.scores, equal_var=False).pvalue)
            row.p, row.untested = (p, "") if math.isfinite(p) else (None, "no spread: no test")
