"""The values that a setting may have by itself: a table, one line for each value outside of it.

What depends on several settings is in ``rules.py``; types and choices are in ``schema.py``.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from math import inf
from operator import attrgetter

from vmamba.config.schema import Run

Keys = tuple[str, ...]

# what is said -> the test, and the settings; None passes everywhere, where the schema allows it
NUMBERS: dict[str, tuple[Callable[[float], bool], Keys]] = {
    "must be at least 1": (
        lambda value: value >= 1,
        (
            "log_every", "limit.train_steps", "limit.eval_batches", "checkpoint.keep_last",
            "model.num_classes",
            "data.num_classes", "data.in_chans", "data.img_size", "data.eval_batch", "data.map_classes",
            "recipe.epochs", "recipe.batch_size", "recipe.accumulate", "recipe.eval_every", "recipe.augment.recount",
            "recipe.det.channels", "recipe.det.hidden", "recipe.det.anchor_scale", "recipe.det.nms_pre",
            "recipe.det.proposals", "recipe.det.rpn_samples", "recipe.det.roi_samples",
            "recipe.seg.crop", "recipe.seg.channels", "recipe.seg.aux_channels",
            "launcher.nodes", "launcher.cpus", "launcher.time", "launcher.parallel", "launcher.tasks",
        ),
    ),
    "must not be negative": (
        lambda value: 0 <= value < inf,
        (
            "seed", "search.seed", "checkpoint.every_epochs", "checkpoint.every_steps", "data.workers", "task.pictures",
            "recipe.lr_batch", "recipe.min_lr", "recipe.warmup_lr", "recipe.warmup", "recipe.warmup_steps",
            "recipe.weight_decay", "recipe.eps", "recipe.clip_grad", "recipe.power",
            "recipe.augment.color_jitter", "recipe.augment.mixup", "recipe.augment.cutmix",
            "recipe.det.min_size", "recipe.det.mask_convs", "recipe.seg.init_std",
            "launcher.gpus", "launcher.requeues", "launcher.memory",
        ),
    ),
    "must be greater than 0": (
        lambda value: 0 < value < inf,
        ("recipe.lr", "recipe.warmup_factor", "recipe.gamma", "data.crop_pct"),
    ),
    "must be from 0 to 1": (
        lambda value: 0 <= value <= 1,
        (
            "recipe.augment.hflip", "recipe.augment.reprob",
            "recipe.augment.mixup_prob", "recipe.augment.mixup_switch_prob",
            "recipe.det.flip", "recipe.seg.flip", "recipe.seg.cat_max_ratio",
        ),
    ),
    "must be in [0, 1)": (lambda value: 0 <= value < 1, ("model.drop_path", "recipe.smoothing", "recipe.seg.dropout")),
    "must be in (0, 1)": (lambda value: 0 < value < 1, ("recipe.ema.decay",)),
}  # fmt: skip

# the same for lists
LISTS: dict[str, tuple[Callable[[Sequence[float]], bool], Keys]] = {
    "two shares of the image's area, the smaller first, from above 0 to 1": (
        lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1] <= 1,
        ("recipe.augment.scale",),
    ),
    "two ratios of width to height, the smaller first, above 0": (
        lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1] < inf,
        ("recipe.augment.ratio",),
    ),
    "two numbers in [0, 1)": (
        lambda pair: len(pair) == 2 and all(0 <= value < 1 for value in pair),
        ("recipe.betas",),
    ),
    "two sides in pixels, the longest and the shortest": (
        lambda pair: len(pair) == 2 and min(pair) >= 1,
        ("recipe.det.scale", "recipe.seg.scale"),
    ),
    "two sides in pixels, the smaller first": (
        lambda pair: len(pair) == 2 and 1 <= pair[0] <= pair[1],
        ("recipe.det.crop_range",),
    ),
    "two factors of the scale, the smaller first, above 0": (
        lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1] < inf,
        ("recipe.seg.ratio",),
    ),
    "one factor of the image's size or more, each above 0": (
        lambda factors: len(factors) > 0 and all(0 < value < inf for value in factors),
        ("recipe.seg.tta_ratios",),
    ),
    "whole numbers of at least 1": (
        lambda values: all(value >= 1 for value in values),
        ("recipe.milestones", "recipe.det.short_sides", "recipe.det.crop_sides"),
    ),
}

NOT_EMPTY = ("ckpt", "init.ckpt", "data.root", "task.base", "tracking.uri")  # places; null is none

POLICY = re.compile(
    r"rand(-(m|n|inc|mmax)\d+|-(mstd|p)\d+(\.\d+)?|-t\w+)*"
    r"|augmix(-(m|w|d|b)\d+|-(mstd|a)\d+(\.\d+)?)*"
    r"|(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?"
)


def broken(run: Run) -> Iterator[str]:
    """One line for every value that its setting cannot have."""
    for table in (NUMBERS, LISTS):
        for said, (fits, keys) in table.items():
            for key in keys:
                value = attrgetter(key)(run)
                if value is not None and not fits(value):
                    yield f"{key}={value}: {said}"
    for key in NOT_EMPTY:
        if attrgetter(key)(run) == "":
            yield f"{key}= is empty (a shell variable that is not set?): give a value, or leave it away"
    yield from _colours(run)
    policy = run.recipe.augment.auto_augment
    if policy and not POLICY.fullmatch(policy):
        yield (
            f"recipe.augment.auto_augment={policy}: timm's policies are rand-m9-mstd0.5-inc1 and its like, "
            "augmix-m3-w3, original, v0 or 3a; null for none"
        )


def _colours(run: Run) -> Iterator[str]:
    data = run.data
    for key in ("mean", "std"):
        value = list(getattr(data, key))
        if len(value) not in (1, data.in_chans):
            yield f"data.{key}={value}: one number for each of data.in_chans={data.in_chans} channels, or one for all"
    if min(data.std, default=0) <= 0:
        yield f"data.std={list(data.std)}: must be greater than 0"
