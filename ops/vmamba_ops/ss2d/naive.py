"""The definition of SS2D's core, composed of the definitions of its parts: plain torch, any dtype, any device."""

import torch
from torch import Tensor

from ..cross_scan import naive as cross
from ..selective_scan import naive as selective


def ss2d(
    x_BHWD: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
    routes: str = "cross2d",
) -> Tensor:
    """As the public function; the state and the merge are in float32 (float64 for float64 input)."""
    B, H, W, D = x_BHWD.shape
    K, _, rank = dt_projs_weight.shape
    states = A_logs.shape[1]
    x_BKDL = cross.scan(x_BHWD.permute(0, 3, 1, 2)[:, None], routes)
    rows_BKCL = torch.einsum("bkdl,kcd->bkcl", x_BKDL, x_proj_weight.to(x_BKDL.dtype))
    dt_BKRL, B_BKNL, C_BKNL = rows_BKCL.split((rank, states, states), dim=2)
    dt_BKDL = torch.einsum("bkrl,kdr->bkdl", dt_BKRL, dt_projs_weight.to(dt_BKRL.dtype))
    wide = torch.promote_types(x_BHWD.dtype, torch.float32)
    y_BCL, _ = selective.selective_scan(
        x_BKDL.reshape(B, K * D, H * W),
        dt_BKDL.reshape(B, K * D, H * W),
        -A_logs.to(wide).exp(),
        B_BKNL,
        C_BKNL,
        Ds.to(wide),
        dt_projs_bias.flatten().to(wide),
        True,
        wide,
    )
    y_BCL = cross.merge(y_BCL.view(B, K, D, H, W), routes, False)[:, 0]
    return y_BCL.transpose(1, 2).reshape(B, H, W, D).to(x_BHWD.dtype)
