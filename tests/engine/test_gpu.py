import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stopping import Stop, StopAt
from tiny_task import config, everything_random, train

from vmamba.config.schema import Limit
from vmamba.engine import checkpoint
from vmamba.engine.nan_guard import NotFinite
from vmamba.tracking.folder import RunFolder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
HERE = Path(__file__).parent


def newest(path: Path) -> dict:
    return checkpoint.load_newest(path / "checkpoints")[1]


@pytest.mark.parametrize("amp", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("compiled", [False, True])
def test_trains_with_prefetcher_and_fused_optimizer(tmp_path, amp, compiled):
    result = train(everything_random(device="cuda", precision__amp=amp, compile=compiled), tmp_path)
    assert result["steps"] == 22 and 2.0 < result["final"]["train/loss"] < 2.6
    assert "train/gpu_memory_gib" in next(RunFolder(tmp_path).records())["metrics"]
    assert not any(key.startswith("_orig_mod") for key in newest(tmp_path)["model"])


def test_same_as_on_the_cpu(tmp_path):
    changes = {"model__drop_path": 0.0, "recipe__epochs": 1, "precision__amp": "fp32", "precision__tf32": False}
    cpu = train(config(**changes), tmp_path / "cpu")
    gpu = train(config(device="cuda", **changes), tmp_path / "gpu")
    for name in ("train/loss", "train/grad_norm", "val/loss"):
        assert gpu["final"][name] == pytest.approx(cpu["final"][name], rel=1e-2), name
    assert train(config(mode="eval", ckpt=str(tmp_path / "gpu")), tmp_path / "eval")["final"][
        "val/loss"
    ] == pytest.approx(gpu["final"]["val/loss"], rel=1e-3)


def test_deterministic_resume_is_bit_equal(tmp_path):
    cfg = everything_random(device="cuda", deterministic=True, checkpoint__every_steps=3)
    train(cfg, tmp_path / "whole")
    with pytest.raises(Stop):
        train(cfg, tmp_path / "cut", [StopAt(14)])
    train(cfg, tmp_path / "cut")
    torch.use_deterministic_algorithms(False)
    whole, cut = newest(tmp_path / "whole"), newest(tmp_path / "cut")
    for kind in ("model", "ema"):
        for key, value in whole[kind].items():
            assert torch.equal(value, cut[kind][key]), key


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_nan_leaves_the_weights_good_and_stops_at_the_log_step(tmp_path, amp):
    cfg = config(
        device="cuda", precision__amp=amp, model__kwargs={"nan_at": 8, "norm": False}, limit=Limit(train_steps=12)
    )
    with pytest.raises(NotFinite, match="not finite at update 8"):
        train(cfg, tmp_path)
    good = checkpoint.read(tmp_path / "nan" / "last_good.pt")
    assert good["step"] == 10 and all(value.isfinite().all() for value in good["model"].values())
    kept = checkpoint.read(tmp_path / "nan" / "batch.pt")
    assert (kept["step"], kept["epoch"], kept["batch"]) == (8, 0, 7) and len(kept["data"][0]) == 128


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus(tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(HERE / "tiny_task.py"), "ddp", str(tmp_path), "cuda"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pth", map_location="cpu") for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
