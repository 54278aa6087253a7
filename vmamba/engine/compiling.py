"""torch.compile as a run asks for it."""

import logging

import torch
from torch import nn

from vmamba import models

log = logging.getLogger("vmamba")


def compile(model: nn.Module, cfg, device: torch.device) -> None:
    """Compiles ``model`` in place, by ``cfg.compile_mode``; names in the state dict stay as they are.

    Our own models must come out as one graph; timm's may break.
    """
    mode = mode_here(cfg, device)
    if str(cfg.model.family) == "vmamba":
        models.compile(model, mode)
    else:
        model.compile(mode=None if mode == "default" else mode)


def mode_here(cfg, device: torch.device) -> str:
    """torch.compile's mode, "eager" without.

    "auto" is CUDA graphs where all images have one size and an update is one backward. Elsewhere a
    graph would be recorded for every size, or write its gradients over those of the batch before.
    """
    if not cfg.compile:
        return "eager"
    if str(cfg.compile_mode) != "auto":
        return str(cfg.compile_mode)
    graphs = device.type == "cuda" and str(cfg.task.name) == "cls" and cfg.recipe.accumulate == 1
    return "reduce-overhead" if graphs else "default"


def announce(cfg, device: torch.device) -> None:
    """Says what the silence will be (minutes of a compiler before a first step and evaluation) or would buy."""
    if cfg.compile:
        log.info("torch.compile (%s): the first step and the first evaluation take minutes", mode_here(cfg, device))
    elif device.type == "cuda" and str(cfg.task.name) == "cls" and str(cfg.model.family) == "vmamba":
        log.info("eager, which waits for the host: compile=true trains at twice the speed and more (VMamba-T, H100)")


def step() -> None:
    """Says that a new step begins: what CUDA graphs gave in the one before may be written over."""
    if torch.cuda.is_initialized():  # elsewhere the call would import the compiler, for three seconds
        torch.compiler.cudagraph_mark_step_begin()
