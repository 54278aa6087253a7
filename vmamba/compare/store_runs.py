"""MLflow's side of a comparison: from runs in a store to their folders, its own pages on them, the report in it."""

import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from vmamba.compare import views
from vmamba.compare.points import Point
from vmamba.compare.report import Report
from vmamba.config.errors import UserError
from vmamba.launch.folder import SweepFolder
from vmamba.tracking import parent, store
from vmamba.tracking.atomic import read_json
from vmamba.tracking.folder import RunFolder

LONGEST = 100  # runs that MLflow's compare page is asked for: it fetches and draws each


def folders(uri: str, *, ids: Iterable[str] = (), query: str = "", experiment: str = "vmamba") -> list[Path]:
    """The folders of the runs with these ids, or of those a filter finds ("tags.sweep = 'x' and params.seed = '0'").

    UserError for a store that cannot be asked, an unknown run or experiment, a filter MLflow does not take, or runs
    whose folders are not here.
    """
    try:
        with store.refusals(uri):
            client = store.connect(uri)
            runs = [client.get_run(run) for run in ids] if ids else _search(client, query, experiment)
    except store.NotDelivered as error:
        raise UserError(str(error)) from error
    if not runs:
        raise UserError(f"{uri}: no run fits --filter {query!r} in experiment {experiment}")
    paths = [Path(run.data.tags["run_folder"]) for run in runs if "run_folder" in run.data.tags]
    here = [path for path in paths if path.is_dir()]
    if not here:
        raise UserError(f"{uri}: found {len(runs)} runs, but none of their run folders is on this machine")
    return here


def compare_link(runs: list[RunFolder], uri: str, base: str) -> tuple[str, int]:
    """MLflow's compare page for those of these runs that are in the store ``uri``, and how many it compares.

    ``base``: the server's address. An empty address if none of them is there. Runs without a result are left out where
    two others have one: MLflow draws the metrics that all of its runs have, and would draw none.
    """
    done = [run for run in runs if run.result.is_file()]
    known = [found for run in (done if len(done) > 1 else runs) if (found := stored(run, uri))][:LONGEST]
    if not known:
        return "", 0
    ids = quote(json.dumps([run for run, _ in known], separators=(",", ":")))
    experiments = quote(json.dumps(list(dict.fromkeys(experiment for _, experiment in known)), separators=(",", ":")))
    return f"{base.rstrip('/')}/#/compare-runs?runs={ids}&experiments={experiments}", len(known)


def uri_of(runs: list[RunFolder]) -> str | None:
    """The store that the most of these runs are in."""
    stores = [uri for run in runs for uri, state in _stores(run).items() if state.get("run_id")]
    return max(dict.fromkeys(stores), key=stores.count, default=None)


def place_of(uri: str, runs: list[RunFolder]) -> str | None:
    """Where the store that the runs note as ``uri`` is now: a file may have moved with them. None if it is not here."""
    path = store.sqlite_path(uri)
    if path is None or path.is_file():
        return uri
    above = dict.fromkeys(folder for run in runs for folder in run.path.parents[:2])
    return next((f"sqlite:///{folder / path.name}" for folder in above if (folder / path.name).is_file()), None)


def stored(run: RunFolder, uri: str) -> tuple[str, str] | None:
    """The run's and the experiment's id in a store; None if it is not there."""
    state = _stores(run).get(uri) or {}
    return (state["run_id"], state["experiment_id"]) if state.get("run_id") else None


class Parent:
    """The parent run of a sweep in the store ``uri``, which is at ``place`` now.

    Making it and ``put`` raise ``store.NotDelivered`` if the store fails.
    """

    def __init__(self, sweep: SweepFolder, runs: list[RunFolder], uri: str, place: str) -> None:
        self.name, self.place = sweep.path.name, place
        self.experiment = next(found[1] for run in runs if (found := stored(run, uri)))
        with store.refusals(place):
            self.client = store.connect(place)
            self.run = parent.ensure(self.client, uri, self.experiment, sweep.info)

    def put(self, done: Report, points: list[Point]) -> None:
        """The report's files, and the view on the points."""
        with store.refusals(self.place):
            for path in (done.markdown, done.csv, done.html):
                self.client.log_artifact(self.run, str(path), "report")
            views.save(self.client, self.experiment, self.run, self.name, points, done)


def _search(client, query: str, experiment: str) -> list:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise UserError(f"there is no experiment {experiment!r} in this store: name one with --experiment")
    runs, token = [], None
    while True:
        page = client.search_runs([found.experiment_id], query, max_results=1000, page_token=token)
        runs, token = [*runs, *page], page.token
        if not token:
            return runs


def _stores(run: RunFolder) -> dict:
    return read_json(run.mlflow).get("stores") or {}
