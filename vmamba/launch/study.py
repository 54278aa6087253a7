"""What Optuna is asked: which points to try next, given those that have been tried. It is imported in here alone.

The study is a view of the run folders, made anew before each batch; ``study.journal`` keeps it for Optuna's own tools.
Trial N is point N.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from vmamba.config.errors import UserError
from vmamba.config.points import parser

DIGITS = 4  # significant ones of a proposed number: a command line is to be read
STARTUP = 10  # random trials before the sampler has something to learn from, at most


@dataclass(frozen=True)
class Tried:
    """A point: its words, one an axis, and what came of it; None while it runs, NaN where it failed."""

    words: tuple[str, ...]
    value: float | None


def needed() -> None:
    """UserError with the remedy where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError(
            "search.trials: a search needs Optuna, which is not installed: pip install 'vmamba[optuna]' "
            "(in a checkout: uv sync --extra optuna)"
        ) from None


class Study:
    """The axes, each as written on a command line, and a study of the points tried so far, in ``file``."""

    def __init__(self, file: Path, axes: Iterable[str], sampler: str, seed: int, trials: int, minimize: bool) -> None:
        needed()
        self.file, self.trials = file, trials
        self.axes = [Axis(parser().parse_override(text)) for text in axes]
        self.sampler, self.seed = sampler, seed
        self.direction = "minimize" if minimize else "maximize"

    def renew(self, tried: Iterable[Tried]) -> None:
        """Begins the study again with these points, in their order."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
        from optuna.trial import TrialState, create_trial

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        tried = list(tried)
        for left in (self.file, self.file.with_name(f"{self.file.name}.lock")):
            left.unlink(missing_ok=True)
        # a sampler has no state but its random numbers: another seed each time, the same one in a search run again
        seed = (self.seed * 100_003 + len(tried)) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(self.file))),
                study_name="search",
                direction=self.direction,
                sampler=self._sampler(optuna.samplers, seed),
            )
        spaces = {axis.key: axis.distribution for axis in self.axes}
        for point in tried:
            values = {axis.key: axis.value(word) for axis, word in zip(self.axes, point.words, strict=True)}
            state = TrialState.RUNNING if point.value is None else TrialState.COMPLETE
            value = point.value
            if value is not None and not math.isfinite(value):
                state, value = TrialState.FAIL, None
            self._study.add_trial(create_trial(params=values, distributions=spaces, value=value, state=state))

    def _sampler(self, samplers, seed: int):
        if self.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        first = max(2, min(STARTUP, self.trials // 3))
        return samplers.TPESampler(seed=seed, n_startup_trials=first, constant_liar=True)

    def propose(self) -> tuple[object, tuple[str, ...]]:
        """A trial and its words, one an axis."""
        trial = self._study.ask({axis.key: axis.distribution for axis in self.axes})
        return trial, tuple(axis.word(trial.params[axis.key]) for axis in self.axes)

    def refuse(self, trial) -> None:
        """Tells that a trial's words are no valid run, or one that has been tried."""
        from optuna.trial import TrialState

        self._study.tell(trial, state=TrialState.FAIL)


class Axis:
    """One key: what it may be for Optuna, and as a word."""

    def __init__(self, override: Override) -> None:
        from optuna import distributions

        self.key = override.get_key_element()
        sweep = override.value()
        log = "log" in getattr(sweep, "tags", ())
        whole = isinstance(sweep, IntervalSweep | RangeSweep) and isinstance(sweep.start, int)
        if isinstance(sweep, IntervalSweep):
            if sweep.start >= sweep.end or (log and sweep.start <= 0):
                raise UserError(
                    f"{override.input_line}: an interval goes from the smaller to the larger"
                    + (", both above 0 with tag(log, …)" if log else "")
                )
            kind = distributions.IntDistribution if whole else distributions.FloatDistribution
            self.distribution = kind(sweep.start, sweep.end, log=log)
        elif whole and isinstance(sweep.step, int) and not sweep.shuffle:
            values = [int(text) for text in override.sweep_string_iterator()]
            self.distribution = distributions.IntDistribution(min(values), max(values), step=abs(sweep.step))
        else:
            self.distribution = distributions.CategoricalDistribution(list(override.sweep_string_iterator()))

    @property
    def choices(self) -> tuple[str, ...]:
        return getattr(self.distribution, "choices", ())

    def ends(self) -> list[str]:
        """The words of every choice, or of the two ends."""
        return [self.word(v) for v in self.choices or (self.distribution.low, self.distribution.high)]

    def word(self, value) -> str:
        if isinstance(value, float):
            low, high = self.distribution.low, self.distribution.high
            value = min(max(float(f"{value:.{DIGITS}g}"), low), high)
        return f"{self.key}={value}"

    def value(self, word: str):
        text = word.partition("=")[2]
        return text if self.choices else type(self.distribution.low)(text)
