"""What the checks of several ops have in common."""

from collections.abc import Mapping

from torch import Tensor


def tensors(op: str, named: Mapping[str, object]) -> None:
    """Raise TypeError for the first of ``named`` that is no tensor."""
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}: {name} is {type(value).__name__}; it takes a tensor")
