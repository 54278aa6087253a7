"""How the depthwise kernels are cut for a problem: plain Python, so that it can be asked without a GPU.

Legend as in rows.cu: a slot is 7 neighbouring positions of a row, which 16 threads share; a block has 8 slots.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

CODES = {"float32": 0, "float16": 1, "bfloat16": 2}
THREADS = 128
_POSITIONS, _CHANNELS, _SLOTS = 7, 32, 8
_FEWEST = 8  # rows of a strip, if a map is cut
_EDGES = 2 * (_SLOTS + 1) * 2 * _CHANNELS * 4  # bytes: what slots tell each other of two rows
_SUMS = 10 * _SLOTS * _CHANNELS * 4
_STAGES = {"forward": 4, "backward": 3}
_BLOCKS = {"forward": 4, "backward": 3}  # that a multiprocessor shall hold, by their registers


@cache
def source(direction: str) -> str:
    """The CUDA C++ text of the "forward" or "backward" kernel."""
    here = Path(__file__).parent
    files = (here.parent / "ptx.cu", here / "rows.cu", here / f"{direction}.cu")
    return "".join(file.read_text() for file in files)


@dataclass(frozen=True)
class Plan:
    """A launch: the kernel's macros, and what it is told at run time."""

    direction: str
    dtype: str
    sizes: tuple[int, int, int, int]  # images, height, width, channels
    slots: int  # of an image (or tile) side by side
    tiles: int  # of a row; each but the first begins 3 positions before the last one's end
    per: int  # images of a block
    rows: int  # of a strip

    @property
    def strips(self) -> int:
        return -(-self.sizes[1] // self.rows)

    @property
    def groups(self) -> int:
        """Of channels."""
        return -(-self.sizes[3] // _CHANNELS)

    @property
    def tasks(self) -> int:
        """Blocks of a group of channels: each has a sum of its own of the gradients of weight and bias."""
        return -(-self.sizes[0] // self.per) * self.tiles * self.strips

    @property
    def fields(self) -> tuple[int, ...]:
        """Problem's fields from images on."""
        return (*self.sizes, self.groups, self.slots, self.tiles, self.per, self.rows, self.strips)

    @property
    def stages(self) -> int:
        """Rows in shared memory: what is computed, and what comes."""
        return _STAGES[self.direction]

    def macros(self, bias: bool) -> dict[str, int]:
        width, dim = self.sizes[2:]
        mask = self.tiles * self.strips > 1 or width != _POSITIONS * self.slots
        return {
            "THREADS": THREADS,
            "IN": CODES[self.dtype],
            "BIAS": int(bias),
            "WIDE": int(self.dtype == "float32" or dim % 8 == 0),
            "MASK": int(mask),
            "STAGES": self.stages,
            "BLOCKS": _BLOCKS[self.direction],
        }

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block."""
        positions = self.per * (_POSITIONS * self.slots + 2)
        column = _CHANNELS * (4 if self.dtype == "float32" else 2)
        if self.direction == "forward":
            return self.stages * positions * column
        positions += self.per * _POSITIONS * self.slots
        return _EDGES + max(_SUMS, self.stages * positions * column)


@cache
def plan(direction: str, dtype: str, images: int, height: int, width: int, dim: int, processors: int) -> Plan:
    """The launch for maps of ``height`` x ``width`` with ``dim`` channels on a GPU of so many multiprocessors."""
    cuts = dict.fromkeys(-(-height // strips) for strips in range(1, max(1, height // _FEWEST) + 1))
    plans = []
    for slots in range(1, min(_SLOTS, -(-width // _POSITIONS)) + 1):
        reach = _POSITIONS * slots
        tiles = 1 if reach >= width else -(-(width - 3) // (reach - 3))
        per = min(images, _SLOTS // slots)
        plans += [Plan(direction, dtype, (images, height, width, dim), slots, tiles, per, rows) for rows in cuts]
    held = processors * _BLOCKS[direction]
    # a block has three rows' worth of work beside its own; tiles read their neighbours' columns again
    return min(plans, key=lambda p: (-(-p.tasks * p.groups // held) * (p.rows + 3), p.tiles))
