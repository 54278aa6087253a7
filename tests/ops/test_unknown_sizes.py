"""A compiler that does not know H and W gets one graph for all of them: the operators ask nothing of the sizes.

On fake CUDA tensors, so without a GPU; the last test runs on one.
"""

import pytest
import torch
from torch._dynamo.source import ConstantSource
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

import vmamba_ops.cross_scan.triton
import vmamba_ops.dwconv.cuda
import vmamba_ops.layer_norm.triton
import vmamba_ops.selective_scan.cuda
import vmamba_ops.ss2d.cuda  # noqa: F401  each defines its operators
from vmamba_ops import cross_merge, cross_scan
from vmamba_ops.layer_norm import takes

OPS = torch.ops.vmamba_ops
B, C, RANK = 2, 96, 6


@pytest.fixture
def sizes():
    """What the graph came to demand of H and W."""
    return ShapeEnv()


@pytest.fixture
def traced(sizes):
    """A fake map (B, C, H, W) on a GPU, whose H and W are symbols; inside its mode."""
    mode = FakeTensorMode(shape_env=sizes)
    dynamic = StatelessSymbolicContext([DimDynamic.STATIC] * 2 + [DimDynamic.DYNAMIC] * 2)
    image = torch.empty(B, C, 200, 320, dtype=torch.bfloat16)
    fake = mode.from_tensor(image, symbolic_context=dynamic, source=ConstantSource("x"))
    with mode, torch.no_grad():
        yield fake.to("cuda")


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


@pytest.mark.parametrize("first", [True, False], ids=["channels first", "channels last"])
def test_cross_scan_and_merge(traced, sizes, first):
    x = traced[:, None] if first else traced.to(memory_format=torch.channels_last)[:, None]
    y = OPS.cross_scan_triton(x, "cross2d", first, True)
    merged = OPS.cross_merge_triton(y.unflatten(3, x.shape[3:]), "cross2d", False, first, True)
    assert y.shape == (B, 4, C, x.shape[3] * x.shape[4]) and merged.shape == (B, 1, C, y.shape[3])
    assert not demands(sizes)


def test_selective_scan(traced, sizes):
    length = traced.shape[2] * traced.shape[3]
    u, b = empty(B, 4 * C, length, dtype=torch.bfloat16), empty(B, 4, 1, length, dtype=torch.bfloat16)
    options = (None, None, True, torch.float32, 0, 0)
    out, _, saved = OPS.selective_scan_cuda(u, u, empty(4 * C, 1), b, b, *options)
    assert out.shape == u.shape and saved.shape == (B, (length - 1) // 56, 4 * C, 1)
    assert not demands(sizes)


def test_fused(traced, sizes):
    x = traced.permute(0, 2, 3, 1).contiguous()
    x = OPS.dwconv_silu(x, empty(C, 1, 3, 3), None)
    x_proj = empty(4 * (RANK + 2), C, dtype=torch.bfloat16)
    y, *_ = OPS.ss2d(x, x_proj, empty(4, C, RANK), *(empty(4, C) for _ in range(3)), True)
    assert y.shape == x.shape and not demands(sizes)


def test_layer_norm(traced, sizes):
    x = traced.permute(0, 2, 3, 1).contiguous()
    assert takes(x) and not takes(traced.permute(0, 2, 3, 1))
    total, y, stats = OPS.add_layer_norm(x.float(), x, empty(B), empty(C), empty(C), 1e-5, torch.bfloat16)
    assert total.shape == y.shape == x.shape and stats.shape == (x.numel() // C, 2) and not demands(sizes)


def demands(sizes: ShapeEnv) -> list[str]:
    """Guards but those that any map of some rows fulfils: of a dimension that is neither 0 nor 1."""
    told = [str(guard.expr) for guard in sizes.guards]
    return [
        text for text in told if not (text.startswith("Ne(") and text.endswith(", 0)")) and not text.endswith("> 1")
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_any_size_by_one_graph():
    def both(x):
        y = cross_scan(x, backend="triton")
        return cross_merge(y.sin().unflatten(3, x.shape[2:]), backend="triton")

    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(both, backend=counter, fullgraph=True, dynamic=True)
    for height, width in ((40, 64), (25, 42), (7, 30), (33, 33)):
        x, again = (torch.randn(2, 16, height, width, device="cuda", requires_grad=True) for _ in range(2))
        again.data.copy_(x)
        for y in (compiled(x), both(again)):
            y.square().sum().backward()
        torch.testing.assert_close(compiled(x), both(x))
        torch.testing.assert_close(x.grad, again.grad)
    assert counter.frame_count == 1
