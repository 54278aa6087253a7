"""``python -m vmamba.compare SWEEP_OR_RUN_FOLDER…``: what was varied, what it did, in a table and in plots.

Also ``--runs ID,ID`` and ``--filter "tags.model = 'nano'"`` for runs of an MLflow store. Writes report.md, report.csv
and report.html (interactive, needs no network) into the sweep folder's ``report/``, and prints the table.
"""

import argparse
import sys
import webbrowser
from datetime import datetime
from pathlib import Path

from vmamba.compare import report, store_runs
from vmamba.compare.points import collect, is_run
from vmamba.config.errors import UserError
from vmamba.config.words import Parser
from vmamba.tracking import store, ui
from vmamba.tracking.atomic import read_json


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for a mistake."""
    given = _parser().parse_args(argv)
    try:
        return _run(given)
    except (UserError, store.NotDelivered) as error:
        print(f"vmamba compare: {error}", file=sys.stderr)
        return 2


def _run(given: argparse.Namespace) -> int:
    paths = list(given.paths)
    if given.runs or given.filter:
        uri = store.absolute(given.uri or f"sqlite:///{Path('outputs').resolve() / 'mlflow.db'}", Path.cwd())
        paths += store_runs.folders(uri, ids=given.runs, query=given.filter, experiment=given.experiment)
    if not paths:
        raise UserError("name a sweep folder or run folders, or give --runs or --filter; see --help")
    points = collect(paths)
    sweep = paths[0] if len(paths) == 1 and not is_run(paths[0]) else None
    title = sweep.name if sweep else f"{len(points)} runs"
    out = given.out or (sweep / "report" if sweep else Path("outputs") / f"compare-{datetime.now():%Y-%m-%d_%H-%M-%S}")
    uri = store_runs.uri_of(points)
    base = ui.address(uri, given.port) if uri else ""
    link = store_runs.compare_link(points, base) if uri else ""
    done = report.write(points, out, title, metric=given.metric, baseline=given.baseline, link=link)
    print(done.text)
    print(f"report: {done.html} (report.md and report.csv beside it)")
    if link:
        print(f"MLflow's page on these runs: {link}")
        if not uri.startswith("http") and not given.open:
            print(f"  (start it first: {ui.command(uri, given.port)}; or add --open)")
    if sweep:
        _beside_parent(sweep, done)
    if given.open:
        if link and not uri.startswith("http"):
            ui.ensure(uri, given.port)
        for page in filter(None, (done.html.resolve().as_uri(), link)):
            webbrowser.open(page)
    return 0


def _beside_parent(sweep: Path, done: report.Report) -> None:
    """Puts the report into the sweep's parent run; a store that fails costs one line."""
    for uri, run in (read_json(sweep / "sweep.json").get("stores") or {}).items():
        try:
            store_runs.log_report(uri, run, done.markdown, done.csv, done.html)
            print(f"also in MLflow, under report/ of the parent run {run}")
        except store.NotDelivered as error:
            print(f"not put into MLflow: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m vmamba.compare", description="Compares runs: tables, plots, MLflow's own page.")
    parser.add_argument("paths", nargs="*", type=Path, metavar="FOLDER", help="a sweep folder, or run folders")
    parser.add_argument("--runs", type=lambda text: text.split(","), default=[], metavar="ID,ID", help="MLflow run ids")
    parser.add_argument("--filter", default="", metavar="QUERY", help="an MLflow filter: \"tags.model = 'nano'\"")
    parser.add_argument("--experiment", default="vmamba", help="where --filter looks (default: %(default)s)")
    parser.add_argument("--uri", help="the store of --runs and --filter (default: outputs/mlflow.db)")
    parser.add_argument("--metric", help="what to compare by (default: what the task chooses its best checkpoint by)")
    parser.add_argument("--baseline", metavar="KEY=VALUE,…", help="the row to measure from (default: the first)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the report goes")
    parser.add_argument("--port", type=int, default=5000, help="of a local mlflow ui (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the report, and MLflow's page (starts mlflow ui)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
