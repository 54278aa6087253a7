"""The run in MLflow that the points of a sweep hang under: made once, before the first point starts.

``python -m vmamba.tracking.parent SWEEP`` waits for a word on its standard input (so that importing MLflow, which
takes seconds, goes on beside the composing of the points), then makes store, experiment and parent run.
"""

import sys
import time
from pathlib import Path

from vmamba.tracking import store
from vmamba.tracking.atomic import read_json, write_json

UID = "vmamba.uid"
PARENT = "mlflow.parentRunId"


def ensure(client, uri: str, experiment_id: str, info_path: Path) -> str | None:
    """The id of the parent run of the sweep that ``info_path`` (its sweep.json) describes, made if need be.

    None where there is no sweep. It is finished from the start: it only groups.
    """
    info = read_json(info_path)
    if not info.get("uid"):
        return None
    known = info.get("stores", {}).get(uri)
    if known:
        return known
    with store.locked(info_path.with_name(".parent.lock")):  # every point comes here where the launcher could not
        runs = client.search_runs([experiment_id], f"tags.`{UID}` = '{info['uid']}'", max_results=1)
        return runs[0].info.run_id if runs else _create(client, experiment_id, info_path.parent, info)


def _create(client, experiment_id: str, sweep: Path, info: dict) -> str:
    tags = {
        UID: info["uid"],
        "kind": "sweep",
        "sweep_folder": str(sweep),
        "overrides": " ".join(info["command"])[:5000] or "(none)",
        "varied": " ".join(info["varied"])[:5000],
        "points": str(info["points"]),
    }
    run = client.create_run(experiment_id, int(info["created"] * 1000), tags, info["name"])
    client.set_terminated(run.info.run_id, "FINISHED", int(time.time() * 1000))
    return run.info.run_id


def main() -> int:
    """Prints one line, and leaves with 1, where the store cannot be had: the runs then make up for it themselves."""
    sweep = Path(sys.argv[1])
    from vmamba.tracking.describe import config_of
    from vmamba.tracking.folder import RunFolder

    store.quiet()
    import mlflow  # noqa: F401  the slow part

    if not (first := sys.stdin.readline().strip()):
        return 0
    folder = RunFolder(sweep / first)
    config = config_of(folder)
    outputs, uri = store.outputs_of(folder, config), store.uri_of(folder, config)
    try:
        with store.refusals(uri):
            client = store.connect(uri)
            experiment = store.experiment(client, uri, (config.get("tracking") or {}).get("experiment"), outputs)
            if first == ".":  # a run sent elsewhere by itself: there is nothing to group
                return 0
            found = ensure(client, uri, experiment, sweep / "sweep.json")
    except store.NotDelivered as error:
        print(error)
        return 1
    info = read_json(sweep / "sweep.json")
    info["stores"] = info.get("stores", {}) | {uri: found}
    write_json(sweep / "sweep.json", info)
    return 0


if __name__ == "__main__":
    sys.exit(main())
