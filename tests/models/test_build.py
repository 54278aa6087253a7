"""From configuration groups to a model; and the files of conf/model, conf/forward_type and conf/norm themselves."""

import pytest
import timm
import torch
import yaml
from omegaconf import OmegaConf

from vmamba.config import schema
from vmamba.config.errors import UserError
from vmamba.config.paths import conf_dir
from vmamba.models import VMamba, build

BASELINES = {
    "deit_small": 22.05,
    "deit_base": 86.57,
    "swin_tiny": 28.29,
    "swin_small": 49.61,
    "swin_base": 87.77,
    "convnext_tiny": 28.59,
}
MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


def group(kind: type, folder: str, name: str):
    content = OmegaConf.load(conf_dir() / folder / f"{name}.yaml")
    content.pop("defaults", None)
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), content))


def built(model: schema.Model, forward_type="v05", norm="ln2d", backend="auto", **kwargs):
    how = group(schema.ForwardType, "forward_type", forward_type)
    layout = group(schema.Norm, "norm", norm)
    return build(model, how, layout, schema.Scan(backend=schema.Backend(backend)), **kwargs)


def test_nano():
    model = built(group(schema.Model, "model", "nano"), num_classes=10, in_chans=1, img_size=32)
    assert isinstance(model, VMamba) and model(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) < 500_000


def test_every_group_reaches_the_network():
    nano = group(schema.Model, "model", "nano")
    nano.gate, nano.grad_checkpointing, nano.drop_path = schema.Gate.linear, True, 0.3
    model = built(nano, "v0", "ln", "naive", num_classes=3, in_chans=2, img_size=32)
    op = model.layers[0].blocks[0].op
    assert (op.gate, op.projection, op.scan_in, op.backend) == ("linear", "einsum", "float32", "naive")
    assert model.norm_kind == "ln" and model.layers[0].grad_checkpointing and model.drop_path_rate == 0.3
    assert model(torch.randn(1, 2, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines(name):
    with torch.device("meta"):
        model = built(group(schema.Model, "model", name), num_classes=1000, in_chans=3, img_size=224)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(BASELINES[name], abs=0.01)


def test_timm_models_take_the_run_s_settings():
    model = schema.Model(family=schema.Family.timm, name="vit_tiny_patch16_224", drop_path=0.1, grad_checkpointing=True)
    model.kwargs = {"depth": 2}
    vit = built(model, num_classes=4, in_chans=1, img_size=64)
    assert vit.patch_embed.img_size == (64, 64) and vit.grad_checkpointing and len(vit.blocks) == 2
    assert vit.blocks[1].drop_path1.drop_prob == pytest.approx(0.1)
    assert vit(torch.randn(1, 1, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("swin_tiny_patch4_window7", {}, "did you mean swin_tiny_patch4_window7_224"),
        ("resnet18", {"nonsense": 1}, "resnet18 does not take"),
    ],
)
def test_timm_mistakes_are_one_line(name, kwargs, said):
    model = schema.Model(family=schema.Family.timm, name=name, kwargs=kwargs)
    with pytest.raises(UserError) as refused:
        built(model, num_classes=4, in_chans=3, img_size=64)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", MODELS)
def test_model_files(name):
    text = (conf_dir() / "model" / f"{name}.yaml").read_text()
    assert text.startswith("# ") and "vmamba.run" in text.splitlines()[0]
    content = yaml.safe_load(text)
    if name == "timm":
        assert content == {"family": "timm", "name": "???"}
    elif content.get("family") == "timm":
        assert timm.is_model(content["name"]) and "acc@1" in text and "Source: " in text
    else:
        assert content["name"].startswith("vmamba_") and "Source: " in text


@pytest.mark.parametrize("folder", ["forward_type", "norm"])
def test_forward_type_and_norm_files(folder):
    kind = {"forward_type": schema.ForwardType, "norm": schema.Norm}[folder]
    for path in (conf_dir() / folder).glob("*.yaml"):
        assert f"{folder}={path.stem}" in path.read_text().splitlines()[0]
        content = group(kind, folder, path.stem)
        assert str(content.name) == path.stem and content.what and content.use
