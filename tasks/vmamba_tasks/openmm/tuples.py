"""Tuples where OpenMMLab insists on them; YAML and JSON only have lists."""

from typing import Any

TUPLES = {
    "betas", "crop_size", "img_scale", "meta_keys", "out_indices", "pool_scales", "ratio_range", "scale", "scales",
    "size", "stride",
}  # fmt: skip
OF_LISTS = {"scales"}  # a list of tuples rather than a tuple


def with_tuples(value: Any, key: str = "") -> Any:
    """``value`` (nested dicts and lists) with tuples under the keys that need them."""
    if isinstance(value, dict):
        return {name: with_tuples(entry, name) for name, entry in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    entries = [with_tuples(entry, key if key in OF_LISTS else "") for entry in value]
    if key in OF_LISTS and any(isinstance(entry, (list, tuple)) for entry in value):
        return entries
    return tuple(entries) if key in TUPLES else entries
