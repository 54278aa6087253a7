"""What a benchmark leaves: a table on the terminal, a CSV named after the machine, and an MLflow run."""

import csv
import datetime
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vmamba.tracking import store

Row = dict[str, Any]
FOUND = ("note", "largest", "launches")  # columns of text or whole numbers that a measurement gave


def collect(coming: Iterable[Row]) -> tuple[list[Row], bool]:
    """The rows, and whether a Ctrl-C or SIGTERM came between them: what was measured by then is not lost."""
    rows: list[Row] = []
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for row in coming:
            rows.append(row)
    except KeyboardInterrupt:
        return rows, True
    finally:
        signal.signal(signal.SIGTERM, before)
    return rows, False


def show(rows: list[Row]) -> None:
    """The rows as an aligned table; a number as its three significant digits, None as a dash."""
    names = list(rows[0])
    cells = [[_text(row[name]) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    for line in [names, *cells]:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def save(kind: str, card: str, rows: list[Row], folder: Path, conditions: Row, add: bool = False) -> Path:
    """Writes ``<kind>_<card>_<date>.csv``, every row with the conditions it was measured under.

    With ``add``, the rows join those that the file of the day has; what was measured again is there once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}_{card}_{datetime.date.today():%Y-%m-%d}.csv"
    conditions = conditions | {"torch": version("torch"), "triton": _version("triton")}
    conditions["python"] = sys.version.split()[0]
    every = [{**row, **conditions} for row in rows]
    if add and path.is_file():  # of rows with one label the last, in the place of the first
        every = list({_label(row, rows[0]): row for row in [*read(path), *every]}.values())
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *conditions])
        writer.writeheader()
        writer.writerows(every)
    return path


def _label(row: Row, like: Row) -> str:
    """What was measured, not what came out: the columns where ``like`` has text or a whole number."""
    names = [name for name, value in like.items() if isinstance(value, str | int) and name not in FOUND]
    values = [row[name] for name in names if row.get(name) not in (None, "")]
    return "/".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def read(path: Path) -> list[Row]:
    """The rows of such a CSV: an empty cell as None, a number as an int or a float, anything else as its text."""
    with open(path, newline="") as file:
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text) if text else None
    return text


def to_mlflow(kind: str, rows: list[Row], conditions: Row, paths: list[Path], uri: str) -> None:
    """One run: the conditions as params, every number of every named row as a metric, the files as artifacts."""
    uri = store.absolute(uri, Path.cwd())
    client = store.connect(uri)
    experiment = store.experiment(client, uri, "vmamba-bench", paths[0].parent.resolve())
    run = client.create_run(experiment, run_name=paths[0].stem, tags={"bench": kind}).info.run_id
    for name, value in conditions.items():
        client.log_param(run, name, value)
    for row in rows:
        label = _label(row, row)
        for name, value in row.items():
            if isinstance(value, float):
                client.log_metric(run, _clean(f"{label}/{name}"), value)
    for path in paths:
        client.log_artifact(run, str(path))
    client.set_terminated(run)


def _clean(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)[:250]


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "absent"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
