"""The plots of a comparison, as plotly figures."""

import statistics

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vmamba.compare.groups import SEED, Group, heads
from vmamba.compare.points import Point
from vmamba.tracking.series import evaluations

NAME = 40  # characters of a row's name in a plot, at most
CURVES = 40  # rows drawn as curves; more cannot be told apart
NAMED = 15  # spots of the Pareto plot with their names beside them
PLACES = 10  # values of an axis that are drawn side by side, whatever lies between them
DOTS = 20  # evaluations of a curve that are drawn as dots too
LAYOUT = {"template": "plotly_white", "margin": {"l": 70, "r": 20, "t": 60, "b": 50}, "height": 420}
# Okabe and Ito's, told apart by the colour-blind too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def figures(points: list[Point], rows: list[Group], keys: list[str], metric: str, higher: bool) -> list[go.Figure]:
    """Those of the plots for which there are numbers. ``rows``: best first."""
    scored = [(point, score) for point in points if (score := point.score(metric)) is not None]
    varied = [key for key in keys if key != SEED and len({point.value(key) for point, _ in scored}) > 1]
    if len(varied) >= len(scored):
        varied = varied[:1] if len(varied) == 1 else []  # runs that differ in everything say nothing of one thing
    made = [
        _effects(scored, varied, metric),
        _pareto(rows, metric, higher),
        _curves(rows, metric),
        _parallel(scored, varied, metric),
    ]
    return [figure for figure in made if figure is not None]


def front(spots: list[tuple[float, float]], higher: bool) -> list[int]:
    """Indices of the spots (cost-free x, score y) that no other beats in both, from the largest x down."""
    order = sorted(range(len(spots)), key=lambda i: (-spots[i][0], -spots[i][1] if higher else spots[i][1]))
    kept, best = [], None
    for index in order:
        score = spots[index][1] if higher else -spots[index][1]
        if best is None or score > best:
            kept.append(index)
            best = score
    return kept


def _pareto(rows: list[Group], metric: str, higher: bool) -> go.Figure | None:
    shown = [row for row in rows if row.mean is not None and row.measure("images_per_s")]
    if len(shown) < 2:
        return None
    spots = [(row.measure("images_per_s"), row.mean) for row in shown]
    best, middle = front(spots, higher), (min(spots)[0] + max(spots)[0]) / 2
    figure = go.Figure()
    figure.add_scatter(
        x=[spots[i][0] for i in best], y=[spots[i][1] for i in best], mode="lines", name="Pareto front",
        line={"dash": "dot", "color": "gray"}, hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    errors = {"type": "data", "array": [row.std or 0 for row in shown], "thickness": 1, "color": "#999"}
    named = "markers+text" if len(shown) <= NAMED else "markers"
    figure.add_scatter(
        x=[x for x, _ in spots], y=[y for _, y in spots], error_y=errors, mode=named, showlegend=False,
        marker={"size": 11, "color": [COLOURS[1] if i in best else COLOURS[0] for i in range(len(spots))]},
        text=[_name(row) for row in shown], textposition=["top left" if x > middle else "top right" for x, _ in spots],
        hovertemplate="%{text}<br>%{x:.0f} images/s<br>" + metric + " %{y:.4g}<extra></extra>",
    )  # fmt: skip
    title = f"{metric} against training throughput (orange: nothing else is better in both)"
    figure.update_layout(title=title, xaxis_title="images/s", yaxis_title=metric, **LAYOUT)
    xs = [x for x, _ in spots]
    room = (max(xs) - min(xs)) * 0.08 or max(xs) * 0.1
    return figure.update_xaxes(range=[min(xs) - room, max(xs) + room])


def _effects(scored: list[tuple[Point, float]], keys: list[str], metric: str) -> go.Figure | None:
    """One panel an axis: every run as a dot at its value, and the mean of each value."""
    if not keys or len(scored) < 2:
        return None
    columns = min(3, len(keys))
    lines = -(-len(keys) // columns)
    figure = make_subplots(lines, columns, subplot_titles=heads(keys), shared_yaxes=True)
    for place, (key, head) in enumerate(zip(keys, heads(keys), strict=True)):
        values: dict[str, list[float]] = {}
        for point, score in scored:
            values.setdefault(point.value(key), []).append(score)
        names = ordered(list(values))
        at = {"row": place // columns + 1, "col": place % columns + 1}
        dots = [(name, score) for name in names for score in values[name]]
        spread = continuous(names)
        if spread:
            dots = [(float(name), score) for name, score in dots]
        figure.add_scatter(
            x=[name for name, _ in dots], y=[score for _, score in dots], mode="markers", showlegend=False,
            marker={"opacity": 0.6, "color": COLOURS[0], "size": 8}, **at,
            hovertemplate=f"{head}=%{{x}}: %{{y:.4g}}<extra></extra>",
        )  # fmt: skip
        if spread:
            figure.update_xaxes(type=_scale(dots), **at)
            continue
        means = [statistics.fmean(values[name]) for name in names]
        figure.add_scatter(
            x=names, y=means, mode="lines+markers" if numeric(names) else "markers", showlegend=False,
            hovertemplate="mean %{y:.4g}<extra></extra>",
            marker={"symbol": "line-ew-open", "size": 22, "color": "black", "line": {"width": 2}},
            line={"color": "black", "width": 1}, **at,
        )  # fmt: skip
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=names, **at)
    figure.update_yaxes(title=metric, col=1)
    layout = LAYOUT | {"height": 120 + 300 * lines, "margin": {"l": 70, "r": 20, "t": 90, "b": 50}}
    return figure.update_layout(title=f"{metric} by what was varied (dots: runs; black: their mean)", **layout)


def ordered(names: list[str]) -> list[str]:
    """Values of an axis: numbers by size, others as they came."""
    return sorted(names, key=float) if numeric(names) else names


def numeric(names: list[str]) -> bool:
    """Whether the values are numbers, between which there is a way."""
    try:
        return all(float(name) is not None for name in names)
    except ValueError:
        return False


def continuous(names: list[str]) -> bool:
    """Whether the values are a search's: numbers, and too many of them to be places on an axis."""
    return numeric(names) and len(names) > PLACES


def _scale(dots: list[tuple[float, float]]) -> str:
    """ "log" where the values, all above zero, span more than a decade."""
    low, high = min(dots)[0], max(dots)[0]
    return "log" if low > 0 and high / low > 10 else "linear"


def _curves(rows: list[Group], metric: str) -> go.Figure | None:
    """The evaluations over the steps, a colour a row, a line a run; None if no run has two of them."""
    figure = go.Figure()
    for place, row in enumerate(rows[:CURVES]):
        told = False  # the legend has the row
        for point in row.points:
            curve = evaluations(point.folder.metrics, metric)
            if not curve:
                continue
            figure.add_scatter(
                x=[step for step, _ in curve], y=[value for _, value in curve], name=_name(row),
                mode="lines+markers" if len(curve) <= DOTS else "lines",
                legendgroup=row.label, showlegend=not told, line={"color": _colour(place), "width": 1.5},
                hovertemplate=f"{point.name}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
            )  # fmt: skip
            told = True
    if all(len(line.x) < 2 for line in figure.data):
        return None
    title = f"{metric} in training" + (f" (the best {CURVES} of {len(rows)} rows)" if len(rows) > CURVES else "")
    return figure.update_layout(
        title=title, xaxis_title="optimizer steps", yaxis_title=metric, **LAYOUT | {"height": 520}
    )


def _parallel(scored: list[tuple[Point, float]], keys: list[str], metric: str) -> go.Figure | None:
    """Every run as a line across its axes and its score; for two axes or more."""
    if len(keys) < 2 or len(scored) < 2:
        return None
    dimensions = []
    for key, head in zip(keys, heads(keys), strict=True):
        names = ordered(list(dict.fromkeys(point.value(key) for point, _ in scored)))
        if continuous(names):
            dimensions.append({"label": head, "values": [float(point.value(key)) for point, _ in scored]})
            continue
        places = [names.index(point.value(key)) for point, _ in scored]
        dimensions.append({"label": head, "values": places, "tickvals": list(range(len(names))), "ticktext": names})
    scores = [score for _, score in scored]
    dimensions.append({"label": metric, "values": scores})
    line = {"color": scores, "colorscale": "Viridis", "showscale": True}
    layout = LAYOUT | {"margin": {"l": 90, "r": 40, "t": 100, "b": 30}}
    fonts = {"labelfont": {"size": 14}, "tickfont": {"size": 12}}
    plot = go.Parcoords(line=line, dimensions=dimensions, **fonts)
    return go.Figure(plot).update_layout(title="All axes at once", **layout)


def _name(row: Group) -> str:
    """A row's label, the middle of a long one left out: names of runs differ in their end."""
    return row.label if len(row.label) <= NAME else f"{row.label[: NAME - 26]}…{row.label[-25:]}"


def _colour(number: int) -> str:
    if number < len(COLOURS):
        return COLOURS[number]
    hue = (number * 137.508) % 360  # the golden angle: neighbours stay apart
    return f"hsl({hue:.0f},65%,{40 + 12 * (number % 2)}%)"
