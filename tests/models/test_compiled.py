"""A compiled network gives the eager one's numbers and gradients, whatever computes it."""

import pytest
import torch
import yaml

import vmamba.models
from vmamba.config.paths import conf_dir
from vmamba.models import VMamba
from vmamba.models.variants import how

SMALL = {"depths": [1, 1], "dims": [32, 64], "num_classes": 5}
SHORT = {"depths": [1], "dims": [32]}  # what a graph takes to trace grows with its blocks
TYPES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((conf_dir() / "forward_type").glob("*.yaml"))}
LAYOUTS = [(name, norm) for name, t in TYPES.items() for norm in ("ln", "ln2d")[: 2 - t["channel_last_only"]]]


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _network(device: str = "cpu", **fields) -> tuple[VMamba, torch.Tensor]:
    """A network whose biases are not zero, and images; maps of 4 x 4 are the last, which a vector of a CPU holds."""
    torch.manual_seed(0)
    network = VMamba(**SMALL | fields)
    for p in network.parameters():
        if p.dim() == 1:
            torch.nn.init.normal_(p, std=0.3)
    return network.to(device), torch.randn(4, 3, 32, 32, device=device)


def _logits_and_gradients(network, x) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        logits = network.eval()(x)
    return logits, *torch.autograd.grad(network.train()(x).square().sum(), list(network.parameters()))


def _assert_alike(network, x, compile, tolerance: float = 1e-5) -> None:
    eager = _logits_and_gradients(network, x)
    assert all(g.norm() > 0 for g in eager)
    compile(network)
    names = ["logits", *(name for name, _ in network.named_parameters())]
    largest = max(g.norm() for g in eager[1:])
    for name, a, b in zip(names, _logits_and_gradients(network, x), eager, strict=True):
        error = (a - b).norm() / (b.norm() if name == "logits" else largest)
        assert error < tolerance, (name, error.item())  # NaN is not less


def _graph_alone(network) -> None:
    network.compile(fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize(("forward_type", "norm"), LAYOUTS)
def test_every_forward_type_as_one_graph(forward_type, norm):
    _assert_alike(*_network(norm=norm, **how(forward_type) | SHORT), _graph_alone)


@pytest.mark.parametrize(
    "fields", [{"routes": "unidi"}, {"routes": "bidi"}, {"routes": "cascade2d"}, {"d_state": 3}], ids=str
)
def test_other_scans_as_one_graph(fields):
    _assert_alike(*_network(norm="ln2d", **how("v05") | SHORT | fields), _graph_alone)


def test_compiled_for_a_cpu():
    _assert_alike(*_network(norm="ln2d"), vmamba.models.compile)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("forward_type", ["v0", "v3", "v05"])
def test_compiled_for_a_gpu(forward_type, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    _assert_alike(*_network("cuda", norm="ln", **how(forward_type)), vmamba.models.compile, 1e-4)
