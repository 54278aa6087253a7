"""A detection or segmentation run as the dict of an mmengine config: what stock tools need beside model and data."""

from importlib import import_module
from pathlib import Path
from typing import Any

from vmamba.config.errors import UserError
from vmamba.engine.optim import scale
from vmamba_tasks.dense import base
from vmamba_tasks.openmm import extras
from vmamba_tasks.openmm.tuples import with_tuples

IMPORTS = [f"vmamba_tasks.openmm.{name}" for name in ("backbones", "loading", "stock")]
OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}
MOMENTUM = {"momentum": 0.9, "nesterov": True}  # what timm's sgd has
Config = dict[str, Any]


def mm_config(cfg, path: Path) -> Config:
    """The config of ``cfg`` (a ``schema.Run``), to be written to ``path``; ``init.ckpt`` is converted to a file beside.

    Raises UserError for what OpenMMLab's Runner cannot do, or data that are not named.
    """
    extras.require(cfg.task.name)
    _find_data(cfg)
    module = import_module(f"{cfg.task.entry.partition(':')[0]}.config")
    scope = {"det": "mmdet", "seg": "mmseg"}[cfg.task.name]
    model = module.model_config(cfg)
    if cfg.task.base is not None:
        model = base.with_our_backbone(cfg.task.base, model, scope)
    data = module.data_config(cfg, model)
    found = {
        "default_scope": scope,
        "custom_imports": {"imports": IMPORTS, "allow_failed_imports": False},
        "model": model,
        **_loaders(cfg, data),
        **_evaluation(cfg, data),
        **_loop(cfg),
        "optim_wrapper": _optimizer(cfg.recipe),
        "param_scheduler": _schedule(cfg.recipe),
        **_runtime(cfg, scope),
        "load_from": _start(cfg, model, scope, path),
        "resume": False,
    }
    return with_tuples(found)


def as_text(config: Config) -> str:
    """Python source in OpenMMLab's own style."""
    from vmamba_tasks.openmm import parts

    with parts.scope(config["default_scope"]):
        from mmengine.config import Config as Source

        return Source(config).pretty_text


def _find_data(cfg) -> None:
    if cfg.data.source == "scenes":
        from vmamba_tasks import scenes

        cfg.data.root = str(scenes.make(Path(cfg.data.root).expanduser() if cfg.data.root else scenes.default_root()))
    if cfg.data.root is None:
        raise UserError(f"data={cfg.data.name}: data.root is missing. {cfg.data.how_to_get}".strip())
    cfg.data.root = str(Path(cfg.data.root).expanduser().absolute())  # OpenMMLab's tools start in their own checkout


def _loaders(cfg, data: Config) -> Config:
    workers = {"num_workers": cfg.data.workers, "persistent_workers": cfg.data.workers > 0}
    by_epoch = cfg.recipe.loop == "epochs"
    train = {
        "batch_size": cfg.recipe.batch_size,
        **workers,
        "sampler": {"type": "DefaultSampler" if by_epoch else "InfiniteSampler", "shuffle": True},
        **({"batch_sampler": {"type": "AspectRatioBatchSampler"}} if cfg.task.name == "det" else {}),
        "dataset": data["train"],
    }
    test = {
        "batch_size": cfg.data.eval_batch,
        **workers,
        "drop_last": False,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": data["val"],
    }
    return {"train_dataloader": train, "val_dataloader": test, "test_dataloader": test}


def _evaluation(cfg, data: Config) -> Config:
    found = {"val_evaluator": data["metric"], "test_evaluator": data["metric"]}
    if "tta" in data:
        found |= {"tta_model": {"type": "SegTTAModel"}, "tta_pipeline": data["tta"]["pipeline"]}
    return found


def _loop(cfg) -> Config:
    recipe = cfg.recipe
    if recipe.loop == "epochs":
        train = {"type": "EpochBasedTrainLoop", "max_epochs": recipe.epochs, "val_interval": recipe.eval_every}
    else:
        length, every = (_iterations(recipe, updates) for updates in (recipe.iters, recipe.eval_every))
        train = {"type": "IterBasedTrainLoop", "max_iters": length, "val_interval": every}
    return {"train_cfg": train, "val_cfg": {"type": "ValLoop"}, "test_cfg": {"type": "TestLoop"}}


def _iterations(recipe, updates: int) -> int:
    """So many updates as mmengine counts them: in micro-steps."""
    return updates * recipe.accumulate


def _optimizer(recipe) -> Config:
    if recipe.optimizer not in OPTIMIZERS:
        raise UserError(f"recipe.optimizer={recipe.optimizer}: exported are {', '.join(OPTIMIZERS)}")
    chosen = {"type": OPTIMIZERS[recipe.optimizer], "lr": _rate(recipe), "weight_decay": recipe.weight_decay}
    if recipe.optimizer.startswith("adam"):
        chosen |= {"betas": list(recipe.betas), "eps": recipe.eps}
    else:
        chosen |= MOMENTUM
    if recipe.no_decay is None:
        groups = {"norm_decay_mult": 0.0, "bias_decay_mult": 0.0}
    else:
        groups = {"custom_keys": {part: {"decay_mult": 0.0} for part in recipe.no_decay}}
    return {
        "type": "OptimWrapper",
        "optimizer": chosen,
        "paramwise_cfg": groups,
        "clip_grad": {"max_norm": recipe.clip_grad} if recipe.clip_grad else None,
        "accumulative_counts": recipe.accumulate,
    }


def _rate(recipe) -> float:
    """The learning rate of one process."""
    return recipe.lr * scale(recipe, recipe.batch_size * recipe.accumulate)


def _schedule(recipe) -> list[Config]:
    """Warm-up, then the recipe's shape, in epochs (converted to iterations by mmengine) or iterations."""
    by_epoch = recipe.loop == "epochs"
    length = recipe.epochs if by_epoch else _iterations(recipe, recipe.iters)
    warmup = recipe.warmup if by_epoch else _iterations(recipe, round(recipe.warmup))  # of an epoch a part will do
    first, parts = 0, []
    in_epochs = {"by_epoch": True, "convert_to_iter_based": True} if by_epoch else {"by_epoch": False}
    factor = recipe.warmup_factor if recipe.warmup_factor is not None else recipe.warmup_lr / recipe.lr
    if recipe.warmup_steps:
        steps = _iterations(recipe, recipe.warmup_steps)
        parts.append({"type": "LinearLR", "start_factor": factor, "by_epoch": False, "begin": 0, "end": steps})
        first = 0 if by_epoch else steps
    elif recipe.warmup_steps is None and warmup:
        first = warmup
        parts.append({"type": "LinearLR", "start_factor": factor, **in_epochs, "begin": 0, "end": first})
    if recipe.schedule == "step":
        milestones = [one if by_epoch else _iterations(recipe, one) for one in recipe.milestones]
        steps = {"milestones": milestones, "gamma": recipe.gamma}
        return [*parts, {"type": "MultiStepLR", "by_epoch": by_epoch, "begin": 0, "end": length, **steps}]
    least = recipe.min_lr / recipe.lr * _rate(recipe)
    shape = {
        "poly": {"type": "PolyLR", "power": recipe.power},
        "cosine": {"type": "CosineAnnealingLR", "T_max": length - first},
    }[str(recipe.schedule)]
    return [*parts, {**shape, "eta_min": least, **in_epochs, "begin": first, "end": length}]


def _runtime(cfg, scope: str) -> Config:
    by_epoch = cfg.recipe.loop == "epochs"
    visual = {"mmdet": "Det", "mmseg": "Seg"}[scope]
    backends = [{"type": "LocalVisBackend"}]
    ema = {"type": "EMAHook", "momentum": 1 - cfg.recipe.ema.decay}
    return {
        "default_hooks": {
            "timer": {"type": "IterTimerHook"},
            "logger": {
                "type": "LoggerHook", "interval": _iterations(cfg.recipe, cfg.log_every),
                "log_metric_by_epoch": by_epoch,
            },
            "param_scheduler": {"type": "ParamSchedulerHook"},
            "checkpoint": {
                "type": "CheckpointHook", "by_epoch": by_epoch,
                "interval": cfg.checkpoint.every_epochs if by_epoch else _iterations(cfg.recipe, cfg.recipe.eval_every),
                "max_keep_ckpts": 3,
            },
            "sampler_seed": {"type": "DistSamplerSeedHook"},
            "visualization": {"type": f"{visual}VisualizationHook"},
        },
        "custom_hooks": [ema] if cfg.recipe.ema.enabled else [],
        "env_cfg": {
            "cudnn_benchmark": cfg.precision.cudnn_benchmark,
            "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0},
            "dist_cfg": {"backend": "nccl"},
        },
        "vis_backends": backends,
        "visualizer": {"type": f"{visual}LocalVisualizer", "vis_backends": backends, "name": "visualizer"},
        "log_processor": {"type": "LogProcessor", "window_size": 50, "by_epoch": by_epoch},
        "log_level": "INFO",
        "randomness": {"seed": cfg.seed},
    }  # fmt: skip


def _start(cfg, config: Config, scope: str, path: Path) -> str | None:
    """``init.ckpt`` under the whole model's names, in ``<path>.pth``; None without one."""
    if cfg.init.ckpt is None:
        return None
    import torch

    from vmamba.engine import weights
    from vmamba.engine.weights import fit_part
    from vmamba_tasks.dense import start
    from vmamba_tasks.openmm import parts

    source = weights.find(cfg.init.ckpt, "init.ckpt")
    model = parts.model(scope, config)
    converted = start.renamed(weights.load(source).state, model, whole=False)
    fit_part(model, converted, f"init.ckpt={source}", "backbone.", ("backbone.outnorm",), start.hint(cfg))
    own = model.state_dict()
    target = path.with_suffix(".pth").resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {name: own[name] for name in converted if name in own}}, target)
    return str(target)
