"""Whether the packages of an extra are there."""

from importlib.util import find_spec

from vmamba.config.errors import UserError

PACKAGES = {  # extra -> the modules it brings
    "det": ("mmengine", "mmcv", "mmdet", "pycocotools", "cv2"),
    "seg": ("mmengine", "mmcv", "mmseg", "ftfy", "regex", "cv2"),
}


def require(extra: str) -> None:
    """Raises UserError with the install command when a module of ``extra`` (det, seg) is missing."""
    missing = [name for name in PACKAGES[extra] if find_spec(name) is None]
    if missing:
        raise UserError(
            f"task={extra} needs {', '.join(missing)}: install the extra from the checkout with "
            f"`uv pip install -e '.[{extra}]'` (pure wheels, nothing is compiled)"
        )
