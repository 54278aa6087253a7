"""timm's loaders over the project's data streams."""

from timm.data import IterableImageDataset, create_loader
from torch.utils.data import Dataset

from vmamba.engine.broken import SkipBroken
from vmamba.engine.signals import leave_to_parent
from vmamba.engine.stream import EpochLoader, EpochStream, Shard
from vmamba_tasks.classification.synthetic import Synthetic


def training(cfg, env, dataset: Dataset) -> EpochLoader:
    """Augmented batches by position. ``dataset`` is a ``SkipBroken`` or one of timm's streaming data sets.

    On a CPU, and with ``deterministic``, everything random happens to one sample at a time, so resuming is exact.
    On a GPU timm's prefetcher normalises and erases on the device; which boxes it erases then depends on where the
    run was started.
    """
    if isinstance(dataset, Synthetic):
        return EpochLoader(dataset.batches(), dataset)
    augment = cfg.recipe.augment
    guard = guard_of(dataset)
    if guard is not None:
        dataset = EpochStream(dataset, cfg.recipe.batch_size, cfg.seed, env.rank, env.world_size)
    loader = create_loader(
        dataset,
        is_training=True,
        scale=tuple(augment.scale),
        ratio=tuple(augment.ratio),
        hflip=augment.hflip,
        color_jitter=augment.color_jitter or None,
        auto_augment=augment.auto_augment,
        re_prob=augment.reprob,
        re_mode=augment.remode,
        re_count=augment.recount,
        use_prefetcher=env.device.type == "cuda" and not cfg.deterministic,
        **_common(cfg, env),
    )
    return EpochLoader(loader, dataset, guard)


def evaluation(cfg, env, dataset: Dataset):
    """This rank's share of the validation set, resized and cropped; nothing is padded or seen twice."""
    if isinstance(dataset, Synthetic):
        return dataset.batches()
    if not isinstance(dataset, IterableImageDataset):
        dataset = Shard(dataset, env.rank, env.world_size)
    return create_loader(
        dataset,
        is_training=False,
        crop_pct=cfg.data.crop_pct,
        use_prefetcher=env.device.type == "cuda",
        **_common(cfg, env),
    )


def guard_of(dataset: Dataset) -> SkipBroken | None:
    """The counter of broken images, which streaming readers do not have."""
    return dataset if isinstance(dataset, SkipBroken) else None


def _common(cfg, env) -> dict:
    data = cfg.data
    return {
        "input_size": (data.in_chans, data.img_size, data.img_size),
        "batch_size": cfg.recipe.batch_size,
        "interpolation": data.interpolation,
        "mean": tuple(data.mean),
        "std": tuple(data.std),
        "num_workers": data.workers,
        "pin_memory": env.device.type == "cuda",
        "device": env.device,
        "worker_seeding": leave_to_parent,
    }
