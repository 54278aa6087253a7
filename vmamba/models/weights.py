"""Checkpoints of every generation, brought to the names and shapes of today's state dict."""

import logging
import re
from collections.abc import Mapping

from torch import Tensor, nn

from vmamba.config.errors import UserError
from vmamba.models.network import resize_grid

log = logging.getLogger(__name__)

WRAPPERS = ("model_ema", "state_dict_ema", "ema", "state_dict", "model")  # averaged weights first
PREFIXES = ("module.", "_orig_mod.")

RENAMES = [
    # January 2024
    (r"^patch_embed\.proj\.", "patch_embed.0."),
    (r"^patch_embed\.norm\.", "patch_embed.2."),
    (r"(\.blocks\.\d+)\.ln_1\.", r"\1.norm."),
    (r"(\.blocks\.\d+)\.self_attention\.", r"\1.op."),
    (r"^norm\.", "classifier.norm."),
    (r"^head\.", "classifier.head."),
    # the single-file release
    (r"\.op\.x_proj\.weight$", ".op.x_proj_weight"),
    (r"\.op\.dt_projs\.weight$", ".op.dt_projs_weight"),
]
PATTERNS = [(re.compile(old), new) for old, new in RENAMES]


def checkpoint_filter_fn(state_dict: Mapping, model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of any generation as a state dict for ``model``, to be loaded with ``strict=True``.

    Takes the wrapper dict of a training file (averaged weights before plain ones), the prefixes of DDP,
    ``torch.compile`` and OpenMMLab (``backbone.``), the spellings of January and March 2024 and of the single file,
    1 x 1 convolutions for linear maps, and a positional embedding of another grid. What is missing, left over or of
    another shape after that is for the strict load to say; a classifier of another size is also logged.
    """
    own = model.state_dict()
    weights = {_rename(key): value for key, value in _unprefixed(_unwrapped(state_dict)).items()}
    weights = dict(_respelled(key, value, own) for key, value in weights.items())
    if "classifier.head.weight" not in own:
        dropped = ["classifier.head."] if "classifier.norm.weight" in own else ["classifier."]
        weights = {k: v for k, v in weights.items() if not k.startswith(tuple(dropped))}
    head, mine = weights.get("classifier.head.weight"), own.get("classifier.head.weight")
    if head is not None and mine is not None and head.shape[0] != mine.shape[0]:
        log.warning(
            "the checkpoint's classifier has %d classes and this model %d: it does not fit; num_classes=%d would, "
            "else leave classifier.head out and train a new one",
            *(head.shape[0], mine.shape[0], head.shape[0]),
        )
    return weights


def _unwrapped(state_dict: Mapping) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(state_dict.get(key), Mapping) and state_dict[key]:
            return _unwrapped(state_dict[key])
    weights = {key: value for key, value in state_dict.items() if isinstance(value, Tensor)}
    if not weights:
        keys = ", ".join(map(str, list(state_dict)[:6])) or "nothing"
        raise UserError(f"no weights in this checkpoint (it holds {keys}): expected tensors, or {', '.join(WRAPPERS)}")
    return weights


def _unprefixed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in weights)), ""):  # in either order
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    backbone = {k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}
    return backbone or weights


def _rename(key: str) -> str:
    for pattern, new in PATTERNS:
        key = pattern.sub(new, key)
    return key


def _respelled(key: str, value: Tensor, own: Mapping[str, Tensor]) -> tuple[str, Tensor]:
    """One entry, renamed or reshaped where only the model can tell what is meant."""
    if key.endswith(".op.out_norm.weight") and value.dim() == 4:  # March 2024: dwconv3 outside of a Sequential
        key = key.replace(".out_norm.weight", ".out_norm.1.weight")
    stem, _, leaf = key.rpartition(".downsample.")
    if stem and f"{stem}.downsample.norm.weight" in own:  # the single file's patch merging is a Sequential
        name, _, kind = leaf.partition(".")
        key = f"{stem}.downsample.{ {'1': 'norm', '2': 'reduction'}.get(name, name) }.{kind}"
    target = own.get(key)
    if target is None or value.shape == target.shape:
        return key, value
    if key == "pos_embed" and value.dim() == 4 and value.shape[1] == target.shape[1]:
        return key, resize_grid(value, target.shape[2:])
    one_by_one = value.dim() in (3, 4) and set(value.shape[2:]) == {1}
    if value.numel() == target.numel() and (one_by_one or key.endswith(("x_proj_weight", "dt_projs_weight"))):
        value = value.reshape(target.shape)
    return key, value
