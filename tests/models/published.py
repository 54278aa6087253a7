"""Golden data: parameters, inputs and outputs of the published code, regenerated from a seed or read from a file.

Parameters are drawn in the sorted order of their names from one CPU generator: standard normal numbers, placed and
scaled by the kind of parameter. The input is drawn with seed + 1, the cotangent of the logits with seed + 2.
"""

import json
import math
from pathlib import Path

import torch

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}


def manifest(name: str) -> dict[str, list[int]]:
    return json.loads((GOLDEN / "manifests" / f"{name}.json").read_text())


def index() -> dict[str, dict]:
    """The manifests of models that this package has."""
    found = json.loads((GOLDEN / "manifests" / "INDEX.json").read_text())
    return {name: about for name, about in found.items() if name != "mamba2_T"}


def randn(shape, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(shapes: dict[str, list[int]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: _placed(key, torch.randn(shapes[key], generator=generator)) for key in sorted(shapes)}


def _placed(key: str, z: torch.Tensor) -> torch.Tensor:
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "A_logs":
        return torch.arange(1, z.shape[-1] + 1).float().log() + 0.3 * z
    if leaf in ("x_proj_weight", "dt_projs_weight"):
        return z * z.shape[-1] ** -0.5
    offset_scale = {"Ds": (1.0, 0.3), "dt_projs_bias": (-3.0, 1.0), "pos_embed": (0.0, 0.5), "bias": (0.0, 0.2)}
    if leaf in offset_scale:
        offset, scale = offset_scale[leaf]
        return offset + scale * z if offset else scale * z
    if z.dim() == 1:
        return 1.0 + 0.2 * z
    return z * math.prod(z.shape[1:]) ** -0.5
