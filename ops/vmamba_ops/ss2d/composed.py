"""SS2D's core as the operators it consists of: projections by matrix products, cross scan, selective scan, merge."""

import torch
from torch import Tensor

from ..cross_scan import cross_merge, cross_scan
from ..selective_scan import selective_scan


def ss2d(
    x_BHWD: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
    routes: str = "cross2d",
) -> Tensor:
    """As the public function, with whatever backends of the parts are fastest here."""
    B, H, W, D = x_BHWD.shape
    K, _, rank = dt_projs_weight.shape
    states, half = A_logs.shape[1], x_BHWD.dtype in (torch.float16, torch.bfloat16)
    x_BKDL = cross_scan(x_BHWD.permute(0, 3, 1, 2), routes)
    rows_BKCL = torch.einsum("bkdl,kcd->bkcl", x_BKDL, x_proj_weight.to(x_BKDL.dtype))
    dt_BKRL, B_BKNL, C_BKNL = rows_BKCL.split((rank, states, states), dim=2)
    dt_BKDL = torch.einsum("bkrl,kdr->bkdl", dt_BKRL, dt_projs_weight.to(dt_BKRL.dtype))
    y_BCL = selective_scan(
        x_BKDL.reshape(B, K * D, H * W),
        dt_BKDL.reshape(B, K * D, H * W).to(x_BKDL.dtype),
        -(A_logs.float() if half else A_logs).exp(),
        B_BKNL.to(x_BKDL.dtype).contiguous(),
        C_BKNL.to(x_BKDL.dtype).contiguous(),
        Ds.float() if half else Ds,
        dt_projs_bias.flatten().float() if half else dt_projs_bias.flatten(),
        True,
        out_dtype=torch.float32 if half else None,
    )
    y_BLD = cross_merge(y_BCL.view(B, K, D, H, W), routes, in_channel_first=False)
    return y_BLD.view(B, H, W, D).to(x_BHWD.dtype)
