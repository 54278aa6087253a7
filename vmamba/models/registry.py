"""Our models in timm's registry, and the two functions of a notebook: ``create_model`` and ``list_models``."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatch
from inspect import signature
from typing import Any

import timm.models
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, register_model
from torch import nn

from vmamba.config.errors import UserError, meant
from vmamba.models.network import VMamba
from vmamba.models.variants import how, variants
from vmamba.models.weights import checkpoint_filter_fn

FIELDS = tuple(name for name in signature(VMamba.__init__).parameters if name != "self")
TIMM = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only", "out_indices", "feature_cls")

default_cfgs = {
    name: {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.0",
        "classifier": "classifier.head",
    }
    for name in variants()
}


def _build(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    if "drop_path_rate" in kwargs:
        kwargs["drop_path"] = kwargs.pop("drop_path_rate")
    variant = variants()[name]
    released = variant.fields | {"norm": variant.norm} | how(kwargs.pop("forward_type", variant.forward_type))
    for key in kwargs:
        if key not in FIELDS and key not in TIMM:
            known = f" It takes {', '.join(FIELDS)} and forward_type."
            hint = meant(key, (*FIELDS, *TIMM, "forward_type")) or known
            raise UserError(f"{name} takes no argument '{key}'.{hint}")
    fields = released | kwargs
    stages = fields["depths"] if isinstance(fields["depths"], Sequence) else ()  # VMamba refuses anything else
    return build_model_with_cfg(
        VMamba,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": tuple(range(len(stages))), "feature_cls": "getter"},
        **fields,
    )


def _register(name: str) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _build(name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"{name}, as conf/model describes it; kwargs override any field of VMamba."
    register_model(entrypoint)


for _name in variants():
    _register(_name)


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """A model by its name: ours (``list_models()``), or any of timm's.

    ``kwargs`` are timm's (num_classes, in_chans, features_only, checkpoint_path, drop_path_rate, ...) and, for ours,
    any field of ``VMamba`` (img_size, norm, backend, ...) or ``forward_type="v3"``.
    Raises ``UserError`` for an unknown name, argument or value.
    """
    if name not in variants() and not timm.models.is_model(name.split(":")[-1]):
        near = get_close_matches(name, dict.fromkeys(timm.models.list_models()), n=3)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise UserError(f"there is no model '{name}'. {hint}Ours are {', '.join(variants())}; or any model of timm.")
    return timm.models.create_model(name, **kwargs)


def list_models(filter: str = "") -> list[str]:
    """Our models' names: those that contain ``filter``, or match it if it has wildcards (``vmamba_*_v0``)."""
    pattern = filter if any(c in filter for c in "*?[") else f"*{filter}*"
    return [name for name in variants() if fnmatch(name, pattern)]
