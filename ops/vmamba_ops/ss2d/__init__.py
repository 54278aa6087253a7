"""SS2D's core as one function: from the map after the depthwise convolution to the map before the output norm."""

from torch import Tensor

from ..checks import tensors
from ..choose import choose_ss2d
from ..cross_scan.routes import check as check_routes

K = 4


def _check(
    x: Tensor, x_proj_weight: Tensor, dt_projs_weight: Tensor, dt_projs_bias: Tensor, A_logs: Tensor, Ds: Tensor
):
    own = {"x_proj_weight": x_proj_weight, "dt_projs_weight": dt_projs_weight, "dt_projs_bias": dt_projs_bias}
    tensors("ss2d", {"x": x, **own, "A_logs": A_logs, "Ds": Ds})
    if x.dim() != 4 or 0 in x.shape:
        raise ValueError(f"ss2d: x is {tuple(x.shape)}; it takes (batch, height, width, channels), none of them 0")
    dim = x.shape[3]
    if dt_projs_weight.dim() != 3 or dt_projs_weight.shape[:2] != (K, dim):
        raise ValueError(f"ss2d: dt_projs_weight is {tuple(dt_projs_weight.shape)}; it takes ({K}, {dim}, dt rank)")
    if A_logs.dim() != 2 or A_logs.shape[0] != K * dim:
        raise ValueError(f"ss2d: A_logs is {tuple(A_logs.shape)}; it takes ({K * dim}, d_state)")
    columns = dt_projs_weight.shape[2] + 2 * A_logs.shape[1]
    shapes = {
        "x_proj_weight": (x_proj_weight, (K, columns, dim)),
        "dt_projs_bias": (dt_projs_bias, (K, dim)),
        "Ds": (Ds, (K * dim,)),
    }
    for name, (tensor, takes) in shapes.items():
        if tuple(tensor.shape) != takes:
            raise ValueError(f"ss2d: {name} is {tuple(tensor.shape)}; it takes {takes}")
    named = {"dt_projs_weight": dt_projs_weight, "A_logs": A_logs} | {name: t for name, (t, _) in shapes.items()}
    for name, tensor in {"x": x, **named}.items():
        if not tensor.is_floating_point():
            raise TypeError(f"ss2d: {name} is {tensor.dtype}; it takes a floating dtype")
        if tensor.device != x.device:
            raise ValueError(f"ss2d: {name} is on {tensor.device}; it takes a tensor on {x.device}, where x is")


def ss2d(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
    *,
    routes: str = "cross2d",
    backend: str = "auto",
) -> Tensor:
    """Scan a channels-last map along four routes and add the results: VMamba, arXiv 2401.10166, section 4.2.

    For route k, at step t of its walk over the positions, with x[t] the D channels there:

        dt_low[t], B[t], C[t] = x_proj_weight[k] x[t]                 (R, N and N numbers)
        dt[t] = softplus(dt_projs_weight[k] dt_low[t] + dt_projs_bias[k])
        h[t] = exp(-exp(A_logs) dt[t]) h[t-1] + dt[t] x[t] B[t],   y_k[t] = C[t] . h[t] + Ds x[t]

    and y adds the y_k position by position.

    Args:
        x: (B, H, W, D), any floating dtype. Under autocast on a GPU the fused kernel reads autocast's dtype.
        x_proj_weight: (4, R + 2 N, D). dt_projs_weight: (4, D, R). dt_projs_bias: (4, D).
        A_logs: (4 D, N). Ds: (4 D,). Route k has rows k D .. (k + 1) D of both.
        routes: a name of ``cross_scan.routes.ROUTES``.
        backend: "fused" (one kernel each way: a GPU, cross2d, N = 1, D a multiple of 16), "composed" (the operators
            one after the other), "naive" (their definitions), or "auto": the fastest that takes the input.
    Returns:
        y (B, H, W, D), dtype of x as read; the state is float32 (float64 for float64 input), and so is the sum over the
        routes, but in the fused kernel, which rounds it to x's dtype at each of them. Differentiable once
        in all six tensors; for second derivatives use ``backend="naive"``.
    Raises:
        TypeError, ValueError: an argument of the wrong kind or shape, or one that the named backend does not take.
        RuntimeError: the backend is absent here.
    """
    check_routes(routes)
    _check(x, x_proj_weight, dt_projs_weight, dt_projs_bias, A_logs, Ds)
    inputs = (x, x_proj_weight, dt_projs_weight, dt_projs_bias, A_logs, Ds)
    choice = choose_ss2d(backend, x, A_logs.shape[1], routes)
    if choice == "fused":
        from .cuda import ss2d as fused  # here, so that the operators are defined by those alone who run them

        return fused(*inputs)
    if choice == "composed":
        from .composed import ss2d as composed

        return composed(*inputs, routes)
    from .naive import ss2d as naive

    return naive(*inputs, routes)
