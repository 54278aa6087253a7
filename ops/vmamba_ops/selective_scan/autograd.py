"""The derivative that the GPU backends share: around torch's dispatcher, which costs tens of microseconds a call."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gradients(ctx, run: Callable, options: tuple, dout: Tensor | None, dlast: Tensor | None) -> tuple:
    """Those of the seven tensors, by ``run``, from what ``ctx`` saved (``saved``, then the tensors)."""
    if dout is None and dlast is None:
        return (None,) * 7
    saved, *tensors = ctx.saved_tensors
    if dout is None:
        dout = tensors[0].new_zeros(tensors[0].shape)
    results = run(dout, dlast, saved, *tensors, *options)
    return tuple([None if t is None else g for t, g in zip(tensors, results, strict=True)])


class Eager(torch.autograd.Function):
    """``forward(*tensors, *options)`` -> (out, last state, saved), differentiated by
    ``backward(dout, dlast, saved, *tensors, *back_options)`` -> a gradient for each of the seven tensors."""

    @staticmethod
    def forward(ctx, forward: Callable, options: tuple, backward: Callable, back_options: tuple, *tensors):
        out, last, saved = forward(*tensors, *options)
        ctx.save_for_backward(saved, *tensors)
        ctx.how = backward, back_options
        ctx.set_materialize_grads(False)
        return out, last

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dlast):
        return (None, None, None, None, *gradients(ctx, *ctx.how, dout, dlast))
