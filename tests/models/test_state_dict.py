"""State-dict names, shapes and sizes of the released models, on the meta device."""

import published
import pytest
import torch

import vmamba
from vmamba.models import checkpoint_filter_fn, from_upstream
from vmamba.models.registry import FIELDS
from vmamba.models.variants import variants

PARAMETERS = {
    "vmamba_tiny_v0": 22_893_448,
    "vmamba_small_v0": 44_417_416,
    "vmamba_base_v0": 76_254_056,
    "vmamba_tiny_0220": 32_484_904,
    "vmamba_tiny_0229": 28_761_640,
    "vmamba_tiny_0229flex": 28_761_640,
    "vmamba_tiny_0230": 30_705_832,
    "vmamba_small_s2l15": 50_147_752,
    "vmamba_base_s2l15": 88_557_800,
    "vmamba_tiny_s1l8": 30_249_064,
    "vmamba_small_s1l20": 49_012_840,
    "vmamba_base_s1l20": 86_614_504,
}
MANIFESTS = {
    "vmamba_tiny_v0": "v0_T",
    "vmamba_small_v0": "v0_S",
    "vmamba_base_v0": "v0_B",
    "vmamba_tiny_0220": "t0220_T",
    "vmamba_tiny_0229": "t0229_T",
    "vmamba_tiny_0229flex": "t0229flex_T",
    "vmamba_tiny_0230": "t0230_T",
    "vmamba_small_s2l15": "v2_S",
    "vmamba_base_s2l15": "v2_B",
    "vmamba_tiny_s1l8": "v2v_T_s1l8",
    "vmamba_small_s1l20": "v2v_S_s1l20",
    "vmamba_base_s1l20": "v2v_B_s1l20",
}
# upstream's variations on T[s1l8], with the sizes counted from its own code
ABLATIONS = {
    "s2l5": ({"depths": [2, 2, 5, 2], "ssm_ratio": 2.0}, 30_705_832),
    "sr1hl5": ({"depths": [2, 2, 5, 2], "ssm_ratio": 1.5}, 28_131_976),
    "no convolution": ({"conv": 0}, 30_202_408),
    "convolution with bias": ({"conv_bias": True}, 30_254_248),
    "oncnorm": ({"out_norm": "cnorm"}, 30_295_720),
    "ondwconv3": ({"out_norm": "dwconv3"}, 30_285_352),
    "onnone": ({"out_norm": "none"}, 30_238_696),
    "onsoftmax": ({"out_norm": "softmax"}, 30_238_696),
    "positions, no convolution": ({"pos_embed": True, "conv": 0}, 30_503_464),
    "state 16": ({"depths": [2, 2, 5, 2], "d_state": 16}, 26_283_880),
    "state 8": ({"depths": [2, 2, 5, 2], "d_state": 8, "ssm_ratio": 1.5}, 28_640_008),
    "m2s2h": ({"mlp_ratio": 2.0, "ssm_ratio": 2.5}, 29_866_888),
    "cascade": ({"routes": "cascade2d"}, 30_249_064),
    "gate, no MLP": ({"depths": [2, 2, 9, 2], "gate": "act", "mlp": "none", "ssm_ratio": 2.0}, 22_850_152),
}


def shapes(model) -> dict[str, tuple]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def on_meta(name: str, **kwargs):
    with torch.device("meta"):
        return vmamba.create_model(name, **kwargs)


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_released_models(name):
    model = on_meta(name)
    assert count(model) == PARAMETERS[name]
    assert shapes(model) == {key: tuple(shape) for key, shape in published.manifest(MANIFESTS[name]).items()}


@pytest.mark.parametrize("name", ["vmamba_tiny_0220", "vmamba_tiny_s1l8"])
@pytest.mark.parametrize("forward_type", ["v0", "v1", "v2", "v3", "v05"])
def test_neither_layout_nor_forward_type_changes_the_state_dict(name, forward_type):
    expected = shapes(on_meta(name))
    for norm in ("ln", "ln2d"):
        assert shapes(on_meta(name, forward_type=forward_type, norm=norm)) == expected


def test_every_variant_is_counted():
    assert set(variants()) == {*PARAMETERS, "vmamba_nano"}
    for variant in variants().values():
        assert set(variant.fields) <= set(FIELDS)


@pytest.mark.parametrize("change", ABLATIONS)
def test_ablations(change):
    fields, expected = ABLATIONS[change]
    assert count(on_meta("vmamba_tiny_s1l8", **fields)) == expected


@pytest.mark.parametrize("name", published.index())
def test_manifests(name):
    about = published.index()[name]
    with torch.device("meta"):
        model = from_upstream(about["constructor"], source=about["source"], cls=about["cls"])
        checkpoint = {key: torch.empty(shape) for key, shape in published.manifest(name).items()}
    assert len(checkpoint) == about["tensors"]
    loaded = checkpoint_filter_fn(checkpoint, model)
    assert {key: tuple(value.shape) for key, value in loaded.items()} == shapes(model)
    assert count(model) == about["params"]
