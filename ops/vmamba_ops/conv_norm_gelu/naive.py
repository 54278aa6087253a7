"""The definition, by torch's operators."""

from torch import Tensor
from torch.nn import functional as F


def conv_norm_gelu(x: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float):
    """As the public function."""
    y = F.conv2d(x, weight, bias, stride=2, padding=1).permute(0, 2, 3, 1)
    return F.gelu(F.layer_norm(y, y.shape[-1:], norm_weight, norm_bias, eps)).permute(0, 3, 1, 2)
