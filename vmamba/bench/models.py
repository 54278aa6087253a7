"""Throughput, memory, parameters and FLOPs of whole models, eager and compiled: ours, and timm's to compare with."""

from collections.abc import Iterator

import torch

from vmamba.bench.report import Row
from vmamba.bench.throughput import MODES, TIMM, Job, chosen, conditions, measured
from vmamba.models import list_models

# those of the published tables; T(0229flex) is T(0229) with another way to compute it
OURS = tuple(name for name in list_models() if name not in ("vmamba_nano", "vmamba_tiny_0229flex"))


def run(
    device: torch.device,
    small: bool,
    only: str = "",
    modes: str = "",
    dtype: str = "bf16",
    scan: str = "auto",
    forward_type: str = "",
    batch: int | None = None,
    size: int | None = None,
    workers: int | None = None,
) -> tuple[Iterator[Row], Row]:
    """The rows, and the conditions they share.

    Args:
        small: one tiny model on two images of 32 x 32, plain float32.
        only: models' names, by commas; "": all of the tables.
        modes: of ``MODES``, by commas; "": all.
        dtype: autocast's, bf16 or fp16; fp32 for none.
        scan: our models' backend.
        forward_type: of our models; "": their own.
        batch: images; None: 128.
        size: their side in pixels; None: 224.
        workers: processes that compile at a time; None: one for four CPUs.
    """
    names = chosen("--only", only, ("vmamba_nano",) if small else (*OURS, *TIMM), (*list_models(), *TIMM))
    kinds = chosen("--modes", modes, ("eager",) if small else MODES, MODES)
    images, side, repeats, dtype = (2, 32, 2, "fp32") if small else (128, 224, 20, dtype)
    about = (dtype, batch or images, size or side, repeats, str(device), scan, forward_type)
    jobs = [Job(name, kind, *about) for kind in kinds for name in names]
    return measured(jobs, workers), conditions(device)
