"""The embedded data set of detection and segmentation: scikit-learn's digits, several at a time, on a textured canvas.

``make(root)`` writes it in the layouts of COCO and of ADE20K, so that both tasks train on a machine without a download.
"""

from vmamba_tasks.scenes.compose import CLASSES, MAP_CLASSES, MAP_PALETTE
from vmamba_tasks.scenes.files import default_root, make

__all__ = ["CLASSES", "MAP_CLASSES", "MAP_PALETTE", "default_root", "make"]
