"""The definition of cross scan and cross merge: an index map applied route by route, in plain torch.

Both work on the layouts (B, K, C, L) and (B, C, L) alone; the public function puts the others into that form.
"""

import torch
from torch import Tensor

from .routes import index_map


def scan(x_BKCHW: Tensor, routes: str) -> Tensor:
    """(B, K or 1, C, H, W) -> (B, K, C, L): route k reads slice k, or the one slice there is."""
    height, width = x_BKCHW.shape[-2:]
    x = x_BKCHW.flatten(3)
    order = index_map(routes, height, width, x.device)
    return torch.stack([x[:, k % x.shape[1], :, order[k]] for k in range(len(order))], 1)


def merge(y_BKCHW: Tensor, routes: str, one_by_one: bool) -> Tensor:
    """(B, K, C, H, W), read as sequences of L = H * W -> the image (B, 1, C, L), or (B, K, C, L) one by one.

    Every element goes back to the position it was read from; without ``one_by_one`` the routes are added: unidi in
    order, the others (0 + 2) + (1 + 3), so that the rounding is part of the definition.
    """
    height, width = y_BKCHW.shape[-2:]
    y = y_BKCHW.flatten(3)
    order = index_map(routes, height, width, y.device)
    back = torch.stack([y[:, k, :, order[k].argsort()] for k in range(len(order))], 1)
    if one_by_one:
        return back
    return (back if routes == "unidi" else back[:, :2] + back[:, 2:]).sum(1, keepdim=True)
