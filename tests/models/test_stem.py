"""The first half of the patch embedding as one operator: when it is taken, that it computes the same."""

import pytest
import torch
from torch import nn

from vmamba.models import VMamba, stem
from vmamba.models.variants import how

SMALL = {"num_classes": 5, "img_size": 32, "depths": [1], "dims": [32], "backend": "naive", **how("v05")}
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _network(**fields):
    torch.manual_seed(0)
    return VMamba(**SMALL | {"norm": "ln"} | fields).eval()


def _images():
    return torch.randn((2, 3, 32, 48), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def calls(monkeypatch):
    """The operator as if it fitted everything; it computes by torch's on a CPU. One entry a call."""
    function, made = stem.conv_norm_gelu, []

    def call(*arguments):
        made.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(stem, "conv_norm_gelu", call)
    monkeypatch.setattr(stem, "fits", lambda *_: True)
    return made


def test_the_same_numbers(calls, monkeypatch):
    network = _network()
    fused = network(_images())
    assert len(calls) == 1
    monkeypatch.setattr(stem, "fits", lambda *_: False)
    torch.testing.assert_close(fused, network(_images()), atol=1e-5, rtol=1e-5)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "fields", [{"norm": "ln2d"}, {"norm": "bn"}, {"patch_embed": "v1"}, {"patch_norm": False}], ids=str
)
def test_what_is_no_such_embedding_goes_its_old_way(calls, fields):
    _network(**fields)(_images())
    assert not calls


def test_hooks_and_exchanged_modules_are_called(calls):
    network, seen = _network(), []
    handle = network.patch_embed[2].register_forward_hook(lambda *_: seen.append("norm"))
    network(_images())
    assert seen == ["norm"] and not calls
    handle.remove()
    network.patch_embed[4] = nn.ReLU()
    network(_images())
    assert not calls


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("training", [False, True])
def test_on_a_gpu_the_kernels_give_what_torch_gives(monkeypatch, training):
    network, x = _network().cuda(), _images().cuda()
    results = []
    for fits in (stem.fits, lambda *_: False):
        monkeypatch.setattr(stem, "fits", fits)
        with torch.autocast("cuda", torch.bfloat16), torch.set_grad_enabled(training):
            y = network.patch_embed(x.contiguous(memory_format=torch.channels_last))
        assert y.dtype == torch.float32
        results.append([y])
        if training:
            weighed = torch.randn(y.shape, generator=torch.Generator("cuda").manual_seed(2), device="cuda")
            results[-1] += torch.autograd.grad((y * weighed).sum(), list(network.patch_embed.parameters()))
    for a, b in zip(*results, strict=True):
        assert ((a - b).norm() / b.norm()).item() < 5e-2  # torch's own, rounded between its operators, are off by 3e-2
