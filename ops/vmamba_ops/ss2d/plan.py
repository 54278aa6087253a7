"""How the CUDA kernels of SS2D are cut for a problem: plain Python, so that it can be asked without a GPU.

Legend as in ss2d.cu: S positions a lane, CW channel warps a route, 16 channels a warp.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

CODES = {"float32": 0, "float16": 1, "bfloat16": 2}
WIDTH = 16  # channels of a warp
_SHARED = 99 * 1024  # bytes that a block may have on every GPU since compute capability 8.0
_WAVES = (
    4  # times that all multiprocessors are filled, where there is work enough; fewer blocks load weights less often
)


def _shape(direction: str, rank: int) -> tuple[int, int]:
    """The most channel warps of a route in a block, and the warps that a multiprocessor shall hold.

    Measured on an H100 at the four stages of VMamba-T, batch 128 (docs/fused.md). The second number is what the
    compiler may use of the registers: with a high rank, twice as many for half as many warps are faster.
    """
    return (2, 6) if direction == "backward" and rank > 24 else (6, 12)


@cache
def source(direction: str) -> str:
    """The CUDA C++ text of the "forward" or "backward" kernel."""
    folder = Path(__file__).parent
    return "".join((folder / f"{name}.cu").read_text() for name in ("ptx", "ss2d", direction))


@dataclass(frozen=True)
class Plan:
    """One kernel's macros, and what its launch needs."""

    direction: str
    dtype: str
    rank: int
    positions: int
    warps: int
    wrap: bool

    @property
    def tile(self) -> int:
        """Positions of a tile."""
        return 4 * self.positions

    @property
    def threads(self) -> int:
        return 64 * self.warps

    @property
    def minblocks(self) -> int:
        """Blocks that a multiprocessor shall hold at once."""
        return max(1, _shape(self.direction, self.rank)[1] // (2 * self.warps))

    def spread(self, images: int, dim: int, processors: int) -> tuple[int, int]:
        """How many blocks share the routes of a map (2: rows and columns, 1: one does both), and images a block."""
        wanted, blocks = processors * self.minblocks, images * dim // (WIDTH * self.warps)
        if 2 * blocks <= wanted:
            return 2, 1
        return 1, max(1, blocks // (wanted * _WAVES))

    def macros(self) -> dict[str, int]:
        return {
            "IN": CODES[self.dtype],
            "R": self.rank,
            "S": self.positions,
            "CW": self.warps,
            "MINBLOCKS": self.minblocks,
            "WRAP": int(self.wrap),
        }

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block."""
        columns = -(-(self.rank + 2) // 8)
        stage = (3 if self.dtype == "float32" else 1) * (self.tile + 1) * 8 * (columns | 1)
        staged = -(-8 * stage // 16) * 16
        parts = 16 * self.warps * self.tile * (self.rank + 2)
        return staged + (parts if self.direction == "backward" else 0)


@cache
def plan(direction: str, dtype: str, rank: int, height: int, width: int, dim: int) -> Plan:
    """The kernel for maps of ``height`` x ``width`` with ``dim`` channels (a multiple of 16) and an even ``rank``."""
    positions = 7 if height % 8 and height % 7 == 0 else 8
    wrap = height % positions != 0
    for warps in range(min(_shape(direction, rank)[0], dim // WIDTH), 0, -1):
        chosen = Plan(direction, dtype, rank, positions, warps, wrap)
        if dim // WIDTH % warps == 0 and (chosen.shared <= _SHARED or warps == 1):
            return chosen
    raise ValueError(f"ss2d: {dim} channels; it takes a multiple of {WIDTH}")
