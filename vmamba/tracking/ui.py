"""``mlflow ui`` on this machine: the command, its address, and starting it when nobody listens yet."""

import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from vmamba.config.errors import UserError
from vmamba.tracking.store import quiet, sqlite_path

START_SECONDS = 120.0


def address(uri: str, port: int) -> str:
    """Where MLflow's pages on ``uri`` are: the server itself, or the local one on ``port``."""
    return uri if uri.startswith("http") else f"http://127.0.0.1:{port}"


def command(uri: str, port: int) -> str:
    """What a user types to start it."""
    path = sqlite_path(uri)
    place = f"{path.parent}" if path is not None and path.name == "mlflow.db" else f"--uri {uri}"
    return f"python -m vmamba.track ui {place}" + ("" if port == 5000 else f" --port {port}")


def arguments(uri: str, port: int, root: Path) -> list[str]:
    """The process: 127.0.0.1 only (it has no password), one worker, no job runner. ``root``: of new artifacts."""
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    quiet()
    store = ["--backend-store-uri", uri, "--default-artifact-root", str(root)]
    return [sys.executable, "-m", "mlflow", "ui", *store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def artifacts(uri: str, outputs: Path) -> Path:
    """Where a local server puts new artifacts."""
    path = sqlite_path(uri)
    return (path.parent if path else outputs.resolve()) / "mlartifacts"


def free(port: int) -> str:
    """Empty if ``port`` can be had on 127.0.0.1, else the reason why not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return str(error.strerror)
    return ""


def ensure(uri: str, port: int, run_id: str) -> None:
    """Starts a server of its own, which stays, unless MLflow answers on ``port`` already; waits until it does.

    UserError if something else has the port, MLflow on another store (one without the run ``run_id``) included, or if
    the server does not come up.
    """
    if _answers(port):
        if not _answers(port, f"api/2.0/mlflow/runs/get?run_id={run_id}"):
            raise UserError(f"port {port} has MLflow on another store than {uri}: choose another port with --port")
        return
    if why := free(port):
        raise UserError(f"port {port} is taken ({why}): choose another with --port")
    root = artifacts(uri, Path("outputs"))
    process = subprocess.Popen(
        arguments(uri, port, root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if _answers(port):
            print(f"mlflow ui runs on http://127.0.0.1:{port} as process {process.pid} (kill {process.pid} ends it)")
            return
        time.sleep(0.3)
    raise UserError(f"mlflow ui did not start on port {port}: see what `{command(uri, port)}` says")


def _answers(port: int, path: str = "health") -> bool:
    """Whether MLflow on ``port`` has the page ``path``."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as reply:
            return path != "health" or reply.read(2) == b"OK"
    except (OSError, http.client.HTTPException):
        return False
