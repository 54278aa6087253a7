"""Random images that lie on the device: what a run costs without its data."""

from collections.abc import Iterator

import torch

STEPS = {True: 1000, False: 20}  # batches of training, of validation
KEPT = 2  # batches that differ; they come in turn


class Synthetic:
    """A data set of noise. ``batches()`` is its loader: images (B, C, S, S) float32 and labels (B,) on ``device``."""

    def __init__(self, cfg, device: torch.device, train: bool) -> None:
        data, batch = cfg.data, cfg.recipe.batch_size
        self.steps, self.batch_size = STEPS[train], batch
        generator = torch.Generator().manual_seed(cfg.seed)
        images = torch.randn(batch, data.in_chans, data.img_size, data.img_size, generator=generator).to(device)
        labels = torch.randint(data.num_classes, (batch,), generator=generator).to(device)
        self.kept = [(images.roll(i, 0), labels.roll(i, 0)) for i in range(KEPT)]

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """All epochs are alike."""

    def batches(self) -> "Batches":
        return Batches(self)


class Batches:
    """The batches of a ``Synthetic``, as a DataLoader gives them."""

    def __init__(self, source: Synthetic) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for step in range(self.source.steps):
            yield self.source.kept[step % KEPT]
