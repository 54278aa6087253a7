"""Semantic segmentation: mmseg's UperNet and its data sets, in this project's engine."""

from vmamba_tasks.segmentation.task import Segmentation

__all__ = ["Segmentation"]
