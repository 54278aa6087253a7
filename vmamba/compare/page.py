"""The comparison as one HTML file that needs no network: table, plots, what did not finish."""

from html import escape

from plotly.offline import get_plotlyjs

from vmamba.compare import tables
from vmamba.compare.figures import figures
from vmamba.compare.groups import Group, measured
from vmamba.compare.points import Point

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .3rem .7rem; text-align: left; }
th { border-bottom: 2px solid #888; cursor: pointer; white-space: nowrap; } td { border-bottom: 1px solid #ddd; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } tr.best td { font-weight: 600; background: #f0f7f0; }
p.note { color: #555; } li { overflow-wrap: anywhere; }
"""
# a click on a column's head sorts by it: by number where both cells begin with one
SORT = """
document.querySelectorAll('th').forEach((head, i) => head.onclick = () => {
  const body = head.closest('table').tBodies[0], down = head.dataset.down = head.dataset.down === '1' ? '' : '1';
  const value = row => row.cells[i].textContent, n = text => parseFloat(text.replace(/,/g, ''));
  [...body.rows].sort((a, b) => {
    const x = value(a), y = value(b), by = isNaN(n(x)) || isNaN(n(y)) ? x.localeCompare(y) : n(x) - n(y);
    return down ? -by : by;
  }).forEach(row => body.append(row));
});
"""


def page(title: str, points: list[Point], rows: list[Group], keys: list[str], metric: str, link: str) -> str:
    """The whole page as text. ``link``: MLflow's own page on these runs, or an empty string."""
    higher = points[0].higher_is_better
    plots = figures(points, rows, keys, metric, higher)
    shown = [figure.to_html(full_html=False, include_plotlyjs=False) for figure in plots]
    bad = tables.unfinished(points)
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(tables.counts(points))}</p>",
        _table(rows, keys, metric, higher),
        f'<p class="note">{escape(tables.explain(rows, metric))}</p>',
        f'<p class="note">In MLflow, while it runs: <a href="{escape(link)}">compare these runs</a></p>'
        if link
        else "",
        *shown,
        "<h2>Not finished</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in bad) + "</ul>" if bad else "",
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    script = f"<script>{get_plotlyjs()}</script>" if shown else ""
    body = "\n".join(part for part in parts if part)
    return f"<!doctype html><html><head>{head}{script}</head><body>{body}<script>{SORT}</script></body></html>\n"


def _table(rows: list[Group], keys: list[str], metric: str, higher: bool) -> str:
    names = measured(rows)
    heads = "".join(f"<th>{escape(head)}</th>" for head in tables.header(rows, keys, metric))
    best = tables.ranked(rows, higher)[0] if rows else None
    lines = []
    for row in rows:
        marks = ' class="best"' if row is best and row.mean is not None else ""
        cells = "".join(_cell(text) for text in tables.cells(row, names))
        lines.append(f"<tr{marks}>{cells}</tr>")
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(text: str) -> str:
    numeric = text[:1].isdigit() or text[:1] in "+-–"
    return f"<td{' class=n' if numeric else ''}>{escape(text)}</td>"
