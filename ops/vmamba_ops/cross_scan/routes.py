"""The scan orders: four ways to read an image as a sequence, by name."""

import torch
from torch import Tensor

ROUTES = ("cross2d", "unidi", "bidi")


def check(routes: str) -> None:
    """Raise ValueError unless ``routes`` is one of ``ROUTES``."""
    if routes == "cascade2d":
        raise ValueError(
            "cross_scan: routes 'cascade2d' is two passes, not one scan; use line_scan along the rows, "
            "then along the columns"
        )
    if routes not in ROUTES:
        raise ValueError(f"cross_scan: unknown routes {routes!r}; choose {', '.join(ROUTES)}")


def index_map(routes: str, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """(4, L) int64: element l of route k reads image position ``map[k, l]`` (row-major, L = height * width).

    cross2d: row-major, column-major, and both reversed. unidi: row-major four times. bidi: row-major twice,
    reversed row-major twice. (VMamba, arXiv 2401.10166, section 4.2 and its ablation of scan patterns.)
    """
    rows = torch.arange(height * width, device=device)
    columns = rows.view(height, width).t().reshape(-1)
    orders = {
        "cross2d": (rows, columns, rows.flip(0), columns.flip(0)),
        "unidi": (rows, rows, rows, rows),
        "bidi": (rows, rows, rows.flip(0), rows.flip(0)),
    }
    return torch.stack(orders[routes])
