"""MLflow's side of a comparison: from runs in a store to their folders, the compare page, the report beside them."""

import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from vmamba.compare.points import Point
from vmamba.config.errors import UserError
from vmamba.tracking import store
from vmamba.tracking.atomic import read_json

LONGEST = 100  # runs in a link: browsers and servers cut longer addresses


def folders(uri: str, *, ids: Iterable[str] = (), query: str = "", experiment: str = "vmamba") -> list[Path]:
    """The folders of the runs with these ids, or of those a filter finds ("tags.sweep = 'x' and params.seed = '0'").

    UserError for an unknown run or experiment, a filter MLflow does not take, or runs whose folders are not here.
    """
    client = store.connect(uri)
    try:
        with store.refusals(uri):
            runs = [client.get_run(run) for run in ids] if ids else _search(client, query, experiment)
    except store.NotDelivered as error:
        raise UserError(str(error)) from error
    if not runs:
        raise UserError(f"{uri}: no run fits --filter {query!r} in experiment {experiment}")
    paths = [Path(run.data.tags.get("run_folder", "")) for run in runs if "run_folder" in run.data.tags]
    here = [path for path in paths if path.is_dir()]
    if not here:
        raise UserError(f"{uri}: found {len(runs)} runs, but none of their run folders is on this machine")
    return here


def compare_link(points: list[Point], base: str) -> str:
    """MLflow's compare page for these runs, on a server at ``base``; empty if none of them is in a store."""
    known = [found for point in points if (found := _stored(point))][:LONGEST]
    if not known:
        return ""
    ids = quote(json.dumps([run for run, _ in known]))
    experiments = quote(json.dumps(list(dict.fromkeys(experiment for _, experiment in known))))
    return f"{base.rstrip('/')}/#/compare-runs?runs={ids}&experiments={experiments}"


def uri_of(points: list[Point]) -> str | None:
    """The store the first delivered run is in."""
    for point in points:
        for uri, state in (read_json(point.folder.mlflow).get("stores") or {}).items():
            if state.get("run_id"):
                return uri
    return None


def log_report(uri: str, run_id: str, *paths: Path) -> None:
    """Puts the report's files beside the parent run of a sweep. Raises ``store.NotDelivered`` if the store fails."""
    with store.refusals(uri):
        client = store.connect(uri)
        for path in paths:
            client.log_artifact(run_id, str(path), "report")


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


def _stored(point: Point) -> tuple[str, str] | None:
    for state in (read_json(point.folder.mlflow).get("stores") or {}).values():
        if state.get("run_id"):
            return state["run_id"], state["experiment_id"]
    return None
