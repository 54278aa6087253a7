"""An MLflow server of one's own on 127.0.0.1: started, killed and started again on the same port and data."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

START_SECONDS = 120.0


class Server:
    """``mlflow server`` in a session of its own; what it says is in ``server.log`` of its folder.

    ``backend``: the database's URI (None: an sqlite file in ``folder``). Artifacts go through the server to ``folder``.
    ``words``: further arguments, ``env``: further environment of the process.
    """

    def __init__(self, folder: Path, backend: str | None = None, words: tuple[str, ...] = (), **env: str):
        self.folder, self.log = folder, folder / "server.log"
        self.backend = backend or f"sqlite:///{folder / 'server.db'}"
        self.artifacts = folder / "artifacts"
        self.port, self.words = _free_port(), words
        self.env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"} | env
        self.process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        """What ``tracking.uri`` is to be."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> "Server":
        """Starts it, and waits until it answers. RuntimeError with the end of its log if it does not."""
        words = [*self.words, "--backend-store-uri", self.backend, "--artifacts-destination", str(self.artifacts)]
        words += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                cwd=self.folder, env=os.environ | self.env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        if wait:
            self.wait()
        return self

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Until it answers."""
        end = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > end or self.process.poll() is not None:
                self.stop(signal.SIGKILL)
                raise RuntimeError(f"mlflow server did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it does, now."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as reply:
                return reply.status == 200
        except OSError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends its processes; ``SIGKILL`` as a crash does."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
