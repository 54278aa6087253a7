"""The definition of LayerNorm, in plain torch."""

import torch
from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out_dtype: torch.dtype | None) -> Tensor:
    """As the public function, without autocast's part: out_dtype None is the dtype of ``x``."""
    wide = torch.promote_types(x.dtype, torch.float32)
    own = x.to(wide)
    centred = own - own.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    y = centred * (variance + eps).rsqrt() * weight.to(wide) + bias.to(wide)
    return y.to(out_dtype or x.dtype)
