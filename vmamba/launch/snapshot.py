"""A copy of the code in the sweep folder, and the environment in which a job runs from it."""

import os
import shutil
import subprocess
from pathlib import Path

from vmamba.config.paths import PACKAGE
from vmamba.tracking import manifest
from vmamba.tracking.atomic import write_json

CHECKOUT = ("vmamba", "ops/vmamba_ops", "tasks/vmamba_tasks", "hydra_plugins", "conf", "sweeps")
WHEEL = ("vmamba", "vmamba_ops", "vmamba_tasks", "hydra_plugins")
ROOTS = ("", "ops", "tasks")
DIFF = "local.diff"  # what differs from the commit that git.json names


def take(target: Path) -> None:
    """Copies what a run imports and reads: of a checkout the tracked files and the new ones that git does not ignore,
    as they are now; of an installed wheel the packages."""
    root, git = PACKAGE.parent, manifest.git()
    files = _listed(root) if git else None
    if files is None:
        for name in [name for name in {*CHECKOUT, *WHEEL} if (root / name).is_dir()]:
            # an installation's hydra_plugins is shared with other packages; only ours is copied
            ours = "vmamba*" if name == "hydra_plugins" else "*"
            for path in (root / name).rglob(ours):
                if path.is_file() and "__pycache__" not in path.parts:
                    _copy(path, target / path.relative_to(root))
        return
    for name in files:
        if (root / name).is_file():  # not one that is deleted in the working tree
            _copy(root / name, target / name)
    write_json(target / manifest.SNAPSHOT, git)
    if git["dirty"]:
        diff = subprocess.run(["git", "-C", str(root), "diff", "--binary", "HEAD"], capture_output=True)
        (target / DIFF).write_bytes(diff.stdout)


def environment(code: Path | None, cwd: str) -> dict[str, str]:
    """Variables that make a Python import from ``code`` (None: from where this one does), then from the user's folder.

    Without PYTHONSAFEPATH ``python -m`` would look into the working directory first, which may be the checkout.
    """
    root = code or PACKAGE.parent
    roots = [str(root / name) for name in ROOTS if (root / name).is_dir()]
    before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {"PYTHONPATH": os.pathsep.join([*roots, *before, cwd]), "PYTHONSAFEPATH": "1"}


def _listed(root: Path) -> list[str] | None:
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CHECKOUT]
    done = subprocess.run(command, capture_output=True, text=True)
    return [name for name in done.stdout.split("\0") if name] if done.returncode == 0 else None


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
