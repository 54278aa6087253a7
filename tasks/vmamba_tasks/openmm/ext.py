"""A stand-in for ``mmcv._ext``, mmcv's compiled part, on torchvision's operators.

``install`` puts a finder at the end of ``sys.meta_path`` that knows this one module: a compiled ``_ext`` on disk is
found first and wins. nms, roi_align (average pooling) and sigmoid_focal_loss, forward and backward, are here; any other
name can be imported, and says what is missing when it is called. Signatures are those that ``mmcv.ops`` calls.
"""

import sys
import types
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss  # and torch.ops.torchvision is registered

from vmamba.config.errors import UserError

NAME = "mmcv._ext"
AVERAGE = 1  # mmcv's pool_mode
SERVED = {"nms", "roi_align", "focal_loss"}  # the files of mmcv.ops that need nothing else
PLAIN_ON_CPU = {"multi_scale_deform_attn"}  # those that have a form of their own in plain torch there


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Indices (K,) int64 of the boxes kept, best first. ``boxes`` (N, 4) x1, y1, x2, y2; ``scores`` (N,).

    ``offset=1`` counts the last pixel into a box's sides. Computed in float32 (float64 if given): torchvision's CUDA
    kernel takes no bfloat16, and the order of near scores would not survive it.
    """
    if not len(boxes):
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    kind = _at_least_float32(boxes)
    corners = boxes.detach().to(kind)
    if offset:
        corners = corners + corners.new_tensor([0, 0, offset, offset])
    with torch.autocast(boxes.device.type, enabled=False):
        return torch.ops.torchvision.nms(corners, scores.detach().to(kind), float(iou_threshold))


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, aligned_height: int,
    aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """Fills ``output`` (K, C, aligned_height, aligned_width) from ``input`` (N, C, H, W) at ``rois`` (K, 5)."""
    _only_average(pool_mode)
    kind = _at_least_float32(input)
    with torch.autocast(input.device.type, enabled=False):
        pooled = torch.ops.torchvision.roi_align(
            input.detach().to(kind), rois.detach().to(kind), float(spatial_scale), int(aligned_height),
            int(aligned_width), int(sampling_ratio), bool(aligned),
        )  # fmt: skip
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, aligned_height: int,
    aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """Fills ``grad_input`` (N, C, H, W) from ``grad_output`` (K, C, aligned_height, aligned_width)."""
    _only_average(pool_mode)
    kind = _at_least_float32(grad_output)
    with torch.autocast(grad_output.device.type, enabled=False):
        gradient = torch.ops.torchvision._roi_align_backward(
            grad_output.to(kind).contiguous(), rois.to(kind), float(spatial_scale), int(aligned_height),
            int(aligned_width), *grad_input.shape, int(sampling_ratio), bool(aligned),
        )  # fmt: skip
    grad_input.copy_(gradient)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fills ``output`` (N, C) with the loss of every logit of ``input`` (N, C), arXiv 1708.02002, equation 5.

    ``target`` (N,) int64: a sample's class, C for background, which is no class. ``weight`` is empty: no class weights.
    """
    output.copy_(_focal(input.detach(), target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fills ``grad_input`` (N, C) with the derivative of every loss by its logit."""
    logits = input.detach().requires_grad_()
    with torch.enable_grad():
        total = _focal(logits, target, weight, gamma, alpha).sum()
    grad_input.copy_(torch.autograd.grad(total, logits)[0])


PROVIDED = {
    function.__name__: function
    for function in (
        nms,
        roi_align_forward,
        roi_align_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
    )
}


def install() -> None:
    """Makes ``mmcv.ops`` importable where mmcv has no compiled part. To be called before anything imports it."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def compiled() -> bool:
    """Whether mmcv's own compiled operators are in use."""
    import mmcv._ext

    return not isinstance(mmcv._ext, _StandIn)


def lacking(model: nn.Module, config: Any, device: str) -> list[str]:
    """The operators of mmcv, by name, that ``model`` calls on ``device`` (cpu, cuda) and that nobody provides.

    ``config`` is the dict it was built from, where the kind of NMS stands.
    """
    if compiled():
        return []
    there = SERVED | PLAIN_ON_CPU if device == "cpu" else SERVED
    kinds = {type(module) for module in model.modules() if type(module).__module__.startswith("mmcv.ops.")}
    found = {kind.__name__ for kind in kinds if _of_mmcv(kind) not in there and _calls_compiled(kind)}
    return sorted(found | set(_other_nms(config)))


class _StandIn(types.ModuleType):
    """The module: what is provided, and for every other name a function that refuses when called."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_args, **_kwargs):
            raise UserError(
                f"the model calls mmcv's operator {name}, which is compiled code that is not installed (without it "
                f"there are {', '.join(sorted(PROVIDED))}): build mmcv==2.1.0 with its operators, or take another model"
            )

        return refuse


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(NAME, self, origin="torchvision") if fullname == NAME else None

    def create_module(self, spec):
        module = _StandIn(spec.name)
        module.__dict__.update(PROVIDED)
        return module

    def exec_module(self, module) -> None:
        """Nothing to run: the module came whole."""


def _of_mmcv(kind: type) -> str:
    return kind.__module__.rpartition(".")[2]


def _calls_compiled(kind: type) -> bool:
    """Every file of mmcv.ops that calls compiled code loads it under this name."""
    return hasattr(sys.modules[kind.__module__], "ext_module")


def _other_nms(node: Any) -> Iterator[str]:
    """The kinds of NMS in a config but for the plain one."""
    if isinstance(node, dict):
        kind = node["nms"].get("type", "nms") if isinstance(node.get("nms"), dict) else "nms"
        if kind != "nms":
            yield kind
    for entry in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from _other_nms(entry)


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    if weight.numel():
        raise UserError("a focal loss with class weights needs mmcv's compiled operators: leave the weights out")
    kind = _at_least_float32(logits)
    hits = target[:, None] == torch.arange(logits.shape[1], device=target.device)
    with torch.autocast(logits.device.type, enabled=False):
        return sigmoid_focal_loss(logits.to(kind), hits.to(kind), alpha=alpha, gamma=gamma)


def _only_average(pool_mode: int) -> None:
    if pool_mode != AVERAGE:
        raise UserError("RoIAlign with pool_mode=max needs mmcv's compiled operators: take pool_mode=avg")
