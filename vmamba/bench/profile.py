"""Where the time of a step goes: its kernels by kind, in evaluation and in training, eager and compiled.

Kernels are told apart by their names, so a kernel that does several things counts where its name is found first in
``KINDS``: what inductor fuses with a LayerNorm is "normalization". Times are the profiler's, of ``STEPS`` steps.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator

import torch

from vmamba.bench.jobs import Asked, Job
from vmamba.bench.measure import device_events
from vmamba.bench.report import Row
from vmamba.bench.throughput import checked, conditions, prepare

KINDS = {
    "scan": r"^ss2d_|^scan_|selective_scan|SelectiveScan",
    "cross scan and merge": r"^cross_(scan|merge)|cross_scan|cross_merge",
    "depthwise convolution": r"^dwconv_|depthwise",
    "sums of partial results": r"^partials$",
    "fused MLP": r"^mlp_",
    "normalization": r"layer_?norm|batch_?norm|GammaBeta|bn_(fw|bw)",
    "attention, softmax": r"flash|fmha|attention|softmax_warp",
    "optimizer": r"FusedAdam|_fused_adam|multi_tensor|^Optimizer",
    "copies and layout": r"^Mem(cpy|set)|nchwTo|nhwcTo|[Tt]ranspose|[Cc]opy|CatArray|aten::(cat|clone|contiguous|to)$",
    "convolution": r"conv|fprop|dgrad|wgrad|implicit_gemm|cudnn",
    "matrix product": r"gemm|cutlass|nvjet|cublas|splitK|triton_tem|::(add|b|badd)?mm$|linear",
    "compiled, reductions": r"^triton_(red|per)_",
    "compiled, pointwise": r"^triton_|^graph_",
    "reductions": r"reduce|[Ss]oft[Mm]ax|nll_loss|aten::(sum|mean)",
    "pointwise": r"elementwise|vectorized|index|fill|aten::",
}
ABOUT = ("model", "batch", "size", "amp", "tf32", "scan", "forward_type", "compile")  # columns of every row
STEPS = 5


def kind_of(name: str) -> str:
    """The kind of a kernel (of a CPU, of an operator of torch's)."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), "other")


def run(device: torch.device, small: bool, **asked) -> tuple[Iterator[Row], Row]:
    """A row for every kind of kernel of every model, mode and phase, and the conditions they share.

    ``small`` and ``asked`` as those of ``models``. Defaults: VMamba-T[s1l8], eager and with CUDA graphs. A row has
    milliseconds and kernels a step, the share of all kernels, and the largest kernel's name.
    """
    jobs = Asked(**asked).jobs(device, small, ("vmamba_tiny_s1l8",), ("eager", "reduce-overhead"), STEPS)
    return (row for job in checked(jobs) for row in _rows(job, device)), conditions(device)


def _rows(job: Job, device: torch.device) -> Iterator[Row]:
    torch.compiler.reset()
    network, common, steps = prepare(job)
    for phase, step in steps.items():
        network.train(phase == "train")
        for _ in range(STEPS):
            step()

        def several(step=step) -> None:
            for _ in range(job.repeats):
                step()

        found = by_kind(device_events(several, device), job.repeats)
        every = sum(row["ms"] for row in found)
        print(f"{job.model} {phase} {job.mode}: {every:.2f} ms of kernels a step", file=sys.stderr, flush=True)
        about = {name: common[name] for name in ABOUT}
        for row in found:
            yield about | {"phase": phase} | row | {"share_%": 100 * row["ms"] / every}


def by_kind(events: list[tuple[str, float]], steps: int) -> list[Row]:
    """Events (name, ms) of so many steps, summed by kind, the longest first."""
    kinds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, ms in events:
        kinds[kind_of(name)][name].append(ms)
    rows = []
    for kind, kernels in kinds.items():
        ms, count = sum(map(sum, kernels.values())), sum(map(len, kernels.values()))
        largest = max(kernels, key=lambda name: sum(kernels[name]))
        rows.append({"kind": kind, "ms": ms / steps, "kernels": count / steps, "largest": largest[:60]})
    return sorted(rows, key=lambda row: -row["ms"])
