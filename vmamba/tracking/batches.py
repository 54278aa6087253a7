"""Records on their way to a store: a ``.jsonl`` file read on from where it was left, in batches of values."""

import zlib
from collections.abc import Iterator
from pathlib import Path

from vmamba.tracking import describe
from vmamba.tracking.folder import parse

BATCH = 1000  # metrics a log_batch call, MLflow's limit
START = {"offset": 0, "tail": 0}


def batches(path: Path, place: dict, steps: dict[str, int]) -> Iterator[tuple[list, dict]]:
    """(MLflow metrics that are new, the place behind them), about ``BATCH`` of them each.

    ``place``: bytes already read and the checksum of the last of them. ``steps``: the last step of each metric in the
    store; values up to it are passed over.
    """
    from mlflow.entities import Metric

    if not path.is_file():
        return
    with open(path, "rb") as file:
        offset = place["offset"]
        if _checksum(file, offset) != place["tail"]:  # another file than the one read: rewritten by a resume
            offset = 0
        file.seek(offset)
        points: list = []
        seen = dict(steps)
        for line in file:
            if not line.endswith(b"\n"):
                break
            record = parse(line)
            values = record["metrics"] if record else {}
            if points and len(points) + len(values) > BATCH:
                yield points, _place(file, offset)
                file.seek(offset + len(line))
                points = []
            offset += len(line)
            for name, value in values.items():
                key, step = describe.key_name(name), record["step"]
                if step > seen.get(key, -1):
                    seen[key] = step
                    points.append(Metric(key, value, int(record["time"] * 1000), step))
        if offset != place["offset"]:
            yield points, _place(file, offset)


def _place(file, offset: int) -> dict:
    return {"offset": offset, "tail": _checksum(file, offset)}


def _checksum(file, offset: int) -> int:
    """CRC of the (up to) 256 bytes before ``offset``; of a shorter file, of what is there. Moves the file position."""
    start = max(0, offset - 256)
    file.seek(start)
    return zlib.crc32(file.read(offset - start))
