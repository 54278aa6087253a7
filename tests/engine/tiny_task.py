"""A small real task for engine tests: digits through timm's loaders into a small convolutional net."""

import os
import signal
import sys
from pathlib import Path

import torch
from timm.layers import DropPath
from torch import nn

from vmamba.config import schema
from vmamba.engine import distributed, fit
from vmamba.engine.hooks import Hook
from vmamba.engine.nan_guard import NanGuard
from vmamba.tracking.folder import RunFolder
from vmamba_tasks.classification import Classification


class TinyNet(nn.Module):
    """Two convolutions, one residual with drop path, dropout and a linear head."""

    def __init__(self, classes: int, channels: int, drop: float, norm: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.path = DropPath(drop)
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.path(self.body(x))
        return self.head(self.drop(x.mean((2, 3))))


class TinyTask(Classification):
    """``model.kwargs``: ``norm`` (batch norm or not), ``width_extra`` (another model), ``nan_at`` (a poisoned loss),
    ``nan_rank`` (of this rank alone)."""

    updates = 0

    def build_model(self) -> nn.Module:
        return TinyNet(
            self.cfg.data.num_classes + self.cfg.model.kwargs.get("width_extra", 0),
            self.cfg.data.in_chans,
            self.cfg.model.drop_path,
            self.cfg.model.kwargs.get("norm", True),
        )

    def train_step(self, model, batch):
        out = super().train_step(model, batch)
        self.updates += 1
        kwargs, rank = self.cfg.model.kwargs, self.env.rank
        if self.updates == kwargs.get("nan_at") and rank == kwargs.get("nan_rank", rank):
            out["loss"] = out["loss"] * float("nan")
        return out


def config(**changes) -> schema.Run:
    """A run of the tiny task on the digits, 11 updates an epoch. Changes are keys of the schema with __ for dots."""
    cfg = schema.Run(name="tiny")
    cfg.task = schema.Task(name="cls", entry="tiny_task:TinyTask", metric="val/acc1")
    cfg.model = schema.Model(family="timm", name="tiny", drop_path=0.2)
    cfg.data = schema.Data(
        name="digits", source="digits", num_classes=10, in_chans=1, img_size=16, mean=[0.3], std=[0.37], workers=0,
        crop_pct=1.0,
    )  # fmt: skip
    cfg.recipe = schema.Recipe(name="tiny", epochs=2, batch_size=128, lr=2e-3, lr_batch=0, warmup=0)
    cfg.recipe.augment = schema.Augment(hflip=0.0, color_jitter=0.0)
    cfg.device = "cpu"
    cfg.log_every = 5
    for key, value in changes.items():
        *path, last = key.split("__")
        target = cfg
        for name in path:
            target = getattr(target, name)
        setattr(target, last, value)
    return cfg


def everything_random(**changes) -> schema.Run:
    """The tiny run with all that draws random numbers switched on."""
    cfg = config(**{"data__workers": 2, "recipe__ema__enabled": True, "recipe__ema__decay": 0.9} | changes)
    cfg.recipe.augment = schema.Augment(
        scale=[0.6, 1.0], color_jitter=0.2, auto_augment="rand-m5-mstd0.5-inc1", reprob=0.3, mixup=0.8, cutmix=1.0
    )
    return cfg


def train(cfg: schema.Run, path: Path, hooks=()) -> dict:
    """Runs it as the command would, in this process."""
    env = distributed.start(cfg)
    folder = RunFolder(path)
    try:
        if env.is_main:
            folder.create()
        distributed.barrier()
        return fit.run(cfg, folder, env, hooks)
    finally:
        distributed.stop()


class KillAt(Hook):
    """Sends this process a signal after an update."""

    def __init__(self, step: int, signum: int) -> None:
        self.step, self.signum = step, signum

    def on_step(self, loop, seconds) -> None:
        if loop.state.step == self.step:
            os.kill(os.getpid(), self.signum)


class KeepWeights(Hook):
    """Leaves every rank's final weights in the run folder."""

    def on_end(self, loop) -> None:
        torch.save(loop.model.state_dict(), loop.folder.path / f"rank{loop.env.rank}.pth")


def two_ranks(**changes) -> schema.Run:
    """A run whose result does not depend on the number of processes: no batch statistics, no drop, no mixup."""
    return config(
        model__kwargs={"norm": False}, model__drop_path=0.0, recipe__epochs=1, recipe__smoothing=0.0, **changes
    )


def main() -> None:
    """``python tiny_task.py ddp PATH DEVICE``, ``nan PATH``: a loss that is none on rank 1, with gradients that nobody
    looks at, as with float16; or ``PATH STEP SIGNAL``: the random run, killed after an update."""
    torch.set_num_threads(1)
    if sys.argv[1] == "nan":
        NanGuard.look_at_norm = lambda *_: None
        cfg = two_ranks(recipe__batch_size=64, device="cpu")
        cfg.model.kwargs |= {"nan_at": 3, "nan_rank": 1}
        train(cfg, Path(sys.argv[2]))
        return
    if sys.argv[1] == "ddp":
        train(two_ranks(recipe__batch_size=64, device=sys.argv[3]), Path(sys.argv[2]), [KeepWeights()])
        return
    path, step, name = sys.argv[1:]
    train(everything_random(checkpoint__every_steps=3), Path(path), [KillAt(int(step), getattr(signal, name))])


if __name__ == "__main__":
    main()
