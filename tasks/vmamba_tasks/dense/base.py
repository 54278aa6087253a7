"""``task.base``: another detector or segmentor from an OpenMMLab config file, with our backbone in it."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from vmamba.config.errors import UserError

# one of which a model of the task has
NEEDED = {"mmdet": ("bbox_head", "roi_head", "mask_head"), "mmseg": ("decode_head",)}
HEADS = ("bbox_head", "mask_head", "roi_head", "decode_head", "auxiliary_head", "semantic_head")


def with_our_backbone(path: str, own: dict, scope: str) -> dict:
    """The model of the file ``path`` with the backbone, channels and classes of ``own`` (this run's model).

    The file's pipelines, schedule and runtime are not used: data, recipe and engine are this project's. Raises
    UserError for a file that cannot be read or has no model of the task.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"task.base={path}: no such file; give an OpenMMLab config file (.py) with a model")
    from mmengine.config import Config

    from vmamba_tasks.openmm import parts

    try:
        with parts.scope(scope):
            model = Config.fromfile(str(file)).to_dict().get("model")
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"task.base={path} cannot be read as an OpenMMLab config: {reason}") from None
    if not isinstance(model, dict) or "backbone" not in model:
        raise UserError(f"task.base={path}: it has no model with a backbone; give a detector's or segmentor's config")
    if not any(name in model for name in NEEDED[scope]):
        raise UserError(
            f"task.base={path}: its model has no {' or '.join(NEEDED[scope])}; is it a config of the other task?"
        )
    if any("semantic_head" in part for part in _listed(model.get("roi_head"))):
        raise UserError(
            f"task.base={path}: its semantic_head learns from class maps, which task=det has not; remove it"
        )
    widths, classes = _widths(own), _classes(own)
    model.pop("pretrained", None)
    model["backbone"] = dict(own["backbone"])
    if "neck" in model:
        _connect_neck(_listed(model["neck"])[0], model["backbone"], widths)
    else:
        for name in ("decode_head", "auxiliary_head"):
            for head in _listed(model.get(name)):
                _connect(head, widths)
    for name in HEADS:
        for head in _listed(model.get(name)):
            _set_classes(head, classes, path)
    model["data_preprocessor"] = own["data_preprocessor"]
    return model


def build(path: str, config: dict, scope: str, device: str) -> nn.Module:
    """The model of ``config``, which came from the file ``path``, to run on ``device`` (cpu, cuda).

    Raises UserError for what mmdet or mmseg do not have or take, and for operators that need compiled mmcv.
    """
    from vmamba_tasks.openmm import ext, parts

    try:
        model = parts.model(scope, config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"task.base={path}: {scope} cannot build its model: {_reason(error, scope)}") from None
    if lacking := ext.lacking(model, config, device):
        raise UserError(
            f"task.base={path}: its model calls {', '.join(lacking)}, compiled code of mmcv that is not installed "
            "(nms, RoIAlign and the sigmoid focal loss are there without): build mmcv==2.1.0 with its operators, or "
            "take another model"
        )
    return model


def _reason(error: Exception, scope: str) -> str:
    """The error's first line, with the nearest name where a type is unknown."""
    text = str(error.args[0] if error.args else type(error).__name__).splitlines()[0]
    if not (unknown := re.match(r"([\w.]+) is not in the \S+ registry", text)):
        return text
    from mmengine.registry import MODELS

    child = MODELS.children.get(scope, MODELS)
    near = get_close_matches(unknown[1].rpartition(".")[2], {*child.module_dict, *MODELS.module_dict}, n=3)
    return f"there is no type {unknown[1]}" + (f"; the nearest are {', '.join(near)}" if near else "")


def _connect_neck(neck: dict, backbone: dict, widths: list[int]) -> None:
    """A neck that takes fewer stages than four takes the last ones: its anchors' strides are theirs."""
    given = neck.get("in_channels")
    taken = len(given) if isinstance(given, (list, tuple)) else 1
    if taken < len(widths):
        backbone["out_indices"] = list(range(len(widths)))[-taken:]
    neck["in_channels"] = widths[-taken:] if isinstance(given, (list, tuple)) else widths[-1]


def _connect(head: dict, widths: list[int]) -> None:
    """A head that takes stages directly, by ``in_index``, or whose own heads do."""
    given = head.get("in_channels")
    index = head.get("in_index", range(len(widths)) if isinstance(given, (list, tuple)) else -1)
    if given is not None:
        head["in_channels"] = widths[index] if isinstance(index, int) else [widths[i] for i in index]
    for entry in head.values():
        if isinstance(entry, dict) and "in_index" in entry:
            _connect(entry, widths)
    if "c1_in_channels" in head:
        head["c1_in_channels"] = widths[0]


def _set_classes(node: Any, classes: int, path: str) -> None:
    if isinstance(node, dict):
        if "num_classes" in node:
            losses = [loss for name, entry in node.items() if name.startswith("loss_") for loss in _listed(entry)]
            for loss in losses:
                _set_weights(loss, node["num_classes"], classes, path)
            node["num_classes"] = classes
        for name, entry in node.items():
            if name.endswith("_head"):
                _set_classes(entry, classes, path)
    elif isinstance(node, list):
        for entry in node:
            _set_classes(entry, classes, path)


def _set_weights(loss: dict, before: int, classes: int, path: str) -> None:
    """The weights of ``classes`` instead of ``before``, where they are all alike; one more, of no object, is kept."""
    given = loss.get("class_weight")
    if not isinstance(given, (list, tuple)) or before == classes:
        return
    if len(set(given[:before])) > 1:
        raise UserError(
            f"task.base={path}: its {loss.get('type')} has a class_weight for each of {before} classes, while this run "
            f"has {classes}: give one for each of these, or remove it"
        )
    loss["class_weight"] = [*given[:1]] * classes + [*given[before:]]


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _widths(own: dict) -> list[int]:
    return (own["neck"] if "neck" in own else own["decode_head"])["in_channels"]


def _classes(own: dict) -> int:
    return (own["roi_head"]["bbox_head"] if "roi_head" in own else own["decode_head"])["num_classes"]
