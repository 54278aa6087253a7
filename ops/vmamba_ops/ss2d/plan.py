"""How the CUDA kernels of SS2D are cut for a problem: plain Python, so that it can be asked without a GPU.

Legend as in ss2d.cu: S positions a lane, CW channel warps a route, 16 channels a warp.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

CODES = {"float32": 0, "float16": 1, "bfloat16": 2}
WIDTH = 16  # channels of a warp
SHARED = 99 * 1024  # bytes that a block may have on every GPU since compute capability 8.0
_WAVES = 4  # times that all multiprocessors are filled, if there is work enough; fewer blocks load weights less often
_RESIDENT = 256  # positions of a map that may be in shared memory whole


def _shape(direction: str, rank: int, groups: int) -> tuple[int, int]:
    """The most channel warps of a route in a block, and the warps that a multiprocessor shall hold.

    Measured on an H100 at the four stages of VMamba-T, batch 128 (docs/fused.md). The second number is what the
    compiler may use of the registers. Whole rows of channels (``groups`` of 16) in a block where that is possible; else
    more blocks, which wait at fewer barriers together.
    """
    if rank > 24:
        return (3, 12) if direction == "forward" else (2, 8)
    if direction == "forward":
        return (4, 16) if groups % 4 == 0 else (6, 12)
    return (6, 12) if groups <= 6 else (3, 12)


def padded(rank: int) -> int:
    """Numbers of a route's row of P in memory: dt's, B, C, and zeros up to a multiple of 8, which is 16 bytes."""
    return (rank + 9) // 8 * 8


@cache
def source(direction: str) -> str:
    """The CUDA C++ text of the "forward" or "backward" kernel."""
    folder = Path(__file__).parent
    return "".join((folder / f"{name}.cu").read_text() for name in ("ptx", "ss2d", "maps", direction))


@dataclass(frozen=True)
class Plan:
    """One kernel's macros, and what its launch needs."""

    direction: str
    dtype: str
    rank: int
    positions: int
    warps: int
    minblocks: int  # that a multiprocessor shall hold at once
    resident: int  # positions of a map if whole maps are in shared memory, else 0
    wrap: bool

    @property
    def tile(self) -> int:
        """Positions of a tile."""
        return 4 * self.positions

    @property
    def threads(self) -> int:
        return 64 * self.warps

    def spread(self, images: int, dim: int, processors: int, room: int) -> tuple[int, int]:
        """How many blocks share the routes of a map (2: rows and columns, 1: one does both), and images a block."""
        wanted, blocks = processors * self.minblocks, images * dim // (WIDTH * self.warps)
        if 2 * blocks <= wanted:
            return 2, 1
        if not self.resident:
            return 1, max(1, blocks // (wanted * _WAVES))
        per, room = 1, room // self.minblocks - 1024
        while 2 * per * wanted <= blocks and self.shared(2 * per) <= room:
            per *= 2
        return 1, per

    def macros(self) -> dict[str, int]:
        return {
            "IN": CODES[self.dtype],
            "R": self.rank,
            "S": self.positions,
            "CW": self.warps,
            "MINBLOCKS": self.minblocks,
            "RESIDENT": int(self.resident > 0),
            "WRAP": int(self.wrap),
        }

    def shared(self, images: int = 1) -> int:
        """Bytes of shared memory of a block of so many images."""
        size, pitch, full = 2, 8 * (padded(self.rank) // 8 | 1), self.dtype == "float32"
        stage, buffers = (self.tile + self.positions % 2) * pitch, 2
        if full:
            size, stage, buffers = 4, 3 * stage, 1
        backward = self.direction == "backward"
        parts = 8 * buffers * self.warps * self.tile * (padded(self.rank) + 4) if backward else 0
        if self.resident:
            maps = self.warps * (images * self.resident + 1) * 3 * WIDTH * size
        else:
            tile = 4 * (WIDTH * size * self.positions + (0 if self.positions % 2 else 32))
            maps = 2 * self.warps * tile * (6 if backward else 4)
        return _whole(8 * stage) + _whole(8 * self.warps) + parts + maps


def _whole(size: int) -> int:
    return -(-size // 16) * 16


@cache
def plan(direction: str, dtype: str, rank: int, height: int, width: int, dim: int, room: int = SHARED) -> Plan:
    """The kernel for maps of ``height`` x ``width`` with ``dim`` channels (a multiple of 16) and an even ``rank``.

    ``room`` is what a block may have of shared memory, in bytes.
    """
    # a tile costs about as much beside its positions as two of them
    length = height * width
    positions = min((7, 8), key=lambda s: -(-length // (4 * s)) * (s + 2))
    groups = dim // WIDTH
    most, held = _shape(direction, rank, groups)
    for warps in (n for n in range(min(most, groups), 0, -1) if groups % n == 0):
        minblocks = max(1, held // (2 * warps))
        for resident in (length, 0) if length <= _RESIDENT else (0,):
            wrap = bool(resident) and height % positions != 0
            chosen = Plan(direction, dtype, rank, positions, warps, minblocks, resident, wrap)
            if chosen.shared() <= room or (warps == 1 and not resident):
                return chosen
    raise ValueError(f"ss2d: {dim} channels; it takes a multiple of {WIDTH}")
