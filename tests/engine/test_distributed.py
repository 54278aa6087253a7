import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_task import config, train, two_ranks

from vmamba.config.errors import UserError
from vmamba.engine import checkpoint, distributed
from vmamba.tracking.folder import RunFolder

HERE = Path(__file__).parent


def two_processes(*words: str) -> subprocess.CompletedProcess:
    """``tiny_task.py`` as torchrun starts it."""
    environment = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, str(HERE / "tiny_task.py"), *words],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_a_loss_that_is_no_number_on_one_rank_stops_all(tmp_path):
    """And its batch is that rank's: rank 0's was in order."""
    done = two_processes("nan", str(tmp_path))
    assert done.returncode and done.stderr.count("NotFinite: the loss or its gradient is not finite at update 3") >= 1
    kept = {path.name: checkpoint.read(path) for path in (tmp_path / "nan").iterdir()}
    assert kept.keys() == {"batch-rank1.pt", "last_good.pt"}
    assert kept["last_good.pt"]["step"] == 2 and kept["batch-rank1.pt"]["step"] == 3


def test_two_processes_train_as_one_with_the_same_total_batch(tmp_path):
    done = two_processes("ddp", str(tmp_path / "two"), "cpu")
    assert done.returncode == 0, done.stderr
    alone = train(two_ranks(recipe__batch_size=128), tmp_path / "one")
    ranks = [torch.load(tmp_path / "two" / f"rank{rank}.pth") for rank in range(2)]
    path, content = checkpoint.load_newest(tmp_path / "two" / "checkpoints")
    single = checkpoint.load_newest(tmp_path / "one" / "checkpoints")[1]["model"]
    assert path.name == "step_00000011.pt" and len(content["rng"]) == 2
    for key, value in ranks[0].items():
        assert torch.equal(value, ranks[1][key]) and torch.equal(value, content["model"][key])
        torch.testing.assert_close(value, single[key], rtol=1e-4, atol=1e-6)
    records = list(RunFolder(tmp_path / "two").records())
    assert [record["step"] for record in records] == [5, 10, 11, 11]
    measured = {key: value for record in records for key, value in record["metrics"].items()}
    for key in ("train/loss", "train/grad_norm", "val/loss", "val/acc1", "val/acc5"):
        assert measured[key] == pytest.approx(alone["final"][key], rel=1e-4), key


def test_alone_everything_is_the_identity():
    assert distributed.broadcast([1]) == [1] and distributed.gather(2) == [2]
    assert distributed.all_max([3, 0], torch.device("cpu")) == [3, 0]
    assert distributed.all_sum(torch.ones(2)).tolist() == [1, 1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_no_gpu_is_one_line():
    with pytest.raises(UserError, match="torch sees no CUDA device here; take device=auto or device=cpu"):
        distributed.start(config(device="cuda"))
    assert distributed.start(config(device="auto")).device.type == "cpu"
