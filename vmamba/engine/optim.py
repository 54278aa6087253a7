"""Optimizer and schedule: timm's, with the published recipe's rules."""

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import CosineLRScheduler
from torch import nn

from vmamba.config.errors import UserError

FUSED = {"adam", "adamw"}  # torch's own fused kernels


def scale(recipe, total_batch: int) -> float:
    """What the recipe's learning rates are multiplied with: total batch over ``lr_batch`` (linear rule)."""
    return total_batch / recipe.lr_batch if recipe.lr_batch else 1.0


def optimizer(model: nn.Module, recipe, total_batch: int, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimizer over ``model``'s parameters.

    Weight decay leaves out tensors of one dimension, names ending in ``.bias`` and what the model's
    ``no_weight_decay()`` names (the published recipe's exclusions). AdamW is fused on a GPU.
    """
    if recipe.optimizer not in list_optimizers():
        raise UserError(
            f"recipe.optimizer={recipe.optimizer}: not an optimizer of timm; choose one of "
            f"{', '.join(list_optimizers(exclude_filters=['bnb*', 'fused*']))}"
        )
    extra = {"betas": tuple(recipe.betas), "eps": recipe.eps} if "adam" in recipe.optimizer else {}
    if recipe.optimizer in FUSED and device.type == "cuda":
        extra["fused"] = True
    return create_optimizer_v2(
        model,
        opt=recipe.optimizer,
        lr=recipe.lr * scale(recipe, total_batch),
        weight_decay=recipe.weight_decay,
        **extra,
    )


def schedule(opt: torch.optim.Optimizer, recipe, total_batch: int, total: int, warmup: int) -> CosineLRScheduler:
    """Linear warm-up over ``warmup`` updates, then one half cosine over the remaining ``total - warmup``.

    Both counts are optimizer updates. ``step_update(n)`` sets the rate of update n (from 0). Every rate of the
    recipe is scaled with the total batch.
    """
    factor = scale(recipe, total_batch)
    return CosineLRScheduler(
        opt,
        t_initial=max(1, total - warmup),
        lr_min=recipe.min_lr * factor,
        warmup_t=warmup,
        warmup_lr_init=recipe.warmup_lr * factor,
        warmup_prefix=True,
        t_in_epochs=False,
    )
