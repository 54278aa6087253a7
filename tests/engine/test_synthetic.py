"""data=synthetic: a run without reading images, compiled and not, and how torch.compile is asked for."""

import subprocess
import sys

import torch

from vmamba.config.compose import compose
from vmamba.engine import compiling
from vmamba.engine.distributed import Env
from vmamba.models import VMamba

SMALL = ["data=synthetic", "model=nano", "data.img_size=32", "recipe.batch_size=4", "limit.eval_batches=1"]
RUN = [*SMALL, "limit.train_steps=2", "recipe.augment.mixup=0.8", "tracking=none", "device=cpu"]


def test_a_run(tmp_path):
    command = [sys.executable, "-m", "vmamba.run", *RUN, f"outputs={tmp_path}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = tmp_path.glob("cls-*")
    assert '"steps": 2' in (folder / "result.json").read_text()


def test_batches_lie_on_the_device_and_come_in_turn():
    from vmamba_tasks.classification import Classification

    cfg, _ = compose(SMALL)
    task = Classification(cfg, Env(torch.device("cpu")))
    loader = task.train_loader()
    batches = [batch for batch, _ in zip(loader.epoch(0, 1), range(3), strict=False)]
    assert len(loader) == 1000 and batches[0][0].shape == (4, 3, 32, 32)
    assert batches[0][0] is batches[2][0] and not torch.equal(batches[0][0], batches[1][0])
    assert task.manifest()["data"]["train"]["images"] == 4000


def test_how_a_model_is_compiled(monkeypatch):
    asked = []
    monkeypatch.setattr(VMamba, "compile", lambda self, **options: asked.append(options))
    model = VMamba(depths=[1], dims=[8])
    small = [*SMALL, "compile=true"]
    for overrides in ([], ["compile_mode=reduce-overhead"], ["model=timm", "model.name=resnet18"]):
        compiling.compile(model, compose([*small, *overrides])[0], torch.device("cpu"))
    monkeypatch.setattr(torch.nn.Parameter, "is_cuda", True)
    for overrides in ([], ["recipe.accumulate=2"]):
        compiling.compile(model, compose([*small, *overrides])[0], torch.device("cuda"))
    cfg = compose(small)[0]
    cfg.task.name = "det"  # where images have many sizes
    compiling.compile(model, cfg, torch.device("cuda"))
    everywhere = {"triton.coalesce_tiling_analysis": False}
    own = everywhere | {"layout_optimization": False}
    assert asked == [
        {"fullgraph": True, "options": everywhere},
        {"fullgraph": True, "options": everywhere | {"triton.cudagraphs": True}},
        {"mode": None},
        {"fullgraph": True, "options": own | {"triton.cudagraphs": True}},
        {"fullgraph": True, "options": own},
        {"fullgraph": True, "options": own},
    ]


def test_a_run_says_what_compiling_takes_or_would_give(caplog):
    caplog.set_level("INFO", logger="vmamba")
    for overrides in ([], ["compile=true"]):
        for device in ("cpu", "cuda"):
            compiling.announce(compose([*SMALL, *overrides])[0], torch.device(device))
    eager, *compiled = caplog.messages
    assert eager.startswith("eager, which waits for the host: compile=true")
    modes = [f"torch.compile ({mode}): the first step" for mode in ("default", "reduce-overhead")]
    assert [said[: len(mode)] for said, mode in zip(compiled, modes, strict=True)] == modes
