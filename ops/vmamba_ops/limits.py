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


def _absent(max_d_state: int | None, what: str, devices: tuple[str, ...] = ("cuda",)) -> Limit:
    reason = f"{what} is not part of this version; use backend=auto"
    return Limit(max_d_state, devices, _FLOAT, missing=reason)


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
    "fused": _absent(1, "the fused four-route scan"),
}
"""Backends of ``selective_scan``."""

CROSS_LIMITS: dict[str, Limit] = {
    "naive": Limit(None, _ANY, _ALL, rank=9),
    "torch": Limit(None, _ANY, _ALL, rank=1),
    "triton": Limit(None, ("cuda",), _ALL, rank=0, requires=("triton",)),
}
"""Backends of ``cross_scan`` and ``cross_merge``; the line scans are plain torch and take no backend."""

TABLES: dict[str, dict[str, Limit]] = {"selective_scan": LIMITS, "cross_scan": CROSS_LIMITS}
