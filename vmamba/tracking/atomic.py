"""Files that are either the old one or the new one, whole, whenever the power goes."""

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vmamba.config.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on a clean exit it is synced to disk and takes ``path``'s place.

    On an exception the temporary file goes and ``path`` stays as it was. A full disk is a ``UserError``.
    """
    path = Path(path)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with no_space(path):
            yield temp
            with open(temp, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def no_space(path: Path) -> Iterator[None]:
    """Turns "no space left" and "quota exceeded" into a ``UserError`` that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
            raise UserError(
                f"no space left for {path}: free some (or lower checkpoint.keep_last), then go on with "
                f"`python -m vmamba.run --resume {run}`"
            ) from error
        raise


def sync_folder(path: Path) -> None:
    """Makes a rename in ``path`` durable; file systems that cannot sync a folder are left alone."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def write_text(path: Path, text: str) -> None:
    """Replaces ``path`` by ``text``, atomically."""
    with replacing(path) as temp:
        temp.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replaces ``path`` by ``value`` as strict JSON, atomically (see ``plain`` for what is not JSON)."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """The object in ``path``, or an empty one if there is no (readable) file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def plain(value: Any) -> Any:
    """``value`` in JSON's types. NaN and infinities become the strings "nan", "inf", "-inf", which ``float`` reads."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if hasattr(value, "tolist"):  # numpy and torch
        return plain(value.tolist())
    return str(value)
