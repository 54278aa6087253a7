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


@pytest.mark.parametrize("scan", ["oflex", "fused"])
@torch.no_grad()
def test_two_graphs_for_images_of_eight_sizes(scan):
    config = backbone_config(compose([*WORDS, f"scan={scan}"])[0])
    network = VMambaBackbone(**{name: value for name, value in config.items() if name != "type"}).eval()
    counter = CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()
    with FakeTensorMode():
        for module in network.modules():
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(torch.empty(weight.shape, device="cuda")))
        network.compile(fullgraph=True, backend=counter)
        for height, width in SIZES:
            last = network(torch.empty(2, 3, height, width, device="cuda"))[-1]
            assert last.shape == (2, 128, height // 32, width // 32)
    assert counter.frame_count == 2
