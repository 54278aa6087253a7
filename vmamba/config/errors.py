"""The one exception for a user's mistake: a readable line, exit code 2, no traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """One line that names the bad value, the valid choices and the remedy."""


def meant(word: object, options: Iterable[str], cutoff: float = 0.6) -> str:
    """ " Did you mean 'tiny'?", the one of ``options`` most like ``word``; "" if none is (``cutoff``: difflib's)."""
    near = get_close_matches(str(word), options, n=1, cutoff=cutoff)
    return f" Did you mean '{near[0]}'?" if near else ""
