"""The comparison as one HTML file that needs no network: what came out, table, plots, runs, what did not finish."""

from collections.abc import Set
from dataclasses import dataclass
from html import escape

from plotly.offline import get_plotlyjs

from vmamba.compare import tables
from vmamba.compare.figures import figures
from vmamba.compare.groups import Group
from vmamba.compare.points import Point
from vmamba.compare.report import About

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; color: #222; }
h1 { font-size: 1.3rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.best { font-size: 1.25rem; margin: .6rem 0; } p.bad { color: #a4262c; } p.note, summary { color: #555; }
code { overflow-wrap: anywhere; color: #555; } summary { cursor: pointer; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .3rem .8rem; text-align: left; }
th { border-bottom: 2px solid #888; cursor: pointer; vertical-align: bottom; } td { border-bottom: 1px solid #ddd; }
td { white-space: nowrap; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.d { color: #0057a3; font-weight: 600; }
tr.best td { font-weight: 600; background: #eef7ee; } div.wide { overflow-x: auto; } li { overflow-wrap: anywhere; }
"""
# a click on a column's head sorts by it: by number where both cells begin with one
SORT = """
document.querySelectorAll('th').forEach(head => head.onclick = () => {
  const body = head.closest('table').tBodies[0], i = head.cellIndex;
  const down = head.dataset.down = head.dataset.down === '1' ? '' : '1';
  const value = row => row.cells[i].textContent, n = text => parseFloat(text.replace(/,/g, ''));
  [...body.rows].sort((a, b) => {
    const x = value(a), y = value(b), by = isNaN(n(x)) || isNaN(n(y)) ? x.localeCompare(y) : n(x) - n(y);
    return down ? -by : by;
  }).forEach(row => body.append(row));
});
"""
OPEN = 30  # runs; a longer list of them is folded


@dataclass
class Page:
    """``rows``: best first."""

    title: str
    points: list[Point]
    rows: list[Group]
    keys: list[str]
    metric: str
    higher: bool
    about: About

    def text(self) -> str:
        """The whole page."""
        plots = figures(self.points, self.rows, self.keys, self.metric, self.higher)
        shown = [figure.to_html(full_html=False, include_plotlyjs=False) for figure in plots]
        parts = [*self._top(), *shown, *self._runs()]
        head = f'<meta charset="utf-8"><title>{escape(self.title)}</title><style>{STYLE}</style>'
        script = f"<script>{get_plotlyjs()}</script>" if shown else ""
        body = "\n".join(part for part in parts if part)
        return f"<!doctype html><html><head>{head}{script}</head><body>{body}<script>{SORT}</script></body></html>\n"

    def _top(self) -> list[str]:
        bad = [point for point in self.points if point.state != "finished"]
        state = escape(tables.counts(self.points))
        below = ' (<a href="#unfinished">which, and why</a>)' if bad else ""
        best = {number for number, row in enumerate(self.rows[:1]) if row.mean is not None}
        heads = tables.header(self.rows, self.keys, self.metric)
        many = len(self.rows[0].values) > 1
        marked = tables.changed(self.rows) if many else set()
        linked = [f'<a href="{escape(address)}">{escape(words)}</a>' for words, address in self.about.links.items()]
        server = f" (start it: <code>{escape(self.about.server)}</code>)" if self.about.server else ""
        return [
            f"<h1>{escape(self.title)}</h1>",
            f'<p class="best">{escape(tables.headline(self.rows, self.metric))}</p>',
            f"<p{' class=bad' if bad else ''}>{state}{below}</p>",
            *(f'<p class="bad">{escape(remark)}</p>' for remark in self.about.remarks),
            _table(heads, tables.body(self.rows), best, marked),
            f'<p class="note">{escape(tables.explain(self.rows, self.metric))}</p>',
            f'<p class="note">In MLflow{server}: {", ".join(linked)}</p>' if linked else "",
        ]

    def _runs(self) -> list[str]:
        unfinished = tables.unfinished(self.points)
        parts = []
        if unfinished:
            lines = "".join(f"<li>{escape(line)}</li>" for line in unfinished)
            parts.append(f'<h2 id="unfinished">Not finished</h2><ul>{lines}</ul>')
            if self.about.again:
                parts.append(f'<p class="note">To run what is left: <code>{escape(self.about.again)}</code></p>')
        if tables.each_run_matters(self.points, self.rows):
            opened = " open" if len(self.points) <= OPEN else ""
            table = _table(*tables.every_run(self.points, self.keys, self.metric))
            parts.append(f"<details{opened}><summary>Every run</summary>{table}</details>")
        command = escape(self.about.command)
        return [*parts, f'<p class="note">Started by <code>{command}</code></p>' if command else ""]


def _table(
    heads: list[str],
    rows: list[list[str]],
    best: Set[int] = frozenset(),
    marked: Set[tuple[int, int]] = frozenset(),
) -> str:
    """A column is one of numbers, and its head on the right, where every cell with something in it is a number.

    ``best``: rows, ``marked``: cells that stand out.
    """
    columns = [[row[place] for row in rows] for place in range(len(heads))]
    numeric = [any(column) and all(not cell or _numeric(cell) for cell in column) for column in columns]
    top = "".join(f"<th{_class(n=one)}>{escape(head)}</th>" for head, one in zip(heads, numeric, strict=True))
    lines = []
    for number, row in enumerate(rows):
        inside = "".join(
            f"<td{_class(n=numeric[place], d=(number, place) in marked)}>{escape(cell)}</td>"
            for place, cell in enumerate(row)
        )
        lines.append(f"<tr{' class=best' if number in best else ''}>{inside}</tr>")
    body = "".join(lines)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _class(**names: bool) -> str:
    """The attribute with those names that hold."""
    found = " ".join(name for name, holds in names.items() if holds)
    return f' class="{found}"' if found else ""


def _numeric(text: str) -> bool:
    try:
        return text == "–" or float(text.replace(",", "").partition(" ")[0]) is not None
    except ValueError:
        return False
