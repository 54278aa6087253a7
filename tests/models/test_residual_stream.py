"""The residual stream: additions left to the next norm, stochastic depth's factors, blocks that are watched."""

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from vmamba.models import VMamba
from vmamba.models.layers import LayerNorm, Stream, dropped, normed

SMALL = {"num_classes": 5, "img_size": 32, "depths": [3], "dims": [8], "backend": "naive"}


def _network(**fields):
    torch.manual_seed(0)
    return VMamba(**SMALL | {"norm": "ln"} | fields)


def test_stochastic_depth_keeps_or_drops_whole_images():
    x, branch = torch.randn(64, 3, 4, 8), torch.randn(64, 3, 4, 8, requires_grad=True)
    path, norm = DropPath(0.25).train(), LayerNorm(8)
    stream = dropped(path, x, branch)
    kept = stream.scale > 0
    assert 32 < kept.sum() < 64
    torch.testing.assert_close(stream.scale[kept], torch.full_like(stream.scale[kept], 4 / 3))
    total, y = normed(norm, stream)
    torch.testing.assert_close(total, x + branch * stream.scale.view(-1, 1, 1, 1))
    assert torch.equal(total[~kept], x[~kept]) and torch.equal(y, norm(total))
    total.sum().backward()
    assert torch.equal(branch.grad[~kept], torch.zeros_like(branch[~kept]))
    assert dropped(path.eval(), x, branch) == Stream(x, branch)
    assert dropped(DropPath(0.25, scale_by_keep=False).train(), x, branch).scale.max() == 1


@pytest.mark.parametrize("norm", ["ln", "ln2d", "bn"])
def test_a_watched_block_is_called_and_gives_the_same(norm):
    network, x, seen = _network(norm=norm).eval(), torch.randn(2, 3, 32, 32), []
    expected = network(x)
    handles = [
        block.register_forward_hook(lambda _, given, out: seen.append(out)) for block in network.layers[0].blocks
    ]
    torch.testing.assert_close(network(x), expected, atol=1e-6, rtol=1e-5)
    assert len(seen) == 3 and all(torch.is_tensor(out) for out in seen)
    [handle.remove() for handle in handles]
    network(x)
    assert len(seen) == 3


def test_a_watched_path_or_norm_is_called():
    network, seen = _network(drop_path=0.5).train(), []
    block = network.layers[0].blocks[2]
    for module in (block.drop_path, block.norm):
        module.register_forward_hook(lambda module, *_: seen.append(type(module)))
    network(torch.randn(2, 3, 32, 32))
    assert seen == [LayerNorm, DropPath, DropPath]


def test_an_exchanged_block_is_called():
    network = _network().eval()
    network.layers[0].blocks[1] = nn.Identity()
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_recomputed_blocks_give_the_same_gradients():
    results = []
    for recompute in (False, True):
        network = _network(drop_path=0.5, grad_checkpointing=recompute).train()
        torch.manual_seed(1)
        network(torch.ones(4, 3, 32, 32)).square().sum().backward()
        results.append([p.grad for p in network.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
