"""Object detection and instance segmentation: mmdet's Mask R-CNN and its data sets, in this project's engine."""

from vmamba_tasks.detection.task import Detection

__all__ = ["Detection"]
