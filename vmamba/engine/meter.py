"""Means over the updates since the last record, summed on the device and fetched once."""

import torch

from vmamba.engine import distributed


class Meter:
    """Adds up scalars by name without waiting for the device; means are over updates and ranks."""

    def __init__(self, env) -> None:
        self.env = env
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}
        self.seconds, self.updates = 0.0, 0
        self.waited = self.waited_before = 0.0

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """0-d tensors on the device."""
        for name, value in values.items():
            value = value.float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The means since the last call; waits for the device, and on several ranks for the others."""
        names = sorted(self.sums)
        sums = torch.stack([self.sums[name] for name in names])
        sums = distributed.all_sum(sums).tolist()
        means = {n: total / (self.counts[n] * self.env.world_size) for n, total in zip(names, sums, strict=True)}
        self.sums, self.counts = {}, {}
        return means

    def time(self, seconds: float, waited: float) -> None:
        """An update took ``seconds``; the loader has made the run wait ``waited`` seconds in all."""
        self.seconds += seconds
        self.updates += 1
        self.waited = waited

    def speed(self, images: int) -> dict[str, float]:
        """Images a second over all ranks, at ``images`` an update, and the share of the time spent waiting for data."""
        speed = {
            "train/images_per_s": images * self.updates / max(self.seconds, 1e-9),
            "train/data_wait": (self.waited - self.waited_before) / max(self.seconds, 1e-9),
        }
        self.seconds, self.updates, self.waited_before = 0.0, 0, self.waited
        return speed
