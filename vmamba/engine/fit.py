"""A run from its typed configuration to its result: build, train or evaluate, record."""

import importlib
import logging
import time

import torch

from vmamba.config.errors import UserError
from vmamba.engine import compiling, costs, optim, seeding, state, weights
from vmamba.engine.hooks import Hook, Pictures, Record
from vmamba.engine.loop import Loop
from vmamba.engine.precision import Precision
from vmamba.engine.progress import Bar
from vmamba.tracking import manifest

log = logging.getLogger("vmamba")
_KINDS = {"ema": "averaged", "model": "plain"}


def run(cfg, folder, env, hooks: tuple[Hook, ...] = (), task=None) -> dict:
    """Trains or evaluates ``cfg`` (a ``schema.Run``) in a created ``RunFolder``; every rank calls it.

    ``hooks`` are added to the run's own (record, progress); ``task`` is what ``build_task`` gave, if it was called
    before. Returns, and rank 0 writes to ``result.json``:
    ``final`` and ``best`` metrics by name (``best`` with its ``step`` and ``epoch``), ``seconds`` and
    ``train_seconds`` over all resumes, ``images_per_s`` of training, ``params``, ``epochs``, ``steps``, and what
    ``costs.measured`` names.
    Raises UserError for a user's mistake, Killed (a SystemExit) after an interruption, NotFinite for a NaN loss.
    """
    task = task or build_task(cfg, env)
    try:
        result = _evaluate(cfg, folder, env, task) if cfg.mode == "eval" else _train(cfg, folder, env, task, hooks)
    finally:
        task.close()
    if env.is_main:
        folder.write_result(result)
    return result


def build_task(cfg, env):
    """The run's task. UserError if its data are missing or of the wrong layout, a checkpoint that it is to read is not
    there, or there is no such optimizer."""
    if cfg.mode == "eval":
        weights.find(cfg.ckpt)
    else:
        optim.check(cfg.recipe)
        state.check(cfg.resume)
        if cfg.init.ckpt:
            weights.find(cfg.init.ckpt, "init.ckpt")
    seeding.set_deterministic(cfg.deterministic)
    seeding.seed_all(cfg.seed)
    return load_task(cfg.task.entry)(cfg, env)


def load_task(entry: str) -> type:
    """The class behind ``package.module:Class``."""
    module, _, name = entry.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise UserError(f"task.entry={entry} needs the package {error.name}: install it") from None
        raise UserError(f"task.entry={entry}: there is no module {error.name}") from None
    except (AttributeError, ValueError):
        raise UserError(f"task.entry={entry}: give package.module:Class, with a class of that module") from None


def _train(cfg, folder, env, task, hooks) -> dict:
    own = [Record(folder), Bar(cfg.task.metric), *pictures(task, folder)] if env.is_main else []
    loop = Loop(cfg, env, task, folder, [*own, *hooks])
    started = {"init": loop.started} if loop.started else {}
    _manifest(cfg, folder, env, task, loop.model, loop.precision, **started)
    log.info(
        "training %s (%.2f M parameters) on %s, %s: %d updates of %d images",
        cfg.model.name,
        parameters(loop.model) / 1e6,
        env.device if env.world_size == 1 else f"{env.world_size} x {env.device.type}",
        loop.precision.name,
        loop.plan.stop,
        loop.total_batch,
    )
    compiling.announce(cfg, env.device)
    loop.run()
    where = loop.state
    return {
        "mode": "train",
        "metric": cfg.task.metric,
        "final": where.metrics,
        "best": where.best,
        "seconds": where.seconds,
        "train_seconds": where.train_seconds,
        "images_per_s": where.step * loop.total_batch / max(where.train_seconds, 1e-9),
        "params": parameters(loop.model),
        **costs.measured(env.device, where.memory, loop.flops),
        "epochs": loop.epoch_fraction,
        "steps": where.step,
    }


def _evaluate(cfg, folder, env, task) -> dict:
    began = time.perf_counter()
    path = weights.find(cfg.ckpt)
    found = weights.load(path)
    model = task.build_model()
    counted = costs.flops(task, model) if env.is_main else None
    costs.forget_peak(env.device)
    model.to(env.device)
    task.load_weights(model, found.state, f"ckpt={path} {found.written_by}".strip())
    precision = Precision(cfg.precision, env.device)
    _manifest(cfg, folder, env, task, model, precision)
    log.info("evaluating %s with the %s weights of %s", cfg.model.name, _KINDS[found.kind], path)
    compiling.announce(cfg, env.device)
    if cfg.compile:
        compiling.compile(task.compiled(model), cfg, env.device)
    model.eval()
    with torch.no_grad(), precision.autocast():
        metrics = task.evaluate(model)
    if env.is_main:
        with folder.writer() as writer:
            writer.log(0, 0.0, metrics)
        for hook in pictures(task, folder):
            hook.draw(task, 0)
    return {
        "mode": "eval",
        "metric": cfg.task.metric,
        "final": metrics,
        "best": metrics,
        "seconds": time.perf_counter() - began,
        "params": parameters(model),
        **costs.measured(env.device, costs.peak(env.device), counted),
        "ckpt": str(path),
        "weights": found.kind,
    }


def parameters(model: torch.nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def pictures(task, folder) -> list[Hook]:
    """The hook that draws, for a task that can."""
    return [Pictures(folder)] if hasattr(task, "draw") else []


def _manifest(cfg, folder, env, task, model, precision, **more) -> None:
    if env.is_main:
        facts = {"params": parameters(model), "precision": precision.name, "world_size": env.world_size, **more}
        facts["compiled"] = compiling.mode_here(cfg, env.device)
        folder.write_manifest(manifest.collect(cfg, str(env.device), **facts, **task.manifest()))
