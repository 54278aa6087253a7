"""Each setting by itself: what the table refuses, without Hydra in between."""

from dataclasses import fields, is_dataclass

import pytest

from vmamba.config import ranges, rules, schema
from vmamba.config.compose import compose
from vmamba.config.errors import UserError


@pytest.fixture(scope="module")
def run() -> schema.Run:
    return compose(["data=imagenet", "model=tiny"])[0]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("recipe.lr", 0.0, "recipe.lr=0.0: must be greater than 0"),
        ("recipe.lr", float("nan"), "recipe.lr=nan"),
        ("recipe.weight_decay", -1.0, "must not be negative"),
        ("recipe.clip_grad", -1.0, "must not be negative"),
        ("recipe.betas", [0.9], "two numbers in [0, 1)"),
        ("recipe.augment.scale", [1.0], "smaller first"),
        ("recipe.augment.ratio", [2.0, 1.0], "smaller first"),
        ("recipe.augment.reprob", 2.0, "from 0 to 1"),
        ("recipe.augment.auto_augment", "foo", "rand-m9-mstd0.5-inc1"),
        ("recipe.augment.auto_augment", "rand-x9", "timm's policies"),
        ("recipe.ema.decay", 1.0, "must be in (0, 1)"),
        ("data.mean", [0.5, 0.5], "data.in_chans=3"),
        ("data.std", [0.0], "must be greater than 0"),
        ("data.workers", -1, "must not be negative"),
        ("data.img_size", 0, "at least 1"),
        ("checkpoint.keep_last", 0, "at least 1"),
        ("limit.train_steps", 0, "at least 1"),
        ("seed", -5, "must not be negative"),
        ("model.in_chans", 1, "data.in_chans=3"),
        ("model.num_classes", 10, "data.num_classes=1000"),
        ("recipe.milestones", [8, 0], "at least 1"),
        ("recipe.det.scale", [1333], "two sides in pixels"),
        ("recipe.det.short_sides", [480, -1], "at least 1"),
        ("recipe.det.crop_range", [600, 384], "the smaller first"),
        ("recipe.det.flip", 2.0, "from 0 to 1"),
        ("recipe.det.proposals", 0, "at least 1"),
        ("recipe.seg.scale", [2048, 0], "two sides in pixels"),
        ("recipe.seg.ratio", [2.0, 0.5], "the smaller first"),
        ("recipe.seg.crop", 0, "at least 1"),
        ("recipe.seg.dropout", 1.0, "in [0, 1)"),
        ("recipe.seg.tta_ratios", [], "one factor of the image's size or more"),
        ("task.pictures", -1, "must not be negative"),
        ("search.seed", -1, "must not be negative"),
        ("model.ssm_ratio", float("inf"), "must be a number"),
        ("model.mlp_ratio", float("nan"), "must be a number"),
        ("name", "a/b", "no / in name"),
        ("outputs", "", "give both"),
        ("outputs", "~/runs", "$HOME/runs"),
    ],
)
def test_a_value_outside_gets_one_line(run, monkeypatch, key, value, said):
    group, _, leaf = key.rpartition(".")
    node = run
    for part in filter(None, group.split(".")):
        node = getattr(node, part)
    monkeypatch.setattr(node, leaf, value)
    with pytest.raises(UserError) as refused:
        rules.check(run)
    assert said in str(refused.value) and key in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m7-n3", "augmix-m5-w4-d2", "v0-mstd0.5", "3a", None])
def test_timms_policies_pass(run, monkeypatch, policy):
    monkeypatch.setattr(run.recipe.augment, "auto_augment", policy)
    assert list(ranges.broken(run)) == []


def test_every_setting_of_the_table_is_in_the_schema():
    def keys(kind, prefix=""):
        for field in fields(kind):
            yield f"{prefix}{field.name}"
            if is_dataclass(field.type):
                yield from keys(field.type, f"{prefix}{field.name}.")

    named = [key for table in (ranges.NUMBERS, ranges.LISTS) for _, group in table.values() for key in group]
    assert set(named) <= set(keys(schema.Run)) and len(named) == len(set(named))
