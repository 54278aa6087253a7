"""How many images a second a network takes, and its memory, parameters and FLOPs: one row an evaluation or training.

A training step is forward, backward and fused AdamW under autocast (with gradient scaling for float16) on random images
that lie on the device; an evaluation step is a forward. Processes of their own compile side by side; when all of them
have, they measure one at a time. Memory is the most that torch had allocated in a step after the first; CUDA graphs
allocate when they are recorded, which is the second.
"""

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from vmamba.bench.complexity import fake, flops, millions
from vmamba.bench.jobs import DTYPES, Job
from vmamba.bench.report import Row
from vmamba.models import compile, create_model, list_models

RESULTS = ("ms", "images_per_s", "memory_GB", "first_s")


def measured(jobs: list[Job], workers: int | None) -> Iterator[Row]:
    """The rows of all jobs, in their order; ``workers``: processes that compile at a time, None: one for four CPUs."""
    checked(jobs)
    workers = 1 if jobs[0].device == "cpu" else workers or max(1, (os.cpu_count() or 1) // 4)
    for group in (jobs[i : i + workers] for i in range(0, len(jobs), workers)):
        rows = {}
        try:
            for job, found in _together(group):
                rows[job] = found
                for row in found:
                    said = f"{row['images_per_s']:,.0f} img/s" if row["images_per_s"] else row["note"]
                    print(f"{job.model} {job.side} {row['phase']} {job.mode}: {said}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:  # what this group has is not lost either
            yield from (row for found in rows.values() for row in found)
            raise
        yield from (row for job in group for row in rows[job])


def checked(jobs: list[Job]) -> list[Job]:
    """The jobs, if each one's network can be built; UserError before anything is measured otherwise."""
    with torch.device("meta"):
        for job in {(job.model, job.side): job for job in jobs}.values():
            _network(job)
    return jobs


def conditions(device: torch.device) -> Row:
    """What every row shares."""
    return {"optimizer": "fused AdamW" if device.type == "cuda" else "AdamW", "data": "random, on the device"}


def _together(jobs: list[Job]) -> Iterator[tuple[Job, list[Row]]]:
    """The rows of jobs that compile side by side, as they come; on a CPU one after the other in this process."""
    if jobs[0].device == "cpu":
        yield from ((job, measure(job, nullcontext(), lambda: None)) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, (os.cpu_count() or 1) // len(jobs))))
    with context.Manager() as manager:
        lock, barrier = manager.Lock(), manager.Barrier(len(jobs))
        with ProcessPoolExecutor(len(jobs), context, max_tasks_per_child=1) as pool:
            waited = {pool.submit(measure, job, lock, barrier.wait): job for job in jobs}
            for done in as_completed(waited):
                yield waited[done], done.result()


def prepare(job: Job) -> tuple[nn.Module, Row, dict[str, Callable[[], None]]]:
    """A job's network on its device, compiled if asked; what its rows share; the steps, "eval" and "train"."""
    device, cuda = torch.device(job.device), job.device != "cpu"
    if cuda:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    ours = job.model in list_models()
    counted = _network(replace(job, scan="auto")).eval()  # on the CPU, where the fused scan is not
    with fake():
        count, _ = flops(lambda: counted(torch.empty(1, 3, job.side, job.side)))
    network = _network(job)
    common = {"model": job.model, "params_M": millions(network), "GFLOPs": count / 1e9, "batch": job.batch}
    common |= {"size": job.side, "amp": job.dtype, "tf32": cuda, "layout": "channels_last", "compile": job.mode}
    common |= {"scan": job.scan if ours else "", "forward_type": job.forward_type if ours else ""}
    network = network.to(device, memory_format=torch.channels_last)
    images = torch.randn(job.batch, 3, job.side, job.side, device=device).contiguous(memory_format=torch.channels_last)
    if job.mode != "eager":
        compile(network, job.mode) if ours else network.compile(fullgraph=True, mode=job.mode)
    return network, common, {"eval": _evaluation(network, images, job), "train": _training(network, images, job)}


def _network(job: Job) -> nn.Module:
    if job.model in list_models():
        chosen = {"forward_type": job.forward_type} if job.forward_type else {}
        return create_model(job.model, backend=job.scan, **chosen)
    # timm's attention has tables of the map's size; ConvNeXt takes any
    return create_model(job.model, **({"img_size": job.side} if job.model.startswith(("swin", "deit")) else {}))


def measure(job: Job, lock: Any, together: Callable[[], Any]) -> list[Row]:
    """The evaluation row and the training row of one job.

    ``together`` is called when all is compiled and again when all is measured, so that no process leaves while another
    is timed, and returns when the other processes are as far; ``lock`` is held while the clock runs.
    """
    cuda = job.device != "cpu"
    network, common, steps = prepare(job)
    rows = {phase: common | {"phase": phase} | dict.fromkeys(RESULTS) | {"note": ""} for phase in steps}

    def first(phase: str) -> None:
        began = time.perf_counter()
        network.train(phase == "train")
        steps[phase]()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            for _ in range(3):
                steps[phase]()
            _wait(cuda)
            rows[phase]["memory_GB"] = torch.cuda.max_memory_allocated() / 1e9
            torch.cuda.empty_cache()  # others compile on the same card
        rows[phase]["first_s"] = time.perf_counter() - began

    def timed(phase: str) -> None:
        network.train(phase == "train")
        ms = _timed(steps[phase], job.repeats, cuda)
        rows[phase] |= {"ms": ms, "images_per_s": job.batch / ms * 1e3}

    with lock if job.mode == "eager" else nullcontext():  # nothing to compile side by side, and memory for one
        for phase, row in rows.items():
            _noted(row, partial(first, phase))
    together()
    with lock:
        for phase, row in rows.items():
            if row["note"].startswith("OutOfMemoryError"):  # beside the others; now they have given theirs back
                row["note"] = ""
                _noted(row, partial(first, phase))
            _noted(row, partial(timed, phase))
        if cuda:
            torch.cuda.empty_cache()
    together()
    return list(rows.values())


def _noted(row: Row, action: Callable[[], None]) -> None:
    """Does it; what goes wrong is the row's note: one model's failure leaves the others their rows."""
    if row["note"]:
        return
    try:
        action()
    except Exception as error:
        row["note"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _evaluation(network: nn.Module, images: torch.Tensor, job: Job):
    @torch.no_grad()
    def step() -> None:
        with _autocast(job):
            network(images)

    return step


def _training(network: nn.Module, images: torch.Tensor, job: Job):
    cuda = job.device != "cpu"
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=cuda)
    scaler = torch.amp.GradScaler(images.device.type, enabled=job.dtype == "fp16")
    labels = torch.arange(job.batch, device=images.device) % 10

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(job):
            loss = nn.functional.cross_entropy(network(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def _autocast(job: Job):
    kind = torch.device(job.device).type
    return nullcontext() if job.dtype == "fp32" else torch.autocast(kind, DTYPES[job.dtype])


def _wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def _timed(step, repeats: int, cuda: bool) -> float:
    """The median milliseconds of a step from end to end."""
    for _ in range(3 if cuda else 1):  # memory that was given back is asked for anew
        step()
    _wait(cuda)
    if not cuda:
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            step()
            times.append((time.perf_counter() - began) * 1e3)
        return statistics.median(times)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    _wait(cuda)
    times = [a.elapsed_time(b) for a, b in pairwise(marks)]
    return statistics.median(times)
