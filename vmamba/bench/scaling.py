"""Throughput and memory from 224 x 224 to 1,536 x 1,536, at the same number of pixels a batch: what a pixel costs.

The batch is 128 at 224, or ``--batch``, and shrinks with the area, so every row is about the same work for a network
whose cost is linear in the pixels.
"""

from collections.abc import Iterator

import torch

from vmamba.bench.report import Row
from vmamba.bench.throughput import MODES, TIMM, Job, chosen, conditions, measured
from vmamba.models import list_models

NAMES = ("vmamba_tiny_s1l8", "swin_tiny_patch4_window7_224", "convnext_tiny", "deit_small_patch16_224")
SIDES = (224, 384, 512, 768, 1024, 1536)


def run(
    device: torch.device,
    small: bool,
    only: str = "",
    modes: str = "",
    dtype: str = "bf16",
    scan: str = "auto",
    batch: int | None = None,
    sizes: tuple[int, ...] = (),
    workers: int | None = None,
) -> tuple[Iterator[Row], Row]:
    """The rows, and the conditions they share; the arguments are those of ``models``, ``batch`` that at 224
    (column ``batch_at_224``). ``sizes``: images' sides; (): ``SIDES``. Default mode: eager.

    ``Mpixels_per_s`` is images a second times the pixels of one, in millions.
    """
    names = chosen("--only", only, ("vmamba_nano",) if small else NAMES, (*list_models(), *TIMM))
    kinds = chosen("--modes", modes, ("eager",), MODES)
    sides, smallest, images, repeats = ((32, 64), 32, 8, 2) if small else (SIDES, 224, 128, 10)
    batch = batch or images
    pixels = batch * smallest**2
    kind = "fp32" if small else dtype
    jobs = [
        Job(name, mode, kind, max(1, round(pixels / side**2)), side, repeats, str(device), scan)
        for mode in kinds
        for name in names
        for side in sizes or sides
    ]
    rows = (row | {"Mpixels_per_s": _pixels(row), "batch_at_224": batch} for row in measured(jobs, workers))
    return rows, conditions(device)


def _pixels(row: Row) -> float | None:
    return row["images_per_s"] * row["size"] ** 2 / 1e6 if row["images_per_s"] else None
