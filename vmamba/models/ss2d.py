"""The 2-D selective scan block of VMamba (arXiv 2401.10166, section 4.2).

Shape suffixes: B batch, C width, D inner width (int(ssm_ratio C)), H, W map, L = H W, K = 4 routes, N state, R dt rank.
The parameters of route k are x_proj_weight[k] (R + 2N, D), dt_projs_weight[k] (D, R), dt_projs_bias[k] (D), and rows
k D .. (k + 1) D of A_logs (N) and Ds.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vmamba.config.errors import UserError
from vmamba.models.init import init_scan
from vmamba.models.layers import activation, make_linear, make_out_norm, to_first, to_last
from vmamba_ops import cross_merge, cross_scan, dwconv_silu, line_scan, selective_scan, ss2d
from vmamba_ops.choose import choose_ss2d
from vmamba_ops.dispatch import resolve
from vmamba_ops.limits import NETWORK_LIMITS, unfit

K = 4
HALF = (torch.float16, torch.bfloat16)


def newest(fields: Mapping[str, Any]) -> bool:
    """Whether these fields of ``VMamba`` ask for the fastest way (forward type v05) and not for an older one.

    Then the projections are 1 x 1 convolutions, which commute with the scan's order: on a GPU x is projected before
    the cross scan, and backend=auto may take the fused scan.
    """
    fast = fields["projection"] == "conv" and fields["cross_scan"] == "triton" and fields["scan_in"] == "input"
    return fast and not fields["sequential"] and fields["routes"] != "cascade2d"


def runs_channels_last(fields: Mapping[str, Any]) -> bool:
    """Whether a network of norm=ln2d with these fields of ``VMamba`` is better kept channels-last inside: for a GPU."""
    if fields["norm"] != "ln2d" or fields["ssm_ratio"] <= 0:
        return False
    if fields["backend"] == "auto":
        return newest(fields) and torch.cuda.is_available()
    on_gpu = "cpu" not in NETWORK_LIMITS[fields["backend"]].devices
    return fields["backend"] == "fused" or (newest(fields) and on_gpu)


def backend_here(fields: Mapping[str, Any], device_type: str) -> str:
    """The backend that a network with these fields of ``VMamba`` scans by on a device."""
    widths = [int(fields["ssm_ratio"] * width) for width in fields["dims"]]
    fits = not any(unfit(width, fields["d_state"], fields["routes"]) for width in widths)
    if fields["backend"] == "fused" or (fields["backend"] == "auto" and fits and newest(fields)):
        choice = resolve("ss2d", fields["backend"], device_type, fields["d_state"])
        if choice == "fused":
            return choice
    return resolve("selective_scan", fields["backend"], device_type, fields["d_state"])


class SS2D(nn.Module):
    """Input projection, depthwise convolution, scan along four routes, output norm, gate, output projection.

    Input and output: (B, H, W, C), or (B, C, H, W) with ``first``. The fields are those of ``schema.Model`` (what is
    computed) and ``schema.ForwardType`` (how); the latter change neither parameters nor the float32 result.
    """

    def __init__(
        self,
        channels: int,
        *,
        first: bool,
        d_state: int,
        ssm_ratio: float,
        dt_rank: int | None,
        ssm_act: str,
        conv: int,
        conv_bias: bool,
        gate: str,
        out_norm: str,
        out_act: bool,
        routes: str,
        init: str,
        projection: str,
        cross_scan: str,
        scan_in: str,
        scan_out: str,
        sequential: bool,
        backend: str,
    ) -> None:
        super().__init__()
        inner, rank = int(ssm_ratio * channels), dt_rank or ceil(channels / 16)
        self.first, self.inner, self.rank, self.d_state = first, inner, rank, d_state
        self.gate, self.routes, self.projection, self.sequential = gate, routes, projection, sequential
        self.scan_in, self.scan_out, self.backend = scan_in, scan_out, backend
        why = unfit(inner, d_state, routes)
        if why and backend == "fused":
            raise UserError(f"backend=fused with {inner} inner channels, d_state={d_state}, routes={routes}: {why}")
        how = {"projection": projection, "cross_scan": cross_scan, "scan_in": scan_in, "sequential": sequential}
        self.newest = newest(how | {"routes": routes})
        self.fused = backend == "fused" or (backend == "auto" and self.newest and not why)
        # "auto" takes the Triton kernel where there is one, and plain torch on a CPU
        self.scan_route = self.merge_route = "auto" if cross_scan == "triton" else "torch"
        linear = make_linear(first)
        self.in_proj = linear(channels, inner if gate == "none" else 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, conv, padding=conv // 2, groups=inner, bias=conv_bias) if conv else None
        self.act = activation(ssm_act)
        self.x_proj_weight = nn.Parameter(torch.empty(K, rank + 2 * d_state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(K, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(K, inner))
        self.A_logs = nn.Parameter(torch.empty(K * inner, d_state))
        self.Ds = nn.Parameter(torch.empty(K * inner))
        self.out_norm = make_out_norm(out_norm, inner, first)
        self.out_act = nn.GELU() if out_act else nn.Identity()
        self.out_proj = linear(inner, channels, bias=False)
        init_scan(self, init)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        z = None
        if self.gate != "none":
            x, z = x.chunk(2, dim=1 if self.first else -1)
            if self.gate == "act":
                z = self.act(z)
        y = self._core(x)
        if self.x_proj_weight.dtype in HALF:  # a 16-bit module; the projections may have been exchanged
            y = y.to(self.x_proj_weight.dtype)
        y = self.out_act(self.out_norm(y)).to(x.dtype)
        return self.out_proj(y if z is None else y * z)

    def _core(self, x: Tensor) -> Tensor:
        """Convolution, activation and scan, in the network's layout: channels-last operators on a GPU if they may."""
        x_BHWD = to_last(x) if self.first else x
        fused = self.fused and self.backend != "auto"
        if self.fused and not fused:
            fused = choose_ss2d("auto", x_BHWD, self.d_state, self.routes) == "fused"
        if not fused and (self.first or not self.newest or not x.is_cuda):
            return self._composed(x)
        if self.conv2d is not None and isinstance(self.act, nn.SiLU):
            x_BHWD = dwconv_silu(x_BHWD, self.conv2d.weight, self.conv2d.bias)
        else:
            x_BHWD = self.act(x_BHWD if self.conv2d is None else to_last(self.conv2d(to_first(x_BHWD))))
        y_BHWD = self._fused(x_BHWD) if fused else self._projected_first(x_BHWD)
        return to_first(y_BHWD) if self.first else y_BHWD

    def _fused(self, x_BHWD: Tensor) -> Tensor:
        own = (self.x_proj_weight, self.dt_projs_weight, self.dt_projs_bias, self.A_logs, self.Ds)
        return ss2d(x_BHWD, *own, routes=self.routes, backend="fused")

    def _projected_first(self, x_BHWD: Tensor) -> Tensor:
        """The operators one after the other, channels-last: what a route reads at a position is projected before the
        cross scan, in one product for all four routes, and not four times after it."""
        B, H, W, D = x_BHWD.shape
        rows_BHWKC = F.linear(x_BHWD, self.x_proj_weight.flatten(0, 1)).view(B, H, W, K, -1)
        last = {"in_channel_first": False, "backend": self.scan_route}
        rows_BKCL = cross_scan(rows_BHWKC, self.routes, one_by_one=True, **last)
        r_BKRL, b, c = rows_BKCL.split((self.rank, self.d_state, self.d_state), dim=2)
        dt_BKDL = torch.matmul(self.dt_projs_weight, r_BKRL)
        x_BKDL = cross_scan(x_BHWD, self.routes, **last)
        y_BKDL = self._selective(x_BKDL, dt_BKDL, b.contiguous(), c.contiguous(), slice(0, K))
        y_BKDHW = y_BKDL.view(B, K, D, H, W)
        return cross_merge(y_BKDHW, self.routes, in_channel_first=False, backend=self.merge_route).view(B, H, W, D)

    def _composed(self, x: Tensor) -> Tensor:
        """The same by torch's convolution and the operators one after the other, as the forward type says."""
        x_BDHW = x if self.first else to_first(x)
        if self.conv2d is not None:
            x_BDHW = self.conv2d(x_BDHW)
        x_BDHW = self.act(x_BDHW)
        return self._cascade(x_BDHW) if self.routes == "cascade2d" else self._cross(x_BDHW)

    def _cross(self, x_BDHW: Tensor) -> Tensor:
        """The four routes at once, merged in the network's layout."""
        B, D, H, W = x_BDHW.shape
        x_BKDL = cross_scan(x_BDHW, self.routes, backend=self.scan_route)
        if self.sequential:
            y_BKDL = torch.cat([self._scan(x_BKDL[:, k : k + 1], slice(k, k + 1)) for k in range(K)], dim=1)
        else:
            y_BKDL = self._scan(x_BKDL, slice(0, K))
        y_BKDHW = y_BKDL.view(B, K, D, H, W)
        y = cross_merge(y_BKDHW, self.routes, in_channel_first=self.first, backend=self.merge_route)
        return y.view(B, D, H, W) if self.first else y.view(B, H, W, D)

    def _cascade(self, x_BDHW: Tensor) -> Tensor:
        """Rows both ways with groups 0 and 1, then columns both ways with 2 and 3; a bare LayerNorm before each.

        The backward readings are added as they come, not turned round again: so the published ablation was trained.
        """
        dtype = x_BDHW.dtype
        for axis, groups in (("row", slice(0, 2)), ("column", slice(2, 4))):
            x_BDHW = to_first(F.layer_norm(to_last(x_BDHW), (self.inner,))).to(dtype)
            lines = self._scan(line_scan(x_BDHW, axis), groups).sum(1).unflatten(0, (x_BDHW.shape[0], -1))
            x_BDHW = lines.permute(0, 2, 1, 3) if axis == "row" else lines.permute(0, 2, 3, 1)
        return x_BDHW if self.first else to_last(x_BDHW)

    def _scan(self, x_BKDL: Tensor, groups: slice) -> Tensor:
        """The projections and the selective scan of routes ``groups``: (B, k, D, L) -> (B, k, D, L)."""
        return self._selective(x_BKDL, *self._project(x_BKDL, groups), groups)

    def _selective(self, x_BKDL: Tensor, dt_BKDL: Tensor, B_BKNL: Tensor, C_BKNL: Tensor, groups: slice) -> Tensor:
        B, k, D, L = x_BKDL.shape
        u, dt = x_BKDL.reshape(B, k * D, L), dt_BKDL.reshape(B, k * D, L)
        half = u.dtype in HALF
        # autocast leaves some products in float32 (an einsum over one number), so the types are made alike here
        reads = torch.float32 if half and self.scan_in == "float32" else u.dtype
        u, dt, B_BKNL, C_BKNL = (t.to(reads) for t in (u, dt, B_BKNL, C_BKNL))
        rows = slice(groups.start * D, groups.stop * D)
        y = selective_scan(
            u,
            dt,
            -_float(self.A_logs[rows]).exp(),
            B_BKNL,
            C_BKNL,
            _float(self.Ds[rows]),
            _float(self.dt_projs_bias[groups].flatten()),
            True,
            backend=self.backend,
            out_dtype=torch.float32 if half and self.scan_out == "float32" else None,
        )
        return y.view(B, k, D, L)

    def _project(self, x_BKDL: Tensor, groups: slice) -> tuple[Tensor, Tensor, Tensor]:
        """The scan's dt (B, k, D, L), before bias and softplus, B and C (B, k, N, L), from its input."""
        B, k, D, L = x_BKDL.shape
        sizes = (self.rank, self.d_state, self.d_state)
        x_weight, dt_weight = self.x_proj_weight[groups], self.dt_projs_weight[groups]
        if self.projection == "einsum":
            r_BKRL, b, c = torch.einsum("bkdl,kcd->bkcl", x_BKDL, x_weight).split(sizes, dim=2)
            return torch.einsum("bkrl,kdr->bkdl", r_BKRL, dt_weight), b.contiguous(), c.contiguous()
        x = F.conv1d(x_BKDL.reshape(B, k * D, L), x_weight.flatten(0, 1)[..., None], groups=k)
        r_BKRL, b, c = x.view(B, k, -1, L).split(sizes, dim=2)
        dt = F.conv1d(r_BKRL.reshape(B, k * self.rank, L), dt_weight.flatten(0, 1)[..., None], groups=k)
        return dt.view(B, k, D, L), b.contiguous(), c.contiguous()


def _float(parameter: Tensor) -> Tensor:
    """The scan's own parameters stay float32 in a 16-bit module."""
    return parameter.float() if parameter.dtype in HALF else parameter
