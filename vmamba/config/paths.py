"""Where ``conf/`` and ``sweeps/`` lie (beside the package in a checkout, inside it in a wheel), and what is in them."""

import os
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path

from vmamba.config.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent


def _find(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def conf_dir() -> Path:
    """The Hydra tree."""
    return _find("conf")


def sweeps_dirs() -> list[Path]:
    """The folders of ablation files, first come first: the nearest ``sweeps`` above the working directory, and ours."""
    here = Path.cwd()
    above = [path / "sweeps" for path in (here, *here.parents)]
    near = [path for path in above if (path / "ablation").is_dir() or (path / "sweep").is_dir()][:1]
    return list(dict.fromkeys([*near, _find("sweeps")]))


@cache
def unused(path: str) -> str:
    """Makes a folder that no other run has: ``path``, or where another was faster ``path-2``, ``path-3``, …

    Asked again for the same path, a process is told the folder that it has.
    """
    for number in count(1):
        with suppress(FileExistsError):
            made = path if number == 1 else f"{path}-{number}"
            os.makedirs(made)
            return made


def writable(folder: Path, said: str, remedy: str = "give another folder") -> None:
    """Makes a folder that is to be written to; UserError, of what the user ``said``, where that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{said} cannot be made ({error.strerror}): {remedy}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{said}: writing there is not allowed; {remedy}")


def choices(group: str) -> list[str]:
    """The files of a group."""
    return sorted({p.stem for root in _roots() for p in (root / group).glob("*.yaml")})


def groups() -> list[str]:
    """The groups of the tree."""
    return sorted({p.name for root in _roots() for p in root.iterdir() if p.is_dir() and any(p.glob("*.yaml"))})


def _roots() -> list[Path]:
    return [conf_dir(), *(path for path in sweeps_dirs() if path.is_dir())]
