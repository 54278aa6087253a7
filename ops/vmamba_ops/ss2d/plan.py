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
_SHORTEST = 4  # tiles of a segment
# What a launch takes, in the time of a full wave of blocks that walk rows or columns of whole maps (docs/fused.md).
_ALONE = 0.7  # one block a multiprocessor where two have room
_ENDS = 1.3  # a full wave of the first pass
_ADDING = {"forward": 1 / 6, "backward": 1 / 10}  # two outputs of as many blocks as make a wave
_FILLING = 1  # tiles more that a segment takes, until its copies are ahead


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
def source(name: str) -> str:
    """The CUDA C++ text of the "forward", "backward" or "ends" kernel."""
    folder = Path(__file__).parent
    files = [folder.parent / "ptx.cu", *(folder / f"{part}.cu" for part in ("ss2d", "rows", "maps", name))]
    return "".join(file.read_text() for file in files)


# What blocks walk: rows and then columns; either, beside each other, with outputs that are to be added; or either, the
# columns in a launch after the rows', adding to their output. The launches' numbers are ss2d.cu's.
APART = 1
WALKS = {"both": (0,), "apart": (APART,), "after": (2, 3)}


@dataclass(frozen=True)
class Cut:
    """How the work of a batch is cut."""

    walks: str  # of a block, of ``WALKS``
    per: int  # images a block
    segments: int  # of a route, each with blocks of its own

    @property
    def outputs(self) -> int:
        """Outputs that are to be added."""
        return 2 if self.walks == "apart" else 1


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
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that its launch may need."""
        return (self.direction,) if self.resident else ("ends", self.direction)

    @property
    def held_ends(self) -> int:
        """Blocks of the first pass that a multiprocessor shall hold: of 24 warps, in 16 bits."""
        return self.minblocks if self.dtype == "float32" else max(self.minblocks, 768 // self.threads)

    @property
    def threads(self) -> int:
        return 64 * self.warps

    def spread(self, images: int, length: int, dim: int, processors: int, room: int) -> Cut:
        """The cut for so many maps of ``length`` positions."""
        wanted, blocks = processors * self.minblocks, images * dim // (WIDTH * self.warps)
        if not self.resident:
            cuts = [Cut("both", max(1, blocks // (wanted * _WAVES)), 1), Cut("apart", 1, 1)]
            cuts += [Cut("after", 1, segments) for segments in range(2, self.tiles(length) // _SHORTEST + 1)]
            return min(cuts, key=lambda cut: self._cost(cut, blocks, self.tiles(length), processors))
        if 2 * blocks <= wanted:
            return Cut("apart", 1, 1)
        per, room = 1, room // self.minblocks - 1024
        while 2 * per * wanted <= blocks and self.shared(2 * per) <= room:
            per *= 2
        return Cut("both", per, 1)

    def _cost(self, cut: Cut, blocks: int, tiles: int, processors: int) -> float:
        """What a cut should take for maps without segments' ``blocks``, in the time of a full wave of them."""

        def waves(count: int, held: int) -> float:
            alone = count <= processors and held > 1
            return _ALONE if alone else -(-count // (processors * held))

        if cut.walks == "both":
            return 2 * waves(blocks, self.minblocks)
        if cut.walks == "apart":
            adding = 2 * blocks / (processors * self.minblocks) * _ADDING[self.direction]
            return waves(2 * blocks, self.minblocks) + adding
        count = blocks * cut.segments
        first = max(1, 2 * count / processors) / self.held_ends  # short blocks fill what others leave
        walks = 2 * waves(count, self.minblocks) + _ENDS * first
        return walks * (1 / cut.segments + _FILLING / tiles)

    def passes(self, cut: Cut) -> list[tuple[str, int, int]]:
        """What is launched, one after the other: a kernel, its bytes of shared memory, what its blocks walk."""
        first = [("ends", self.shared_ends(), APART)] if cut.segments > 1 else []
        return [*first, *((self.direction, self.shared(cut.per), walks) for walks in WALKS[cut.walks])]

    def tiles(self, length: int) -> int:
        """Tiles of a map."""
        return -(-length // self.tile)

    def macros(self) -> dict[str, int]:
        return {
            "IN": CODES[self.dtype],
            "R": self.rank,
            "S": self.positions,
            "CW": self.warps,
            "THREADS": self.threads,
            "MINBLOCKS": self.minblocks,
            "HELD": self.held_ends,
            "RESIDENT": int(self.resident > 0),
            "WRAP": int(self.wrap),
            "DOWN": int(self.direction == "backward"),
        }

    @property
    def _size(self) -> int:
        """Bytes of a number."""
        return 4 if self.dtype == "float32" else 2

    @property
    def _stages(self) -> int:
        """Bytes of two stages of P for each of two routes."""
        stage = (self.tile + self.positions % 2) * 8 * (padded(self.rank) // 8 | 1)
        return _whole(8 * stage * (3 if self.dtype == "float32" else 1))

    @property
    def _tiles(self) -> int:
        """Bytes of a tile of a map for every warp."""
        return 8 * self.warps * (WIDTH * self._size * self.positions + (0 if self.positions % 2 else 32))

    def shared(self, images: int = 1) -> int:
        """Bytes of shared memory of a block of so many images."""
        backward, buffers = self.direction == "backward", 1 if self.dtype == "float32" else 2
        parts = 8 * buffers * self.warps * self.tile * (padded(self.rank) + 4) if backward else 0
        if self.resident:
            maps = self.warps * (images * self.resident + 1) * 3 * WIDTH * self._size
        else:
            maps = self._tiles * (6 if backward else 4)
        return self._stages + _whole(8 * self.warps) + parts + maps

    def shared_ends(self) -> int:
        """The same of a block of the first pass over segments."""
        return self._stages + 2 * self._tiles


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
