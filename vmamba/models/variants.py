"""The released models and forward types, as ``conf/`` has them: the one place of their hyper-parameters."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from vmamba.config.network import choose
from vmamba.config.paths import conf_dir

HOW = ("projection", "cross_scan", "scan_in", "scan_out", "sequential")
# drop_path belongs to training: a model made in Python has none unless asked for
NOT_OURS = ("defaults", "family", "name", "kwargs", "num_classes", "in_chans", "drop_path")


@dataclass(frozen=True)
class Variant:
    """One file of conf/model: what is computed, and the forward type and norm it was released with."""

    fields: dict[str, Any]
    forward_type: str
    norm: str


@cache
def variants() -> dict[str, Variant]:
    """Name -> variant, for every file of conf/model whose family is vmamba."""
    found = {}
    for path in sorted((conf_dir() / "model").glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        if content.get("family", "vmamba") != "vmamba":
            continue
        brings = {
            key.split("@")[0].split("/")[-1]: value for entry in content["defaults"] for key, value in entry.items()
        }
        fields = {key: value for key, value in content.items() if key not in NOT_OURS}
        found[content["name"]] = Variant(fields, brings["forward_type"], brings["norm"])
    return found


@cache
def _forward_types() -> dict[str, dict[str, Any]]:
    files = sorted((conf_dir() / "forward_type").glob("*.yaml"))
    return {path.stem: yaml.safe_load(path.read_text()) for path in files}


def how(forward_type: str) -> dict[str, Any]:
    """The fields of the network that conf/forward_type/NAME.yaml sets: how the function is computed."""
    choose("forward_type", forward_type, tuple(_forward_types()))
    found = _forward_types()[forward_type]
    return {key: found[key] for key in HOW if key in found}
