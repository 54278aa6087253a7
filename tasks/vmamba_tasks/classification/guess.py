"""Which model a checkpoint is of, when it is not the one that was asked for."""

import re

import torch
import yaml

from vmamba.config.paths import conf_dir

BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.")


def shape(weights: dict[str, torch.Tensor]) -> dict | None:
    """Depths, widths and inner ratio read off a VMamba's state dict; None if it is not one."""
    blocks = [(int(match[1]), int(match[2])) for key in weights if (match := BLOCK.match(key))]
    if not blocks:
        return None
    stages = range(max(stage for stage, _ in blocks) + 1)
    found = {"depths": [1 + max(block for stage, block in blocks if stage == s) for s in stages], "dims": []}
    for s in stages:
        out = next((w for k, w in weights.items() if re.match(rf"layers\.{s}\.blocks\.0\..*out_proj\.weight", k)), None)
        if out is None:
            return None
        found["dims"].append(out.shape[0])
        found.setdefault("ssm_ratio", out.shape[1] / out.shape[0])
    return found


def fitting(weights: dict[str, torch.Tensor]) -> list[str]:
    """The ``model=`` choices with the state dict's depths, widths and inner ratio."""
    found = shape(weights)
    if found is None:
        return []
    names = []
    for path in sorted((conf_dir() / "model").glob("*.yaml")):
        model = yaml.safe_load(path.read_text())
        if all(model.get(key, 2.0 if key == "ssm_ratio" else None) == value for key, value in found.items()):
            names.append(path.stem)
    return names


def hint(weights: dict[str, torch.Tensor], cfg) -> str:
    """The remedy for weights that do not fit ``cfg.model``."""
    names = fitting(weights)
    if names and cfg.model.family == "vmamba" and _same(weights, cfg):
        return "depths and widths fit: check data.num_classes, data.in_chans and the fields of model"
    if names:
        return f"its depths and widths are those of model={' or model='.join(names)}"
    found = shape(weights)
    if found:
        return f"it is a VMamba of depths {found['depths']} and dims {found['dims']}, which no model= file has"
    return "it is not a VMamba: check ckpt=, model= and data.num_classes"


def _same(weights: dict[str, torch.Tensor], cfg) -> bool:
    found = shape(weights)
    return found["depths"] == list(cfg.model.depths) and found["dims"] == list(cfg.model.dims)
