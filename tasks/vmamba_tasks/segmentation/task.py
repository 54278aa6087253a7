"""The segmentation task: UperNet on images with class maps. Metrics: val/mIoU, val/mAcc, val/aAcc (percent)."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmamba_tasks.dense import data
from vmamba_tasks.dense.task import Dense
from vmamba_tasks.openmm import parts
from vmamba_tasks.segmentation import check, config

METRICS = ("mIoU", "mAcc", "aAcc")


class Segmentation(Dense):
    """``cfg.data.train_maps`` and ``val_maps`` are folders of PNG class maps below ``cfg.data.root``."""

    name, scope = "seg", "mmseg"
    needs, other = "class maps", "data=ade20k data.root=/path/to/ADEChallengeData2016"
    full_data = (
        "for ADE20K add data=ade20k data.root=/path/to/ADEChallengeData2016 (recipe=upernet_160k, the published one)"
    )

    def check_data(self) -> None:
        check.maps(self.cfg)

    def data_config(self) -> dict:
        return config.data_config(self.cfg, self.config)

    def own_model_config(self) -> dict:
        return config.model_config(self.cfg)

    def count(self, model: nn.Module) -> float:
        from vmamba_tasks.dense import complexity

        width, height = self.cfg.recipe.seg.scale
        return complexity.segmentor(model, height, width)

    def build_model(self) -> nn.Module:
        """On a GPU the decoder channels-last: in 16 bits cuDNN's faster layout (a detector's float32 gains nothing)."""
        model = super().build_model()
        if self.env.device.type == "cuda":
            for name, part in model.named_children():
                if name != "backbone":
                    part.to(memory_format=torch.channels_last)
        return model

    def predict(self, model: nn.Module, batch) -> list:
        """With ``tta`` the mean of the softmax over scales and flips."""
        if not self.cfg.tta:
            return data.by_size(model.val_step, batch)
        with parts.scope(self.scope):
            from mmseg.models import SegTTAModel

            return SegTTAModel(module=model).test_step(batch)

    def names(self, raw: dict[str, float]) -> dict[str, float]:
        return {f"val/{name}": round(float(raw[name]), 2) for name in METRICS}  # mmseg rounds them so

    def sample(self, found: Any) -> dict:
        from vmamba_tasks.openmm.loading import annotated_image

        predicted, true = (maps.data.squeeze().cpu().numpy() for maps in (found.pred_sem_seg, found.gt_sem_seg))
        image = annotated_image(found.img_path, true.shape)
        return {"image": image, "predicted": predicted, "true": true}

    def draw_samples(self, samples: list[dict], path: Path) -> None:
        from vmamba_tasks.dense.pictures import draw_maps

        classes = self.val_set.read.dataset.metainfo["classes"]
        images, predicted, true = ([s[key] for s in samples] for key in ("image", "predicted", "true"))
        draw_maps(images, predicted, true, classes, path)
