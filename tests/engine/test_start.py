"""Starting from given weights, and reading other programs' checkpoints without running them."""

import json
import os

import pytest
import torch
from tiny_task import config, train

from vmamba.config.errors import UserError
from vmamba.engine import foreign, weights


class Runs:
    """Would make a file when unpickled by the book."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Record(list):
    """A container of a class that is not loaded, with state."""


def test_only_tensors_and_plain_values_come_out_of_a_foreign_file(tmp_path):
    weight = torch.nn.Parameter(torch.arange(3.0))
    content = {
        "state_dict": {"a": weight, "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.arange(2)},
        "meta": {"epoch": 3, "shape": torch.Size([1, 2]), "record": Record([1, 2]), "evil": Runs(tmp_path / "ran")},
    }
    torch.save(content, tmp_path / "file.pth")
    found = foreign.read(tmp_path / "file.pth")
    assert not (tmp_path / "ran").exists()
    assert found["meta"]["epoch"] == 3 and isinstance(found["meta"]["record"], foreign.Inert)
    for name, value in content["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value) and found["state_dict"][name].dtype == value.dtype


def test_a_file_that_runs_code_is_still_refused(tmp_path):
    torch.save({"model": {"a": torch.ones(1)}, "evil": Runs(tmp_path / "ran")}, tmp_path / "file.pth")
    with pytest.raises(UserError, match="run code when loaded"):
        weights.load(tmp_path / "file.pth")
    assert not (tmp_path / "ran").exists()


def test_training_goes_on_from_a_run_with_other_classes(tmp_path, caplog):
    caplog.set_level("INFO")
    train(config(recipe__epochs=1, model__kwargs={"width_extra": 3}), tmp_path / "first")
    cfg = config(recipe__epochs=1, limit__train_steps=1)
    cfg.init.ckpt = str(tmp_path / "first")
    train(cfg, tmp_path / "second")
    started = json.loads((tmp_path / "second" / "manifest.json").read_text())["init"]
    assert (started["loaded"], started["missing"], started["unused"]) == (9, 2, 2)
    assert "9 tensors loaded, 2 missing there (fresh), 2 of it unused" in caplog.text


@pytest.mark.parametrize(("ckpt", "message"), [("/none", "init.ckpt=/none: no such file"), ("x.pth", "does not fit")])
def test_a_start_that_does_not_fit_is_one_line(tmp_path, ckpt, message):
    torch.save({"model": {"stem.weight": torch.ones(1)}}, tmp_path / "x.pth")
    cfg = config()
    cfg.init.ckpt = ckpt if ckpt.startswith("/") else str(tmp_path / ckpt)
    with pytest.raises(UserError, match=message) as caught:
        train(cfg, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_weights_are_read_from_a_file_and_from_a_run_folder_by_its_path(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "checkpoints" / "best.pt")
    for path in (str(tmp_path), tmp_path / "checkpoints" / "best.pt"):
        assert torch.equal(weights.load(path).state["a"], torch.ones(2))
    with pytest.raises(UserError, match=r"none.pth: no such file or run folder"):
        weights.load(tmp_path / "none.pth")
