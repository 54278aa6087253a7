"""Checkpoints of every spelling and wrapping load strictly, and come out the same."""

import pytest
import torch

from vmamba.config.errors import UserError
from vmamba.models import Backbone, VMamba, checkpoint_filter_fn

FIELDS = {"depths": [1, 1], "dims": [8, 16], "num_classes": 5, "d_state": 2, "gate": "act"}
V0 = FIELDS | {"conv_bias": True, "mlp": "none", "patch_embed": "v1", "downsample": "v1", "norm": "ln"}


def small(cls=VMamba, **fields):
    torch.manual_seed(0)
    return cls(**FIELDS | fields)


def check(checkpoint: dict, model, expected: dict) -> None:
    fresh = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    model.load_state_dict(fresh)
    model.load_state_dict(checkpoint_filter_fn(checkpoint, model), strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def renamed(state: dict, *pairs: tuple[str, str]) -> dict:
    found = {}
    for key, value in state.items():
        for old, new in pairs:
            key = (
                new + key.removeprefix(old) if old.endswith("^") and key.startswith(old[:-1]) else key.replace(old, new)
            )
        found[key] = value
    return found


JANUARY = (
    ("patch_embed.0.", "patch_embed.proj."),
    ("patch_embed.2.", "patch_embed.norm."),
    (".blocks.0.norm.", ".blocks.0.ln_1."),
    (".op.", ".self_attention."),
    ("classifier.norm.", "norm."),
    ("classifier.head.", "head."),
)


def test_january():
    state = small(**V0).state_dict()
    old = renamed(state, *JANUARY)
    assert {"head.weight", "layers.1.blocks.0.ln_1.bias", "layers.0.blocks.0.self_attention.Ds"} <= old.keys()
    check(old, small(**V0), state)


def test_single_file():
    state = small(**V0).state_dict()
    names = (".x_proj_weight", ".x_proj.weight"), (".dt_projs_weight", ".dt_projs.weight")
    old = renamed(state, *names, ("downsample.norm.", "downsample.1."), ("downsample.reduction.", "downsample.2."))
    old = {k: v.flatten(0, 1) if "x_proj." in k or "dt_projs.w" in k else v for k, v in old.items()}
    assert "layers.0.downsample.2.weight" in old
    check(old, small(**V0), state)


def test_march_dwconv3():
    state = small(out_norm="dwconv3").state_dict()
    check(renamed(state, (".out_norm.1.weight", ".out_norm.weight")), small(out_norm="dwconv3"), state)


def test_linear_maps_kept_as_convolutions():
    state = small().state_dict()
    linear = (".in_proj.weight", ".out_proj.weight", ".fc1.weight", ".fc2.weight")
    old = {k: v[:, :, None, None] if k.endswith(linear) else v for k, v in state.items()}
    check(old, small(), state)
    check({k: v[..., None] if k.endswith(linear) else v for k, v in state.items()}, small(norm="ln"), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_ema", None])
def test_wrappers_and_prefixes(prefix, wrapper):
    state = small().state_dict()
    old = {prefix + key: value for key, value in state.items()}
    check({wrapper: old, "epoch": 3} if wrapper else old, small(), state)


def test_averaged_weights_come_first():
    state = small().state_dict()
    check({"model": {k: torch.ones_like(v) for k, v in state.items()}, "model_ema": state}, small(), state)


def test_openmmlab_backbone():
    state = small(Backbone, out_indices=(0, 1)).state_dict()
    old = {"backbone." + key: value for key, value in state.items()} | {"neck.conv.weight": torch.ones(2)}
    check({"state_dict": old, "meta": {}}, small(Backbone, out_indices=(0, 1)), state)


def test_a_classifier_is_dropped_where_there_is_none():
    state = small().state_dict()
    bare = small(num_classes=0)
    check(state, bare, {k: v for k, v in state.items() if "classifier.head" not in k})
    backbone = small(Backbone, out_indices=(1,))
    missing, unexpected = backbone.load_state_dict(checkpoint_filter_fn(state, backbone), strict=False)
    assert unexpected == [] and set(missing) == {"outnorm1.weight", "outnorm1.bias"}


def test_a_classifier_of_another_size_is_named_and_refused(caplog):
    state, model = small().state_dict(), small(num_classes=7)
    weights = checkpoint_filter_fn(state, model)
    assert "5 classes and this model 7" in caplog.text
    with pytest.raises(RuntimeError, match=r"classifier\.head"):
        model.load_state_dict(weights, strict=True)


def test_positions_are_resized_bicubically():
    model, other = small(pos_embed=True, img_size=32), small(pos_embed=True, img_size=(48, 40))
    loaded = checkpoint_filter_fn(model.state_dict(), other)
    other.load_state_dict(loaded, strict=True)
    size = {"size": (12, 10), "mode": "bicubic", "align_corners": False}
    assert torch.equal(other.pos_embed, torch.nn.functional.interpolate(model.pos_embed, **size))


@pytest.mark.parametrize("content", [{}, {"epoch": 3}])
def test_nothing_inside(content):
    with pytest.raises(UserError, match="no weights"):
        checkpoint_filter_fn(content, small())
