"""The operators under VMamba: selective scan, cross scan and merge, the fused SS2D and its channels-last neighbours.

Importing the package imports no torch: ``vmamba_ops.limits`` answers what a backend takes before anything is loaded.
"""

import sys
from importlib import import_module
from types import ModuleType

_HOME = {
    "selective_scan": "selective_scan",
    "cross_scan": "cross_scan",
    "cross_merge": "cross_scan",
    "line_scan": "cross_scan",
    "ss2d": "ss2d",
    "dwconv_silu": "dwconv",
    "layer_norm": "layer_norm",
    "add_layer_norm": "layer_norm",
    "mlp": "mlp",
    "add_norm_mlp": "mlp",
    "conv_norm_gelu": "conv_norm_gelu",
}
_MODULES = ("dispatch", "limits")
__all__ = [*_HOME, *_MODULES]


class _Package(ModuleType):
    """An op's folder and its function share a name; ``vmamba_ops.<name>`` is the function, however it was imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
