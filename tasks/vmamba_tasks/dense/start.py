"""Weights for a detector or segmentor: of one, or of a classifier, in any generation's names."""

import torch
from torch import nn


def renamed(weights: dict[str, torch.Tensor], model: nn.Module, *, whole: bool) -> dict[str, torch.Tensor]:
    """``weights`` under the model's names: the backbone's through every generation's spellings, the rest as it is.

    ``whole``: they are meant to be the whole model's. Otherwise names without ``backbone.`` before any of them are a
    classifier's, and so a backbone's.
    """
    from vmamba.models import Backbone, checkpoint_filter_fn

    prefixed = any(name.startswith("backbone.") for name in weights)
    if not prefixed and whole:
        return dict(weights)
    inside = {n.removeprefix("backbone."): w for n, w in weights.items() if n.startswith("backbone.") or not prefixed}
    outside = {n: w for n, w in weights.items() if prefixed and not n.startswith("backbone.")}
    if isinstance(model.backbone, Backbone):
        inside = checkpoint_filter_fn(inside, model.backbone)
    elif not prefixed:  # a classifier of timm
        inside = {f"body.{name}": weight for name, weight in inside.items()}
    return outside | {f"backbone.{name}": weight for name, weight in inside.items()}


def hint(cfg) -> str:
    """The remedy for weights that do not fit."""
    return (
        f"check model= (this run has {cfg.model.name}), task=, data.num_classes and that the weights are of images of "
        "3 channels"
    )
