"""What the command line gives, and the one line that each mistake gets."""

from dataclasses import replace

import pytest

from vmamba.config.compose import choices, compose, first_point, load
from vmamba.config.errors import UserError
from vmamba.config.tables import forward_types
from vmamba_ops.limits import LIMITS

MISTAKES = {
    "model=smal": ["there is no model 'smal'", "Did you mean 'small'?", "nano"],
    "modle=small": ["modle: there is no such setting", "Did you mean 'model'?"],
    "recipe.lr=abc": ["recipe.lr", "'abc'", "Float"],
    "recipe.epochs=null": ["recipe.epochs", "not Optional"],
    "model.dims=1.5": ["model.dims", "takes a list"],
    "model.gate=foo": ["model.gate", "'foo'", "act, linear, none"],
    "model.d_sate=2": ["model.d_sate: there is no such setting", "Did you mean 'd_state'?"],
    "+model.foo=1": ["model.foo: there is no such setting", "model has:", "d_state"],
    "+model=tiny": ["write model=… without the +"],
    "nonsense": ["'nonsense' is not of the form key=value"],
    "data.root=~/x": ["data.root=~/x", "in quotes twice", """'data.root="~/x"'"""],
    "data.root=(it's": [r"""'data.root="(it'"'"'s"'"""],
    "model=null": ["model=null", "choose one of", "tiny_v0"],
    "mode=eval": ["ckpt="],
    "init.ckpt=": ["init.ckpt= is empty", "leave it away"],
    "mode=eval ckpt=": ["ckpt= is empty"],
    "forward_type=v0": ["norm=ln2d", "channel-last", "norm=ln"],
    "model.conv=4": ["model.conv=4", "odd"],
    "model.downsample=none": ["model.downsample=none", "equal dims"],
    "model.depths=[1,1]": ["model.depths=[1, 1]", "model.dims"],
    "model.ssm_ratio=0 model.mlp=none": ["model.ssm_ratio=0", "model.mlp=none"],
    "data.img_size=2 model.patch_embed=v1": ["data.img_size=2", "too small"],
    "model.patch_size=5": ["model.patch_size=5", "even"],
    "recipe.loop=iters": ["recipe.iters"],
    "recipe.warmup=9999": ["recipe.warmup=9999", "shorter"],
    "precision=fp16": ["precision=fp16 needs a GPU", "precision=bf16"],
    "device=cuda": ["device=cuda", "no CUDA device"],
    "scan=triton": ["scan=triton", "scan=auto"],
    "log_every=0": ["log_every=0", "at least 1"],
    "recipe=imagenet_300e recipe.batch_size=3": ["recipe.batch_size=3", "even"],
    "resume=yes": ["resume=yes", "auto, never"],
    "data=scenes": ["task=det or task=seg"],
    "task=det data=digits": ["no boxes", "data=scenes", "data=coco"],
    "task=seg data=coco": ["no class maps", "data=ade20k"],
    "task=cls data=coco": ["no label an image", "task=det"],
    "task=seg tta=true": ["mode=eval"],
    "mode=eval ckpt=/x task=det tta=true": ["task=seg"],
    "recipe.schedule=step": ["recipe.milestones"],
}


@pytest.mark.parametrize("words", MISTAKES, ids=list(MISTAKES))
def test_a_mistake_gets_one_line(words):
    with pytest.raises(UserError) as refused:
        compose(words.split(), cuda=False)
    line = str(refused.value)
    assert "\n" not in line
    for part in MISTAKES[words]:
        assert part in line, line


def test_a_model_brings_its_forward_type_and_norm_unless_overridden():
    run, _ = compose(["model=tiny_v0"])
    assert (run.forward_type.name, run.norm.name, run.model.d_state) == ("v0", "ln", 16)
    run, _ = compose(["model=tiny_v0", "forward_type=v05", "norm=ln2d"])
    assert (run.forward_type.name, run.norm.name) == ("v05", "ln2d")


def test_data_brings_its_recipe_unless_overridden():
    assert compose(["data=imagenet"])[0].recipe.name == "imagenet_300e"
    assert compose(["data=imagenet", "recipe=digits"])[0].recipe.name == "digits"


def test_a_folder_of_images_is_trained_as_imagenet_but_for_the_average():
    of_a_folder = compose(["data=imagefolder", "data.num_classes=3"])[0].recipe
    published = compose(["data=imagenet"])[0].recipe
    assert of_a_folder.ema.warmup and not published.ema.warmup
    assert replace(of_a_folder, name=published.name, ema=published.ema) == published


@pytest.mark.parametrize("group", ["model", "forward_type", "norm", "scan", "task", "data", "recipe", "precision"])
def test_every_file_of_a_group_composes(group):
    with_name = {"timm": ["model.name=resnet18"], "imagefolder": ["data.num_classes=7"]}
    with_name |= {"scenes": ["task=det"], "coco": ["task=det"], "ade20k": ["task=seg"]}
    absent = {name for name, limit in LIMITS.items() if limit.missing} if group == "scan" else set()
    for choice in set(choices(group)) - absent:
        extra = {"forward_type": ["norm=ln"], "scan": ["forward_type=v2"]}.get(group, [])
        compose([f"{group}={choice}", *extra, *with_name.get(choice, [])])


@pytest.mark.parametrize("name", [name for name in choices("experiment") if name.startswith("imagenet")])
def test_every_imagenet_experiment_is_the_published_recipe(name):
    run, _ = compose([f"experiment={name}"])
    total = 8 * run.recipe.batch_size
    assert run.recipe.epochs == 300 and total == 1024
    assert run.recipe.lr * total / run.recipe.lr_batch == pytest.approx(1e-3)
    assert run.data.name == "imagenet" and 0.1 <= run.model.drop_path <= 0.6
    assert run.recipe.ema.enabled == (name != "imagenet_tiny_v0")


def test_smoke_limits_any_run():
    run, _ = compose(["debug=smoke"])
    assert (run.limit.train_steps, run.limit.eval_batches) == (2, 1)


def test_a_sweep_is_checked_by_its_first_point():
    assert first_point(["model=nano,tiny", "recipe.lr=1e-3", "hydra.sweep.dir=x"]) == ["model=nano", "recipe.lr=1e-3"]


def test_a_saved_run_takes_keys_and_groups_that_bring_no_others(tmp_path):
    from omegaconf import OmegaConf

    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(compose([])[1]))
    assert load(tmp_path / "config.yaml", ["recipe.lr=0.5"]).recipe.lr == 0.5
    loaded = load(tmp_path / "config.yaml", ["precision=bf16", "data=imagenet", "debug=smoke", "data.root=/x"])
    assert (loaded.precision.amp.name, loaded.data.name, loaded.data.root) == ("bf16", "imagenet", "/x")
    assert loaded.limit.train_steps == 2 and loaded.recipe.name == "digits"
    for words, part in (
        (["model=tiny"], "keeps its model"),
        (["scan=tritn"], "Did you mean 'triton'"),
        (["recipe.lrr=1"], "no such setting"),
        (["x"], "key=value"),
    ):
        with pytest.raises(UserError, match=part):
            load(tmp_path / "config.yaml", words)


def test_the_forward_type_page_is_what_the_files_say():
    from vmamba.config.paths import PACKAGE

    assert (PACKAGE.parent / "docs" / "forward_types.md").read_text() == forward_types()
