"""How the Triton scan cuts its work: tiles as a table by length, states and width, and when to split a sequence.

Measured on one H100 (fp16, batch 128, the stages of a 224-pixel VMamba). There is no search at run time; an A100, which
has as many registers, takes the same table. Sizes may be symbolic (``torch.export``): they are compared, not converted,
wherever an answer does not hang on their exact value.
"""

from functools import cache
from typing import NamedTuple

import torch


class Tile(NamedTuple):
    """``rows`` channels by ``groups`` * ``each`` positions, in ``warps`` warps: see ``triton_scan``."""

    groups: int
    rows: int
    each: int
    warps: int = 1
    registers: int | None = None  # the most a thread may use; None leaves it to the compiler
    blocks: int = 1  # channel blocks that a program takes one after another, where there are enough of them

    @property
    def positions(self) -> int:
        return self.groups * self.each


# (more than one state, positions a thread holds together) -> forward tile, backward tile. The forward saves the state
# wherever a chunk of the backward starts, so its tile is as long as the backward's or a multiple of it.
_LONG = {
    (False, 8): (Tile(32, 1, 8), Tile(8, 4, 8, registers=128)),
    (False, 4): (Tile(32, 2, 4), Tile(8, 4, 4)),
    (True, 8): (Tile(16, 16, 8, warps=4, registers=128), Tile(8, 8, 8, blocks=4)),
    (True, 4): (Tile(32, 2, 4, registers=96), Tile(16, 4, 4, blocks=4)),
}
# One state and a sequence of one chunk of this length: bytes of an input -> forward and backward, of a full chunk.
SHORT = 64
_SHORT = {
    2: (Tile(8, 4, 8, registers=64, blocks=4), Tile(16, 2, 4, registers=96, blocks=8)),
    4: (Tile(16, 4, 4, registers=64, blocks=4), Tile(16, 2, 4, registers=96, blocks=8)),
}


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def unit(*sizes: int) -> int:
    """The largest power of two up to 8 that divides all of ``sizes``."""
    return next(v for v in (8, 4, 2, 1) if all(s % v == 0 for s in sizes))


def _fit(tile: Tile, length: int) -> Tile:
    """``tile`` with fewer groups and more rows where the sequence is shorter than it."""
    if length > tile.positions // 2:
        return tile
    groups = 1 << (ceil_div(int(length), tile.each) - 1).bit_length()
    return tile._replace(groups=groups, rows=tile.rows * (tile.groups // groups))


def tiles(length: int, states: int, width: int, vec: int) -> tuple[Tile, Tile]:
    """Forward and backward tile for sequences of ``length``, inputs of ``width`` bytes, loads of ``vec`` elements."""
    if states == 1 and length <= SHORT:
        forward, backward = _SHORT[2 if width == 2 else 4]
    else:
        forward, backward = _LONG[bool(states > 1), 8 if width == 2 and vec == 8 else 4]
    return _fit(forward, length), _fit(backward, length)


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; of one that is not here (a fake tensor's), an H100's."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 132


def segments(device: torch.device, warps: int, chunks: int) -> tuple[int, int]:
    """(segments, chunks in each): one, unless there are less than 4 warps a multiprocessor; then enough for 16.

    Joining segments reads the inputs once more, so a segment has at least 4 chunks.
    """
    if warps >= 4 * processors(device) or chunks < 8:
        return 1, chunks
    parts = min(ceil_div(16 * processors(device), int(warps)), int(chunks) // 4)
    each = ceil_div(int(chunks), parts)
    return ceil_div(int(chunks), each), each


def blocks_each(device: torch.device, per_group: int, tile: Tile, outer: int) -> tuple[int, int]:
    """(channel blocks a program takes, programs a group): up to ``tile.blocks``, leaving 16 warps a multiprocessor."""
    blocks = ceil_div(per_group, tile.rows)
    each = tile.blocks
    while each > 1 and (each > blocks or outer * blocks * tile.warps < 16 * each * processors(device)):
        each -= 1
    return each, ceil_div(blocks, each)
