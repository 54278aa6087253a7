"""Upstream's history of speed-up, step by step, as configurations of this code base, and what came after.

The protocol is the table's: VMamba-T(0220), training, batch 128, 224 x 224, one GPU; a step is forward, backward and
AdamW under float16 autocast with gradient scaling, on random images that lie on the device. The A100 numbers beside are
upstream's own (its README of March 2024, memory from its log, in MB as it prints them); the images a second of an H200
are its newest commit's (2ed52ea, patched to build on CUDA 13, v05_noz and ln2d), by the same protocol.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import nn

from vmamba.bench.report import Row
from vmamba.models import create_model
from vmamba.models.ss2d import SS2D
from vmamba_ops.dispatch import available

MODEL = "vmamba_tiny_0220"
OLD = {"norm": "ln", "projection": "einsum", "cross_scan": "torch", "scan_in": "float32", "scan_out": "input"}


@dataclass(frozen=True)
class Step:
    """One row: the network's fields, and what of upstream's kernels they stand for."""

    name: str
    fields: dict[str, Any]
    a100_s: float | None = None
    a100_mb: float | None = None
    scan: str = "torch"  # how the cross scan is done: "naive" is plain indexing, differentiated by autograd
    merge: str = "torch"
    nrows: dict[str, int] = field(default_factory=dict)
    model: str = MODEL
    h200_images_per_s: float | None = None


def steps() -> list[Step]:
    """The thirteen rows of upstream's table, and ours."""
    ssm, core, oflex = (OLD | {"backend": name} for name in ("mamba_ssm", "core", "oflex"))
    wide = {"scan_out": "float32"}
    i16o32 = oflex | wide | {"scan_in": "input"}
    inline = {"scan": "naive", "merge": "naive"}
    ours = {"norm": "ln2d", "projection": "conv", "cross_scan": "triton", "scan_in": "input", "scan_out": "float32"}
    return [
        Step("mamba-ssm + sequence scan", ssm | {"sequential": True}, 0.6585, 25927.0, **inline),
        Step("mamba-ssm + group parallel", ssm, 0.4860, 25672.0, **inline),
        Step("mamba-ssm + float16", ssm | {"scan_in": "input"}, 0.4195, 20439.0, **inline),
        Step("mamba-ssm + fused cross scan", ssm, 0.4820, 25675.0, merge="naive"),
        Step("mamba-ssm + fused csm", ssm, 0.4020, 25596.0),
        Step("sscore + fused csm", core, 0.3930, 24984.0, nrows={"nrow": 1, "back_nrow": 1}),
        Step("sscore + fused csm + forward nrow", core, 0.4090, 24984.0, nrows={"nrow": 4, "back_nrow": 1}),
        Step("sscore + fused csm + backward nrow", core, 0.4490, 24984.0, nrows={"nrow": 1, "back_nrow": 4}),
        Step("sscore + fused csm + both nrow", core, 0.4640, 24984.0, nrows={"nrow": 4, "back_nrow": 4}),
        Step("ssoflex + fused csm", oflex | wide, 0.3940, 24986.0),
        Step("ssoflex + fused csm + i16o32", i16o32, 0.3650, 19842.0),
        Step("ssoflex + csm in triton + i16o32", i16o32 | {"cross_scan": "triton"}, 0.3610, 19888.0),
        Step("ssoflex + csm in triton + i16o32 + v4", i16o32 | ours | {"norm": "ln"}, 0.2970, 19500.0),
        Step("ours: v05, ln2d, CUDA C++ scan", ours | {"backend": "oflex"}),
        Step("ours: v05, ln2d, Triton scan", ours | {"backend": "triton"}),
        Step("ours: v05, ln2d, scan=auto", ours | {"backend": "auto"}),
        Step("ours: T(0230)", ours | {"backend": "auto"}, model="vmamba_tiny_0230", h200_images_per_s=891.0),
    ]


def run(device: torch.device, small: bool) -> tuple[Iterator[Row], Row]:
    """The rows of the table, and their conditions. ``small`` takes two images of 32 x 32 and plain float32."""
    batch, side, repeats = (2, 32, 1) if small else (128, 224, 10)
    conditions = {"compile": "no", "batch": batch, "size": side, "amp": "fp16" if device.type == "cuda" else "fp32"}
    return _table(device, batch, side, repeats), conditions


def _table(device: torch.device, batch: int, side: int, repeats: int) -> Iterator[Row]:
    reasons = available(device.type)
    for step in steps():
        why = reasons.get(step.fields["backend"], "")
        with _rows(step.nrows if not why else {}):
            seconds, memory = (None, None) if why else _measure(step, device, batch, side, repeats)
        row = {"step": step.name, "s_per_iter": seconds, "images_per_s": batch / seconds if seconds else None}
        row |= {"memory_MB": memory, "upstream_A100_s_per_iter": step.a100_s, "upstream_A100_memory_MB": step.a100_mb}
        row |= {"upstream_H200_images_per_s": step.h200_images_per_s, "note": f"absent: {why}" if why else ""}
        print(f"{step.name}: {f'{seconds:.4f} s' if seconds else row['note']}", file=sys.stderr, flush=True)
        yield row
        if device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def _rows(nrows: dict[str, int]):
    """While entered, the core scan holds that many rows a warp, whoever calls it."""
    if not nrows:
        yield
        return
    from vmamba_ops.selective_scan import cuda

    with mock.patch.object(cuda, "core", partial(cuda.core, **nrows)):
        yield


def build(step: Step, device: torch.device) -> nn.Module:
    """The network of a row."""
    fields = {k: v for k, v in step.fields.items() if k != "cross_scan"}
    model = create_model(step.model, cross_scan=step.fields["cross_scan"], **fields).to(device)
    for module in model.modules():
        if isinstance(module, SS2D) and step.fields["cross_scan"] == "torch":
            module.scan_route, module.merge_route = step.scan, step.merge
    return model


def _measure(step: Step, device, batch: int, side: int, repeats: int) -> tuple[float, float | None]:
    torch.manual_seed(0)
    model, cuda = build(step, device).train(), device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=cuda)
    scaler = torch.amp.GradScaler(device.type, enabled=cuda)
    images = torch.randn(batch, 3, side, side, device=device)
    labels = torch.randint(1000, (batch,), device=device)

    def iteration() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.float16, enabled=cuda):
            loss = nn.functional.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    for _ in range(1 if not cuda else 5):
        iteration()
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        iteration()
        if cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    memory = torch.cuda.max_memory_allocated(device) / 1e6 if cuda else None
    return statistics.median(times), memory
