"""Throughput, memory, parameters and FLOPs of whole models, eager and compiled: ours, and timm's to compare with."""

from collections.abc import Iterator

import torch

from vmamba.bench.jobs import MODES, TIMM, Asked
from vmamba.bench.report import Row
from vmamba.bench.throughput import conditions, measured
from vmamba.models import list_models

# those of the published tables; T(0229flex) is T(0229) with another way to compute it
OURS = tuple(name for name in list_models() if name not in ("vmamba_nano", "vmamba_tiny_0229flex"))


def run(device: torch.device, small: bool, workers: int | None = None, **asked) -> tuple[Iterator[Row], Row]:
    """The rows, and the conditions they share.

    Args:
        small: one tiny model on two images of 32 x 32, plain float32.
        workers: processes that compile at a time; None: one for four CPUs.
        asked: the fields of ``Asked``. Default: all models of the tables and timm's, in all modes.
    """
    jobs = Asked(**asked).jobs(device, small, (*OURS, *TIMM), MODES, 20)
    return measured(jobs, workers), conditions(device)
