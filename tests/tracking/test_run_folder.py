"""The run folder: whole files or the old ones, records once each, NaN kept in strict JSON."""

import errno
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from vmamba.config.errors import UserError
from vmamba.tracking import atomic
from vmamba.tracking.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run").create()


def steps(folder):
    return [record["step"] for record in folder.records()]


def test_importing_needs_neither_torch_nor_mlflow():
    modules = (
        "vmamba.tracking.folder, vmamba.tracking.feeder, vmamba.tracking.manifest, vmamba.tracking.curves, vmamba.track"
    )
    check = f"import {modules}, sys; assert not {{'torch', 'mlflow', 'matplotlib'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_failure_while_writing_leaves_the_old_file(folder):
    folder.write_result({"final": {"val/acc1": 1.0}})
    before = folder.result.read_bytes()
    with pytest.raises(RuntimeError), atomic.replacing(folder.result) as temp:
        temp.write_bytes(b"half")
        raise RuntimeError
    assert folder.result.read_bytes() == before
    assert not list(folder.path.glob(".*.tmp"))


def test_kill_while_writing_leaves_the_old_file(folder):
    folder.write_result({"final": {}})
    code = (
        "import os, sys; from pathlib import Path; from vmamba.tracking.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as temp:\n    temp.write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder.result)]).returncode == -9
    assert json.loads(folder.result.read_text()) == {"final": {}}
    assert list(folder.path.glob(".*.tmp"))
    folder.create()
    assert not list(folder.path.glob(".*.tmp"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_readable_line(folder, monkeypatch, code):
    def full(fd):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"no space left for .*result\.json.*--resume .*run") as caught:
        folder.write_result({})
    assert "\n" not in str(caught.value)


def test_file_in_the_way_is_a_users_mistake(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="in the way"):
        RunFolder(tmp_path / "run").create()


def test_records_are_readable_at_once_and_nan_is_strict_json(folder):
    writer = folder.writer()
    writer.log(1, 0.5, {"train/loss": float("nan"), "a": np.float32(2.5), "b": float("-inf"), "c": 3})
    raw = json.loads(folder.metrics.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert raw["metrics"]["train/loss"] == "nan"
    (record,) = folder.records()
    assert math.isnan(record["metrics"].pop("train/loss"))
    assert record["metrics"] == {"a": 2.5, "b": -math.inf, "c": 3.0}
    assert (record["step"], record["epoch"]) == (1, 0.5)
    writer.close()
    writer.close()


@pytest.mark.parametrize(("resume", "expected"), [(None, 10), (10, 10), (4, 4), (0, 0)])
def test_resume_drops_later_steps_and_a_half_written_line(folder, resume, expected):
    with folder.writer() as writer:
        for step in range(1, 11):
            writer.log(step, step, {"x": step})
    with open(folder.metrics, "a") as file:
        file.write('{"step": 11, "epo')
    assert steps(folder) == list(range(1, 11))
    with folder.writer(resume) as writer:
        writer.log(99, 99, {"x": 0})
    assert steps(folder) == [*range(1, expected + 1), 99]
    assert all(json.loads(line) for line in folder.metrics.read_text().splitlines())


def test_status_keeps_identity_and_refuses_unknown_states(folder):
    uid = folder.uid
    folder.write_status("running")
    folder.write_status("failed", error="boo")
    status = folder.read_status()
    assert (status["uid"], status["state"], status["error"], status["pid"]) == (uid, "failed", "boo", os.getpid())
    assert status["started"] <= status["ended"]
    folder.write_status("running")
    assert "error" not in folder.read_status() and "ended" not in folder.read_status()
    with pytest.raises(ValueError, match="choose from queued, running, finished, failed, killed"):
        folder.write_status("done")


def test_config_is_resolved_plain_yaml(folder):
    from omegaconf import OmegaConf

    from vmamba.config.schema import Run

    cfg = OmegaConf.structured(Run(name="x-${seed}"))
    cfg.model.name = cfg.task.name = cfg.task.entry = cfg.task.metric = cfg.data.name = cfg.recipe.name = "n"
    cfg.data.num_classes, cfg.forward_type.name = 10, "v3"
    folder.write_config(cfg, ["seed=0", "model=nano"])
    saved = OmegaConf.load(folder.config)
    assert (saved.name, saved.model.patch_embed, saved.tracking.store) == ("x-0", "v2", "mlflow")
    assert OmegaConf.load(folder.overrides) == ["seed=0", "model=nano"]
    assert OmegaConf.merge(OmegaConf.structured(Run), saved).norm.name == "ln2d"


def test_names(tmp_path):
    assert RunFolder(tmp_path / "outputs" / "2026-cls").name == "2026-cls"
    assert RunFolder(tmp_path / "sweep-a" / "3").name == "sweep-a/3"


def test_a_disk_that_fails_in_the_background_is_told_by_the_next_record(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run").create()
    monkeypatch.setattr("vmamba.tracking.folder.SYNC_SECONDS", -1.0)
    writer = folder.writer()
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EDQUOT, "quota")))
        writer.log(1, 0.1, {"train/loss": 1.0})
        writer._syncing.join()
    with pytest.raises(UserError, match="no space left"):
        writer.log(2, 0.2, {"train/loss": 1.0})
    writer.close()
    assert [record["step"] for record in folder.records()] == [1]
