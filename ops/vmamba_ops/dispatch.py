"""Which backend runs an op here, said in one log line; a backend that cannot is refused with the remedy."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

from . import nvrtc
from .limits import TABLES, Limit

log = logging.getLogger("vmamba_ops")
_said: set[tuple[str, str, str]] = set()


@cache
def _installed(package: str) -> bool:
    return find_spec(package) is not None


def _reason(name: str, limit: Limit, device_type: str) -> str:
    if limit.missing:
        return limit.missing
    if device_type not in limit.devices:
        return f"it runs on {' and '.join(limit.devices)}, not on {device_type}; use backend=auto"
    absent = [package for package in limit.requires if not _installed(package)]
    if absent:
        note = f" ({limit.note})" if limit.note else ""
        return f"it needs {', '.join(absent)}: pip install {' '.join(absent)}{note}"
    return nvrtc.missing() if limit.nvrtc else ""


def available(device_type: str, op: str = "selective_scan") -> dict[str, str]:
    """Backends of ``op`` -> "" if usable on ``device_type`` ("cpu", "cuda") here, else why not and the remedy."""
    return {name: _reason(name, limit, device_type) for name, limit in TABLES[op].items()}


def _unfit(limit: Limit, d_state: int, dtype: str) -> str:
    if limit.max_d_state is not None and d_state > limit.max_d_state:
        return f"it takes d_state up to {limit.max_d_state}, got {d_state}; use backend=auto"
    if dtype not in limit.dtypes:
        return f"it takes {', '.join(limit.dtypes)}, got {dtype}; use backend=auto"
    return ""


def _say(op: str, choice: str, device_type: str, why: str, level: int) -> None:
    if (op, choice, device_type) not in _said:
        _said.add((op, choice, device_type))
        log.log(level, "%s on %s: backend %s (%s)", op, device_type, choice, why)


@contextmanager
def unsaid() -> Iterator[None]:
    """Choices made in here are not logged; they are at the next call, as if they had not been made before."""
    before = set(_said)
    log.disabled, shown = True, log.disabled
    try:
        yield
    finally:
        log.disabled = shown
        _said.clear()
        _said.update(before)
        resolve.cache_clear()


@cache
def resolve(op: str, backend: str, device_type: str, d_state: int = 1, dtype: str = "float32") -> str:
    """The name of the backend that runs ``op``; logs it once for each (op, choice, device).

    Args:
        op: a name of ``limits.TABLES``; "cross_scan" also stands for the merge, "layer_norm" for its addition.
        backend: "auto", or a name of ``limits.TABLES[op]``.
        device_type: "cpu" or "cuda".
        d_state: states a channel.
        dtype: the input's dtype by name, "float32".
    Raises:
        RuntimeError: ``backend`` is unknown, absent here, or does not take this input.
    """
    table = TABLES[op]
    reasons = available(device_type, op)
    usable = [name for name, why in reasons.items() if not why]
    if backend == "auto":
        ranked = [n for n in usable if table[n].rank is not None and not _unfit(table[n], d_state, dtype)]
        if not ranked:
            raise RuntimeError(f"{op}: no backend takes dtype {dtype} on {device_type}; here are {', '.join(usable)}")
        choice = min(ranked, key=lambda name: table[name].rank)
        if choice == "naive":
            _say(op, choice, device_type, "auto: the only one here, and slow", logging.WARNING)
        else:
            _say(op, choice, device_type, "auto: the fastest here", logging.INFO)
        return choice
    if backend not in table:
        raise RuntimeError(f"{op}: unknown backend {backend!r}; choose auto, {', '.join(table)}")
    reason = reasons[backend] or _unfit(table[backend], d_state, dtype)
    if reason:
        raise RuntimeError(f"{op}: backend {backend!r} cannot run here: {reason} (usable: {', '.join(usable)})")
    _say(op, backend, device_type, "named", logging.INFO)
    return backend
