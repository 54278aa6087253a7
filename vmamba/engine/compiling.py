"""torch.compile as a run asks for it."""

import torch
from torch import nn

from vmamba import models


def compile(model: nn.Module, cfg) -> None:
    """Compiles ``model`` in place, by ``cfg.compile_mode``; names in the state dict stay as they are.

    Our own models must come out as one graph; timm's may break.
    """
    mode = str(cfg.compile_mode)
    if str(cfg.model.family) == "vmamba":
        models.compile(model, mode)
    else:
        model.compile(mode=None if mode == "default" else mode)


def step() -> None:
    """Says that a new step begins: what CUDA graphs gave in the one before may be written over."""
    if torch.cuda.is_initialized():  # elsewhere the call would import the compiler, for three seconds
        torch.compiler.cudagraph_mark_step_begin()
