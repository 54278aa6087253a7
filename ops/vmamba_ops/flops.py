"""FLOPs of the selective scan by the two rules in use, and their registration with ``torch.utils.flop_counter``.

Both are upstream VMamba's conventions, so that numbers compare: these are FLOPs, while fvcore, whose totals they are
added to, counts a multiply-add of a convolution or matrix product once. ``FlopCounterMode`` counts those twice; see
``scan_flops`` for the scan's own share. A counter knows the operators that exist when it is made: ``counter`` makes one
that knows them all.
"""

from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

RULES = ("new", "old")


def scan_flops(batch: int, length: int, dim: int, states: int, with_D: bool = True, rule: str = "new") -> int:
    """FLOPs of one forward scan over ``dim`` channels (all groups together).

    Args:
        rule: "new" is 9 B L D N (since February 2024, Mamba's authors' count); "old" re-counts the reference
            implementation's three einsums, 3.5 B L D N (upstream rounds it to four digits on the way). Both add
            B L D for the skip term.
    Raises:
        ValueError: unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"scan_flops: unknown rule {rule!r}; choose {', '.join(RULES)}")
    positions = batch * length * dim
    return (9 * positions * states if rule == "new" else 7 * positions * states // 2) + with_D * positions


def _forward(u_shape: Any, delta_shape: Any, A_shape: Any, B_shape: Any, C_shape: Any, D_shape: Any, *_, **__) -> int:
    batch, dim, length = u_shape
    return scan_flops(batch, length, dim, A_shape[1], isinstance(D_shape, torch.Size))


def _backward(dout_shape: Any, dlast: Any, states: Any, u_shape: Any, delta: Any, A_shape: Any, *rest, **__) -> int:
    """Twice the forward, as for a matrix product: one product for each of its two inputs."""
    return 2 * _forward(u_shape, delta, A_shape, *rest)


def register(op: str) -> None:
    """Register ``vmamba_ops::<op>`` and ``<op>_backward``, with the arguments of ``selective_scan_cpu``, once."""
    register_flop_formula(getattr(torch.ops.vmamba_ops, op))(_forward)
    register_flop_formula(getattr(torch.ops.vmamba_ops, f"{op}_backward"))(_backward)


def _ss2d(x_shape: Any, x_proj_shape: Any, weight_shape: Any, *_, **__) -> int:
    """Four routes' scan with one state, the projection of x and that of dt (a multiply-add counted twice)."""
    batch, height, width, dim = x_shape
    routes, _, rank = weight_shape
    products = prod(x_proj_shape) + routes * dim * rank
    return scan_flops(batch, height * width, routes * dim, 1) + 2 * batch * height * width * products


def _ss2d_backward(
    dy: Any, rows: Any, states: Any, x_shape: Any, x_proj_shape: Any, weight_shape: Any, *_, **__
) -> int:
    return 2 * _ss2d(x_shape, x_proj_shape, weight_shape)


def register_ss2d() -> None:
    """Register ``vmamba_ops::ss2d`` and its backward, once."""
    register_flop_formula(torch.ops.vmamba_ops.ss2d)(_ss2d)
    register_flop_formula(torch.ops.vmamba_ops.ss2d_backward)(_ss2d_backward)


def _mlp(y_shape: Any, w1_shape: Any, *_, **__) -> int:
    """Two products (a multiply-add counted twice)."""
    return 4 * prod(y_shape) * w1_shape[0]


def _add_norm_mlp(x_shape: Any, branch: Any, weight: Any, bias: Any, eps: float, w1_shape: Any, *_, **__) -> int:
    return _mlp(x_shape, w1_shape)


def _mlp_backward(dout_shape: Any, hidden: Any, y_shape: Any, w1_shape: Any, *_, **__) -> int:
    return 2 * _mlp(y_shape, w1_shape)


def register_mlp() -> None:
    """Register ``vmamba_ops::mlp``, its backward and ``add_norm_mlp`` (without its norm), once."""
    register_flop_formula(torch.ops.vmamba_ops.mlp)(_mlp)
    register_flop_formula(torch.ops.vmamba_ops.mlp_backward)(_mlp_backward)
    register_flop_formula(torch.ops.vmamba_ops.add_norm_mlp)(_add_norm_mlp)


def _conv_norm_gelu(x_shape: Any, weight_shape: Any, *_, **__) -> int:
    """The convolution (a multiply-add counted twice)."""
    images, height, width, _ = x_shape
    return 2 * images * ((height + 1) // 2) * ((width + 1) // 2) * prod(weight_shape)


def _conv_norm_gelu_backward(dout: Any, x_shape: Any, weight_shape: Any, *_, **__) -> int:
    """Two products: the convolution again, and its weight's gradient."""
    return 2 * _conv_norm_gelu(x_shape, weight_shape)


def register_conv_norm_gelu() -> None:
    """Register ``vmamba_ops::conv_norm_gelu`` and its backward, once."""
    register_flop_formula(torch.ops.vmamba_ops.conv_norm_gelu)(_conv_norm_gelu)
    register_flop_formula(torch.ops.vmamba_ops.conv_norm_gelu_backward)(_conv_norm_gelu_backward)


def counter(**kwargs: Any) -> FlopCounterMode:
    """``FlopCounterMode(**kwargs)`` that counts the scan whichever backend runs it (by the new rule)."""
    for module, needs in (("cpu", "numba"), ("triton", "triton"), ("cuda", "torch")):
        if find_spec(needs):
            import_module(f".selective_scan.{module}", __package__)
    if find_spec("triton"):
        import_module(".mlp.triton", __package__)
        import_module(".conv_norm_gelu.triton", __package__)
    import_module(".ss2d.cuda", __package__)
    return FlopCounterMode(**kwargs)
