"""The built wheel carries the configuration and runs from another folder, with nothing of the checkout in sight."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The wheel's files unpacked into a folder that comes first on the path, as an installation puts them."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("vmamba-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_the_wheel_has_three_packages_and_the_tree(site):
    tops = {p.name for p in site.iterdir() if not p.name.endswith(".dist-info")}
    assert {"vmamba", "vmamba_ops", "vmamba_tasks"} <= tops
    assert not tops & {"ops", "tasks", "conf", "tests", "sweeps"}
    inside = {p.name for p in (site / "vmamba" / "conf").iterdir()}
    assert {"config.yaml", "model", "forward_type", "experiment"} <= inside


def test_it_runs_from_another_folder(site, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(site)}
    where = (
        "import vmamba, vmamba_ops, vmamba_tasks; print(vmamba.__file__, vmamba_ops.__file__, vmamba_tasks.__file__)"
    )
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert all(path.startswith(str(site)) for path in found.stdout.split()), found.stdout + found.stderr
    command = [sys.executable, "-m", "vmamba.run", "debug=smoke", "tracking=none"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob("outputs/*/result.json"))
