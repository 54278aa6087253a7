"""What can be hung on a run: small classes with the moments they care for."""

from pathlib import Path

import torch


class Hook:
    """Every moment gets the ``Loop``, whose ``state`` says where the run is. On rank 0 and elsewhere alike."""

    def on_start(self, loop) -> None:
        """Everything is built and resumed; no step has run in this process."""

    def on_step(self, loop, seconds: float) -> None:
        """An optimizer update is done; ``seconds`` it took."""

    def on_log(self, loop, metrics: dict[str, float]) -> None:
        """Training metrics, means since the last time, are there."""

    def on_evaluate(self, loop, metrics: dict[str, float]) -> None:
        """An evaluation is done."""

    def on_checkpoint(self, loop, path: Path) -> None:
        """A checkpoint is durably on disk."""

    def on_end(self, loop) -> None:
        """The run has reached its end."""

    def on_exception(self, loop, error: BaseException) -> None:
        """The run ends early; the error goes on after this."""


class Record(Hook):
    """Appends metrics to the run folder's ``metrics.jsonl`` (rank 0)."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.writer = None

    def on_start(self, loop) -> None:
        self.writer = self.folder.writer(loop.origin.step, loop.origin.here)

    def on_log(self, loop, metrics) -> None:
        self._write(loop, {**metrics, **self._memory(loop)})

    def on_evaluate(self, loop, metrics) -> None:
        self._write(loop, metrics)

    def on_end(self, loop) -> None:
        self.writer.close()

    def on_exception(self, loop, error) -> None:
        if self.writer:
            self.writer.close()

    def _write(self, loop, metrics) -> None:
        self.writer.log(loop.state.step, loop.epoch_fraction, metrics)

    @staticmethod
    def _memory(loop) -> dict[str, float]:
        if loop.env.device.type != "cuda":
            return {}
        return {"train/gpu_memory_gib": torch.cuda.max_memory_allocated(loop.env.device) / 2**30}


class Pictures(Hook):
    """Has the task draw samples of every evaluation into the run folder's ``pictures`` (rank 0)."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def on_evaluate(self, loop, metrics) -> None:
        self.draw(loop.task, loop.state.step)

    def draw(self, task, step: int) -> None:
        """``pictures/step-0000240.png``: the evaluation after so many updates."""
        task.draw(self.folder.pictures / f"step-{step:07d}.png")
