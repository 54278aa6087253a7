"""Image classification: ImageNet-like data through timm's readers, loaders and transforms."""

from vmamba_tasks.classification.task import Classification

__all__ = ["Classification"]
