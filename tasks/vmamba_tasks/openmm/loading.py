"""Images the way up that their annotations have them, in mmengine's root registry."""

from typing import Any

import numpy as np
from mmcv import imread
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import Image


@TRANSFORMS.register_module()
class LoadAnnotatedImage(LoadImageFromFile):
    """``LoadImageFromFile``, but an EXIF tag turns an image only if that makes it the size its annotations are for.

    That size is ``height`` and ``width`` of a COCO file, or the class map's; OpenCV always obeys the tag, while COCO
    files and class maps are as often made of the pixels as they are stored. Raises OSError if neither fits.
    """

    def transform(self, results: dict) -> dict:
        found = super().transform(results)
        wanted = _annotated(results)
        if wanted in (None, found["img_shape"]):
            return found
        image = _as_stored(found["img_path"])
        if image.shape[:2] != wanted:
            raise OSError(f"{found['img_path']} is {_size(found['img_shape'])}, its annotations are {_size(wanted)}")
        return found | {"img": image, "img_shape": wanted, "ori_shape": wanted}


def annotated_image(path: str, shape: tuple[int, int]) -> np.ndarray:
    """RGB uint8 (height, width, 3), of the ``shape`` (height, width) that ``LoadAnnotatedImage`` found."""
    image = imread(path)
    return (image if image.shape[:2] == tuple(shape) else _as_stored(path))[..., ::-1]


def _as_stored(path: str) -> np.ndarray:
    """BGR."""
    return imread(path, flag="color_ignore_orientation")


def _annotated(results: dict) -> tuple[int, int] | None:
    """Height and width; None for an image without annotations."""
    if results.get("seg_map_path"):
        with Image.open(results["seg_map_path"]) as maps:
            return maps.height, maps.width
    if "height" in results and "width" in results:
        return results["height"], results["width"]
    return None


def _size(shape: Any) -> str:
    height, width = shape
    return f"{width} x {height}"
