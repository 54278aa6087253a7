"""Throughput and memory from 224 x 224 to 1,536 x 1,536, at the same number of pixels a batch: what a pixel costs.

The batch is 128 at 224, or ``--batch``, and shrinks with the area, so every row is about the same work for a network
whose cost is linear in the pixels.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from vmamba.bench.jobs import Asked
from vmamba.bench.report import Row
from vmamba.bench.throughput import conditions, measured

NAMES = ("vmamba_tiny_s1l8", "swin_tiny_patch4_window7_224", "convnext_tiny", "deit_small_patch16_224")
SIDES = (224, 384, 512, 768, 1024, 1536)


def run(
    device: torch.device, small: bool, sizes: tuple[int, ...] = (), workers: int | None = None, **asked
) -> tuple[Iterator[Row], Row]:
    """The rows, and the conditions they share; ``small``, ``workers`` and ``asked`` as those of ``models``.

    ``sizes``: images' sides; (): ``SIDES``, those of 32 and 64 pixels if ``small``. Default mode: eager.
    ``Mpixels_per_s`` is images a second times the pixels of one, in millions; ``batch_at_224`` the images that one of
    the others has as many pixels as.
    """
    jobs = Asked(**asked).jobs(device, small, NAMES, ("eager",), 10)
    sides = sizes or ((32, 64) if small else SIDES)
    every = [
        replace(job, side=side, batch=max(1, round(job.batch * (job.side / side) ** 2)))
        for job in jobs
        for side in sides
    ]
    rows = (row | {"Mpixels_per_s": _pixels(row), "batch_at_224": jobs[0].batch} for row in measured(every, workers))
    return rows, conditions(device)


def _pixels(row: Row) -> float | None:
    return row["images_per_s"] * row["size"] ** 2 / 1e6 if row["images_per_s"] else None
