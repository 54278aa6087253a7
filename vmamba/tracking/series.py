"""Curves out of ``metrics.jsonl``, without parsing lines that are not drawn: a thousand long runs take seconds."""

import json
import math
from pathlib import Path

from vmamba.tracking.folder import parse

POINTS = 200  # of a curve; more are not seen


def evaluations(path: Path, metric: str) -> list[tuple[int, float]]:
    """(step, value) of every record that has ``metric``, thinned to ``POINTS``; empty without the file."""
    data = _bytes(path)
    key = json.dumps(metric).encode()  # as it stands in the file
    lines, at = [], data.find(key)
    while at >= 0:
        start, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
        if end < 0:
            break
        lines.append((start, end + 1))
        at = data.find(key, end)
    return _read(data, _thin(lines), metric)


def best(path: Path, metric: str, higher: bool) -> float | None:
    """The best value of ``metric`` so far, of the points that ``evaluations`` keeps; None before there is one."""
    values = [value for _, value in evaluations(path, metric) if math.isfinite(value)]
    return (max if higher else min)(values, default=None)


def _thin(lines: list) -> list:
    """At most ``POINTS`` of them, evenly, the last among them."""
    if len(lines) <= POINTS:
        return lines
    step = (len(lines) - 1) / (POINTS - 1)
    return [lines[round(number * step)] for number in range(POINTS)]


def _read(data: bytes, lines: list[tuple[int, int]], metric: str) -> list[tuple[int, float]]:
    records = (parse(data[start:end]) for start, end in lines)
    return [(record["step"], record["metrics"][metric]) for record in records if record and metric in record["metrics"]]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
