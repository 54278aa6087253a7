"""A small sweep made by the command, MLflow's server on it as ``compare --open`` starts it, and headless Chromium."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

MODEL = ["model.depths=[1,1]", "model.dims=[8,16]", "data.img_size=16", "data.workers=0", "device=cpu", "scan=cpu"]
SHORT = ["recipe.epochs=2", "recipe.warmup=0", "recipe.batch_size=256", "recipe.eval_every=1", "log_every=2"]
WORDS = [*MODEL, *SHORT, "tracking.system_metrics=false"]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
# the UI's first visit: model training, and without the panel that covers a quarter of the page
SEEN = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}


@dataclass(frozen=True)
class Site:
    """The sweep, MLflow on it, and what the command that opened both has printed and opened."""

    sweep: Path
    said: str
    opened: list[str]
    port: int
    process: int

    def page(self, words: str) -> str:
        """The address printed for "MLflow, <words>…"."""
        return re.search(rf"^MLflow, {words}.*?: (http\S+)$", self.said, re.MULTILINE)[1]


def python(cwd: Path, *words: str, **env: str) -> subprocess.CompletedProcess:
    """A command as a user types it, to its end."""
    env = os.environ | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.run([sys.executable, "-m", *words], cwd=cwd, capture_output=True, text=True, env=env, timeout=800)


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Iterator[Site]:
    """Two norms by two seeds; then ``compare --open``, which starts MLflow's server."""
    folder = tmp_path_factory.mktemp("site")
    done = python(folder, "vmamba.run", "-m", *WORDS, "norm=ln,bn", "seed=0,1")
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = (folder / "outputs").glob("sweep-*")
    port, visits = _free_port(), folder / "visits"
    browser = folder / "browser"  # what webbrowser calls, in place of a window
    browser.write_text(f'#!/bin/sh\necho "$1" >> {visits}\n')
    browser.chmod(0o755)
    shown = python(folder, "vmamba.compare", str(sweep), "--port", str(port), "--open", BROWSER=f"{browser} %s")
    assert shown.returncode == 0, shown.stderr
    process = int(re.search(r"as process (\d+)", shown.stdout)[1])
    try:
        yield Site(sweep, shown.stdout, visits.read_text().split(), port, process)
    finally:
        os.killpg(process, signal.SIGTERM)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Debian's Chromium; as root it is installed where it is missing."""
    name = shutil.which("chromium")
    if name is None and os.geteuid() == 0 and shutil.which("apt-get"):
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", "-qq", *words], env=env, capture_output=True, timeout=240)
        name = shutil.which("chromium")
    return name or pytest.skip("no chromium here: apt-get install chromium (as root the tests do it themselves)")


@pytest.fixture
def tabs(chromium, tmp_path):
    """A fresh profile, wide enough for the tables."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here: it comes with the dev extra")
    items = "; ".join(f"localStorage.setItem({key!r}, {value!r})" for key, value in SEEN.items())
    with api.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(tmp_path / "profile"), executable_path=chromium, headless=True, args=FLAGS,
            viewport={"width": 2200, "height": 1000},
        )  # fmt: skip
        context.add_init_script(f"if (location.protocol !== 'file:') {{ {items} }}")
        context.set_default_timeout(60_000)
        yield context
        context.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
