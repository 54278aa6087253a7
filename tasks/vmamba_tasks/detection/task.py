"""The detection task: Mask R-CNN on COCO-like data. Metrics: val/bbox_mAP, val/bbox_AP50, val/bbox_AP75.

The same of masks (val/segm_…) where the detector has them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vmamba_tasks.dense import data
from vmamba_tasks.dense.task import Dense
from vmamba_tasks.detection import check, config

METRICS = {"mAP": "mAP", "mAP_50": "AP50", "mAP_75": "AP75"}  # mmdet's names -> ours


class HeadsInFloat32:
    """Mixed into a detector: autocast reaches backbone and neck only.

    In bfloat16 the anchors' and boxes' coordinates would be rounded to 4 or 8 pixels, and NMS with them.
    """

    features_autocast = False, torch.bfloat16  # until a forward pass has looked

    def forward(self, *args: Any, **kwargs: Any):
        kind = self._device_kind()
        self.features_autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        with torch.autocast(kind, enabled=False):
            return super().forward(*args, **kwargs)

    def extract_feat(self, batch_inputs: torch.Tensor):
        enabled, dtype = self.features_autocast
        with torch.autocast(self._device_kind(), dtype=dtype, enabled=enabled):
            features = super().extract_feat(batch_inputs)
        return tuple(feature.float() for feature in features)

    def _device_kind(self) -> str:
        return next(self.parameters()).device.type


class Detection(Dense):
    """``cfg.data.train_boxes`` and ``val_boxes`` are COCO files below ``cfg.data.root``."""

    name, scope = "det", "mmdet"
    needs, other = "boxes", "data=coco data.root=/path/to/coco"
    full_data = "for COCO add data=coco data.root=/path/to/coco"

    def check_data(self) -> None:
        check.boxes(self.cfg, masks=config.has_masks(self.config))

    def data_config(self) -> dict:
        return config.data_config(self.cfg, self.config)

    def own_model_config(self) -> dict:
        return config.model_config(self.cfg)

    def build_model(self) -> nn.Module:
        model = super().build_model()
        kind = type(model)
        model.__class__ = type(kind.__name__, (HeadsInFloat32, kind), {})
        return model

    def count(self, model: nn.Module) -> float | None:
        """At 1280 x 800 where images are resized to COCO's usual size, as is the custom, else at the resized size."""
        from vmamba_tasks.dense import complexity

        if type(getattr(model, "roi_head", None)).__name__ != "StandardRoIHead" or not model.roi_head.with_mask:
            return None
        long, short = self.cfg.recipe.det.scale
        height, width = complexity.DETECTOR if (long, short) == (1333, 800) else (short, long)
        return complexity.detector(model, height, width)

    def train_loader(self) -> data.EpochLoader:
        """Batches of wide images only or tall images only."""
        return data.training(self.cfg, self.env, self.train_set, tall(self.train_set.read.dataset))

    def measure(self, metric, results: list) -> dict[str, float]:
        """Over the images seen: with ``limit.eval_batches`` not all of the file's."""
        metric.img_ids = sorted(truth["img_id"] for truth, _ in results)
        _complete(metric._coco_api.anns)
        return metric.compute_metrics(results)

    def names(self, raw: dict[str, float]) -> dict[str, float]:
        """A run that has not found a box yet has no numbers: they are 0."""
        return {
            f"val/{kind}_{ours}": round(100 * max(0.0, raw.get(f"{kind}_{theirs}", 0.0)), 1)  # mmdet rounds it so
            for kind in self.metric_config["metric"]
            for theirs, ours in METRICS.items()
        }

    def sample(self, found: Any) -> dict:
        from vmamba_tasks.openmm.loading import annotated_image

        image = annotated_image(found.img_path, found.ori_shape)
        size = image.shape[:2]
        predicted, true = found.pred_instances.cpu(), found.gt_instances.cpu()
        shown = {
            "boxes": predicted.bboxes.numpy(),
            "labels": predicted.labels.numpy(),
            "scores": predicted.scores.numpy(),
        }
        if "masks" in predicted:
            shown["masks"] = predicted.masks.numpy().astype(bool)
        truth = {"boxes": true.bboxes.tensor.numpy() if hasattr(true.bboxes, "tensor") else true.bboxes.numpy()}
        truth["labels"] = true.labels.numpy()
        if "masks" in true:
            truth["masks"] = true.masks.to_ndarray().astype(bool).reshape(-1, *size)
        return {"image": image, "predicted": shown, "true": truth}

    def draw_samples(self, samples: list[dict], path: Path) -> None:
        from vmamba_tasks.dense.pictures import draw_boxes

        classes = self.val_set.read.dataset.metainfo["classes"]
        images, predicted, true = ([s[key] for s in samples] for key in ("image", "predicted", "true"))
        draw_boxes(images, predicted, true, classes, path)


def _complete(objects: dict[int, dict]) -> None:
    """``objects`` of a COCO file, by id, as pycocotools wants them: each with ``iscrowd``, none with the id 0.

    Files of other tools often lack the one, and count from 0; an object's id is pycocotools' mark of a match.
    """
    for note in objects.values():
        note.setdefault("iscrowd", 0)
    if (first := objects.pop(0, None)) is not None:
        first["id"] = max(objects, default=0) + 1
        objects[first["id"]] = first


def tall(dataset: Any) -> np.ndarray:
    """bool (N,): the image is higher than wide."""
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    return np.array([info["width"] < info["height"] for info in infos])
