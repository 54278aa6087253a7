"""What is no tensor is refused by its name, in one line, by every op."""

import pytest
import torch

import vmamba_ops as ops

X, W = torch.randn(1, 2, 3, 4), torch.randn(4)
MAPS = torch.randn(8, 4), torch.randn(8), torch.randn(4, 8)
SS2D = torch.randn(4, 4, 4), torch.randn(4, 4, 2), torch.randn(4, 4), torch.randn(16, 1)
CONV = torch.randn(1, 3, 4, 4), torch.randn(4, 3, 3, 3), W, W


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ops.ss2d(X, *SS2D, None), "ss2d: Ds is NoneType; it takes a tensor"),
        (lambda: ops.ss2d(X.numpy(), *SS2D, W), "ss2d: x is ndarray; it takes a tensor"),
        (lambda: ops.line_scan([1.0], "row"), "line_scan: x is list; it takes a tensor"),
        (lambda: ops.cross_scan(None), "cross_scan: x is NoneType; it takes a tensor"),
        (lambda: ops.layer_norm(None, W, W), "layer_norm: x is NoneType; it takes a tensor"),
        (lambda: ops.mlp(X, *MAPS, None), "mlp: fc2_bias is NoneType; it takes a tensor"),
        (
            lambda: ops.add_norm_mlp(X, None, W, None, *MAPS, W),
            "add_norm_mlp: norm_bias is NoneType; it takes a tensor",
        ),
        (lambda: ops.conv_norm_gelu(*CONV, None), "conv_norm_gelu: norm_bias is NoneType; it takes a tensor"),
    ],
)
def test_no_tensor(call, said):
    with pytest.raises(TypeError) as refused:
        call()
    assert str(refused.value) == said
