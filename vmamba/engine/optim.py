"""Optimizer and schedule: timm's, with the published recipe's rules."""

import math
from collections.abc import Callable

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import CosineLRScheduler
from torch import nn

from vmamba.config.errors import UserError, meant

FUSED = {"adam", "adamw"}  # torch's own fused kernels
ASKED = ("weight_decay", "betas", "eps")  # entries of a parameter group that the recipe gives, beside the rate


def scale(recipe, total_batch: int) -> float:
    """What the recipe's learning rates are multiplied with: total batch over ``lr_batch`` (linear rule)."""
    return total_batch / recipe.lr_batch if recipe.lr_batch else 1.0


def check(recipe) -> None:
    """UserError for an optimizer that timm does not have."""
    if recipe.optimizer not in list_optimizers():
        raise UserError(
            f"recipe.optimizer={recipe.optimizer}: not an optimizer of timm."
            f"{meant(recipe.optimizer, list_optimizers())} Choose from: "
            f"{', '.join(list_optimizers(exclude_filters=['bnb*', 'fused*']))}."
        )


def optimizer(model: nn.Module, recipe, total_batch: int, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimizer over ``model``'s parameters.

    Weight decay leaves out tensors of one dimension, names ending in ``.bias`` and what the model's
    ``no_weight_decay()`` names (the published classification recipe's exclusions), or, with ``recipe.no_decay``, the
    names that have one of its parts in them (the published dense recipes'). AdamW is fused on a GPU.
    """
    extra = {"betas": tuple(recipe.betas), "eps": recipe.eps} if "adam" in recipe.optimizer else {}
    if recipe.optimizer in FUSED and device.type == "cuda":
        extra["fused"] = True
    return create_optimizer_v2(
        model if recipe.no_decay is None else _by_name(model, recipe.no_decay),
        opt=recipe.optimizer,
        lr=recipe.lr * scale(recipe, total_batch),
        weight_decay=recipe.weight_decay,
        **extra,
    )


def schedule(opt: torch.optim.Optimizer, recipe, total_batch: int, total: int, warmup: int, unit: int = 1):
    """Linear warm-up over ``warmup`` updates, then what ``recipe.schedule`` says over the remaining ``total - warmup``.

    Both counts are optimizer updates; ``unit``: how many of them one of ``recipe.milestones`` is.
    ``step_update(n)`` sets the rate of update n (from 0). Every rate of the recipe is scaled with the total batch.
    """
    factor = scale(recipe, total_batch)
    if recipe.warmup_factor is not None or recipe.schedule != "cosine":
        start = recipe.warmup_factor if recipe.warmup_factor is not None else recipe.warmup_lr / recipe.lr
        return Rates(opt, _shape(recipe, total, warmup, unit), warmup, start)
    return CosineLRScheduler(
        opt,
        t_initial=max(1, total - warmup),
        lr_min=recipe.min_lr * factor,
        warmup_t=warmup,
        warmup_lr_init=recipe.warmup_lr * factor,
        warmup_prefix=True,
        t_in_epochs=False,
    )


class Rates:
    """Rates as OpenMMLab's schedulers give them: every group's rate times a warm-up and times a shape.

    The warm-up goes from ``start`` at update 0 to 1 at update ``warmup - 1``; ``shape(n)`` is the factor of update n.
    """

    def __init__(self, opt: torch.optim.Optimizer, shape: Callable[[int], float], warmup: int, start: float) -> None:
        self.opt, self.shape, self.warmup, self.start = opt, shape, warmup, start
        self.rates = [group["lr"] for group in opt.param_groups]
        self.step_update(0)

    def step_update(self, step: int) -> None:
        """Sets the rate of update ``step``."""
        factor = self.shape(step)
        if step < self.warmup - 1:
            factor *= self.start + (1 - self.start) * step / (self.warmup - 1)
        for group, rate in zip(self.opt.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def state_dict(self) -> dict:
        """Nothing: the step says it all."""
        return {}


def _shape(recipe, total: int, warmup: int, unit: int) -> Callable[[int], float]:
    """The factor of update n without the warm-up."""
    least = recipe.min_lr / recipe.lr
    if recipe.schedule == "step":
        milestones = [unit * milestone for milestone in recipe.milestones]
        return lambda step: recipe.gamma ** sum(step >= milestone for milestone in milestones)

    def done(step: int) -> float:
        return min(1.0, max(0, step - warmup) / max(1, total - warmup - 1))

    if recipe.schedule == "poly":
        return lambda step: least + (1 - least) * (1 - done(step)) ** recipe.power
    return lambda step: least + (1 - least) * (1 + math.cos(math.pi * done(step))) / 2


def _by_name(model: nn.Module, exempt: list[str]) -> list[dict]:
    """Two groups of parameters: without weight decay those whose name has one of ``exempt`` in it."""
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[any(part in name for part in exempt)].append(parameter)
    return [{"params": groups[False]}, {"params": groups[True], "weight_decay": 0.0}]
