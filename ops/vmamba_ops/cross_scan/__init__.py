"""Cross scan and cross merge: an image as four sequences and back; the public functions and their checks."""

from types import ModuleType

from torch import Tensor

from ..checks import tensors
from ..choose import choose
from . import naive, views
from .lines import line_scan
from .routes import ROUTES, check, index_map

__all__ = ["ROUTES", "cross_merge", "cross_scan", "index_map", "line_scan"]


def _checked(op: str, name: str, tensor: Tensor, takes: str, dims: int, route_axis: int | None) -> None:
    tensors(op, {name: tensor})
    if tensor.dim() != dims or (route_axis is not None and tensor.shape[route_axis] != 4):
        raise ValueError(f"{op}: {name} is {tuple(tensor.shape)}; it takes {takes}")


def _implementation(choice: str) -> ModuleType:
    if choice == "triton":
        from . import triton  # here, so that Triton is imported by those alone who run it

        return triton
    return views


def cross_scan(
    x: Tensor,
    routes: str = "cross2d",
    *,
    in_channel_first: bool = True,
    out_channel_first: bool = True,
    one_by_one: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Read an image as four sequences of L = H * W (VMamba, arXiv 2401.10166, section 4.2).

    Args:
        x: (B, C, H, W), or (B, H, W, C) unless ``in_channel_first``; with ``one_by_one`` route k reads its own slice
            of (B, 4, C, H, W) or (B, H, W, 4, C).
        routes: "cross2d" (rows, columns, and both reversed), "unidi" (rows, four times), "bidi" (rows twice,
            reversed rows twice).
        in_channel_first, out_channel_first: the layout of the image side, of the sequence side.
        backend: "auto" or a name of ``vmamba_ops.limits.CROSS_LIMITS``.
    Returns:
        (B, 4, C, L), or (B, L, 4, C) unless ``out_channel_first``; contiguous, dtype of ``x``.
    Raises:
        TypeError, ValueError: an argument of the wrong kind or shape, by name.
        RuntimeError: the backend is absent here.
    """
    check(routes)
    if one_by_one:
        takes, route_axis = ("(B, 4, C, H, W)", 1) if in_channel_first else ("(B, H, W, 4, C)", 3)
    else:
        takes, route_axis = "(B, C, H, W)" if in_channel_first else "(B, H, W, C)", None
    _checked("cross_scan", "x", x, takes, 5 if one_by_one else 4, route_axis)
    if not one_by_one:
        x = x.unsqueeze(1 if in_channel_first else 3)
    if not in_channel_first:
        x = x.permute(0, 3, 4, 1, 2)
    choice = choose("cross_scan", backend, x)
    if choice == "naive":
        y = naive.scan(x, routes)
    else:
        y = _implementation(choice).scan(x, routes, in_channel_first, out_channel_first)
    return (y if out_channel_first else y.permute(0, 3, 1, 2)).contiguous()


def cross_merge(
    y: Tensor,
    routes: str = "cross2d",
    *,
    in_channel_first: bool = True,
    out_channel_first: bool = True,
    one_by_one: bool = False,
    backend: str = "auto",
) -> Tensor:
    """The adjoint of ``cross_scan``: put four sequences back in image order and add them.

    Args:
        y: (B, 4, C, H, W), or (B, H, W, 4, C) unless ``out_channel_first``: the sequences, with H and W telling the
            image's sides (element l of a sequence is at [l // W, l % W], whatever the route).
        routes, backend: as in ``cross_scan``.
        in_channel_first, out_channel_first: the layout of the image side (the result here), of the sequence side.
        one_by_one: keep the four images apart instead of adding them.
    Returns:
        (B, C, L), or (B, L, C) unless ``in_channel_first``; with ``one_by_one`` (B, 4, C, L) or (B, L, 4, C);
        contiguous, dtype of ``y``, L in row-major order.
    Raises:
        As ``cross_scan``.
    """
    check(routes)
    takes, route_axis = ("(B, 4, C, H, W)", 1) if out_channel_first else ("(B, H, W, 4, C)", 3)
    _checked("cross_merge", "y", y, takes, 5, route_axis)
    if not out_channel_first:
        y = y.permute(0, 3, 4, 1, 2)
    choice = choose("cross_scan", backend, y)
    if choice == "naive":
        x = naive.merge(y, routes, one_by_one)
    else:
        x = _implementation(choice).merge(y, routes, one_by_one, in_channel_first, out_channel_first)
    if not in_channel_first:
        x = x.permute(0, 3, 1, 2)
    if not one_by_one:
        x = x.squeeze(1 if in_channel_first else 2)
    return x.contiguous()
