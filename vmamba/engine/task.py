"""What a task tells the engine, and nothing else."""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from vmamba.engine.distributed import Env
from vmamba.engine.stream import EpochLoader


class Task(Protocol):
    """Reached by the entry that ``conf/task/*.yaml`` names; ``cfg`` is a ``schema.Run``."""

    def __init__(self, cfg: Any, env: Env) -> None:
        """Checks what it needs of the data, so that a mistake shows before anything is built."""

    def build_model(self) -> nn.Module:
        """The model, on the CPU, with fresh parameters."""

    def train_loader(self) -> EpochLoader:
        """The training batches of this rank."""

    def train_step(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """``loss`` to be minimised, and other 0-d tensors worth recording. Runs under autocast, seeded by position."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics named ``val/...`` over the validation set, on all ranks alike. In eval mode, without gradients."""

    def load_weights(self, model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
        """Loads weights of any generation; raises UserError, naming ``source``, when they are another model's."""

    def start_from(self, model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> dict[str, int]:
        """Loads what ``weights`` have for ``model``: how many tensors were ``loaded``, ``missing``, ``unused``.

        Raises UserError, naming ``source``, when they are of another network.
        """

    def compiled(self, model: nn.Module) -> nn.Module:
        """The part of the model that ``compile=true`` compiles: the whole, or what keeps its shapes."""

    def flops(self, model: nn.Module) -> float | None:
        """FLOPs of inference on one image of the size the task evaluates at; ``model`` is new, on the CPU. Optional."""

    def draw(self, path: Path) -> None:
        """Draws samples of the last evaluation, as PNG. Optional: a task without pictures does not have it."""

    def manifest(self) -> dict[str, Any]:
        """Facts for the run's manifest: the data set's fingerprint, the op backend."""

    def close(self) -> None:
        """Lets go of what holds processes or files: loader workers."""
