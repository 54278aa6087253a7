"""Which MLflow store a run belongs to, and opening it: the sqlite file's schema made once, whoever comes first."""

import errno
import fcntl
import os
import re
import socket
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from vmamba.config import secrets
from vmamba.config.errors import UserError
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.refusals import Held, NotDelivered, refusals

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
NETWORK_FILES = (
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "cifs",
    "smb3",
    "ceph",
    "fuse.sshfs",
)  # sqlite's WAL fails there
LOCK_SECONDS = 120.0


def outputs_of(folder: RunFolder, config: dict) -> Path:
    """The folder of all runs: the configured one where it is here and writable, else the one above run or sweep."""
    configured = Path(str(config.get("outputs") or folder.path.parent))
    if configured.is_absolute() and configured.is_dir() and os.access(configured, os.W_OK):
        return configured
    above = folder.path.parent
    return above.parent if (above / "sweep.json").is_file() else above


def uri_of(folder: RunFolder, config: dict, given: str | None = None) -> str:
    """The store's absolute URI: ``given`` (relative to here), the configured, or mlflow.db in the outputs folder."""
    outputs = outputs_of(folder, config)
    configured = (config.get("tracking") or {}).get("uri")
    if given:
        return absolute(given, Path.cwd())
    return absolute(configured, outputs) if configured else f"sqlite:///{outputs / 'mlflow.db'}"


def absolute(uri: str, base: Path) -> str:
    """Makes a relative sqlite path absolute, from ``base``. UserError for a kind that is none, or a password in it."""
    if line := secrets.in_uri("the tracking uri", uri):
        raise UserError(line)
    scheme = uri.split(":", 1)[0].split("+", 1)[0] if ":" in uri else ""
    if scheme not in SCHEMES:
        raise UserError(
            f"tracking uri '{uri}': MLflow takes http(s)://host:port, sqlite:////absolute/path.db or another database "
            f"({', '.join(SCHEMES[3:])}); its old folder store is closed"
        )
    path = sqlite_path(uri)
    return uri if path is None or path.is_absolute() else f"sqlite:///{(base / path).resolve()}"


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite URI, None for another kind."""
    return Path(uri[len("sqlite:///") :].split("?", 1)[0]) if uri.startswith("sqlite:///") else None


def probe(uri: str, timeout: float = 3.0) -> None:
    """Raises ``NotDelivered`` if nobody listens at an http(s) ``uri``; costs at most ``timeout`` seconds."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    host = parts.hostname or ""
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((host, port), timeout).close()
    except (OSError, ValueError) as error:
        raise NotDelivered(f"no MLflow server answers at {uri} ({error})") from error


def connect(uri: str):
    """An ``MlflowClient`` on ``uri``. A sqlite file that is not there is made, whole or not at all.

    Raises ``NotDelivered`` where the store cannot be reached or is of another MLflow version.
    """
    probe(uri)
    quiet()
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    with refusals(uri):
        if path is None:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
            return client
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f".{path.name}.lock")):
            if not path.exists() or path.stat().st_size == 0:
                _make(path)
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    return client


def experiment(client, uri: str, name: str, outputs: Path) -> str:
    """The id of the experiment ``name``, made if need be; artifacts of a database store go to ``mlartifacts``."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        path = sqlite_path(uri)
        root = (path.parent if path else outputs) / "mlartifacts" / re.sub(r"[^\w.-]", "_", name)
        try:
            return client.create_experiment(name, None if uri.startswith("http") else str(root))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise NotDelivered(f"experiment '{name}' is deleted in {uri}: restore it there, or set tracking.experiment")
    return found.experiment_id


@contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Holds the lock file ``path`` (freed by the system if its holder dies); ``NotDelivered`` after ``seconds``."""
    with open(path, "a") as file:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Held(f"{path} is held by another process") from None
                time.sleep(0.1)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                break  # a network file system without locks: go on as the only one
        yield


@contextmanager
def patience(seconds: int) -> Iterator[None]:
    """Lets single requests to a server take ``seconds``, for uploads."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    usual = os.environ[name]
    os.environ[name] = str(max(seconds, int(usual)))
    try:
        yield
    finally:
        os.environ[name] = usual


def quiet() -> None:
    """MLflow's settings for a process that must neither chat nor hang; what the user has set stays."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)


def _make(path: Path) -> None:
    """A fresh schema under another name, then in place in one rename: a kill half-way leaves no broken store."""
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    temp = path.with_name(f".{path.name}.new")
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{temp}{suffix}").unlink(missing_ok=True)
    from sqlalchemy import Engine, event

    def hasten(connection, record) -> None:
        connection.execute("PRAGMA synchronous=OFF")  # a hundred migrations, each synced; the file is, once it is whole

    event.listen(Engine, "connect", hasten)
    try:
        SqlAlchemyStore(f"sqlite:///{temp}", str(path.parent / "mlartifacts")).engine.dispose()
    finally:
        event.remove(Engine, "connect", hasten)
    with open(temp, "rb") as file:
        os.fsync(file.fileno())
    if not on_network(path.parent):
        with closing(sqlite3.connect(temp)) as database:
            database.execute("PRAGMA journal_mode=WAL")
    os.replace(temp, path)


def on_network(path: Path) -> bool:
    """Whether ``path`` lies on a network file system, as far as the mount table tells."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return False
    above = [(len(point), kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return bool(above) and max(above)[1] in NETWORK_FILES
