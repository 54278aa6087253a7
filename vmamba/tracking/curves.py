"""curves.png: the run at a glance, drawn from ``metrics.jsonl``."""

import logging
import math
from collections import defaultdict
from pathlib import Path

from vmamba.tracking.atomic import read_json, replacing
from vmamba.tracking.folder import RunFolder

log = logging.getLogger("vmamba")
TRAIN, VAL, EMA = "#4C72B0", "#C44E52", "#55A868"
OTHERS = ("#8172B3", "#CCB974", "#64B5CD", "#8C8C8C", "#DA8BC3", "#937860", "#DD8452")
Series = dict[str, list[tuple[float, float]]]


def draw(folder: RunFolder) -> Path | None:
    """``curves.png`` of a run folder; None, and a line in the log, if it fails: a run ends as it ends without it."""
    try:
        return _draw(folder)
    except Exception as error:
        log.warning("%s was not drawn (%s: %s)", folder.curves, type(error).__name__, error)
        return None


def _draw(folder: RunFolder) -> Path:
    """Draws loss, accuracy (every other ``val/`` metric that is there) and learning rate over epochs.

    Non-finite values are marked at the foot of their panel. A run with no record yet gives a picture that says so.
    Returns the path of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = _series(folder)
    panels = _panels(series)
    figure = Figure(figsize=(5.2 * max(1, len(panels)), 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(folder), fontsize=11, fontweight="bold", x=0.01, ha="left")
    if not panels:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no metrics recorded", ha="center", va="center", fontsize=14, color="#666666")
    for axes, (title, label, names) in zip(_row(figure, len(panels)), panels, strict=True):
        _panel(axes, title, label, {name: series[name] for name in names})
    with replacing(folder.curves) as temp:
        figure.savefig(temp, format="png")
    return folder.curves


def _row(figure, count: int) -> list:
    return list(figure.subplots(1, count, squeeze=False)[0]) if count else []


def _series(folder: RunFolder) -> Series:
    found: Series = defaultdict(list)
    for record in folder.records():
        for name, value in record["metrics"].items():
            found[name].append((record["epoch"], value))
    return found


def _panels(series: Series) -> list[tuple[str, str, list[str]]]:
    """(title, y label, series) of every panel: losses, accuracies, further validation metrics, learning rate."""
    losses = [name for name in series if name.split("/")[-1].split("_")[0] == "loss" or name.endswith("loss")]
    scores = [name for name in series if "/acc" in name]
    rates = [name for name in series if name.split("/")[-1] == "lr"]
    rest = [name for name in series if name.startswith("val") and name not in losses + scores]
    panels = [
        ("Loss", "loss", losses),
        ("Accuracy", "accuracy (%)", scores),
        ("Validation", "value", rest),
        ("Learning rate", "learning rate", rates),
    ]
    return [panel for panel in panels if panel[2]]


def _panel(axes, title: str, label: str, series: Series) -> None:
    from matplotlib.ticker import MaxNLocator

    spare = iter(OTHERS * 4)
    for name in sorted(series):
        train = name.startswith("train")
        color = _color(name, series) or next(spare)
        points = [(x, y) for x, y in series[name] if math.isfinite(y)]
        broken = [x for x, y in series[name] if not math.isfinite(y)]
        x, y = [p[0] for p in points], [p[1] for p in points]
        dots = "o" if len(points) <= 40 else None
        if train and title == "Loss" and len(points) > 60:
            axes.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
            axes.plot(x, _smooth(y), color=color, linewidth=1.6, label=f"{name} (smoothed)")
        elif points:
            axes.plot(x, y, color=color, linewidth=1.6, marker=dots, markersize=3.5, label=name)
        if broken:
            axes.plot(
                broken, [0.02] * len(broken), "x", color=color, markersize=6, label=f"{name}: NaN or inf",
                transform=axes.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip
    _scale(axes, title, series)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axes.grid(True, alpha=0.3, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _scale(axes, title: str, series: Series) -> None:
    """A logarithmic axis for losses and rates that span decades; the learning rate in powers of ten otherwise."""
    values = [y for points in series.values() for _, y in points if math.isfinite(y)]
    if title in ("Loss", "Learning rate") and values and min(values) > 0 and max(values) / min(values) > 50:
        axes.set_yscale("log")
    elif title == "Learning rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))


def _color(name: str, series: Series) -> str | None:
    """Train and validation have one colour each in every panel, where one series alone claims it."""
    group = name.split("/")[0]
    kind = {"train": TRAIN, "val": VAL, "ema": EMA, "val_ema": EMA}.get(group, TRAIN if len(series) == 1 else None)
    mates = [other for other in sorted(series) if other.split("/")[0] == group]
    return kind if kind and mates[0] == name else None


def _smooth(values: list[float]) -> list[float]:
    """Exponential moving average over about a fiftieth of the run, its start-up bias taken out."""
    keep = 1 - 1 / max(5.0, len(values) / 50)
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(mean / weight)
    return smoothed


def _title(folder: RunFolder) -> str:
    status, result = read_json(folder.status), read_json(folder.result)
    best = result.get("best") if isinstance(result.get("best"), dict) else {}
    words = [f"{name} {value:.4g}" for name, value in best.items() if isinstance(value, float) and "/" in name]
    parts = [folder.name]
    if words:
        parts.append("best " + ", ".join(words[:2]))
    if status.get("state") in ("failed", "killed"):
        parts.append(status["state"])
    return " · ".join(parts)
