"""What a search may choose from, frozen at its start into ``search.json`` of the sweep folder.

``axes``: the axes as typed; ``words``: what all trials share; ``bases``: what each choice of files composes to, not yet
resolved. A trial is one of these with values set on it, so that a search goes on, days later too, from what it began
with, whatever the files have come to be.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from vmamba.config import rules
from vmamba.config.compose import groups, update
from vmamba.config.errors import UserError
from vmamba.config.points import parser
from vmamba.config.schema import Search
from vmamba.launch import study
from vmamba.launch.folder import SweepFolder
from vmamba.launch.freeze import Files, Frozen, freeze
from vmamba.launch.settings import cuda_there
from vmamba.tracking.atomic import read_json, write_json

BASES = 64  # choices of files that are composed before the first trial, at most


@dataclass
class Space:
    """A search's settings, axes and bases. ``objective``: a name in ``result.json``."""

    axes: list[str]
    words: list[str]
    bases: list[dict]
    trials: int
    batch: int | None
    sampler: str
    seed: int
    objective: str
    minimize: bool

    @classmethod
    def of(cls, sweep: SweepFolder) -> "Space | None":
        """The search of a sweep folder; None if it is an ordinary sweep."""
        found = read_json(sweep.search)
        return cls(**found) if found else None

    def write(self, sweep: SweepFolder) -> None:
        write_json(sweep.search, asdict(self))

    def frozen(self, words: Iterable[str], number: int) -> Frozen:
        """The point with ``words`` on the axes, validated. UserError if it is none."""
        own = list(words)
        (point,) = freeze(self._base, [[*self.words, *own]], cuda_there, number)
        return replace(point, own=own)

    def changed(self, words: Iterable[str]) -> "Space":
        """With ``search.trials=N`` and ``launcher.key=value`` words for the trials to come."""
        fresh = replace(self, words=list(self.words))
        for word in words:
            key, _, value = word.partition("=")
            if key.startswith("search.") and key != "search.trials":
                raise UserError(f"{word}: a search keeps its axes and settings; what can change is search.trials")
            if key == "search.trials":
                cfg = OmegaConf.structured(Search)
                update(cfg, f"trials={value}")
                fresh.trials = cfg.trials
            fresh.words.append(f"launcher.kind={value}" if key == "launcher" else word)
        return fresh

    def _base(self, chosen: list[str]) -> DictConfig:
        return OmegaConf.create(next(base["config"] for base in self.bases if base["words"] == chosen))


def make(compose: Callable[[list[str]], DictConfig], words: list[str]) -> Space:
    """The space that a command's words ask for, every file of it composed. UserError for what cannot be searched."""
    asked = {o.get_key_element(): o for o in parser().parse_overrides(words)}
    axes = [override for override in asked.values() if override.is_sweep_override()]
    shared = [override.input_line for override in asked.values() if not override.is_sweep_override()]
    if not axes:
        raise UserError(
            "search.trials: there is nothing to search over; give axes, e.g. 'recipe.lr=tag(log,interval(1e-4,1e-2))' "
            "or model.d_state=1,2,4"
        )
    files = Files(compose)
    bases = _bases(files, shared, [axis for axis in axes if axis.key_or_group in groups()])
    first = files.compose([*shared, *bases[0]["words"]])
    settings, task = first.search, first.task
    for line in rules.search(first):
        raise UserError(line)
    for axis in axes:
        if axis.key_or_group not in groups():
            for word in study.Axis(axis).ends():
                update(first, word)  # refuses a key that is not there, and a value of another type
    return Space(
        axes=[axis.input_line for axis in axes],
        words=shared,
        bases=bases,
        trials=settings.trials,
        batch=settings.batch,
        sampler=str(settings.sampler),
        seed=settings.seed,
        objective=settings.objective or task.metric,
        minimize=not task.higher_is_better if settings.objective is None else bool(settings.minimize),
    )


def _bases(files: Files, shared: list[str], axes: list[Override]) -> list[dict]:
    count = math.prod(len(list(axis.sweep_string_iterator())) for axis in axes)
    if count > BASES:
        raise UserError(f"a search over {count} choices of files: at most {BASES}; take fewer groups or files as axes")
    corners = itertools.product(*([f"{a.get_key_element()}={v}" for v in a.sweep_string_iterator()] for a in axes))
    found = []
    for corner in corners:
        chosen = list(files.choice([*shared, *corner]))
        config = OmegaConf.to_container(files.compose(chosen), resolve=False, enum_to_str=True)
        found.append({"words": chosen, "config": config})
    return found
