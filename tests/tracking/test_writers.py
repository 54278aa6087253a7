"""Sixteen processes logging at once into one store: nothing lost, nothing doubled, no run failed."""

import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from servers import USER, login

from vmamba.bench import writers
from vmamba.bench.delivered import check
from vmamba.tracking import store
from vmamba.tracking.folder import RunFolder

WRITERS, STEPS, VALUES = 16, 30, 8
PRELOAD = [
    "mlflow.tracking.client",
    "mlflow.store.tracking.sqlalchemy_store",
    "vmamba.tracking.follower",
]  # once for all
STORES = ["sqlite", pytest.param("server", marks=pytest.mark.postgres)]


def write(path: Path, uri: str, user: dict, gate, told) -> None:
    """A run that delivers in between, as a feeder does, in a process that has MLflow imported already."""
    from vmamba.tracking.follower import Follower

    os.environ |= user  # the fork server began before
    folder = RunFolder(path).create()
    folder.write_config({"outputs": str(path.parent), "tracking": {"uri": uri, "experiment": writers.EXPERIMENT}})
    folder.write_status("running")
    follower = Follower(folder, threading.Event(), os.open(os.devnull, os.O_WRONLY))
    gate.wait(240)
    with folder.writer() as writer:
        for step in range(1, STEPS + 1):
            writer.log(step, step / STEPS, {f"train/m{number}": step + number / VALUES for number in range(VALUES)})
            if step % 10 == 0:
                follower.attempt(last=False)
    folder.write_status("finished")
    told.put(any(follower.attempt(last=True) for _ in range(3)))


@pytest.mark.parametrize("kind", STORES)
def test_sixteen_writers_at_once(kind, request, tmp_path, monkeypatch):
    uri, user = f"sqlite:///{tmp_path / 'mlflow.db'}", {}
    if kind == "server":
        uri = request.getfixturevalue("server").uri
        login(monkeypatch, *USER)
        user = {name: os.environ[name] for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    gate, told = context.Barrier(WRITERS), context.Queue()
    folders = [RunFolder(tmp_path / f"writer-{number}") for number in range(WRITERS)]
    processes = [context.Process(target=write, args=(folder.path, uri, user, gate, told)) for folder in folders]
    for process in processes:
        process.start()
    assert [told.get(timeout=240) for _ in processes] == [True] * WRITERS
    for process in processes:
        process.join()
    found = check(store.connect(uri), writers.EXPERIMENT, folders)
    assert found.well and found.runs == WRITERS and found.values == WRITERS * STEPS * VALUES, found


@pytest.mark.slow
def test_the_command_says_what_it_found(capsys):
    assert writers.main(["--writers", "1", "--steps", "20"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:6] == ["store", "writers", "steps", "values", "lost", "doubled"]
    assert row.split()[:6] == ["sqlite", "1", "20", "160", "0", "0"]
