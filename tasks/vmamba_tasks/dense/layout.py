"""Whether the files of a data set are there, before anything is read of them."""

import os
from pathlib import Path

from PIL import Image

from vmamba.config.errors import UserError

LOOKED_AT = 16  # images or maps of a split


def need(data, key: str, folder: bool) -> Path:
    """The path that ``data.<key>`` names below ``data.root``. UserError if it is not there."""
    value = getattr(data, key)
    path = Path(data.root).expanduser() / value
    if not value or not (path.is_dir() if folder else path.is_file()):
        kind = "folder" if folder else "file"
        given = f"data.{key}={value}" if value else f"data.{key} is not given"
        raise UserError(
            f"{given}: there is no such {kind} in data.root={data.root} ({listing(path, data.root)}); {_remedy(data)}"
        )
    return path


def names(folder: Path) -> set[str]:
    """The files below a folder, by their paths in it; as for OpenMMLab, through links and without hidden ones."""
    found = set()
    for parent, _, files in os.walk(folder, followlinks=True):
        below = Path(parent).relative_to(folder)
        found.update(str(below / name) for name in files if not name.startswith("."))
    return found


def whole(wanted: set[str], there: set[str], folder: Path, what: str, data) -> None:
    """Refuses a folder that lacks some of the ``wanted`` files."""
    missing = sorted(wanted - there)
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(wanted)} {what}, e.g. {missing[0]}: check that the data set was "
            f"downloaded and unpacked whole. {data.how_to_get}".strip()
        )


def some(entries: list) -> list:
    """Those that are looked at closely, spread over the split."""
    return entries[:: max(1, len(entries) // LOOKED_AT)]


def sides(path: Path) -> tuple[int, int] | None:
    """Width and height of an image, either of which an EXIF tag may have turned into the other; None if it is broken.

    Broken ones are skipped, and counted, when they are read.
    """
    try:
        with Image.open(path) as opened:
            return opened.size
    except (OSError, Image.DecompressionBombError):  # the second: of more pixels than PIL opens; OpenCV may
        return None


def listing(path: Path, root: str) -> str:
    """What is there instead, for an error's line."""
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in parent.iterdir() if not entry.name.startswith("."))
    shown = ", ".join(entries[:4]) + (", …" if len(entries) > 4 else "")
    return f"{parent} has {shown or 'nothing'}"


def _remedy(data) -> str:
    return data.how_to_get or f"check data.root, or take data={data.name} with its own paths"
