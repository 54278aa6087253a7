"""From a composed run's groups to a model."""

from dataclasses import fields as fields_of
from difflib import get_close_matches
from enum import Enum
from typing import Any

import timm.models
from torch import nn

from vmamba.config import schema
from vmamba.config.errors import UserError
from vmamba.models.network import VMamba
from vmamba.models.registry import FIELDS


def build(
    model: schema.Model,
    forward_type: schema.ForwardType,
    norm: schema.Norm,
    scan: schema.Scan,
    *,
    num_classes: int,
    in_chans: int,
    img_size: int,
) -> nn.Module:
    """The model of a run, with fresh weights: ours, or timm's ``model.name`` with family=timm.

    Raises ``UserError`` for what the model does not take.
    """
    common = {"num_classes": num_classes, "in_chans": in_chans}
    if model.family == "timm":
        return _timm(model, common, img_size)
    return VMamba(**network_fields(model, forward_type, norm, scan) | common | {"img_size": img_size})


def network_fields(
    model: schema.Model, forward_type: schema.ForwardType, norm: schema.Norm, scan: schema.Scan
) -> dict[str, Any]:
    """The arguments of ``VMamba`` that the groups of a run stand for, as plain values."""
    groups = {f.name: getattr(group, f.name) for group in (forward_type, model) for f in fields_of(group)}
    chosen = {name: str(v) if isinstance(v, Enum) else v for name, v in groups.items() if name in FIELDS}
    return chosen | {"norm": str(norm.name), "backend": str(scan.backend)}


def _timm(model: schema.Model, common: dict[str, int], img_size: int) -> nn.Module:
    if not timm.models.is_model(model.name):
        near = get_close_matches(model.name, timm.models.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise UserError(f"model.name={model.name}: timm has no such model; {hint}timm.list_models() lists them")
    kwargs = common | dict(model.kwargs)
    if model.drop_path:
        kwargs["drop_path_rate"] = model.drop_path
    pretrained_cfg = timm.models.get_pretrained_cfg(model.name)
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        kwargs.setdefault("img_size", img_size)
    try:
        network = timm.models.create_model(model.name, **kwargs)
        if model.grad_checkpointing:
            network.set_grad_checkpointing(True)
    except (TypeError, AssertionError) as error:
        given = ", ".join(f"{key}={value}" for key, value in kwargs.items())
        raise UserError(f"model.name={model.name} does not take {given}: {error}") from error
    return network
