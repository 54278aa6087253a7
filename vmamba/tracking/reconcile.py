"""Runs whose process died before it, or its feeder, could say so: the run folder and MLflow are told afterwards."""

from collections.abc import Iterable

from vmamba.tracking import feeder
from vmamba.tracking.atomic import read_json
from vmamba.tracking.describe import config_of
from vmamba.tracking.folder import ENDED, RunFolder
from vmamba.tracking.mlflow_view import View
from vmamba.tracking.refusals import Held, NotDelivered
from vmamba.tracking.store import locked, uri_of


def reconcile(runs: Iterable[tuple[RunFolder, str]]) -> list[str]:
    """Ends what only seems to run, and delivers what ended undelivered; returns a line for each that changed or failed.

    ``runs``: run folders, each with the reason why its process is known to be gone ("" where that is not known; it is
    then looked for, on its own host). A store that fails is asked once.
    """
    lines: list[str] = []
    silent: set[str] = set()
    for folder, gone in runs:
        try:
            line = "; ".join(filter(None, (_end(folder, gone), _deliver(folder, silent))))
        except OSError as error:
            line = f"left as it is ({error.strerror or error})"
        except NotDelivered as error:
            line = f"MLflow: {error}"
        if line:
            lines.append(f"{folder.name}: {line}")
    return lines


def _end(folder: RunFolder, gone: str) -> str:
    before = folder.read_status().get("state")
    if before != "running" and not (before == "queued" and gone and folder.mlflow.is_file()):
        return ""  # a point that never began has nothing in MLflow that could be wrong
    if gone:
        folder.write_status("killed", error=gone)
    else:
        feeder.settle(folder)
    after = folder.read_status()
    return "" if after.get("state") == before else f"was still noted as running, is {after['state']} now"


def _deliver(folder: RunFolder, silent: set[str]) -> str:
    """Tells MLflow of a run that has ended, where it has not been told or its telling did not get through."""
    if folder.read_status().get("state") not in ENDED or not _owed(folder):
        return ""
    uri = uri_of(folder, config_of(folder))
    if uri in silent:
        return ""
    try:
        with locked(folder.path / ".feeder.lock", seconds=0.0):
            view = View(folder, uri).open()
            view.close()
            feeder.note(folder, True, f"MLflow: {view.where()}")
    except Held:  # its own feeder is at it
        return ""
    except NotDelivered:
        silent.add(uri)
        raise
    return "delivered to MLflow"


def _owed(folder: RunFolder) -> bool:
    """Whether a feeder has begun and not said that all arrived; or a store still has an open run of a dead one."""
    notes = read_json(folder.mlflow)
    unsaid = not notes.get("delivered", False)
    return bool(notes) and (unsaid or any(state.get("open") for state in notes.get("stores", {}).values()))
