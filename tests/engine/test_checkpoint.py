import logging
import os
import pickle
import sys
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vmamba.config.errors import UserError
from vmamba.engine import checkpoint, weights
from vmamba.engine.checkpoint import Keeper


def content(step: int) -> dict:
    return {"model": {"weight": torch.full((1000,), float(step))}, "step": step}


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_keeps_the_last_ones(tmp_path):
    keeper = Keeper(tmp_path, keep_last=2)
    for step in (1, 2, 9, 10):
        keeper.save(step, content(step))
    assert names(tmp_path) == ["step_00000009.pt", "step_00000010.pt"]
    keeper.save_best(content(3))
    path, found = checkpoint.load_newest(tmp_path)
    assert path.name == "step_00000010.pt" and torch.equal(found["model"]["weight"], torch.full((1000,), 10.0))


def test_what_came_after_the_place_that_a_run_went_on_from_is_not_its_past(tmp_path):
    keeper = Keeper(tmp_path, keep_last=2)
    for step in (4, 9, 10, 8):
        keeper.save(step, content(step))
    assert names(tmp_path) == ["step_00000008.pt"]
    keeper.save(9, content(9))
    assert names(tmp_path) == ["step_00000008.pt", "step_00000009.pt"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "garbage"])
def test_damaged_newest_falls_back(tmp_path, damage, caplog):
    keeper = Keeper(tmp_path, keep_last=3)
    for step in (1, 2):
        keeper.save(step, content(step))
    path = tmp_path / "step_00000002.pt"
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "flipped": data, "garbage": b"x" * 99}[damage])
    with caplog.at_level(logging.WARNING, "vmamba"):
        found, loaded = checkpoint.load_newest(tmp_path)
    assert found.name == "step_00000001.pt" and loaded["step"] == 1
    assert "step_00000002.pt is damaged" in caplog.text and "falling back to the one before" in caplog.text


def test_nothing_there(tmp_path):
    assert checkpoint.load_newest(tmp_path) is None
    assert checkpoint.load_newest(tmp_path / "missing") is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
def test_full_disk_is_one_line_and_leaves_the_old_ones(tmp_path):
    keeper = Keeper(tmp_path / "checkpoints", keep_last=1)
    keeper.save(1, content(1))
    (tmp_path / "checkpoints" / f".step_00000002.pt.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match="no space left") as caught:
        keeper.save(2, content(2))
    assert "\n" not in str(caught.value)
    assert names(tmp_path / "checkpoints") == ["step_00000001.pt"]
    assert checkpoint.load_newest(tmp_path / "checkpoints")[1]["step"] == 1


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "step_00000001.pt"
    checkpoint.write(path, content(1))
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        checkpoint.write(path, {"model": lambda: None})
    assert checkpoint.read(path)["step"] == 1 and names(tmp_path) == [path.name]


STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.zeros(2)}
OTHER = {key: value + 1 for key, value in STATE.items()}


@pytest.mark.parametrize("archive", [True, False])  # torch's format since 1.6, and before
@pytest.mark.parametrize(
    ("saved", "kind"),
    [
        (STATE, "model"),
        ({"model": STATE}, "model"),
        ({"state_dict": STATE}, "model"),
        ({"model": OTHER, "ema": STATE}, "ema"),
        ({"model": OTHER, "model_ema": STATE}, "ema"),
        ({"model": {f"module.{key}": value for key, value in STATE.items()}}, "model"),
        ({"model": {f"_orig_mod.module.{key}": value for key, value in STATE.items()}}, "model"),
    ],
)
def test_weights_are_found_in_any_file(tmp_path, saved, kind, archive):
    torch.save(saved, tmp_path / "file.pth", _use_new_zipfile_serialization=archive)
    found = weights.load(tmp_path / "file.pth")
    assert found.kind == kind and found.state.keys() == STATE.keys()
    assert all(torch.equal(found.state[key], STATE[key]) for key in STATE)


def test_safetensors(tmp_path):
    save_file(STATE, tmp_path / "file.safetensors")
    model = nn.Linear(3, 2)
    weights.fit_into(model, weights.load(tmp_path / "file.safetensors").state, "file")
    assert torch.equal(model.weight, STATE["weight"])
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        weights.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("archive", [True, False])
def test_published_file_with_a_yacs_node(tmp_path, monkeypatch, archive):
    module = types.ModuleType("yacs.config")

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    node = CfgNode(MODEL=CfgNode(NAME="vssm", DEPTHS=[2, 2]))
    node.__dict__["__immutable__"] = True
    saved = {"model": STATE, "config": node, "max_accuracy": 82.6, "epoch": 262}
    torch.save(saved, tmp_path / "ckpt.pth", _use_new_zipfile_serialization=archive)
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    assert torch.equal(weights.load(tmp_path / "ckpt.pth").state["weight"], STATE["weight"])


class Evil:
    def __reduce__(self):
        return os.system, ("echo never",)


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_file_is_refused(tmp_path, archive):
    saved = {"model": STATE, "extra": Evil()}
    torch.save(saved, tmp_path / "evil.pth", _use_new_zipfile_serialization=archive)
    with pytest.raises(UserError, match=r"run code when loaded \(posix.system\): refused") as caught:
        weights.load(tmp_path / "evil.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("saved", "message"),
    [(b"PK not really", "cannot be read"), ({"epoch": 3}, "holds no weights"), ([1, 2], "holds a list")],
)
def test_what_is_no_checkpoint(tmp_path, saved, message):
    path = tmp_path / "file.pth"
    path.write_bytes(saved) if isinstance(saved, bytes) else torch.save(saved, path)
    with pytest.raises(UserError, match=message) as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)


def test_an_old_file_cut_short_is_damaged(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"model": STATE}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for size in (0, 20, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cannot be read"):
            weights.load(path)


def test_misfit_is_one_line_with_counts_and_examples():
    state = {"weight": torch.zeros(4, 3), "extra": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        weights.fit_into(nn.Linear(3, 2), state, "ckpt=x.pth", "take model=base")
    assert str(caught.value) == (
        "ckpt=x.pth is not a checkpoint of this model: 1 keys missing (e.g. bias), 1 unexpected (e.g. extra), "
        "1 of another shape (e.g. weight: (4, 3) for (2, 3)); take model=base"
    )


def test_find(tmp_path):
    with pytest.raises(UserError, match="no such file or run folder"):
        weights.find(str(tmp_path / "none"))
    with pytest.raises(UserError, match="no checkpoints in this folder"):
        weights.find(str(tmp_path))
    keeper = Keeper(tmp_path / "checkpoints", 2)
    keeper.save(1, content(1)), keeper.save(2, content(2))
    assert weights.find(str(tmp_path)).name == "step_00000002.pt"
    keeper.save_best(content(1))
    assert weights.find(str(tmp_path)).name == "best.pt"
