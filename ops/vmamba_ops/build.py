"""Compile the CUDA scan ahead of its first use, into the cache of ``vmamba_ops.nvrtc``; needs no GPU and no driver.

    python -m vmamba_ops.build --arch sm_80,sm_90 --image 224 --d-state 1 --dtype float16

prints registers, stack and spills of every kernel. Point ``VMAMBA_OPS_CACHE`` at the folder where the runs will look.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TYPE_CHECKING

from . import nvrtc

if TYPE_CHECKING:
    from .selective_scan.plan import Plan
    from .ss2d.plan import Plan as FusedPlan

_DTYPES = ("float32", "float16", "bfloat16")
_NROWS = (0, 1, 2, 4)


def _list(kind: Callable[[str], object], choices: tuple | range | None = None) -> Callable[[str], list]:
    """A parser of comma-separated values, which argparse turns into one line for a bad one."""

    def parse(text: str) -> list:
        values = []
        for part in text.split(","):
            try:
                value = kind(part)
            except ValueError:
                raise argparse.ArgumentTypeError(f"{part!r} is not {kind.__name__}") from None
            if choices is not None and value not in choices:
                known = f"{choices[0]} to {choices[-1]}" if isinstance(choices, range) else ", ".join(map(str, choices))
                raise argparse.ArgumentTypeError(f"{value!r}: choose {known}")
            values.append(value)
        return values

    return parse


def _map(text: str) -> tuple[int, ...]:
    """Height, width, channels and rank of "56x56x96x6"."""
    height, width, dim, rank = map(int, text.split("x"))
    if min(height, width, rank) < 1 or dim < 1 or dim % 16:
        raise ValueError(text)
    return height, width, dim, rank


_map.__name__ = "a map HxWxDxR with D a multiple of 16"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vmamba_ops.build", description=(__doc__ or "").splitlines()[0])
    sizes = range(1, 1 << 20)
    parser.add_argument("--arch", type=_list(str), default=["sm_80", "sm_90"], help="architectures (sm_80,sm_90)")
    parser.add_argument("--image", type=_list(int, sizes), default=[224], help="square images' sides (224)")
    parser.add_argument("--length", type=_list(int, sizes), help="sequence lengths, instead of those of --image")
    parser.add_argument("--d-state", type=_list(int, range(1, 257)), default=[1], help="states a channel (1)")
    parser.add_argument("--dtype", type=_list(str, _DTYPES), default=list(_DTYPES), help="of the input (all three)")
    parser.add_argument("--nrow", type=_list(int, _NROWS), default=[0], help="1,2,4, or 0 for the fastest (0)")
    parser.add_argument("--no-softplus", action="store_true", help="the scan without softplus")
    maps = "also the fused SS2D for maps of H x W, D channels and dt rank R (56x56x96x6,28x28x192x12)"
    parser.add_argument("--fused", type=_list(_map), default=[], metavar="HxWxDxR", help=maps)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="threads (one a core)")
    return parser


def lengths(side: int) -> list[int]:
    """Sequence lengths of a model's four stages, for a square image: patches of 4, halved three times."""
    sides = [-(-side // 4)]
    for _ in range(3):
        sides.append(-(-sides[-1] // 2))
    return [side * side for side in sides]


def kernels(options: argparse.Namespace) -> Iterator["Plan"]:
    """Every kernel that the scan may launch for what was asked, each once."""
    from .selective_scan.plan import SLICE, plan  # here: it imports torch, and --help need not

    seen = set()
    asked = options.length or [length for side in options.image for length in lengths(side)]
    ways = product(("forward", "backward"), asked, options.d_state, options.dtype, options.nrow, (True, False))
    for direction, length, states, dtype, nrow, aligned in ways:
        sliced = states > SLICE
        for out in ("float32",) if sliced and direction == "forward" else dict.fromkeys((dtype, "float32")):
            softplus = not options.no_softplus
            one = plan(direction, length, min(states, SLICE), dtype, out, softplus, nrow, aligned, sliced)
            if one not in seen:
                seen.add(one)
                yield one


def fused_kernels(options: argparse.Namespace) -> Iterator[tuple[str, "FusedPlan"]]:
    """Every kernel of the fused SS2D that was asked for, each once: its name and plan."""
    from .ss2d.plan import plan

    seen = set()
    for (height, width, dim, rank), dtype, way in product(options.fused, options.dtype, ("forward", "backward")):
        one = plan(way, dtype, rank + rank % 2, height, width, dim)
        if one not in seen:
            seen.add(one)
            yield from ((name, one) for name in one.kernels)


def _describe(plan: "Plan") -> str:
    text = f"{plan.direction} {plan.dtype} -> {plan.out}, {plan.lanes} lanes x {plan.items}, nrow {plan.nrow}"
    flags = ("one", "vec", "whole", "sliced")
    return ", ".join([text, *(flag for flag in flags if getattr(plan, flag))])


def _usage(usage: nvrtc.Usage | None) -> str:
    if usage is None:
        return "the assembler did not report"
    return f"{usage.registers:3d} registers  {usage.stack:4d} B stack  {usage.spills:4d} B spilled"


def build(options: argparse.Namespace) -> int:
    """Compile and print; the exit code."""
    from .selective_scan.plan import source
    from .ss2d.plan import source as fused_source

    def compile_fused(work: tuple[str, tuple[str, "FusedPlan"]]) -> tuple[str, str, "FusedPlan", nvrtc.Binary]:
        arch, (name, plan) = work
        return arch, name, plan, nvrtc.compile(fused_source(name), "ss2d", plan.macros(), arch)

    def compile(work: tuple[str, "Plan"]) -> tuple[str, "Plan", nvrtc.Binary]:
        arch, plan = work
        return arch, plan, nvrtc.compile(source(plan.direction), "scan", plan.macros(), arch)

    start, total, fresh = time.perf_counter(), 0, 0
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        for arch, plan, binary in pool.map(compile, product(options.arch, list(kernels(options)))):
            usage = next((usage for usage in binary.usage if usage.name == plan.entry), None)
            total, fresh = total + 1, fresh + (not binary.cached)
            print(f"{arch}  {_usage(usage)}  {_describe(plan)}", flush=True)
        for arch, name, plan, binary in pool.map(compile_fused, product(options.arch, list(fused_kernels(options)))):
            (usage,) = binary.usage
            total, fresh = total + 1, fresh + (not binary.cached)
            print(f"{arch}  {usage.registers:3d} registers  {usage.stack:4d} B stack  {usage.spills:4d} B spilled  "
                  f"ss2d {name if name == plan.direction else f'{name} of {plan.direction}'} {plan.dtype}, "
                  f"rank {plan.rank}, {plan.warps} warps", flush=True)  # fmt: skip
    seconds = time.perf_counter() - start
    print(f"{total} kernels, {fresh} compiled now in {seconds:.1f} s with NVRTC {nvrtc.version()}; "
          f"in {nvrtc.cache_folder()}")  # fmt: skip
    return 0


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if why := nvrtc.missing():
        print(why, file=sys.stderr)
        return 1
    try:
        return build(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
