"""torch.compile of a VMamba with what inductor has to be told about it."""

import torch
from torch import nn

from vmamba.models.layers import LayerNorm, Mlp


def compile(model: nn.Module, mode: str = "default") -> nn.Module:
    """Compiles ``model``, a VMamba or what holds one, where it is, in place as one graph; names in the state dict stay.

    A bare ``torch.compile(model)`` works too and is slower: inductor then takes (B, H, W, C) maps for the convolutions'
    layout and turns them (VMamba-T[s1l8], H100, bf16, batch 128, evaluation: 11.9 ms of kernels in place of 9.7).

    Args:
        mode: torch.compile's: "default", "reduce-overhead" (CUDA graphs) or "max-autotune".
    Returns:
        ``model`` itself.
    """
    options = torch._inductor.list_mode_options(mode)
    options["triton.coalesce_tiling_analysis"] = False  # torch 2.11's fails for images of many sizes, and gains nothing
    if any(p.is_cuda for p in model.parameters()):  # on a CPU torch 2.11's vectors compute wrong numbers without it
        options["layout_optimization"] = False
    for module in model.modules():
        if isinstance(module, LayerNorm | Mlp):
            module.fused_training = True  # otherwise the graph is so short that every map's layout would be turned
    model.compile(fullgraph=True, options=options)
    return model
