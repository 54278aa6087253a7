"""A loss that is no number stops the run, while the weights before it are still there."""

import torch

from vmamba.engine import distributed, state
from vmamba.engine.checkpoint import write
from vmamba.engine.hooks import Hook
from vmamba.engine.stream import EpochStream

_NEVER = 2**62


class NotFinite(RuntimeError):
    """The loss or the gradient became NaN or infinite; the message names the step and where the evidence is."""


class NanGuard(Hook):
    """Looks at every update before the optimizer does; keeps the batch and the last good weights of a bad one.

    With ``each_step`` (CPU) the run stops at the bad update. On a GPU nothing waits for the device: the flag goes to
    the optimizer's ``found_inf``, which leaves the weights as they are, and the run stops at the next log step.
    With float16, infinite gradients are the scaler's everyday business, so only the loss is looked at.
    """

    def __init__(self, folder, loader, each_step: bool) -> None:
        self.folder, self.loader, self.each_step = folder, loader, each_step
        self.bad: torch.Tensor | None = None  # of the update in progress
        self.first_bad: torch.Tensor | None = None
        self.places: dict[int, tuple[int, int]] = {}  # update -> (epoch, batch), since the last look
        self.batch = None

    def look(self, where, micro: int, loss: torch.Tensor, batch) -> None:
        """At one micro-batch's loss (0-d, on the device)."""
        bad = ~torch.isfinite(loss)
        self.bad = bad if not micro else self.bad | bad
        self.batch = batch
        self.places[where.step + 1] = (where.epoch, where.batch)
        self._note(where.step + 1)

    def look_at_norm(self, where, norm: torch.Tensor) -> None:
        """At the gradient's global norm (0-d, on the device)."""
        self.bad = self.bad | ~torch.isfinite(norm)
        self._note(where.step + 1)

    def found_inf(self) -> torch.Tensor:
        """The flag as torch's fused optimizers take it."""
        return self.bad.float()

    def stop_if_bad(self, loop) -> None:
        """Waits for the device; keeps the evidence and raises ``NotFinite`` on every rank if an update was bad on one.

        The weights are rank 0's, the batches those of the ranks that had the bad number.
        """
        if self.first_bad is None:  # no update yet
            return
        own = int(self.first_bad)
        step = -distributed.all_max([-own if own >= 0 else -_NEVER], loop.env.device)[0]
        if step == _NEVER:
            self.places = {}
            return
        folder, rank = self.folder.path / "nan", loop.env.rank
        if loop.env.is_main:
            write(folder / "last_good.pt", state.weights(loop))
        if own == step:
            epoch, batch = self.places[step]
            kept = {"step": step, "epoch": epoch, "batch": batch, "data": _on_cpu(self._data(step, epoch, batch))}
            write(folder / (f"batch-rank{rank}.pt" if rank else "batch.pt"), kept)
        distributed.barrier()  # the first to leave takes the others with it
        raise NotFinite(
            f"the loss or its gradient is not finite at update {step}: the batch and the last good weights are in "
            f"{folder}; try a lower recipe.lr or recipe.clip_grad, or precision=fp32"
        )

    def _note(self, step: int) -> None:
        if self.first_bad is None:
            self.first_bad = torch.full((), -1, dtype=torch.int64, device=self.bad.device)
        self.first_bad = torch.where(self.bad & (self.first_bad < 0), step, self.first_bad)

    def _data(self, step: int, epoch: int, batch: int):
        """The bad update's last micro-batch; one that is gone is read again (as before the prefetcher)."""
        stream = self.loader.dataset
        if step == max(self.places) or not isinstance(stream, EpochStream):
            return self.batch
        return stream.collate([stream.sample(epoch, int(index)) for index in stream.order(epoch)[batch]])


def _on_cpu(batch):
    if isinstance(batch, torch.Tensor):
        return batch.detach().cpu()
    if isinstance(batch, (list, tuple)):
        return [_on_cpu(part) for part in batch]
    if isinstance(batch, dict):
        return {str(key): _on_cpu(part) for key, part in batch.items()}
    return str(batch)
