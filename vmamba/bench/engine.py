"""What the engine adds to a model: steps of real runs on ``data=synthetic``, and how long the GPU idles in them.

A row is a run as ``python -m vmamba.run model=tiny data=synthetic`` makes it (the published recipe: batch 128,
224 x 224, clipping, fused AdamW, EMA, mixup, drop path), in a folder that is thrown away. After the first steps the
clock runs over ``STEPS`` of them; then the profiler records when kernels run over ``PROFILED`` more, device activity
alone. ``idle_%`` is the share of that time in which none ran.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from vmamba.bench.jobs import MODES, chosen
from vmamba.bench.report import Row
from vmamba.config.compose import compose
from vmamba.engine import fit
from vmamba.engine.distributed import Env
from vmamba.engine.hooks import Hook
from vmamba.tracking.folder import RunFolder

WARM_UP, STEPS, PROFILED = 20, 60, 10


def run(
    device: torch.device, small: bool, modes: str = "", dtype: str = "bf16", scan: str = "auto"
) -> tuple[Iterator[Row], Row]:
    """The rows, and the conditions they share.

    Args:
        small: ``nano`` on two images of 32 x 32, plain float32, two steps.
        modes: of ``jobs.MODES``, by commas; "": all.
        dtype: autocast's.
        scan: the scan's backend.
    """
    kinds = chosen("--modes", modes, ("eager",) if small else MODES, MODES)
    sizes = ["model=nano", "data.img_size=32", "recipe.batch_size=2"] if small else ["model=tiny"]
    dtype = "fp32" if small else dtype
    rows = (_row(kind, [*sizes, f"precision={dtype}", f"scan={scan}"], device, small) for kind in kinds)
    return rows, {"data": "synthetic", "amp": dtype, "scan": scan, "layout": "the model's own"}


def _row(kind: str, choices: list[str], device: torch.device, small: bool) -> Row:
    probe = Probe(2, 2, 1) if small else Probe(WARM_UP, STEPS, PROFILED)
    compiled = [] if kind == "eager" else ["compile=true", f"compile_mode={kind}"]
    ends = [f"limit.train_steps={probe.last + 1}", "log_every=50", "tracking=none"]
    cfg, _ = compose(["data=synthetic", *choices, *compiled, *ends])
    torch.compiler.reset()
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        fit.run(cfg, RunFolder(Path(folder)).create(), Env(device), (probe,))
    row = {"model": cfg.model.name, "compile": kind, "batch": cfg.recipe.batch_size, "size": cfg.data.img_size}
    row |= {"tf32": device.type == "cuda" and cfg.precision.tf32} | probe.found(cfg.recipe.batch_size)
    idle = "" if row["idle_%"] is None else f", idle {row['idle_%']:.1f} %"
    print(f"{cfg.model.name} {kind}: {row['images_per_s']:,.0f} img/s{idle}", file=sys.stderr, flush=True)
    return row


class Enough(Exception):
    """Ends a run that is measured, without its evaluation."""


class Probe(Hook):
    """Times ``steps`` steps after ``warm_up``, profiles ``profiled`` more, and ends the run."""

    def __init__(self, warm_up: int, steps: int, profiled: int) -> None:
        self.begin, self.end, self.last = warm_up, warm_up + steps, warm_up + steps + profiled
        self.seconds = self.memory = self.profiler = None

    def on_step(self, loop, seconds) -> None:
        step, cuda = loop.state.step, loop.env.device.type == "cuda"
        if step not in (self.begin, self.end, self.last):
            return
        if cuda:
            torch.cuda.synchronize()
        if step == self.begin:
            self.seconds = time.perf_counter()
        elif step == self.end:
            self.seconds = time.perf_counter() - self.seconds
            if cuda:
                self.memory = torch.cuda.max_memory_allocated() / 1e9
                self.profiler = profile(activities=[ProfilerActivity.CUDA])
                self.profiler.start()
        else:
            if self.profiler:
                self.profiler.stop()
            raise Enough

    def found(self, batch: int) -> Row:
        """The numbers of a row."""
        ms = self.seconds / (self.end - self.begin) * 1e3
        row = {"ms": ms, "images_per_s": batch / ms * 1e3, "memory_GB": self.memory, "kernels_ms": None, "idle_%": None}
        if self.profiler:
            spans = [(e.time_range.start, e.time_range.end) for e in self.profiler.events()]
            busy, whole = covered(spans)
            row |= {"kernels_ms": busy / (self.last - self.end) / 1e3, "idle_%": 100 * (1 - busy / whole)}
        return row


def covered(spans: list[tuple[float, float]]) -> tuple[float, float]:
    """How much of the time from the first begin to the last end lies in one of ``spans``, and that whole time."""
    spans = sorted(spans)
    busy, until = 0.0, spans[0][0]
    for begin, end in spans:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy, until - spans[0][0]
