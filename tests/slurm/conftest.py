"""A SLURM cluster for the tests of this folder (``cluster.sh``), or the reason why there is none."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CODE = ("vmamba", "ops/vmamba_ops", "tasks/vmamba_tasks", "hydra_plugins", "conf", "sweeps")


class Cluster:
    """Commands on the cluster."""

    def __init__(self, folder: Path) -> None:
        self.environment = os.environ | {
            "CLUSTER_DIR": str(folder),
            "CLUSTER_PORT": str(_free_ports(10)),
            "CLUSTER_GRACE": "20",
            "CLUSTER_NODES": "5",
            "CLUSTER_ARRAY": "5",  # one less than the points of a sweep here
            "OMP_NUM_THREADS": "1",
        }

    def script(self, *words: str) -> subprocess.CompletedProcess:
        """One of the script's own commands."""
        return self._call([str(HERE / "cluster.sh"), *words])

    def run(self, *command: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
        """A command that sees the cluster."""
        return self._call([str(HERE / "cluster.sh"), "run", *command], cwd=cwd, env=self.environment | env)

    def say(self, *command: str) -> str:
        """What a command that must succeed prints."""
        done = self.run(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def _call(self, command: list[str], cwd=None, env=None) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=cwd, env=env or self.environment, capture_output=True, text=True, timeout=280
        )


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, up. Not in pytest's own folder, which is closed to others: munged refuses that."""
    folder = Path(tempfile.mkdtemp(prefix="vmamba-slurm-"))
    found = Cluster(folder)
    began = found.script("up")
    if began.returncode:
        found.script("down")
        pytest.skip(f"no SLURM here: {(began.stderr.strip().splitlines() or ['?'])[-1]}")
    yield found
    found.script("down")
    shutil.rmtree(folder, ignore_errors=True)


class Project:
    """A user's folder beside a checkout of the code that can be spoiled."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.checkout = cluster, folder, folder / "checkout"
        for name in CODE:
            shutil.copytree(ROOT / name, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(HERE / "slow_task.py", folder)

    def vmamba(self, *words: str) -> subprocess.CompletedProcess:
        """``python -m vmamba.run`` of the checkout."""
        roots = os.pathsep.join(str(self.checkout / name) for name in ("", "ops", "tasks"))
        return self.cluster.run(
            sys.executable, "-m", "vmamba.run", *words, cwd=self.folder, PYTHONPATH=roots, PYTHONSAFEPATH="1"
        )

    def sweep(self, *words: str) -> subprocess.CompletedProcess:
        """``python -m vmamba.sweep`` of the code under test."""
        return self.cluster.run(sys.executable, "-m", "vmamba.sweep", *words, cwd=self.folder)


@pytest.fixture(scope="module")
def project(cluster, tmp_path_factory) -> Project:
    return Project(cluster, tmp_path_factory.mktemp("project"))


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    for first in range(27900, 31000, count):
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
