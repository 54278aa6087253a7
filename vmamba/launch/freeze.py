"""Every point of a sweep composed and validated before any of them starts."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from vmamba.config import rules
from vmamba.config.compose import checked, groups, typed, update
from vmamba.config.errors import UserError
from vmamba.config.points import parser
from vmamba.config.schema import Run


@dataclass(frozen=True)
class Frozen:
    """One point: its number, all its words, those that not every point has, and what they stand for."""

    number: int
    words: list[str]
    own: list[str]
    run: Run
    cfg: DictConfig  # resolved


def freeze(
    compose: Callable[[list[str]], DictConfig],
    points: Sequence[Sequence[str]],
    cuda: Callable[[Run], bool | None],
    first: int = 0,
) -> list[Frozen]:
    """The points, composed by ``compose(words)``. Raises UserError that names the first one that does not fit.

    Composing takes a tenth of a second, so it is done once for all points that choose the same files; their values
    are set on a copy, in the order in which Hydra would.
    """
    files, own = Files(compose), _own(points)
    frozen = []
    for number, words in enumerate(points, first):
        try:
            cfg = files.compose(list(words))
            run = checked(cfg)
            if (there := cuda(run)) is not None:
                rules.check(run, cuda=there)
        except UserError as mistake:
            if len(points) == 1 or _is_shared(mistake, points, own):
                raise
            what = f"point {number} ({' '.join(own[number - first])})"
            raise UserError(f"{what}: {str(mistake).rstrip('.')}; nothing was started") from None
        frozen.append(Frozen(number, list(words), own[number - first], run, cfg))
    return frozen


class Files:
    """Composes, remembering what each choice of files came to."""

    def __init__(self, compose: Callable[[list[str]], DictConfig]) -> None:
        self._compose, self._known = compose, {}
        self._groups = set(groups())

    def compose(self, words: list[str]) -> DictConfig:
        chosen = self.choice(words)
        if chosen not in self._known:
            self._known[chosen] = typed(self._compose(list(chosen)))
        cfg = copy.deepcopy(self._known[chosen])
        for word in words:
            if self._is_value(word):
                update(cfg, word)
        return cfg

    def choice(self, words: list[str]) -> tuple[str, ...]:
        """Those of the words that choose files, or do anything else than set a value."""
        return tuple(word for word in words if not self._is_value(word))

    def _is_value(self, word: str) -> bool:
        """Whether a word sets a key that is there, and does nothing else."""
        override = parser().parse_override(word)
        key = override.key_or_group
        plain = not (override.is_add() or override.is_delete() or override.is_force_add() or override.package)
        return plain and key not in self._groups and "/" not in key and not key.startswith("hydra.")


def _is_shared(mistake: UserError, points: Sequence[Sequence[str]], own: list[list[str]]) -> bool:
    """Whether the mistake names a word that all points have, and none that is a point's own."""
    said = {text.strip("'\",:;()") for text in str(mistake).split()}
    common = {word for word in points[0] if word not in own[0]}
    return bool(said & common) and not said & {word for words in own for word in words}


def _own(points: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of every point the words that not all points have; of a single point all."""
    if len(points) == 1:
        return [list(points[0])]
    common = set(points[0]).intersection(*points[1:])
    return [[word for word in words if word not in common] for words in points]
