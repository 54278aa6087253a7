"""The backbone of a detector, compiled for a GPU: one graph for its first size of image, one for any other.

On fake CUDA tensors, so without a GPU and without computing anything.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from vmamba.config.compose import compose
from vmamba_tasks.openmm.backbone import backbone_config
from vmamba_tasks.openmm.backbones import VMambaBackbone

WORDS = [
    "task=det",
    "data=coco",
    "data.root=unused",
    "model=tiny",
    "model.depths=[1,1,1,1]",
    "model.dims=[32,64,96,128]",
]
SIZES = [(800, 1280), (768, 1344), (640, 992), (1056, 800), (480, 736), (608, 960), (704, 1152), (512, 800)]


@pytest.fixture
def autocast():
    """What ``torch.autocast("cuda")`` refuses without a GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize(("scan", "training"), [("oflex", False), ("fused", False), ("fused", True)])
def test_two_graphs_for_images_of_eight_sizes(scan, training, autocast):
    config = backbone_config(compose([*WORDS, f"scan={scan}"])[0])
    network = VMambaBackbone(**{name: value for name, value in config.items() if name != "type"}).train(training)
    counter = CompileCounterWithBackend("eager" if training else "aot_eager")  # no GPU, no backward
    torch.compiler.reset()
    with FakeTensorMode(), torch.set_grad_enabled(training):
        for module in network.modules():
            module.fused_training = True  # the operators of a training step, as ``vmamba.models.compile`` has it
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(torch.empty(weight.shape, device="cuda")))
        network.compile(fullgraph=True, backend=counter)
        for height, width in SIZES:
            last = network(torch.empty(2, 3, height, width, device="cuda"))[-1]
            assert last.shape == (2, 128, height // 32, width // 32) and last.requires_grad == training
    assert counter.frame_count == 2
    used = {str(node.target) for graph in counter.graphs for node in graph.graph.nodes}
    assert any("vmamba_ops.add_layer_norm" in name for name in used) is training
