"""How parameters start."""

import math

import pytest
import torch

from vmamba.models import VMamba


def model(init: str) -> VMamba:
    torch.manual_seed(0)
    return VMamba([1], [64], d_state=4, init=init, ssm_ratio=2.0, num_classes=100).requires_grad_(False)


def test_v0():
    op = model("v0").layers[0].blocks[0].op
    assert torch.allclose(op.A_logs, torch.arange(1, 5).float().log().expand(4 * 128, 4))
    dt = torch.nn.functional.softplus(op.dt_projs_bias)
    assert 1e-3 * 0.999 < dt.min() < 2e-3 and 0.05 < dt.max() < 0.1001
    assert dt.log().mean() == pytest.approx(math.log(1e-2), abs=0.3)
    assert op.dt_projs_weight.abs().max() <= 4**-0.5
    assert op.dt_projs_weight.std() == pytest.approx(0.5 / 3**0.5, rel=0.1)


def test_v1():
    op = model("v1").layers[0].blocks[0].op
    assert op.A_logs.std() == pytest.approx(1, rel=0.1)
    assert op.dt_projs_weight.std() == pytest.approx(0.1, rel=0.1)
    assert op.dt_projs_bias.std() == pytest.approx(0.1, rel=0.1)


def test_v2():
    op = model("v2").layers[0].blocks[0].op
    assert not op.A_logs.any()
    for parameter in (op.dt_projs_weight, op.dt_projs_bias):
        assert parameter.min() >= 0 and parameter.max() < 0.1 and parameter.mean() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("init", ["v0", "v1", "v2"])
def test_the_rest(init):
    network = model(init)
    op = network.layers[0].blocks[0].op
    assert (op.Ds == 1).all()
    assert op.x_proj_weight.abs().max() <= 128**-0.5
    assert op.x_proj_weight.std() == pytest.approx((3 * 128) ** -0.5, rel=0.1)
    assert network.classifier.head.weight.std() == pytest.approx(0.02, rel=0.1)
    assert not network.classifier.head.bias.any()
    assert op.in_proj.weight.std() == pytest.approx(0.02, rel=0.1)
    assert (op.out_norm.weight == 1).all() and not op.out_norm.bias.any()
