"""Scans along single rows or columns: the two passes of the cascade routes."""

import torch
from torch import Tensor

from ..checks import tensors

AXES = ("row", "column")


def line_scan(x: Tensor, axis: str) -> Tensor:
    """Every row (or column) of an image as a sequence of its own, read forward and backward.

    Args:
        x: (B, C, H, W).
        axis: "row" or "column".
    Returns:
        (B * H, 2, C, W) for "row", (B * W, 2, C, H) for "column"; index 1 of the second axis is reversed.
    Raises:
        TypeError, ValueError: unknown axis, or ``x`` no tensor of four dimensions.
    """
    if axis not in AXES:
        raise ValueError(f"line_scan: unknown axis {axis!r}; choose {', '.join(AXES)}")
    tensors("line_scan", {"x": x})
    if x.dim() != 4:
        raise ValueError(f"line_scan: x is {tuple(x.shape)}; it takes (B, C, H, W)")
    lines = (x.permute(0, 2, 1, 3) if axis == "row" else x.permute(0, 3, 1, 2)).flatten(0, 1)
    return torch.stack([lines, lines.flip(-1)], 1)
