"""The classification task: mixup and cross entropy in training, top-1 and top-5 accuracy in evaluation."""

from typing import Any

import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import nn
from torch.nn.functional import cross_entropy

from vmamba.config.errors import UserError
from vmamba.config.network import choose
from vmamba.engine import distributed
from vmamba.engine.stream import EpochLoader, close, evaluation
from vmamba.engine.weights import fit_into, fit_part
from vmamba_tasks.classification import data, layout, loaders
from vmamba_tasks.classification.guess import hint

METRICS = ("val/loss", "val/acc1", "val/acc5")


class Classification:
    """``cfg`` is a ``schema.Run``, ``env`` the engine's ``Env``. Metrics: val/loss, val/acc1, val/acc5 (percent)."""

    def __init__(self, cfg, env) -> None:
        choose("task.metric", cfg.task.metric, METRICS)
        self.cfg, self.env = cfg, env
        recipe, augment = cfg.recipe, cfg.recipe.augment
        self.train_set = data.open_split(cfg, env, train=True) if cfg.mode == "train" else None
        self.val_set = data.open_split(cfg, env, train=False)
        if self.train_set is not None:
            layout.check_same(data.classes(self.train_set), data.classes(self.val_set))
        self.val_loader = loaders.evaluation(cfg, env, self.val_set)
        self.smoothing = recipe.smoothing
        self.mixup = None
        if augment.mixup > 0 or augment.cutmix > 0:
            self.mixup = Mixup(
                mixup_alpha=augment.mixup,
                cutmix_alpha=augment.cutmix,
                prob=augment.mixup_prob,
                switch_prob=augment.mixup_switch_prob,
                mode=augment.mixup_mode,
                label_smoothing=recipe.smoothing,
                num_classes=cfg.model.num_classes or cfg.data.num_classes,
            )
        self.soft_cross_entropy = SoftTargetCrossEntropy()

    def build_model(self) -> nn.Module:
        from vmamba.models import build

        cfg = self.cfg
        return build(
            cfg.model,
            cfg.forward_type,
            cfg.norm,
            cfg.scan,
            num_classes=cfg.model.num_classes or cfg.data.num_classes,
            in_chans=cfg.model.in_chans or cfg.data.in_chans,
            img_size=cfg.data.img_size,
        )

    def flops(self, model: nn.Module) -> float:
        from vmamba.bench.complexity import fake, flops
        from vmamba.models.counting import countable

        channels, size = self.cfg.model.in_chans or self.cfg.data.in_chans, self.cfg.data.img_size
        with countable(model), fake():
            return flops(lambda: model(torch.empty(1, channels, size, size)))[0]

    def train_loader(self) -> EpochLoader:
        return loaders.training(self.cfg, self.env, self.train_set)

    def train_step(self, model: nn.Module, batch) -> dict[str, torch.Tensor]:
        """``batch``: images (B, C, H, W) float32, targets (B,) int64. Accuracy (percent) is of unmixed images only."""
        images, targets = (part.to(self.env.device, non_blocking=True) for part in batch)
        if self.mixup is not None:
            images, soft = self.mixup(images, targets)
            return {"loss": self.soft_cross_entropy(model(images), soft)}
        logits = model(images)
        correct = (logits.detach().argmax(1) == targets).float().mean()
        return {"loss": cross_entropy(logits, targets, label_smoothing=self.smoothing), "acc1": 100 * correct}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Every image of the validation set counts once, over all ranks; broken ones (target -1) do not count."""
        sums = torch.zeros(4, dtype=torch.float64, device=self.env.device)  # loss, top 1, top 5, images
        guard = loaders.guard_of(self.val_set)
        for images, targets in evaluation(self.val_loader, self.cfg.limit.eval_batches, guard):
            images = images.to(self.env.device, non_blocking=True)
            sums += _scores(model(images).float(), targets.to(self.env.device, non_blocking=True))
        loss, top1, top5, images = distributed.all_sum(sums.cpu() if self.env.device.type == "cpu" else sums).tolist()
        if not images:
            raise UserError("the evaluation saw no image: check data.val_split and limit.eval_batches")
        return dict(zip(METRICS, (loss / images, 100 * top1 / images, 100 * top5 / images), strict=True))

    def load_weights(self, model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
        if self.cfg.model.family == "vmamba":
            from vmamba.models import checkpoint_filter_fn

            weights = checkpoint_filter_fn(weights, model)
        fit_into(model, weights, source, hint(weights, self.cfg))

    def start_from(self, model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> dict[str, int]:
        """All weights but a classifier of another size. UserError if the network is another one."""
        if self.cfg.model.family == "vmamba":
            from vmamba.models import checkpoint_filter_fn

            weights = checkpoint_filter_fn(weights, model)
        return fit_part(model, weights, source, "", ("classifier.head.", "head.", "fc."), hint(weights, self.cfg))

    def compiled(self, model: nn.Module) -> nn.Module:
        return model

    def close(self) -> None:
        close(self.val_loader)

    def manifest(self) -> dict[str, Any]:
        facts = {"data": {"name": self.cfg.data.name, "val": data.fingerprint(self.val_set)}}
        if self.train_set is not None:
            facts["data"]["train"] = data.fingerprint(self.train_set)
        if self.cfg.model.family == "vmamba":
            from vmamba.models.build import network_fields
            from vmamba.models.ss2d import backend_here

            cfg = self.cfg
            fields = network_fields(cfg.model, cfg.forward_type, cfg.norm, cfg.scan)
            facts["op_backend"] = backend_here(fields, self.env.device.type)
        return facts


def _scores(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed loss, top-1 hits, top-5 hits and images of a batch: logits (B, classes) float32, targets (B,)."""
    counted = targets >= 0
    logits, targets = logits[counted], targets[counted]
    hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
    loss = cross_entropy(logits, targets, reduction="sum")
    return torch.stack([loss, hits[:, :1].sum(), hits.sum(), counted.sum()]).double()
