"""What Hydra loads at its start: where ``sweeps/`` is, and the sweeper that reads a file's list of points."""

import sys
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

from vmamba.config.errors import UserError
from vmamba.config.paths import sweeps_dirs
from vmamba.config.points import expand


@dataclass
class SweeperConf:
    """Hydra's own sweeper, and ``points``: one line a run."""

    _target_: str = "hydra_plugins.vmamba_sweeps.PointsSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    points: list[str] = field(default_factory=list)


ConfigStore.instance().store(group="hydra/sweeper", name="vmamba", node=SweeperConf, provider="vmamba")


class PointsSweeper(BasicSweeper):
    """A grid (``params``), a list (``points``), or every point of the list with every corner of the grid.

    With ``search.trials`` those of a grid that a search chooses.
    """

    def __init__(self, max_batch_size: int | None, params: dict | None = None, points: list | None = None) -> None:
        super().__init__(max_batch_size, params)
        self.points = points or []

    def sweep(self, arguments: list[str]) -> Any:
        """All of these runs, or with ``search.trials`` those that a search chooses."""
        if not self.config.search.trials:
            return super().sweep(arguments)
        from vmamba.launch.search import from_hydra

        words = [*(f"{key}={values}" for key, values in self.params.items()), *arguments]
        return from_hydra(self.hydra_context.config_loader, self.config, words, self.points)

    def split_arguments(self, overrides: list, max_batch_size: int | None) -> list:
        """The batches of runs that Hydra hands to the launcher. Leaves with 2 and one line on a user's mistake."""
        try:
            runs = expand({}, self.points, [override.input_line for override in overrides])
        except UserError as mistake:
            print(f"vmamba: {mistake}", file=sys.stderr)
            sys.exit(2)
        return list(self.split_overrides_to_chunks(runs, max_batch_size))

    def validate_batch_is_legal(self, batch: list) -> None:
        """Nothing: our launcher composes and validates every point before the first starts."""


class SweepFiles(SearchPathPlugin):
    """Puts ``sweeps/`` on Hydra's search path, so that ``ablation=`` and ``sweep=`` find their files."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in sweeps_dirs():
            search_path.append(provider="vmamba-sweeps", path=f"file://{folder}")
