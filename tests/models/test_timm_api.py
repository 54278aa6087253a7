"""timm's interface to the models, and vmamba's own two functions."""

import subprocess
import sys

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_weight_decay

import vmamba
from vmamba.config.errors import UserError

SMALL = {"depths": [1, 2], "dims": [8, 16], "num_classes": 5}
X = torch.randn(2, 3, 30, 42, generator=torch.Generator().manual_seed(0))


def nano(**kwargs):
    torch.manual_seed(0)
    return timm.create_model("vmamba_nano", **SMALL | kwargs).eval()


@pytest.mark.parametrize("order", ["import vmamba, timm", "import timm, vmamba", "import vmamba.models, timm"])
def test_registered_whichever_is_imported_first(order):
    code = f"{order}; m = timm.create_model('vmamba_nano', features_only=True); print(m.feature_info.channels()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip().isdigit(), done.stderr


def test_create_model_as_in_a_notebook():
    model = vmamba.create_model("vmamba_tiny_s1l8", depths=[1, 1, 1, 1], num_classes=10, in_chans=1, img_size=64)
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 10)
    assert model.default_cfg["crop_pct"] == 0.875 and model.num_classes == 10
    assert vmamba.create_model("resnet18", num_classes=2).num_classes == 2


def test_list_models():
    assert {"vmamba_nano", "vmamba_tiny_s1l8", "vmamba_base_v0"} <= set(vmamba.list_models())
    assert set(vmamba.list_models("base")) == {"vmamba_base_s1l20", "vmamba_base_s2l15", "vmamba_base_v0"}
    assert set(vmamba.list_models("vmamba_*_v0")) == {f"vmamba_{size}_v0" for size in ("tiny", "small", "base")}
    assert set(vmamba.list_models()) <= set(timm.list_models("vmamba*"))


def test_released_norm_and_forward_type_unless_overridden():
    released = vmamba.create_model("vmamba_tiny_0230", depths=[1], dims=[8])
    assert released.norm_kind == "ln" and released.layers[0].blocks[0].op.projection == "einsum"
    other = vmamba.create_model("vmamba_tiny_0230", depths=[1], dims=[8], norm="ln2d", forward_type="v05")
    assert other.output_fmt == "NCHW" and other.layers[0].blocks[0].op.projection == "conv"


@pytest.mark.parametrize("norm", ["ln", "ln2d", "bn"])
def test_features_and_head(norm):
    model = nano(norm=norm)
    features = model.forward_features(X)
    assert features.shape == {"NHWC": (2, 4, 6, 16), "NCHW": (2, 16, 4, 6)}[model.output_fmt]
    assert model.forward_head(features, pre_logits=True).shape == (2, 16)
    torch.testing.assert_close(model.forward_head(features), model(X))


@pytest.mark.parametrize("norm", ["ln", "ln2d"])
def test_forward_intermediates(norm):
    model = nano(norm=norm)
    final, stages = model.forward_intermediates(X)
    torch.testing.assert_close(model.forward_head(final), model(X))
    assert [tuple(s.shape) for s in stages] == [(2, 8, 8, 11), (2, 16, 4, 6)]
    only = model.forward_intermediates(X, indices=[0], stop_early=True, intermediates_only=True, output_fmt="NHWC")
    assert len(only) == 1
    torch.testing.assert_close(only[0], stages[0].permute(0, 2, 3, 1))
    normed = model.forward_intermediates(X, indices=1, norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(normed.mean((2, 3)), model.forward_head(final, pre_logits=True))


@pytest.mark.parametrize("norm", ["ln", "ln2d"])
@pytest.mark.parametrize("indices", [(0, 1), (0,), (-1,)])
def test_features_only(norm, indices):
    net = timm.create_model("vmamba_nano", features_only=True, out_indices=indices, norm=norm, **SMALL).eval()
    features = net(X)
    channels = [SMALL["dims"][i] for i in indices]
    assert net.feature_info.channels() == channels == [f.shape[1] for f in features]
    assert net.feature_info.reduction() == [4 * 2 ** (i % 2) for i in indices]
    sum(f.sum() for f in features).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_features_of_every_stage_there_is_unless_told():
    net = nano(features_only=True)
    assert net.feature_info.channels() == SMALL["dims"] == [f.shape[1] for f in net(X)]


def test_classifier_comes_and_goes():
    model = nano()
    assert model.get_classifier().out_features == 5
    model.reset_classifier(7)
    assert model(X).shape == (2, 7) and model.num_classes == 7
    model.reset_classifier(0)
    assert model(X).shape == (2, 16)
    model.reset_classifier(0, "")
    assert model(X).shape == (2, 4, 6, 16)
    assert nano(num_classes=0)(X).shape == (2, 16)


def test_grad_checkpointing_is_switched():
    model = nano()
    model.set_grad_checkpointing()
    assert all(stage.grad_checkpointing for stage in model.layers)
    model.set_grad_checkpointing(False)
    assert not any(stage.grad_checkpointing for stage in model.layers)


def test_weight_decay_as_published():
    model = nano(pos_embed=True, conv_bias=True, gate="act")
    names = {id(p): name for name, p in model.named_parameters()}
    spared, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    spared, decayed = ({names[id(p)] for p in group["params"]} for group in (spared, decayed))
    assert all(name == "pos_embed" or name.endswith(".bias") or model.get_parameter(name).dim() == 1 for name in spared)
    op = "layers.0.blocks.0.op."
    assert {op + "A_logs", op + "dt_projs_bias", op + "x_proj_weight", op + "in_proj.weight"} <= decayed
    assert {op + "Ds", op + "conv2d.bias", op + "out_norm.weight", "pos_embed"} <= spared


@pytest.mark.parametrize("coarse", [False, True])
def test_group_matcher_covers_every_parameter_from_stem_to_head(coarse):
    model = nano(pos_embed=True)
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    first, last = groups[min(groups)], groups[max(groups)]
    assert "patch_embed.0.weight" in first and "pos_embed" in first
    assert "classifier.head.weight" in last and "layers.0.blocks.0.op.Ds" not in last


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: vmamba.create_model("vmamba_tiny_s1l9"), "Did you mean vmamba_tiny_s1l8"),
        (lambda: vmamba.create_model("vmamba_nano", ssm_ration=1), "Did you mean 'ssm_ratio'"),
        (lambda: vmamba.create_model("vmamba_nano", forward_type="v6"), "Choose from"),
        (lambda: nano(global_pool="max"), "avg"),
        (lambda: nano(depths=2), "must be a list of whole numbers"),
        (lambda: nano().forward_intermediates(X, output_fmt="NLC"), "NCHW"),
        (lambda: nano()(X[:, :1]), "(batch, 3, height, width)"),
    ],
)
def test_mistakes_are_one_line(call, said):
    with pytest.raises(UserError) as refused:
        call()
    assert said in str(refused.value) and "\n" not in str(refused.value)
