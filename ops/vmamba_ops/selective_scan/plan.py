"""How the CUDA scan is cut for a problem: plain Python, so that it can be asked without torch and without a GPU.

Legend as in scan.cu: LANES lanes share a tile of LANES x ITEMS positions of a row, a warp holds 32 / LANES x NROW rows.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

CODES = {"float32": 0, "float16": 1, "bfloat16": 2}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
SLICE = 16  # states that one launch does; more are done by several, which add up
_BLOCKS = {"forward": 2048, "backward": 1024}  # wanted in a launch: few leave the GPU idle while the last ones run
_SHARED = 99 * 1024  # bytes that a block may have on every GPU since compute capability 8.0


@cache
def source(kernel: str) -> str:
    """The CUDA C++ text of the "forward", "backward" (one state) or "backward_states" kernel."""
    folder = Path(__file__).parent
    files = (folder.parent / "ptx.cu", folder / "scan.cu", folder / f"scan_{kernel}.cu")
    return "".join(file.read_text() for file in files)


def cut(length: int, states: int, dtype: str) -> tuple[int, int]:
    """ITEMS and LANES. Their product, the positions between saved states, is the same forward and backward."""
    items = 4 if dtype == "float32" and length % 8 and length % 4 == 0 else 8
    if length % 8 and length % 7 == 0:
        items = 7

    def cost(lanes: int) -> int:
        size = lanes * items
        return -(-length // size) * (size + 16)  # a tile costs what 16 positions do, beside its own

    # With many states a tile's own cost vanishes, and few lanes compose their maps in fewer steps.
    return items, min((8, 16, 32), key=cost) if states == 1 else 8


def shortest(dtype: str) -> int:
    """The least that ``cut`` gives for any length: 4 or 7 ITEMS, 8 LANES."""
    return 32 if dtype == "float32" else 56


def tiles(length: int, states: int, dtype: str) -> int:
    items, lanes = cut(length, states, dtype)
    return -(-length // (items * lanes))


@dataclass(frozen=True)
class Plan:
    """One kernel's macros and the numbers its launch needs."""

    direction: str
    dtype: str
    out: str
    grad: str
    lanes: int
    items: int
    nrow: int
    warps: int
    stages: int
    minblocks: int
    one: bool
    softplus: bool
    vec: bool
    whole: bool
    sliced: bool

    @property
    def kernel(self) -> str:
        """Its text's name, for ``source``."""
        return "backward_states" if self._by_states else self.direction

    @property
    def _by_states(self) -> bool:
        """Whether warps share the states, and not the rows: the backward for more than one."""
        return self.direction == "backward" and not self.one

    @property
    def entry(self) -> str:
        """The kernel's name, by which profilers know it."""
        return f"scan_{self.direction}"

    @property
    def group(self) -> int:
        """Rows a warp takes at a time."""
        return 32 // self.lanes * self.nrow

    def macros(self) -> dict[str, int]:
        names = ("lanes", "items", "nrow", "warps", "stages", "minblocks", "one", "softplus", "vec", "whole", "sliced")
        codes = {"IN": CODES[self.dtype], "OUT": CODES[self.out], "GRAD": CODES[self.grad]}
        shares = {"THREADS": 32 * self.warps, "EACH": SLICE // self.warps}
        return codes | shares | {name.upper(): int(getattr(self, name)) for name in names}

    def _segment(self, dtype: str) -> int:
        return (self.lanes * self.items * BYTES[dtype] + (0 if self.vec else 30)) // 16 * 16

    def shared(self, rows: int, states: int) -> tuple[int, int]:
        """Bytes of shared memory before the warps' own, and in all, for ``rows`` and ``states`` of a block."""
        backward, one = self.direction == "backward", self.one
        tile, slots = self.lanes * self.items * 4, 32 // self.lanes
        constants = rows * (2 * states + 2) + (rows * (states + 2) if backward else 0)
        staging = 128 + (constants * 4 + 15) // 16 * 16
        inputs = 2 * self._segment(self.dtype) + (self._segment(self.out) if backward else 0)
        states_ahead = (16 if one else 4 * SLICE) if backward else 0
        numbers, pairs = (12, 10) if self.items == 8 else (self.items, self.items)  # of a lane, without conflicts
        both = 0 if one else 2 * states * pairs * self.lanes * 4  # B and C of a tile
        if self._by_states:
            results, shared = 0, both + 5 * self.warps * slots * numbers * self.lanes * 4  # exchanged of a round's rows
        elif backward:
            results, shared = 2 * self._segment(self.grad), self.warps * 2 * slots * tile  # sums of dB and dC
        else:
            results, shared = self._segment(self.out), both
        own = (self.stages * (inputs + states_ahead) + results) * self.nrow * slots
        return staging, staging + self.warps * own + shared

    def rows(self, per_group: int, units: int, states: int) -> int:
        """Rows of a block, when ``units`` (images x groups) have ``per_group`` each."""
        step = self.warps * self.group
        most = -(-per_group // step)
        splits = max(-(-_BLOCKS[self.direction] // units), -(-per_group // _most_rows(step, states)))
        return -(-most // min(splits, most)) * step


def _most_rows(step: int, states: int) -> int:
    """Rows a block may have: constants and carries of all its rows and states lie in shared memory."""
    return max(step, min(256, 1024 // states))


# (direction, one state, nrow) -> warps a block, blocks a multiprocessor (for the compiler: registers), stages.
# Measured on an H100; ops/README.md has the times.
_SHAPES = {
    ("forward", True, 1): (8, 4, 3),
    ("forward", True, 2): (8, 2, 2),
    ("forward", True, 4): (8, 1, 2),
    ("forward", False, 1): (4, 5, 2),
    ("forward", False, 2): (4, 4, 2),
    ("forward", False, 4): (4, 2, 2),
    ("backward", True, 1): (8, 2, 2),
    ("backward", True, 2): (8, 1, 2),
    ("backward", True, 4): (8, 1, 2),
    ("backward", False, 1): (4, 3, 2),
}


def best_nrow(direction: str, states: int) -> int:
    """The fastest of 1, 2 and 4: with many states, two rows share what is read of B and C."""
    return 2 if direction == "forward" and states > 1 else 1


@cache
def plan(
    direction: str,
    length: int,
    states: int,
    dtype: str,
    out: str,
    softplus: bool,
    nrow: int,
    aligned: bool = True,
    sliced: bool = False,
) -> Plan:
    """The kernel for one problem.

    Args:
        direction: "forward" or "backward".
        length, states: L, and the states of one launch.
        dtype, out: names of the inputs' dtype and of that of out and its gradient.
        nrow: rows a slot takes at a time, 1, 2 or 4; 0 for the fastest. The backward of several states knows 1 alone.
        aligned: every tensor starts at 16 bytes, and so do the rows of B and C.
        sliced: the launch adds to float32 results of launches before it.
    """
    items, lanes = cut(length, states, dtype)
    narrow = min(BYTES[dtype], BYTES[out])
    vec = aligned and length * narrow % 16 == 0 and items * narrow % 16 == 0
    one, grad = states == 1 and not sliced, "float32" if sliced else dtype
    nrow = nrow or best_nrow(direction, states)
    if direction == "backward" and not one:
        nrow = 1
    warps, blocks, stages = _SHAPES[direction, one, nrow]
    whole = length % items == 0
    while True:
        chosen = Plan(
            direction, dtype, out, grad, lanes, items, nrow, warps, stages, blocks, one, softplus, vec, whole, sliced
        )
        _, shared = chosen.shared(_most_rows(warps * chosen.group, states), states)
        if shared <= _SHARED or warps == 1:
            return chosen
        warps //= 2
