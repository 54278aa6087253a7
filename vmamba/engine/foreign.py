"""Weights out of checkpoints that other programs pickled whole, without running anything of theirs."""

import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

SAFE = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
}
PICKLES = 4  # that an old file begins with: a magic number, a version, the machine, and the content without its numbers


class Inert:
    """Stands for an object of a class that is not loaded: takes whatever a pickle gives it, and holds nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Knows tensors and plain containers; every other global, class or function, is ``Inert``."""

    def find_class(self, module: str, name: str) -> Any:
        return _known(module, name) or Inert


def _known(module: str, name: str) -> Any:
    if module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)):
        return getattr(torch, name)
    return SAFE.get((module, name))


class _Pickle:
    """What ``torch.load`` takes for the pickle module."""

    Unpickler = _Unpickler
    __name__ = "vmamba.engine.foreign"

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _Unpickler(file, **options).load()


def read(path: Path) -> Any:
    """The content of a checkpoint on the CPU: tensors and plain values as they are, everything else inert.

    For files such as mmengine's, whose training records are pickled objects. Raises some error for a damaged file.
    """
    return torch.load(path, map_location="cpu", pickle_module=_Pickle, weights_only=False)


def strangers(path: Path) -> list[str]:
    """The globals of a file as torch wrote it before 1.6, no archive, that are no tensors or plain containers.

    ValueError for another kind of file.
    """
    found: dict[str, None] = {}
    with open(path, "rb") as file:
        for _ in range(PICKLES):
            for code, word, _ in pickletools.genops(file):
                if code.name == "GLOBAL" and not _known(*word.split(" ", 1)):
                    found[word.replace(" ", ".")] = None
    return list(found)
