"""What every backend of every op takes: a table in plain Python, readable before torch is imported."""

from dataclasses import dataclass

_FLOAT = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Limit:
    """One backend of one op.

    ``max_d_state`` None means any; ``rank`` orders the choice of ``auto`` (lowest first; None: never chosen by it);
    ``missing`` is "" for a backend that this version has, otherwise the reason it has not and the remedy.
    """

    max_d_state: int | None
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    rank: int | None = None
    requires: tuple[str, ...] = ()  # Python packages that must be importable
    note: str = ""  # what to know before installing them
    out_as_in: bool = False  # computes its output in the input's dtype, float32 out of 16-bit input is not to be had
    nvrtc: bool = False  # needs the CUDA run-time compiler
    missing: str = ""


_ANY = ("cpu", "cuda")
_ALL = (*_FLOAT, "float64")

LIMITS: dict[str, Limit] = {
    "naive": Limit(None, _ANY, _ALL, rank=9),
    "cpu": Limit(None, ("cpu",), _ALL, rank=0, requires=("numba",)),
    "triton": Limit(256, ("cuda",), _FLOAT, rank=2, requires=("triton",)),
    "core": Limit(256, ("cuda",), _FLOAT, out_as_in=True, nvrtc=True),
    "oflex": Limit(256, ("cuda",), _FLOAT, rank=1, nvrtc=True),
    "mamba_ssm": Limit(
        256,
        ("cuda",),
        _FLOAT,
        requires=("mamba_ssm",),
        note="it needs a CUDA compiler to install",
        out_as_in=True,
    ),
    "fused": Limit(
        1, ("cuda",), _FLOAT, missing="it is a backend of ss2d, the four-route scan whole; use backend=auto"
    ),
}
"""Backends of ``selective_scan``."""

CROSS_LIMITS: dict[str, Limit] = {
    "naive": Limit(None, _ANY, _ALL, rank=9),
    "torch": Limit(None, _ANY, _ALL, rank=1),
    "triton": Limit(None, ("cuda",), _ALL, rank=0, requires=("triton",)),
}
"""Backends of ``cross_scan`` and ``cross_merge``; the line scans are plain torch and take no backend."""

NORM_LIMITS: dict[str, Limit] = {
    "naive": Limit(None, _ANY, _ALL, rank=9),
    "torch": Limit(None, _ANY, _ALL, rank=1),
    "triton": Limit(None, ("cuda",), _FLOAT, rank=0, requires=("triton",)),
}
"""Backends of ``layer_norm`` and ``add_layer_norm``."""

SS2D_LIMITS: dict[str, Limit] = {
    "naive": Limit(None, _ANY, _ALL, rank=9),
    "composed": Limit(None, _ANY, _ALL, rank=1),
    "fused": Limit(1, ("cuda",), _FLOAT, rank=0, nvrtc=True),
}
"""Backends of ``ss2d``; ``fused`` takes the routes cross2d and channels in multiples of 16."""

NETWORK_LIMITS = LIMITS | {"fused": SS2D_LIMITS["fused"]}
"""What a network's ``scan.backend`` may be: a backend of the scan alone, or the fused whole."""

TABLES: dict[str, dict[str, Limit]] = {
    "selective_scan": LIMITS,
    "cross_scan": CROSS_LIMITS,
    "ss2d": SS2D_LIMITS,
    "layer_norm": NORM_LIMITS,
}

_WIDTH = 16  # channels that a warp of the fused kernel takes


def unfit(channels: int, d_state: int, routes: str) -> str:
    """ "" if the fused kernel takes such a problem, else what it takes instead."""
    if routes != "cross2d":
        return f"it takes routes cross2d, got {routes}"
    if d_state != 1:
        return f"it takes d_state up to 1, got {d_state}"
    if channels % _WIDTH:
        return f"it takes a multiple of {_WIDTH} channels, got {channels}"
    return ""
