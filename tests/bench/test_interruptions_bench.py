"""The command that interrupts runs, bounded: one run of each kind."""

import subprocess
import sys

import pytest
import torch

from vmamba.bench import interruptions


@pytest.mark.timeout(200)
def test_a_run_of_each_kind_ends_as_if_nothing_had_happened(tmp_path):
    command = [sys.executable, "-m", "vmamba.bench.interruptions", "--runs", "4", "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("interruptions_*.csv"))) == 1


def test_a_difference_is_seen(tmp_path):
    left = {"a": torch.zeros(2), "b": [1, {"c": torch.ones(1)}]}
    assert interruptions.equal(left, {"a": torch.zeros(2), "b": [1, {"c": torch.ones(1)}]})
    for right in (
        left | {"a": torch.tensor([0.0, 1e-45])},
        left | {"b": [1, {"c": torch.zeros(1)}]},
        {"a": torch.zeros(2)},
    ):
        assert not interruptions.equal(left, right)
