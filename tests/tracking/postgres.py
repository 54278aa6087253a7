"""A PostgreSQL of the tests' own: Debian's packages, a cluster in a temporary folder, 127.0.0.1 alone, no root."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")  # exit code 101 there: a package starts no daemon


class NoPostgres(Exception):
    """Why there is none here."""


class Postgres:
    """A running server with a user ``mlflow`` that has a password; ``environment`` is what libpq needs to get in."""

    def __init__(self) -> None:
        self.bin = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="vmamba-postgres-"))
        self.password = secrets.token_hex(12)
        self.user = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
        self.process: subprocess.Popen | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    @property
    def environment(self) -> dict[str, str]:
        """For the process that connects to ``postgresql+psycopg2:///DATABASE``."""
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "mlflow", "PGPASSWORD": self.password}

    def start(self) -> "Postgres":
        """Makes the cluster and waits until it answers. RuntimeError with its log if it does not."""
        data, word = self.folder / "data", self.folder / "password"
        word.write_text(self.password)
        if self.user:
            shutil.chown(self.folder, self.user)
            shutil.chown(word, self.user)
        made = self._run(
            "initdb", "--no-sync", "-D", str(data), "-U", "mlflow", "--auth=scram-sha-256", f"--pwfile={word}"
        )
        if made.returncode:
            raise RuntimeError(f"initdb: {made.stderr}")
        word.unlink()
        with open(self.folder / "log", "wb") as log:
            words = [
                "-p",
                str(self.port),
                "-c",
                "listen_addresses=127.0.0.1",
                "-k",
                str(self.folder),
                "-c",
                "fsync=off",
            ]
            self.process = subprocess.Popen(
                [self.bin / "postgres", "-D", data, *words], stdout=log, stderr=log, user=self.user, cwd=self.folder
            )
        end = time.monotonic() + 60
        while self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port)).returncode:
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"postgres: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def database(self, name: str) -> str:
        """A new database; its URI."""
        made = self._run("createdb", name, **self.environment)
        assert made.returncode == 0, made.stderr
        return f"postgresql+psycopg2:///{name}"

    def ask(self, database: str, sql: str) -> list[tuple]:
        """Rows, asked for past MLflow."""
        import psycopg2

        there = {"host": "127.0.0.1", "port": self.port, "user": "mlflow", "password": self.password}
        with psycopg2.connect(dbname=database, **there) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def stop(self) -> None:
        """Ends it, and removes its folder."""
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *words: str, **env: str) -> subprocess.CompletedProcess:
        command = [str(self.bin / program), *words]
        return subprocess.run(
            command, capture_output=True, text=True, env=os.environ | env, user=self.user, cwd=self.folder, timeout=120
        )


def programs() -> Path:
    """The folder of Debian's PostgreSQL programs, installed if need be. NoPostgres where that cannot be."""
    if found := _newest():
        return found
    if os.getuid() or not shutil.which("apt-get"):
        raise NoPostgres("no PostgreSQL here: apt-get install postgresql (or run the tests as root, on Debian)")
    keep = POLICY.exists()
    if not keep:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        for words in (["update"], ["install", "-y", "--no-install-recommends", "postgresql"]):
            done = subprocess.run(["apt-get", "-qq", *words], capture_output=True, text=True, timeout=240)
            if done.returncode:
                raise NoPostgres(f"apt-get could not install postgresql: {done.stderr.strip().splitlines()[-1]}")
    finally:
        if not keep:
            POLICY.unlink()
    return _newest()


def _newest() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None
