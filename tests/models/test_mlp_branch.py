"""The MLP branch as one operator: when a block takes it, that it computes the same, that hooks are called."""

import pytest
import torch

from vmamba.models import VMamba, block, compile, layers
from vmamba.models.variants import how

SMALL = {"num_classes": 5, "img_size": 32, "norm": "ln", **how("v05")}
OPTIONS = {"triton.coalesce_tiling_analysis": False}  # on a CPU
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _network(**fields):
    torch.manual_seed(0)
    return VMamba(**SMALL | {"depths": [2], "dims": [16], "backend": "naive"} | fields)


@pytest.fixture
def calls(monkeypatch):
    """The operators as if they fitted; they compute by torch's on a CPU. Counts the calls of either."""
    counts = {"mlp": 0, "whole": 0}

    def counted(module, name, key):
        function = getattr(module, name)

        def call(*arguments):
            counts[key] += 1
            return function(*arguments)

        monkeypatch.setattr(module, name, call)

    counted(layers, "mlp", "mlp")
    counted(block, "add_norm_mlp", "whole")
    monkeypatch.setattr(layers, "fits", lambda *_: True)
    monkeypatch.setattr(block, "fits_whole", lambda *_: not torch.is_grad_enabled())
    return counts


@pytest.mark.parametrize("grad", [False, True])
def test_the_same_numbers(calls, monkeypatch, grad):
    network, x = _network().eval(), _images(2, 3, 32, 32)
    with torch.set_grad_enabled(grad):
        fused = network(x)
        assert calls == ({"mlp": 2, "whole": 0} if grad else {"mlp": 0, "whole": 2})
        monkeypatch.setattr(layers.Mlp, "ordinary", lambda _: False)
        torch.testing.assert_close(fused, network(x), atol=1e-5, rtol=1e-5)
    assert sum(calls.values()) == 2


@pytest.mark.parametrize("fields", [{"mlp": "gmlp"}, {"mlp_act": "relu"}, {"norm": "ln2d"}], ids=str)
def test_what_is_no_such_mlp_goes_its_old_way(calls, fields):
    with torch.no_grad():
        _network(**fields).eval()(_images(2, 3, 32, 32))
    assert not sum(calls.values())


def test_drop_path_and_training(calls):
    network = _network(drop_path=0.5)
    with torch.no_grad():
        network.train()(_images(2, 3, 32, 32))
        assert calls == {"mlp": 1, "whole": 1}  # the first block's rate is 0
        network.eval()(_images(2, 3, 32, 32))
    assert calls == {"mlp": 1, "whole": 3}


@pytest.mark.parametrize("watched", ["mlp", "mlp.fc1", "mlp.act", "mlp.fc2"])
def test_hooks_are_called(calls, watched):
    network, seen = _network().eval(), []
    module = network.layers[0].blocks[1].get_submodule(watched)
    handle = module.register_forward_hook(lambda *_: seen.append(watched))
    with torch.no_grad():
        network(_images(2, 3, 32, 32))
        assert seen == [watched] and calls["whole"] == 1
        handle.remove()
        network(_images(2, 3, 32, 32))
    assert seen == [watched] and calls["whole"] == 3


def test_an_exchanged_layer_is_called(calls):
    network, x = _network().eval(), _images(2, 3, 32, 32)
    mlp = network.layers[0].blocks[0].mlp
    mlp.fc2 = torch.nn.Sequential(mlp.fc2, torch.nn.Tanh())
    with torch.no_grad():
        network(x)
    assert calls == {"mlp": 0, "whole": 1}


def test_one_graph_for_the_compiler(calls):
    network = _network(backend="cpu").eval()  # one node of the graph, where naive is hundreds
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(_images(2, 3, 32, 32)), network(_images(2, 3, 32, 32)))
    torch.testing.assert_close(compiled(_images(2, 3, 32, 32)), network(_images(2, 3, 32, 32)))
    assert calls["whole"] >= 2


@pytest.mark.parametrize("ours", [False, True])
def test_training_compiled(calls, monkeypatch, ours):
    network, asked = _network(depths=[1], backend="cpu").train(), {}
    bare = network.compile
    monkeypatch.setattr(network, "compile", lambda **how: (asked.update(how), bare(fullgraph=True, backend="eager")))
    assert compile(network, "reduce-overhead") is network if ours else network.compile()
    network(_images(2, 3, 32, 32)).sum().backward()
    assert calls["whole"] == 0 and (calls["mlp"] > 0) is ours
    if ours:
        assert asked == {"fullgraph": True, "options": {"triton.cudagraphs": True, **OPTIONS}}


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu(compiled, monkeypatch):
    sizes = {"depths": [1], "dims": [96]} if compiled else {"depths": [1, 1, 1], "dims": [96, 192, 384]}
    network, x = _network(**sizes, backend="auto").cuda(), _images(2, 3, 64, 64).cuda()
    results = []
    for compiles in (compiled, False):
        if compiles:
            compile(network)
        call = network if compiles else network.forward  # what is compiled is the call
        with torch.autocast("cuda", torch.bfloat16):
            with torch.no_grad():
                evaluated = call(x)
            trained = call(x)
        network.zero_grad()
        trained.square().sum().backward()
        results.append([evaluated, trained, *(p.grad for p in network.parameters())])
        monkeypatch.setattr(layers.Mlp, "ordinary", lambda _: False)  # the second time by the parts
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype and ((a - b).norm() / b.norm()).item() < 4e-2
