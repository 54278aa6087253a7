"""The points of a sweep: what ``hydra.sweeper`` and the command line ask for, as one list of overrides a run.

``params`` is a grid, ``key: values`` as on the command line. ``points`` is a list: each line is one point, several
overrides apart by blanks. Given both, every point runs with every corner of the grid. What the command line says of a
key replaces what the file says of it.
"""

import itertools
from collections.abc import Iterable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override

from vmamba.config.errors import UserError
from vmamba.config.paths import choices

FILES = ("ablation", "sweep")  # the groups whose files are sweeps


class Choices:
    """What Hydra's parser asks for the files that ``glob(*)`` stands for."""

    @staticmethod
    def get_group_options(group: str, results_filter: object = None) -> list[str]:
        return choices(group)


def parser() -> OverridesParser:
    """Hydra's parser of overrides, which knows our groups' files."""
    return OverridesParser.create(config_loader=Choices())


def expand(params: dict[str, str], points: Iterable[str], words: Iterable[str]) -> list[list[str]]:
    """The overrides of every run, in order, none twice. UserError for an axis that cannot be one."""
    read, axes = parser(), {}
    for override in read.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *words]):
        axes[override.get_key_element()] = _values(override)
    grid = [list(corner) for corner in itertools.product(*axes.values())]
    lines = [_kept(read.parse_overrides(line.split()), axes) for line in points] or [[]]
    runs = [line + corner for line in lines for corner in grid]
    return [list(run) for run in dict.fromkeys(map(tuple, runs))]


def check_axis(override: Override, search: bool = False) -> None:
    """Refuses an axis without a value, or without separate ones if it is not for a search, and ``ablation=a,b``, of
    which Hydra would make two plain runs."""
    if override.key_or_group in FILES and override.is_sweep_override():
        raise UserError(
            f"{override.input_line}: takes one file; start each by itself, or combine an ablation with a sweep "
            "(ablation=norm sweep=seeds)"
        )
    if isinstance(override.value(), Glob) and not override.value().filter(choices(override.key_or_group)):
        there = ", ".join(choices(override.key_or_group)) or "files of a group, as in norm=glob(ln*)"
        raise UserError(f"{override.input_line}: fits no file; choose from: {there}")
    if override.is_sweep_override() and not override.is_discrete_sweep() and not search:
        key = override.get_key_element()
        raise UserError(
            f"{override.input_line}: an axis needs separate values, e.g. {key}=1,2 or {key}=range(1,5); an interval is "
            "for a search, search.trials=20"
        )


def _values(override: Override) -> list[str]:
    check_axis(override)
    if not override.is_sweep_override():
        return [override.input_line]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _kept(line: list[Override], axes: dict) -> list[str]:
    return [override.input_line for override in line if override.get_key_element() not in axes]
