"""Imported by exported configs: mmengine's own checkpoints open again.

torch.load has read weights only since 2.6, and mmengine 0.10.7 puts its message hub's objects into every checkpoint, so
that its Runner can neither resume nor test its own files. Local files are opened as mmengine meant them to be, weights
only first; downloads keep torch's rule.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader


def load_local(filename: str, map_location: Any = None) -> Any:
    """The contents of a checkpoint file on this machine. Raises FileNotFoundError if there is none."""
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{filename}: no such checkpoint")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError:
        return torch.load(path, map_location=map_location, weights_only=False)


CheckpointLoader.register_scheme(prefixes="", loader=load_local, force=True)
