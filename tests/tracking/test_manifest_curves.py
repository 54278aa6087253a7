"""The manifest's content, and the picture: there, not blank, for runs short, empty and broken."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from vmamba.tracking import curves, manifest
from vmamba.tracking.folder import RunFolder


def test_manifest_says_what_the_run_ran_on(tmp_path):
    found = manifest.collect(SimpleNamespace(seed=7), "cpu", scan="cpu", data={"fingerprint": "abc"})
    assert found["seed"] == 7 and found["scan"] == "cpu" and found["data"] == {"fingerprint": "abc"}
    assert found["versions"]["torch"] and found["versions"]["mlflow"].startswith("3.")
    assert found["hardware"]["cores"] >= 1 and found["hardware"]["ram_gib"] > 0 and found["hardware"]["host"]
    RunFolder(tmp_path).write_manifest(found)


def test_git_commit_and_dirt(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert manifest.git(package) is None
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    clean = manifest.git(package)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (package / "__init__.py").write_text("x = 1")
    assert manifest.git(package)["dirty"] is True
    (tmp_path / "ignored").mkdir()
    (tmp_path / "ignored" / "__init__.py").write_text("")
    assert manifest.git(tmp_path / "ignored") is None


def test_git_missing_is_no_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert manifest.git() is None


CASES = {
    "none": [],
    "one": [{"train/loss": 1.0, "train/lr": 1e-3}],
    "long": [{"train/loss": 2.0 / (i + 1), "train/lr": 1e-3, "val/acc1": i / 2} for i in range(200)],
    "nan": [{"train/loss": 1.0}, {"train/loss": float("nan")}, {"val/loss": float("inf")}],
    "all_nan": [{"train/loss": float("nan")}] * 3,
    "odd_names": [{"val/bbox_mAP": 0.3, "grad_norm": 1.0}, {"val/bbox_mAP": 0.4, "val/mIoU": 4.0}],
}


@pytest.mark.parametrize("case", CASES)
def test_curves_are_drawn(tmp_path, case):
    from PIL import Image

    folder = RunFolder(tmp_path / "run").create()
    with folder.writer() as writer:
        for step, values in enumerate(CASES[case]):
            writer.log(step, step / 10, values)
    path = curves.draw(folder)
    assert path == folder.curves
    pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
    assert pixels.std() > 3 and pixels.shape[1] > 400
    assert not list(folder.path.glob(".*.tmp"))


def test_smoothing_has_no_startup_bias():
    assert curves._smooth([3.0] * 100) == pytest.approx([3.0] * 100)
