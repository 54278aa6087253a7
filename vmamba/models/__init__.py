"""VMamba of every generation, and any model of timm.

``create_model`` and ``list_models`` by name, ``build`` from a composed configuration, ``from_upstream`` from the
original's constructor arguments, ``checkpoint_filter_fn`` for weights of any generation, ``compile`` for torch.compile
with the options that these networks want.
"""

import timm.models  # noqa: F401  first: importing timm registers our models, which needs ours to load whole

from vmamba.models.backbone import Backbone
from vmamba.models.build import build
from vmamba.models.compiling import compile
from vmamba.models.network import VMamba
from vmamba.models.registry import create_model, list_models
from vmamba.models.upstream import from_upstream
from vmamba.models.weights import checkpoint_filter_fn

__all__ = [
    "Backbone",
    "VMamba",
    "build",
    "checkpoint_filter_fn",
    "compile",
    "create_model",
    "from_upstream",
    "list_models",
]
