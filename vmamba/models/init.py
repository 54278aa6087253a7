"""How parameters start: the scan's (three ways) and everybody else's."""

from math import log, sqrt

import torch
from timm.layers import trunc_normal_
from torch import nn


def init_scan(op: nn.Module, version: str) -> None:
    """Fills the scan parameters of an ``SS2D``.

    v0 (Mamba's): dt's weight uniform in +-rank**-0.5, its bias such that softplus(bias) is log-uniform in
    [1e-3, 1e-1] and at least 1e-4, A = -(1..N). v1: A_logs normal, dt's weight and bias 0.1 normal.
    v2: A_logs zero, dt's weight and bias 0.1 uniform in [0, 1). Ds are 1 and x_proj is a Linear's default throughout.
    """
    with torch.no_grad():
        bound = 1 / sqrt(op.inner)  # Kaiming uniform with a = sqrt(5), a Linear's default
        op.x_proj_weight.uniform_(-bound, bound)
        op.Ds.fill_(1.0)
        if version == "v0":
            op.dt_projs_weight.uniform_(-(op.rank**-0.5), op.rank**-0.5)
            dt = torch.empty_like(op.dt_projs_bias).uniform_(log(1e-3), log(1e-1)).exp_().clamp_(min=1e-4)
            op.dt_projs_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
            op.A_logs.copy_(torch.arange(1, op.d_state + 1, dtype=op.A_logs.dtype, device=op.A_logs.device).log())
        elif version == "v1":
            op.A_logs.normal_()
            op.dt_projs_weight.normal_(std=0.1)
            op.dt_projs_bias.normal_(std=0.1)
        else:
            op.A_logs.zero_()
            op.dt_projs_weight.uniform_(0, 0.1)
            op.dt_projs_bias.uniform_(0, 0.1)


def init_weights(module: nn.Module) -> None:
    """Linear maps: truncated normal, std 0.02, bias 0. Norms (1, 0) and convolutions keep torch's start."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
