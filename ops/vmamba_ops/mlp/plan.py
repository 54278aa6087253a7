"""Which kernels run an MLP of C channels, and their tiles: fixed choices, measured on an H100 (docs/fused.md)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """Rows of a program, columns of the hidden map that it takes at a time, and how it is compiled."""

    rows: int
    columns: int
    stages: int
    warps: int
    registers: int | None = None


# Kernels that keep all C channels of their rows. Wider MLPs are faster in parts: EXPAND, cuBLAS's products, and SLOPE.
INFERENCE = {64: Tile(64, 64, 2, 4), 96: Tile(64, 32, 2, 4, 128), 128: Tile(64, 32, 3, 4), 192: Tile(128, 64, 3, 8)}
FORWARD = {64: Tile(64, 64, 2, 4), 96: Tile(64, 32, 3, 4), 128: Tile(64, 32, 3, 4), 192: Tile(128, 64, 3, 8)}
BACKWARD = {
    64: Tile(64, 32, 2, 4, 128),
    96: Tile(64, 32, 3, 4, 128),
    128: Tile(64, 32, 2, 4, 168),
    192: Tile(64, 32, 3, 4),
}
EXPAND = Tile(128, 128, 3, 8)  # the product into the hidden map, with GELU behind it
SLOPE, STEP = Tile(64, 128, 1, 4), 16  # GELU's backward, and the rows of a tile that it takes at a time
SHARED = 220 * 1024  # bytes that a block must be able to have: these tiles were not tried on smaller cards


def takes(channels: int, hidden: int) -> bool:
    """Whether the kernels take these widths."""
    return channels % 32 == 0 and hidden % EXPAND.columns == 0 and channels <= hidden


def pieces(channels: int) -> int:
    """How many powers of two make up the channels of a kernel that keeps them all."""
    return 1 if channels & (channels - 1) == 0 else 3


def step(channels: int) -> int:
    """Channels that EXPAND's product takes at a time."""
    return 64 if channels % 64 == 0 else 32
