"""The task of detection and segmentation: an OpenMMLab model, data set and metric in this project's engine."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmamba.config.errors import UserError
from vmamba.engine import distributed
from vmamba.engine.stream import EpochLoader, close, evaluation
from vmamba.engine.weights import fit_into, fit_part
from vmamba_tasks.dense import base, data, start
from vmamba_tasks.openmm import extras, parts

log = logging.getLogger("vmamba")


class Dense(ABC):
    """``cfg`` is a ``schema.Run``, ``env`` the engine's ``Env``. A subclass says what is below; metrics are percent."""

    name: str  # the extra, and the task's name
    scope: str  # mmdet or mmseg
    needs: str  # what its data must have
    other: str  # the words that choose the real data
    full_data: str  # how to go on from the embedded scenes

    def __init__(self, cfg, env) -> None:
        extras.require(self.name)
        parts.quiet()
        self.cfg, self.env = cfg, env
        self._find_data()
        sets = self.data_config()  # builds the model's config too: whatever does not fit shows here
        self.check_data()
        self.metric_config = sets["metric"]
        self.train_set = self._open(sets["train"], train=True) if cfg.mode == "train" else None
        self.val_set = self._open(sets["tta" if cfg.tta else "val"], train=False)
        self.val_loader = data.evaluation(cfg, env, self.val_set)
        self.seen: list[dict] = []  # samples of the last evaluation, to be drawn

    @abstractmethod
    def check_data(self) -> None:
        """Raises UserError when the files are not what ``cfg.data`` says."""

    @abstractmethod
    def data_config(self) -> dict:
        """``train``, ``val``, ``metric`` and, where there is test-time augmentation, ``tta``."""

    @abstractmethod
    def own_model_config(self) -> dict:
        """The model, without ``task.base``."""

    @abstractmethod
    def names(self, raw: dict[str, float]) -> dict[str, float]:
        """The metric's numbers under our names."""

    @abstractmethod
    def sample(self, found: Any) -> dict:
        """What is drawn of one prediction: ``image`` and whatever ``draw_samples`` takes."""

    @abstractmethod
    def draw_samples(self, samples: list[dict], path: Path) -> None:
        """Draws what ``sample`` kept."""

    @cached_property
    def config(self) -> dict:
        """The model of this run, as an OpenMMLab dict."""
        own, path = self.own_model_config(), self.cfg.task.base
        return own if path is None else base.with_our_backbone(path, own, self.scope)

    def build_model(self) -> nn.Module:
        if (path := self.cfg.task.base) is None:
            model = parts.model(self.scope, self.config)
        else:
            model = base.build(path, self.config, self.scope, self.env.device.type)
        if self.env.world_size == 1 or self.env.device.type != "cuda":
            from mmengine.model import revert_sync_batchnorm

            model = revert_sync_batchnorm(model)
        return model

    def compiled(self, model: nn.Module) -> nn.Module:
        """The part that ``compile=true`` compiles: heads and box arithmetic change shape with every image."""
        return model.backbone

    @abstractmethod
    def count(self, model: nn.Module) -> float | None:
        """FLOPs of inference on one image, on fake tensors; None for an architecture that is not counted."""

    def flops(self, model: nn.Module) -> float | None:
        from vmamba.bench.complexity import fake
        from vmamba.models.counting import countable

        with countable(model), fake():
            return self.count(model)

    def train_loader(self) -> EpochLoader:
        return data.training(self.cfg, self.env, self.train_set)

    def train_step(self, model: nn.Module, batch) -> dict[str, torch.Tensor]:
        """``batch``: OpenMMLab's ``inputs`` (uint8 images of any sizes) and ``data_samples``."""
        whole = getattr(model, "module", model)
        try:
            losses = model(**whole.data_preprocessor(batch, True), mode="loss")
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                f"recipe.batch_size={self.cfg.recipe.batch_size}: the model's batch norms need two images or more in "
                "training; make it larger (norms over several GPUs: recipe.sync_bn=true)"
            ) from None
        loss, parsed = whole.parse_losses(losses)
        return {"loss": loss, **{name: value for name, value in parsed.items() if name != "loss"}}

    def predict(self, model: nn.Module, batch) -> list:
        """Data samples with predictions, on the images' own sizes."""
        return model.val_step(batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Every readable image of the validation set counts once, over all ranks."""
        metric = parts.metric(self.scope, self.metric_config, self.val_set.read.dataset.metainfo)
        keep = self.cfg.task.pictures if self.env.is_main and not self.seen else 0
        for batch in evaluation(self.val_loader, self.cfg.limit.eval_batches, self.val_set):
            if batch is None:
                continue
            found = self.predict(model, batch)
            metric.process(batch, [sample.to_dict() for sample in found])
            self.seen += [self.sample(one) for one in found[: max(0, keep - len(self.seen))]]
        return self._score(metric)

    def draw(self, path: Path) -> None:
        """Draws samples of the evaluation since the last call; nothing on ranks above 0."""
        if self.seen:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.draw_samples(self.seen, path)
        self.seen = []

    def load_weights(self, model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
        fit_into(model, start.renamed(weights, model, whole=True), source, start.hint(self.cfg))

    def start_from(self, model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> dict[str, int]:
        """The backbone's weights, and those of the heads that fit. UserError if the backbone is another one."""
        converted = start.renamed(weights, model, whole=False)
        return fit_part(model, converted, source, "backbone.", ("backbone.outnorm",), start.hint(self.cfg))

    def close(self) -> None:
        close(self.val_loader)

    def manifest(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"data": {"name": self.cfg.data.name, "val": fingerprint(self.val_set)}}
        if self.train_set is not None:
            facts["data"]["train"] = fingerprint(self.train_set)
        if self.cfg.model.family == "vmamba":
            from vmamba.models.build import network_fields
            from vmamba.models.ss2d import backend_here

            cfg = self.cfg
            fields = network_fields(cfg.model, cfg.forward_type, cfg.norm, cfg.scan)
            facts["op_backend"] = backend_here(fields, self.env.device.type)
        if self.cfg.task.base is not None:  # the file may change, or go
            facts["model_config"] = json.loads(json.dumps(self.config, default=str))
        return facts | {"mmcv_ops": "compiled" if _compiled() else "torchvision"}

    def _find_data(self) -> None:
        wanted = self.cfg.data
        if wanted.source == "scenes":
            from vmamba_tasks import scenes

            root = Path(wanted.root).expanduser() if wanted.root else scenes.default_root()
            if self.env.is_main:
                scenes.make(root)
            distributed.barrier()
            wanted.root = str(root)
            if self.env.is_main and self.cfg.mode == "train":
                log.info("embedded scenes in %s, a short schedule; %s", root, self.full_data)
        elif wanted.source != "files":
            raise UserError(
                f"task={self.name} with data={wanted.name}: it has no {self.needs}; take data=scenes or {self.other}"
            )
        elif wanted.root is None:
            raise UserError(f"data={wanted.name}: data.root is missing. {wanted.how_to_get}".strip())
        elif not Path(wanted.root).expanduser().is_dir():
            raise UserError(f"data.root={wanted.root}: no such folder. {wanted.how_to_get}".strip())

    def _open(self, config: dict, *, train: bool):
        return data.guarded(parts.dataset(self.scope, config), train=train)

    def _score(self, metric) -> dict[str, float]:
        """The metric over the results of all ranks. OpenMMLab's own gathering cuts every rank to the shortest one."""
        results = [one for part in distributed.gather(metric.results) for one in part]
        if not results:
            raise UserError("the evaluation saw no image: check data.val_split and limit.eval_batches")
        found = None
        if self.env.is_main:
            with parts.scope(self.scope):
                found = self.names(self.measure(metric, results))
        return distributed.broadcast(found)

    def measure(self, metric, results: list) -> dict[str, float]:
        """The metric's own numbers."""
        return metric.compute_metrics(results)


def fingerprint(dataset) -> dict:
    """Number of images, and a digest of their names in order."""
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        digest.update(f"{Path(dataset.name(index)).name}\n".encode())
    return {"images": len(dataset), "sha256": digest.hexdigest()}


def _compiled() -> bool:
    from vmamba_tasks.openmm import ext

    return ext.compiled()
