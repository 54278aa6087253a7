"""Images the way up that their annotations have them, in mmengine's root registry."""

from pathlib import Path
from typing import Any

from mmcv import imfrombytes
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
        image = imfrombytes(Path(found["img_path"]).read_bytes(), flag="color_ignore_orientation")
        if image.shape[:2] != wanted:
            raise OSError(f"{found['img_path']} is {_size(found['img_shape'])}, its annotations are {_size(wanted)}")
        return found | {"img": image, "img_shape": wanted, "ori_shape": wanted}


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
