import shutil
import sqlite3
from pathlib import Path

import pytest

from vmamba.tracking.folder import RunFolder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A sqlite store with MLflow's schema and nothing in it, made once."""
    from vmamba.tracking import store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    store.quiet()
    store._make(path)
    return path


@pytest.fixture
def outputs(tmp_path, empty_store):
    """An outputs folder whose store exists already."""
    path = tmp_path / "outputs"
    path.mkdir()
    shutil.copy(empty_store, path / "mlflow.db")
    return path


@pytest.fixture(scope="session")
def make_run():
    return fill


@pytest.fixture(scope="session")
def make_config():
    return config


def fill(path: Path, steps: int = 30, state: str | None = "finished", **tracking) -> RunFolder:
    """A small run folder with everything in it."""
    folder = RunFolder(path).create()
    folder.write_config(config(path.parent, **tracking), ["model=nano", "seed=3"])
    data = {"name": "digits", "train": {"images": 1438, "sha256": "d3"}, "val": {"images": 359, "sha256": "61"}}
    hardware = {"host": "here", "cpu": "X9"}
    facts = {"op_backend": "cpu", "compiled": "reduce-overhead"}
    folder.write_manifest({"git": {"commit": "c0ffee", "dirty": True}, "hardware": hardware, "data": data, **facts})
    folder.write_status("running")
    with folder.writer() as writer:
        for step in range(1, steps + 1):
            values = {"train/loss": 2.0 / step, "train/lr": 1e-3}
            if step % 10 == 0:
                values["val/acc1"] = 50.0 + step
            writer.log(step, step / 10, values)
    (folder.checkpoints / "best.pt").write_bytes(b"weights")
    if state == "finished":
        folder.write_result(
            {"final": {"val/acc1": 80.0}, "best": {"val/acc1": 80.5, "epoch": 3}, "images_per_s": 900.5}
        )
    if state and state != "running":
        folder.write_status(state)
    return folder


def config(outputs: Path, **tracking) -> dict:
    return {
        "model": {"name": "nano", "depths": [1, 2]},
        "task": {"name": "cls"},
        "forward_type": {"name": "v05", "use": "for people"},
        "norm": {"name": "ln2d"},
        "data": {"name": "digits", "classes": "long " * 200},
        "scan": {"backend": "auto"},
        "seed": 3,
        "outputs": str(outputs),
        "tracking": {"store": "mlflow", "uri": None, "experiment": "exp", "system_metrics": False, **tracking},
    }


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL of the tests' own."""
    from postgres import NoPostgres, Postgres

    try:
        found = Postgres()
    except NoPostgres as reason:
        pytest.skip(str(reason))
    try:
        yield found.start()
    finally:
        found.stop()


@pytest.fixture(scope="session")
def server(postgres, tmp_path_factory):
    """A team's server on it."""
    from servers import served

    with served(postgres, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def query():
    """Rows of a sqlite store, asked for past MLflow."""

    def ask(path: Path, sql: str) -> list[tuple]:
        with sqlite3.connect(path) as database:
            return database.execute(sql).fetchall()

    return ask
