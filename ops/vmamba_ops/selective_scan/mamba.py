"""The selective scan of the installed ``mamba_ssm`` package, as a backend to compare with.

Its kernel takes groups of B and C, one dtype for u, delta, B and C, float32 A, D and delta_bias, and writes the dtype
of u.
"""

import torch
from torch import Tensor

from ..limits import LIMITS

REMEDY = "pip install mamba-ssm (it needs a CUDA compiler and a matching torch), or use backend=auto"


def _scan():
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:  # also a package built against another torch
        raise RuntimeError(
            f"selective_scan: backend 'mamba_ssm' cannot run here: {str(error).splitlines()[0]}; {REMEDY}"
        ) from error
    return selective_scan_fn


def selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype) -> tuple[Tensor, Tensor]:
    """As ``naive.selective_scan``, but the last state takes no gradient.

    Raises:
        RuntimeError: ``mamba_ssm`` or its CUDA extension is not importable.
        ValueError: more states than its kernel takes.
    """
    scan, most = _scan(), LIMITS["mamba_ssm"].max_d_state
    if most is not None and A.shape[1] > most:
        raise ValueError(f"selective_scan: A has {A.shape[1]} states; backend 'mamba_ssm' takes up to {most}")
    dtype = u.dtype if len({t.dtype for t in (u, delta, B, C)}) == 1 else torch.float32
    u, delta, B, C = (t.to(dtype).contiguous() for t in (u, delta, B, C))
    D, delta_bias = (t if t is None else t.float() for t in (D, delta_bias))
    out, last = scan(u, delta, A.float(), B, C, D, None, delta_bias, delta_softplus, True)
    return out.to(out_dtype), last
