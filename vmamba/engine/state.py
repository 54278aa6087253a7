"""What a run must remember to go on, and how it gets into a checkpoint and out of it."""

import dataclasses
import logging
from enum import Enum
from pathlib import Path
from typing import Any

from vmamba.config.errors import UserError
from vmamba.engine import checkpoint, distributed, optim, seeding
from vmamba.engine.weights import fit_into

log = logging.getLogger("vmamba")


@dataclasses.dataclass
class State:
    """``epoch`` and ``batch`` are the next micro-batch's place, ``step`` the optimizer updates done."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    evaluated: int = -1  # the step of the last evaluation
    seconds: float = 0.0  # wall time, over all resumes
    train_seconds: float = 0.0  # of it, in updates
    memory: int = 0  # the peak in bytes, see costs.peak
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)  # the newest of every name
    best: dict[str, float] = dataclasses.field(default_factory=dict)  # the best evaluation, with its step and epoch


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a run came from: the updates its checkpoint had counted, and how many of this run's one of those is."""

    step: int = 0
    ratio: float = 1.0

    def here(self, step: int) -> int:
        """An update of the run before, in this run's count."""
        return int(round(step * self.ratio, 6))  # 11 x 5/11 is not always 5


def plain(value: Any) -> Any:
    """A configuration as dicts, lists, strings and numbers: what weights-only loading takes."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


def weights(loop) -> dict:
    """The weights alone, with what is needed to know whose they are."""
    content = {"model": loop.model.state_dict(), "step": loop.state.step, "epoch": loop.epoch_fraction}
    if loop.ema is not None:
        content["ema"] = loop.ema.module.state_dict()
    return {**content, "metrics": dict(loop.state.metrics), "config": plain(loop.cfg)}


def everything(loop) -> dict:
    """All that a training checkpoint holds. Called on every rank: each adds its generators' states."""
    return {
        **weights(loop),
        "optimizer": loop.optimizer.state_dict(),
        "schedule": loop.schedule.state_dict(),
        "scaler": loop.precision.scaler.state_dict(),
        "rng": distributed.gather(seeding.rng_state()),
        "state": dataclasses.asdict(loop.state),
        "layout": {"batches": loop.plan.batches, "per_epoch": loop.plan.per_epoch, "world_size": loop.env.world_size},
    }


def resume(loop, choice: str, folder: Path) -> Origin:
    """Puts a run back where its checkpoint was written, and says where that was.

    ``choice``: auto (the newest readable one in ``folder``, if any), never, or the path of a checkpoint or run
    folder. Raises UserError for a checkpoint of another model or optimizer, a missing path, or ``never`` on a used
    folder.
    """
    found = _find(choice, folder)
    if found is None:
        return Origin()
    path, content = found
    if "optimizer" not in content:
        raise UserError(f"resume={path}: holds weights only, training cannot go on from it; give a step_*.pt")
    fit_into(loop.model, content["model"], str(path), "it was written by a run with another model= or data=")
    if loop.ema is not None:
        fit_into(loop.ema.module, content.get("ema", content["model"]), str(path))
    _load_optimizer(loop, content, path)
    loop.precision.scaler.load_state_dict(content["scaler"])
    loop.state = State(**content["state"])
    origin = _relocate(loop, content["layout"])
    loop.schedule.step_update(loop.state.step)
    if len(content["rng"]) == loop.env.world_size:
        seeding.set_rng_state(content["rng"][loop.env.rank])
    log.info("resuming from %s: update %d, epoch %.2f", path, loop.state.step, loop.epoch_fraction)
    return origin


def _load_optimizer(loop, content: dict, path: Path) -> None:
    """The optimizer's memory from the checkpoint; what the recipe says (weight decay, betas, …) stays the recipe's."""
    written, now = content["config"]["recipe"]["optimizer"], loop.cfg.recipe.optimizer
    if written != now:
        raise UserError(f"{path}: written with recipe.optimizer={written}, this run has {now}; start it by init.ckpt=")
    groups = loop.optimizer.param_groups
    asked = [{key: group[key] for key in optim.ASKED if key in group} for group in groups]
    try:
        loop.optimizer.load_state_dict(content["optimizer"])
    except ValueError as error:
        raise UserError(f"{path}: its optimizer state does not fit recipe.optimizer ({error})") from None
    for group, own in zip(loop.optimizer.param_groups, asked, strict=True):
        group.update(own)


def check(choice: str) -> None:
    """UserError if ``resume=`` names a path where nothing is."""
    if choice not in ("auto", "never") and not Path(choice).expanduser().exists():
        raise UserError(f"resume={choice}: no such file or folder; give a step_*.pt or a run folder")


def _find(choice: str, folder: Path) -> tuple[Path, dict] | None:
    if choice == "never":
        if checkpoint.steps(folder):
            raise UserError(f"resume=never, but {folder} holds checkpoints of an earlier run: take another run folder")
        return None
    if choice == "auto":
        return checkpoint.load_newest(folder)
    path = Path(choice).expanduser()
    if path.is_file():
        try:
            return path, checkpoint.read(path)
        except Exception as error:
            raise UserError(f"resume={path} cannot be read ({checkpoint.first_line(error)}): give another") from None
    found = checkpoint.load_newest(path / "checkpoints") or checkpoint.load_newest(path)
    if found is None:
        raise UserError(f"resume={choice}: no readable checkpoint there; give a step_*.pt or a run folder")
    return found


def _relocate(loop, layout: dict) -> Origin:
    """With another total batch, the same share of the data has been seen at other counts."""
    state, plan = loop.state, loop.plan
    written = state.step
    if layout["batches"] == plan.batches and layout["per_epoch"] == plan.per_epoch:
        return Origin(written)
    updates = int(state.batch / layout["batches"] * plan.per_epoch)
    state.batch = updates * plan.accumulate
    origin = Origin(written, plan.per_epoch / layout["per_epoch"] if plan.epochs is not None else 1.0)
    if plan.epochs is not None:
        state.step = state.epoch * plan.per_epoch + updates
        state.evaluated = state.step if state.evaluated == written else -1
        if state.best:
            state.best["step"] = origin.here(state.best["step"])
    log.warning(
        "the checkpoint was written with %d batches an epoch, this run has %d: going on at epoch %d, batch %d",
        layout["batches"],
        plan.batches,
        state.epoch,
        state.batch,
    )
    return origin
