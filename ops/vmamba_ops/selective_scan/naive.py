"""The definition of the selective scan: plain torch, one step of the sequence at a time.

Mamba (arXiv 2312.00752, section 3, algorithm 2) with zero-order hold for A and Euler for B, grouped as in VMamba:
channels d of group g read B and C of that group.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Shapes as in ``vmamba_ops.selective_scan``; returns (out in ``out_dtype``, last state in the state's dtype)."""
    batch, dim, length = u.shape
    groups, states = B.shape[1:3]
    dtype = torch.float64 if torch.float64 in (u.dtype, delta.dtype, B.dtype, C.dtype) else torch.float32
    u, delta, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        delta = F.softplus(delta, threshold=20.0)

    per_group = (batch, groups, dim // groups, length)
    dts, xs = delta.reshape(per_group).unbind(-1), (delta * u).reshape(per_group).unbind(-1)
    A_KDN = A.reshape(groups, dim // groups, states)
    h_BKDN = u.new_zeros(batch, groups, dim // groups, states)
    ys = []
    for dt_BKD, x_BKD, B_BKN, C_BKN in zip(dts, xs, B.unbind(-1), C.unbind(-1), strict=True):
        h_BKDN = torch.exp(dt_BKD[..., None] * A_KDN) * h_BKDN + x_BKD[..., None] * B_BKN[:, :, None]
        ys.append((h_BKDN * C_BKN[:, :, None]).sum(-1))
    out = torch.stack(ys, -1).reshape(batch, dim, length)
    if D is not None:
        out = out + u * D.to(dtype)[:, None]
    return out.to(out_dtype), h_BKDN.reshape(batch, dim, states)
