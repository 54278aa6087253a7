"""The plots of a comparison, as plotly figures."""

import statistics

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vmamba.compare.groups import SEED, Group, short
from vmamba.compare.points import Point
from vmamba.compare.series import evaluations

CURVES = 40  # rows drawn as curves; more cannot be told apart
LAYOUT = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 50, "b": 50}, "height": 420}


def figures(points: list[Point], rows: list[Group], keys: list[str], metric: str, higher: bool) -> list[go.Figure]:
    """Those of the plots for which there are numbers."""
    made = [
        _pareto(rows, metric, higher),
        _effects(points, keys, metric),
        _curves(rows, metric),
        _parallel(points, keys, metric),
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
    best = front(spots, higher)
    figure = go.Figure()
    figure.add_scatter(
        x=[spots[i][0] for i in best], y=[spots[i][1] for i in best], mode="lines", name="Pareto front",
        line={"dash": "dot", "color": "gray"}, hoverinfo="skip",
    )  # fmt: skip
    errors = {"type": "data", "array": [row.std or 0 for row in shown]}
    figure.add_scatter(
        x=[x for x, _ in spots], y=[y for _, y in spots], error_y=errors, mode="markers", name="runs",
        marker={"size": 10}, text=[row.label for row in shown],
        hovertemplate="%{text}<br>%{x:.0f} images/s<br>" + metric + " %{y:.2f}<extra></extra>",
    )  # fmt: skip
    title = f"{metric} against throughput in training"
    return figure.update_layout(title=title, xaxis_title="images/s", yaxis_title=metric, **LAYOUT)


def _effects(points: list[Point], keys: list[str], metric: str) -> go.Figure | None:
    """One panel an axis: every run as a dot at its value, and the mean of each value."""
    scored = [(point, score) for point in points if (score := point.score(metric)) is not None]
    if not keys or len(scored) < 2:
        return None
    columns = min(3, len(keys))
    lines = -(-len(keys) // columns)
    figure = make_subplots(lines, columns, subplot_titles=[short(key) for key in keys], shared_yaxes=True)
    for place, key in enumerate(keys):
        values: dict[str, list[float]] = {}
        for point, score in scored:
            values.setdefault(point.value(key), []).append(score)
        at = {"row": place // columns + 1, "col": place % columns + 1}
        dots = [(name, score) for name, scores in values.items() for score in scores]
        figure.add_scatter(
            x=[name for name, _ in dots], y=[score for _, score in dots], mode="markers", showlegend=False,
            marker={"opacity": 0.5, "color": "steelblue"}, **at,
        )  # fmt: skip
        means = [statistics.fmean(scores) for scores in values.values()]
        figure.add_scatter(
            x=list(values), y=means, mode="lines+markers", showlegend=False,
            marker={"symbol": "line-ew-open", "size": 18, "color": "black"}, line={"color": "black", "width": 1}, **at,
        )  # fmt: skip
        figure.update_xaxes(type="category", **at)
    layout = LAYOUT | {"height": 100 + 300 * lines, "margin": {"l": 60, "r": 20, "t": 90, "b": 50}}
    return figure.update_layout(title=f"{metric} by axis (black: mean of a value)", **layout)


def _curves(rows: list[Group], metric: str) -> go.Figure | None:
    """The evaluations over the steps, a colour a row, a line a run."""
    figure, drawn = go.Figure(), [row for row in rows if row.scores or row.mean is None]
    for colour, row in enumerate(drawn[:CURVES]):
        for number, point in enumerate(row.points):
            curve = evaluations(point.folder.metrics, metric)
            if not curve:
                continue
            figure.add_scatter(
                x=[step for step, _ in curve], y=[value for _, value in curve], mode="lines", name=row.label,
                legendgroup=row.label, showlegend=number == 0, line={"color": _colour(colour), "width": 1.5},
                hovertemplate=f"{point.name}<br>step %{{x}}: %{{y:.2f}}<extra></extra>",
            )  # fmt: skip
    if not figure.data:
        return None
    title = f"{metric} in training" + (f" (the first {CURVES} of {len(drawn)} rows)" if len(drawn) > CURVES else "")
    return figure.update_layout(
        title=title, xaxis_title="optimizer steps", yaxis_title=metric, **LAYOUT | {"height": 520}
    )


def _parallel(points: list[Point], keys: list[str], metric: str) -> go.Figure | None:
    """Every run as a line across its axes and its score; for two axes or more."""
    scored = [(point, score) for point in points if (score := point.score(metric)) is not None]
    if len([key for key in keys if key != SEED]) < 2 or len(scored) < 2:
        return None
    dimensions = []
    for key in keys:
        names = list(dict.fromkeys(point.value(key) for point, _ in scored))
        places = [names.index(point.value(key)) for point, _ in scored]
        dimensions.append(
            {"label": short(key), "values": places, "tickvals": list(range(len(names))), "ticktext": names}
        )
    scores = [score for _, score in scored]
    dimensions.append({"label": metric, "values": scores})
    line = {"color": scores, "colorscale": "Viridis", "showscale": True}
    layout = LAYOUT | {"margin": {"l": 80, "r": 40, "t": 80, "b": 30}}
    return go.Figure(go.Parcoords(line=line, dimensions=dimensions)).update_layout(title="All axes at once", **layout)


def _colour(number: int) -> str:
    hue = (number * 137.508) % 360  # the golden angle: neighbours stay apart
    return f"hsl({hue:.0f},65%,{40 + 12 * (number % 2)}%)"
