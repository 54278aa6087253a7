"""VMamba: models, engine, configuration and experiment management.

``import vmamba`` imports neither torch nor timm; the models come on first use, and are registered with timm
as soon as timm is there, whichever of the two is imported first.
"""

import importlib
import importlib.abc
import importlib.util
import sys

__version__ = "0.1.0"
__all__ = ["create_model", "list_models"]


def __getattr__(name: str):
    if name == "models":
        return importlib.import_module("vmamba.models")
    if name in __all__:
        return getattr(importlib.import_module("vmamba.models"), name)
    raise AttributeError(f"module 'vmamba' has no attribute '{name}'")


class _RegisterWithTimm(importlib.abc.MetaPathFinder):
    """Registers our models right after ``timm.models`` is first imported; gone once that is done."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "timm.models":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        run_module = spec.loader.exec_module

        def exec_module(module):
            run_module(module)
            importlib.import_module("vmamba.models.registry")

        spec.loader.exec_module = exec_module
        return spec


if "timm.models" in sys.modules:
    importlib.import_module("vmamba.models.registry")
else:
    sys.meta_path.insert(0, _RegisterWithTimm())
