"""torch.compile as a run asks for it."""

import torch
from torch import nn


def compile(model: nn.Module, cfg) -> None:
    """Compiles ``model`` in place, by ``cfg.compile_mode``; names in the state dict stay as they are.

    Our own models must come out as one graph; timm's may break.
    """
    # inductor's analysis of coalescing fails an assertion on maps of unknown size (torch 2.11), which det and seg have
    known = {} if str(cfg.task.name) == "cls" else {"triton.coalesce_tiling_analysis": False}
    options = torch._inductor.list_mode_options(str(cfg.compile_mode)) | known
    model.compile(fullgraph=str(cfg.model.family) == "vmamba", options=options)


def step() -> None:
    """Says that a new step begins: what CUDA graphs gave in the one before may be written over."""
    if torch.cuda.is_initialized():  # elsewhere the call would import the compiler, for three seconds
        torch.compiler.cudagraph_mark_step_begin()
