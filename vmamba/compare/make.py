"""From folders to a report in its place: what a launcher does at the end of a sweep, and what the command does."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from shlex import join

from vmamba.compare import report, store_runs, views
from vmamba.compare.points import Point, collect, is_run, is_sweep
from vmamba.launch.folder import SweepFolder
from vmamba.launch.table import relative
from vmamba.tracking import store, ui
from vmamba.tracking.atomic import read_json
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.reconcile import reconcile

PRINTED = 1000  # characters of an address, at most: one of a hundred runs fills the terminal
PORT = 5000  # where a local mlflow ui is looked for


@dataclass
class Made:
    """A report, what could not be had for it (a line each), and where the store is that most of its runs are in."""

    done: report.Report
    remarks: list[str]
    uri: str | None = None
    run: str = ""  # the id of one of them there
    links: dict[str, str] = field(default_factory=dict)


def make(
    paths: Sequence[Path],
    *,
    out: Path | None = None,
    metric: str | None = None,
    baseline: str | None = None,
    port: int = PORT,
    remarks: Sequence[str] = (),
) -> Made:
    """Compares the runs of ``paths``, first ending those whose process is gone. Of a sweep the report goes into its
    folder's ``report/`` and beside its parent run in MLflow, another one into ``outputs``, unless ``out`` is set.

    UserError if there is no run at all, or none of that metric or baseline; all else that fails becomes a remark.
    """
    points, missing = collect(paths)
    said = [*remarks, *missing, *reconcile(_gone(point) for point in points if not _under_way(point))]
    folder = Path(paths[0]) if len(paths) == 1 and (is_sweep(paths[0]) or not is_run(paths[0])) else None
    sweep = SweepFolder(folder) if folder and is_sweep(folder) else None
    for point in points if folder else ():
        point.name = point.folder.path.name  # the title says whose
    runs = [point.folder for point in points]
    uri, place = _store(runs)
    if uri and not place:
        said.append(f"{store.sqlite_path(uri)}: MLflow's file is not here; the report is made of the run folders alone")
    parent = None
    if sweep and place:
        try:
            parent = store_runs.Parent(sweep, runs, uri, place)
        except store.NotDelivered as error:
            said.append(f"the report is not in MLflow: {error}")
    links = _links(runs, uri, place, port, parent and (parent.experiment, parent.run))
    done = report.write(
        points,
        out or (folder / "report" if folder else Path("outputs") / f"compare-{datetime.now():%Y-%m-%d_%H-%M-%S}"),
        folder.resolve().name if folder else f"{len(points)} run{'s' * (len(points) != 1)}",
        metric=metric,
        baseline=baseline,
        about=report.About(
            links=links,
            server=_server(place, links, port),
            command=join(["vmamba", *sweep.read_info().get("command", [])]) if sweep else "",
            again=f"python -m vmamba.sweep resume {relative(sweep.path)}" if sweep else "",
            remarks=said,
        ),
    )
    if parent and parent.run:
        try:
            parent.put(done, points)
        except store.NotDelivered as error:
            said.append(f"the report is not in MLflow: {error}")
    run = next((found[0] for run in runs if (found := store_runs.stored(run, uri))), "")
    return Made(done, said, place, run, links)


def where(sweep: SweepFolder, port: int = PORT) -> list[str]:
    """Where the report of a sweep is, and MLflow's pages on it, as lines to print; none before there is a report."""
    html = sweep.path / "report" / "report.html"
    if not html.is_file():
        return []
    runs = [sweep.run(line) for line in sweep.latest().values()]
    uri, place = _store(runs)
    known = uri and next(found for run in runs if (found := store_runs.stored(run, uri)))
    parent = (read_json(sweep.info).get("stores") or {}).get(uri)
    return lines(html, place, _links(runs, uri, place, port, parent and (known[1], parent)), port)


def lines(html: Path, uri: str | None, links: dict[str, str], port: int) -> list[str]:
    """The lines to print of a report and its links."""
    found = [f"report: {relative(html)} (report.md and report.csv beside it)"]
    for words, address in links.items():
        found.append(f"MLflow, {words}: {address if len(address) <= PRINTED else 'the link is in the report'}")
    if server := _server(uri, links, port):
        found.append(f"  (start it first: {server})")
    return found


def _server(uri: str | None, links: dict[str, str], port: int) -> str:
    """The command that starts MLflow, where there are links and no server that runs by itself."""
    return ui.command(uri, port) if links and not uri.startswith("http") else ""


def _store(runs: list[RunFolder]) -> tuple[str | None, str | None]:
    """The store that most of the runs are in: as they note it, and where it is now."""
    uri = store_runs.uri_of(runs)
    return uri, store_runs.place_of(uri, runs) if uri else None


def _links(
    runs: list[RunFolder], uri: str | None, place: str | None, port: int, parent: tuple[str, str] | None
) -> dict[str, str]:
    """Words to addresses. ``parent``: its experiment and run."""
    if not place:
        return {}
    base = ui.address(place, port)
    address, count = store_runs.compare_link(runs, uri, base)
    done = sum(run.result.is_file() for run in runs)
    of = "these runs" if count == len(runs) else f"{count} of these {len(runs)} runs"
    of = f"the {count} runs that have a result" if count == done < len(runs) else of
    found = {f"compare {of}": address}
    return found | ({"all points in a table": views.address(base, *parent)} if parent and parent[1] else {})


def _under_way(point: Point) -> bool:
    """Whether a launcher has the run in its hands: what becomes of it is the launcher's to say."""
    return point.judged and point.state in ("running", "queued")


def _gone(point: Point) -> tuple[RunFolder, str]:
    """A run, and why its process is known to be gone, if its launcher says so."""
    ended = point.state in ("failed", "killed")
    return point.folder, (point.error or "its process is gone") if ended else ""
