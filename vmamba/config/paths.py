"""Where ``conf/`` and ``sweeps/`` lie: beside the package in a checkout, inside it in a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def _find(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def conf_dir() -> Path:
    """The Hydra tree."""
    return _find("conf")


def sweeps_dir() -> Path:
    """The ablation files."""
    return _find("sweeps")
