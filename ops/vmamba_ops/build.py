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
from dataclasses import dataclass
from itertools import product

from . import nvrtc

_DTYPES = ("float32", "float16", "bfloat16")
_NROWS = (0, 1, 2, 4)
_BATCHES, _PROCESSORS = (1, 128), 132  # small and large: the convolution's rows are cut for one and not for the other


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
    maps = "also the fused SS2D and its neighbours for maps of H x W, D channels, rank R, e.g. 56x56x96x6,28x28x192x12"
    parser.add_argument("--fused", type=_list(_map), default=[], metavar="HxWxDxR", help=maps)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="threads (one a core)")
    return parser


def lengths(side: int) -> list[int]:
    """Sequence lengths of a model's four stages, for a square image: patches of 4, halved three times."""
    sides = [-(-side // 4)]
    for _ in range(3):
        sides.append(-(-sides[-1] // 2))
    return [side * side for side in sides]


@dataclass(frozen=True)
class Work:
    """A kernel to compile: ``nvrtc.compile``'s arguments but for the architecture, its entry, and what to call it."""

    source: str
    file: str
    macros: tuple[tuple[str, int], ...]
    entry: str
    text: str


def scans(options: argparse.Namespace) -> Iterator[Work]:
    """Every kernel that the selective scan may launch for what was asked."""
    from .selective_scan.plan import SLICE, plan, source  # here: it imports torch, and --help need not

    asked = options.length or [length for side in options.image for length in lengths(side)]
    ways = product(("forward", "backward"), asked, options.d_state, options.dtype, options.nrow, (True, False))
    for direction, length, states, dtype, nrow, aligned in ways:
        sliced = states > SLICE
        for out in ("float32",) if sliced and direction == "forward" else dict.fromkeys((dtype, "float32")):
            softplus = not options.no_softplus
            one = plan(direction, length, min(states, SLICE), dtype, out, softplus, nrow, aligned, sliced)
            said = f"scan {direction} {dtype} -> {out}, {one.lanes} lanes x {one.items}, nrow {one.nrow}"
            flags = (flag for flag in ("one", "vec", "whole", "sliced") if getattr(one, flag))
            yield Work(source(direction), "scan", (*one.macros().items(),), one.entry, ", ".join([said, *flags]))


def fused(options: argparse.Namespace) -> Iterator[Work]:
    """Every kernel around the fused SS2D of the maps that were asked for: its own, the convolution's, the sums'."""
    from . import partials
    from .dwconv import plan as convolution
    from .ss2d.plan import plan, source

    ways = product(options.fused, options.dtype, ("forward", "backward"))
    for (height, width, dim, rank), dtype, way in ways:
        one = plan(way, dtype, rank + rank % 2, height, width, dim)
        for name in one.kernels:
            said = f"ss2d {name if name == way else f'{name} of {way}'} {dtype}, rank {one.rank}, {one.warps} warps"
            yield Work(source(name), "ss2d", (*one.macros().items(),), f"ss2d_{name}", said)
        for images, bias in product(_BATCHES, (False, True)):
            cut = convolution.plan(way, dtype, images, height, width, dim, _PROCESSORS)
            macros = cut.macros(bias)
            said = ", ".join([f"dwconv {way} {dtype}", *(flag.lower() for flag in ("BIAS", "MASK") if macros[flag])])
            yield Work(convolution.source(way), "dwconv", (*macros.items(),), f"dwconv_{way}", said)
    if options.fused:
        yield Work(partials.source(), "partials", (*partials.MACROS.items(),), "partials", "partials")


def build(options: argparse.Namespace) -> int:
    """Compile and print; the exit code."""

    def compile(work: tuple[str, Work]) -> tuple[str, Work, nvrtc.Binary]:
        arch, kernel = work
        return arch, kernel, nvrtc.compile(kernel.source, kernel.file, dict(kernel.macros), arch)

    kernels = {(kernel.file, kernel.entry, kernel.macros): kernel for kernel in (*scans(options), *fused(options))}
    start, total, new = time.perf_counter(), 0, 0
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        for arch, kernel, binary in pool.map(compile, product(options.arch, kernels.values())):
            usage = next((usage for usage in binary.usage if usage.name == kernel.entry), None)
            total, new = total + 1, new + (not binary.cached)
            print(f"{arch}  {_usage(usage)}  {kernel.text}", flush=True)
    seconds = time.perf_counter() - start
    print(f"{total} kernels, {new} compiled now in {seconds:.1f} s with NVRTC {nvrtc.version()}; "
          f"in {nvrtc.cache_folder()}")  # fmt: skip
    return 0


def _usage(usage: nvrtc.Usage | None) -> str:
    if usage is None:
        return "the assembler did not report"
    return f"{usage.registers:3d} registers  {usage.stack:4d} B stack  {usage.spills:4d} B spilled"


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
