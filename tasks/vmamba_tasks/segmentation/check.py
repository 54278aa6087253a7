"""Whether images and class maps are what the configuration says; one line if not."""

from pathlib import Path

import numpy as np
from PIL import Image

from vmamba.config.errors import UserError
from vmamba_tasks.dense import layout
from vmamba_tasks.segmentation.config import IGNORED, IMAGES, num_classes

LOOKED_AT = 16  # maps of a split whose values are checked


def maps(cfg) -> None:
    """Checks the splits that the run needs. Raises UserError for missing folders, images, maps, or foreign values."""
    splits = ("train", "val") if cfg.mode == "train" else ("val",)
    for split in splits:
        images, folder = layout.need(cfg.data, f"{split}_split", True), layout.need(cfg.data, f"{split}_maps", True)
        found = {name for name in layout.names(images) if Path(name).suffix.lower() in IMAGES}
        if not found:
            raise UserError(f"{images} has no images ({', '.join(IMAGES)}): {cfg.data.how_to_get or 'check data.root'}")
        wanted = {str(Path(name).with_suffix(".png")) for name in found}
        layout.whole(wanted, layout.names(folder), folder, "class maps", cfg.data)
        _check_values(cfg, folder, sorted(wanted))


def _check_values(cfg, folder: Path, files: list[str]) -> None:
    """A look at some maps, spread over the split: a class that the model does not have would stop the training."""
    most = num_classes(cfg) - 1 + cfg.data.reduce_zero_label
    for name in files[:: max(1, len(files) // LOOKED_AT)]:
        path = folder / name
        try:
            values = np.asarray(Image.open(path))
        except OSError:
            raise UserError(f"{path} is not readable as an image: it is damaged; get the data set again") from None
        if values.ndim != 2:
            raise UserError(f"{path} has {values.ndim} dimensions: a class map is a grey PNG, one class number a pixel")
        largest = int(np.where(values == IGNORED, 0, values).max())
        if largest > most:
            key = "data.map_classes" if cfg.data.map_classes else "data.num_classes"
            raise UserError(
                f"{path} has class {largest}, while {key}={num_classes(cfg)} allows {most} at most: set {key} (and "
                "data.classes) to the maps' classes, or data.reduce_zero_label=true if 0 stands for none"
            )
