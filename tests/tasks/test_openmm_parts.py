"""Our backbones in OpenMMLab, and starts from checkpoints."""

import pytest
import torch
from dense_trees import DET, SEG, run, task_of

from vmamba.config.errors import UserError
from vmamba.models import create_model
from vmamba_tasks.openmm import backbones, extras, tuples


def test_lists_become_tuples_where_they_must():
    given = {"scale": [1, 2], "scales": [[1, 2], [3, 4]], "strides": [4, 8], "pipeline": [{"crop_size": [5, 6]}]}
    assert tuples.with_tuples(given) == {
        "scale": (1, 2), "scales": [(1, 2), (3, 4)], "strides": [4, 8], "pipeline": [{"crop_size": (5, 6)}],
    }  # fmt: skip
    assert tuples.with_tuples({"scales": [8]}) == {"scales": (8,)}


def test_a_missing_extra_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("mmdet", "cv2") else object())
    with pytest.raises(UserError, match=r"task=det needs mmdet, cv2: .*uv pip install -e '\.\[det\]'"):
        task_of([*DET, "data.root=/x"])


@pytest.mark.parametrize(("name", "normed"), [("swin_tiny_patch4_window7_224", True), ("resnet18", False)])
def test_a_network_of_timm_as_backbone(name, normed):
    network = backbones.TimmBackbone(name).train()
    maps = network(torch.rand(1, 3, 70, 101))
    assert [m.shape[1] for m in maps] == network.channels and network.normed == normed
    assert [m.shape[2] for m in maps] == [18, 9, 5, 3]
    fewer = backbones.TimmBackbone(name, out_indices=[1, 3])
    assert [m.shape[1] for m in fewer(torch.rand(1, 3, 64, 64))] == network.channels[1::2]
    assert any("outnorm0" in key for key in network.state_dict()) == normed
    assert not any("outnorm0" in key for key in fewer.state_dict())
    sum(m.sum() for m in maps).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_swin_is_mmdets_on_maps_of_any_size():
    """A size that is whole windows in no stage, one that is in the first, and the classifier's own."""
    from mmdet.models.backbones.swin import SwinTransformer

    ours = backbones.TimmBackbone("swin_tiny_patch4_window7_224", embed_dim=8, num_heads=[1, 2, 4, 8]).eval()
    theirs = SwinTransformer(embed_dims=8, depths=(2, 2, 6, 2), num_heads=(1, 2, 4, 8))
    theirs.eval()
    generator = torch.Generator().manual_seed(0)
    for weight in ours.parameters():
        weight.data.normal_(std=0.2, generator=generator)
    theirs.load_state_dict(theirs.state_dict() | dict(map(mmdets, *zip(*ours.state_dict().items(), strict=True))))
    for size in ((320, 448), (250, 333), (224, 224)):
        image = torch.rand(1, 3, *size, generator=generator)
        with torch.no_grad():
            for found, expected in zip(ours(image), theirs(image), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


RENAMED = {
    "patch_embed.proj.": "patch_embed.projection.", ".attn.": ".attn.w_msa.", ".mlp.fc1.": ".ffn.layers.0.0.",
    ".mlp.fc2.": ".ffn.layers.1.",
}  # fmt: skip


def mmdets(name: str, weight: torch.Tensor) -> tuple[str, torch.Tensor]:
    """A weight of timm's Swin as mmdet has it, whose stages end in the merging that timm's begin with."""
    name = name.removeprefix("body.").removeprefix("out")
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    if name.startswith("layers."):
        _, stage, rest = name.split(".", 2)
        name = f"stages.{int(stage) - rest.startswith('downsample')}.{rest}"
    if ".downsample." in name:  # the four neighbours: column, row, channel there; channel, row, column here
        weight = weight.unflatten(-1, (2, 2, -1)).transpose(-1, -3).flatten(-3)
    return name, weight


@pytest.mark.parametrize("name", ["deit_small_patch16_224", "no_such_net"])
def test_a_network_that_is_no_backbone_gets_one_line(name):
    with pytest.raises(UserError, match=rf"model.name={name}") as caught:
        backbones.TimmBackbone(name)
    assert "\n" not in str(caught.value)


def test_autocast_reaches_backbone_and_neck_only(coco):
    task = task_of([*DET, f"data.root={coco}"])
    model = task.build_model()
    seen = {}
    for name in ("backbone", "neck", "rpn_head"):
        note = lambda module, inputs, output, name=name: seen.update({name: (inputs[0], output)})  # noqa: E731
        getattr(model, name).register_forward_hook(note)
    batch = next(task.train_loader().epoch(0))
    with torch.autocast("cpu", torch.bfloat16):
        losses = task.train_step(model, batch)
    assert seen["neck"][1][0].dtype == torch.bfloat16
    assert seen["rpn_head"][0][0].dtype == torch.float32 and seen["rpn_head"][1][0][0].dtype == torch.float32
    assert losses["loss"].dtype == torch.float32 and {"loss_rpn_cls", "loss_mask"} <= losses.keys()


SHAPE = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "ssm_ratio": 1.0, "mlp_ratio": 2.0}


@pytest.mark.parametrize("form", ["ours", "published", "mmengine", "mmengine, old"])
@pytest.mark.parametrize("task", ["det", "seg"])
def test_training_starts_from_a_checkpoint(form, task, coco, ade, tmp_path):
    words = [*DET, f"data.root={coco}"] if task == "det" else [*SEG, f"data.root={ade}"]
    classifier = create_model("vmamba_tiny_s1l8", num_classes=7, **SHAPE)
    weights, path = classifier.state_dict(), tmp_path / "start.pth"
    if form == "ours":
        torch.save({"model": {k: torch.zeros_like(v) for k, v in weights.items()}, "ema": weights}, path)
    elif form == "published":
        torch.save({"model": {f"module.{k}": v for k, v in weights.items()}, "epoch": 1}, path)
    else:  # a detector's or segmentor's own checkpoint, with mmengine's objects in it
        from mmengine.logging import HistoryBuffer

        own = {k: v + 1 if v.is_floating_point() else v for k, v in task_of(words).build_model().state_dict().items()}
        weights = {k.removeprefix("backbone."): v for k, v in own.items()}
        saved = {"state_dict": own, "message_hub": {"log_scalars": {"loss": HistoryBuffer([1.0], [1])}}}
        torch.save(saved, path, _use_new_zipfile_serialization=form == "mmengine")  # those they publish are no archives
    given = task_of([*words, f"init.ckpt={path}"])
    model = given.build_model()
    from vmamba.engine.weights import start

    found = start(given, model, str(path))
    state = model.backbone.state_dict()
    assert all(torch.equal(state[name], weights[name]) for name in state if not name.startswith("outnorm"))
    assert found["weights"] == ("ema" if form == "ours" else "model")
    assert found["unused"] == 0 and (found["missing"] == 0) == form.startswith("mmengine")
    assert found["loaded"] + found["missing"] == len(model.state_dict())


def test_a_checkpoint_of_another_network_is_refused(coco, tmp_path):
    torch.save(create_model("vmamba_tiny_s1l8", **(SHAPE | {"dims": [8, 16, 32, 64]})).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"init.ckpt=.*a.pth does not fit: .* for .*check model=") as caught:
        run([*DET, f"data.root={coco}", f"init.ckpt={tmp_path / 'a.pth'}"], tmp_path / "run")
    assert "\n" not in str(caught.value)
    refused = [*DET, f"data.root={coco}", "init.ckpt=/no/such.pth"]
    with pytest.raises(UserError, match=r"init.ckpt=/no/such.pth: no such file"):
        task_of(refused)
