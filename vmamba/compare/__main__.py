"""``python -m vmamba.compare SWEEP_OR_RUN_FOLDER…``: what was varied, what it did, in a table and in plots.

Also ``--runs ID,ID`` and ``--filter "tags.model = 'nano'"`` for runs of an MLflow store. Writes report.md, report.csv
and report.html (interactive, needs no network) into the sweep folder's ``report/``, and prints the table.
"""

import argparse
import sys
import webbrowser
from pathlib import Path

from vmamba.compare import make, store_runs
from vmamba.config.errors import UserError
from vmamba.config.words import Parser, port
from vmamba.tracking import store, ui


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for a mistake that leaves nothing to show."""
    given = _parser().parse_args(argv)
    try:
        return _run(given)
    except (UserError, store.NotDelivered) as error:
        print(f"vmamba compare: {error}", file=sys.stderr)
        return 2


def _run(given: argparse.Namespace) -> int:
    paths, remarks = list(given.paths), []
    if given.runs or given.filter:
        uri = store.absolute(given.uri or f"sqlite:///{Path('outputs').resolve() / 'mlflow.db'}", Path.cwd())
        try:
            paths += store_runs.folders(uri, ids=given.runs, query=given.filter, experiment=given.experiment)
        except UserError as error:
            if not paths:
                raise
            remarks.append(str(error))
    made = make.make(
        paths, out=given.out, metric=given.metric, baseline=given.baseline, port=given.port, remarks=remarks
    )
    print(made.done.text)
    print("\n".join(make.lines(made.done.html, made.uri, made.links, given.port)))
    for remark in made.remarks:
        print(f"vmamba compare: {remark}", file=sys.stderr)
    if given.open:
        _open(made, given.port)
    return 0


def _open(made: make.Made, port: int) -> None:
    """The report and MLflow's page on the same runs, in the browser."""
    if made.links and not made.uri.startswith("http"):
        ui.ensure(made.uri, port, made.run)
    for page in (made.done.html.resolve().as_uri(), *made.links.values()):
        webbrowser.open(page)


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
    parser.add_argument("--port", type=port, default=make.PORT, help="of a local mlflow ui (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the report, and MLflow's pages (starts mlflow ui)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
