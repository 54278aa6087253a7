"""Upstream's constructor arguments, in the spellings of all its generations, as our fields.

The only place that knows the ``forward_type`` strings. Their grammar: a base (v05, v3, ...) that says how the scan is
computed, and suffixes that change the function, written without underscores until March 2024 (v3noz, v2softmaxnozact)
and with them later (v05_ondwconv3_noz).
"""

import re
from typing import Any

from vmamba.config.errors import UserError
from vmamba.config.network import choose
from vmamba.models.backbone import Backbone
from vmamba.models.network import VMamba
from vmamba.models.registry import create_model
from vmamba.models.variants import how

JANUARY, FEBRUARY, MARCH = "jan19", "feb22", "mar24"
SOURCES = (JANUARY, FEBRUARY, MARCH, "may26", "head", "single")

# upstream's classes beside VSSM and Backbone_VSSM: the single file's named models
NAMED = {
    "vanilla_vmamba_tiny": "vmamba_tiny_v0",
    "vanilla_vmamba_small": "vmamba_small_v0",
    "vanilla_vmamba_base": "vmamba_base_v0",
    "vmamba_tiny_s2l5": "vmamba_tiny_0230",
    "vmamba_tiny_s1l8": "vmamba_tiny_s1l8",
    "vmamba_small_s2l15": "vmamba_small_s2l15",
    "vmamba_small_s1l20": "vmamba_small_s1l20",
    "vmamba_base_s2l15": "vmamba_base_s2l15",
    "vmamba_base_s1l20": "vmamba_base_s1l20",
}

# base -> the forward type that computes alike, and the routes
BASES = {name: (name, "cross2d") for name in ("v0", "v0seq", "v01", "v02", "v03", "v04", "v05", "v1", "v2", "v3", "v4")}
BASES |= {"v051d": ("v05", "unidi"), "v052d": ("v05", "bidi"), "v052dc": ("v05", "cascade2d")}
BASES |= {"v31d": ("v3", "unidi"), "v32d": ("v3", "bidi"), "v32dc": ("v3", "cascade2d")}
BASE = re.compile("|".join(sorted(BASES, key=len, reverse=True)))

SUFFIXES = {
    "no32": {"scan_in": "input"},
    "noz": {"gate": "none"},
    "nozact": {"gate": "linear"},
    "oact": {"out_act": True},
    **{f"on{kind}": {"out_norm": kind} for kind in ("none", "dwconv3", "cnorm", "softmax", "sigmoid")},
    **{kind: {"out_norm": kind} for kind in ("none", "dwconv3", "cnorm", "softmax", "sigmoid")},
}
SUFFIX = re.compile("_?(" + "|".join(sorted(SUFFIXES, key=len, reverse=True)) + ")")

# upstream's argument -> ours, and its value if not given
ARGUMENTS = {
    "patch_size": ("patch_size", 4),
    "in_chans": ("in_chans", 3),
    "num_classes": ("num_classes", 1000),
    "depths": ("depths", [2, 2, 9, 2]),
    "dims": ("dims", [96, 192, 384, 768]),
    "ssm_d_state": ("d_state", 16),
    "ssm_ratio": ("ssm_ratio", 2.0),
    "ssm_dt_rank": ("dt_rank", "auto"),
    "ssm_act_layer": ("ssm_act", "silu"),
    "ssm_conv": ("conv", 3),
    "ssm_conv_bias": ("conv_bias", True),
    "ssm_init": ("init", "v0"),
    "mlp_ratio": ("mlp_ratio", 4.0),
    "mlp_act_layer": ("mlp_act", "gelu"),
    "drop_path_rate": ("drop_path", 0.1),
    "patch_norm": ("patch_norm", True),
    "norm_layer": ("norm", "ln"),
    "downsample_version": ("downsample", "v2"),
    "patchembed_version": ("patch_embed", "v1"),
    "use_checkpoint": ("grad_checkpointing", False),
    "posembed": ("pos_embed", False),
    "imgsize": ("img_size", 224),
    "forward_type": (None, "v2"),
    "gmlp": (None, False),
    "ssm_rank_ratio": (None, 2.0),
    "ssm_drop_rate": (None, 0.0),
    "mlp_drop_rate": (None, 0.0),
    "out_indices": (None, (0, 1, 2, 3)),
    "pretrained": (None, None),
}
JANUARY_ARGUMENTS = {"d_state": 16, "drop_rate": 0.0, "attn_drop_rate": 0.0}
VERSION_0 = {"patch_embed": "v1", "downsample": "v1", "mlp": "none", "ssm_ratio": 2.0, "norm": "ln"}


def from_upstream(constructor: dict[str, Any], source: str = "head", cls: str = "VSSM") -> VMamba:
    """A model from upstream's constructor arguments.

    Args:
        constructor: keyword arguments as upstream spelled them at ``source``; what is left out takes its default there.
        source: the snapshot: jan19, feb22, mar24, may26, head, or single (the one-file model of 2025).
        cls: VSSM, Backbone_VSSM, or a named model of the single file (vmamba_tiny_s1l8, vanilla_vmamba_tiny, ...).
    Returns:
        A ``VMamba``, or a ``Backbone`` for Backbone_VSSM.
    Raises:
        UserError: an unknown name, or an experiment that was never released (xv*, m0, rotations, rank ratio).
    """
    choose("source", source, SOURCES)
    choose("cls", cls, ("VSSM", "Backbone_VSSM", *NAMED))
    if cls in NAMED:
        return create_model(NAMED[cls], **_renamed(constructor))
    fields = _january(constructor) if source == JANUARY else _fields(constructor, source)
    if cls == "Backbone_VSSM":
        return Backbone(**fields, out_indices=constructor.get("out_indices", (0, 1, 2, 3)))
    return VMamba(**fields)


def forward_type(text: str) -> dict[str, Any]:
    """The fields that a ``forward_type`` string stands for: those of conf/forward_type and those of its suffixes."""
    if text.startswith("xv"):
        raise UserError(f"forward_type={text}: the xv experiments were never released and are not part of this package")
    if text.startswith("m"):
        raise UserError(f"forward_type={text}: m0 (Mamba-2) was never released and is not part of this package")
    if text.startswith("v052d3"):
        raise UserError(f"forward_type={text}: the rotation routes (v052d3) were a debugging aid and are not here")
    if text in ("v0", "v0seq"):
        return how(text) | {"gate": "act"}
    base = BASE.match(text)
    if not base or base[0] in ("v0", "v0seq"):
        raise UserError(
            f"forward_type={text}: unknown base. Choose from: {', '.join(BASES)}, then suffixes such as _noz."
        )
    name, routes = BASES[base[0]]
    fields, rest = how(name) | {"gate": "act", "routes": routes}, text[base.end() :]
    while rest:
        suffix = SUFFIX.match(rest)
        if not suffix:
            raise UserError(f"forward_type={text}: unknown suffix '{rest}'. Choose from: {', '.join(SUFFIXES)}.")
        if suffix[1] != "nozact" or fields["gate"] != "none":  # without a gate there is no activation of it
            fields |= SUFFIXES[suffix[1]]
        rest = rest[suffix.end() :]
    return fields


def _renamed(constructor: dict[str, Any]) -> dict[str, Any]:
    """Upstream's arguments under our names, values untouched; unknown ones are refused."""
    for name in constructor:
        choose("argument", name, tuple(ARGUMENTS))
    return {ARGUMENTS[name][0]: value for name, value in constructor.items() if ARGUMENTS[name][0]}


def _fields(constructor: dict[str, Any], source: str) -> dict[str, Any]:
    given = {name: default for name, (_, default) in ARGUMENTS.items()} | constructor
    fields = _renamed(given) | forward_type(given["forward_type"])
    version_0 = given["forward_type"] in ("v0", "v0seq")
    for name in ("norm", "ssm_act", "mlp_act"):
        fields[name] = str(fields[name]).lower()
    if source == "single" and fields["norm"] == "bn":  # the single file takes a layer norm instead, and says nothing
        fields["norm"] = "ln2d"
    if version_0:
        if fields["norm"] != "ln":
            raise UserError(
                f"forward_type={given['forward_type']} with norm={fields['norm']}: it is channel-last only; take v05"
            )
        fields |= {"ssm_act": "silu", "conv": 3, "conv_bias": True, "init": "v0"}
    if source == FEBRUARY and not version_0 and given["ssm_rank_ratio"] < fields["ssm_ratio"]:
        raise UserError(
            f"ssm_rank_ratio={given['ssm_rank_ratio']} below ssm_ratio={fields['ssm_ratio']}: the low-rank experiment "
            "(rank ratio) of February 2024 was never released and is not part of this package"
        )
    if source == MARCH:
        fields["pos_embed"] = False  # accepted there, and without effect
    patch = fields["patch_size"]
    fields["img_size"] = fields["img_size"] // patch * patch  # its grid is the quotient, whatever the patch embedding
    _no_dropout(given, "ssm_drop_rate", "mlp_drop_rate")
    fields["mlp"] = "none" if fields["mlp_ratio"] <= 0 else "gmlp" if given["gmlp"] and source != "single" else "mlp"
    fields["conv"] = fields["conv"] if fields["conv"] > 1 else 0
    fields["dt_rank"] = None if fields["dt_rank"] == "auto" else fields["dt_rank"]
    fields["dims"] = _dims(fields["dims"], fields["depths"])
    return fields


def _january(constructor: dict[str, Any]) -> dict[str, Any]:
    """The first release: version 0 throughout, odd maps cut."""
    common = (
        "patch_size",
        "in_chans",
        "num_classes",
        "depths",
        "dims",
        "drop_path_rate",
        "patch_norm",
        "use_checkpoint",
    )
    ignored = ("norm_layer", "out_indices", "pretrained")
    for name in constructor:
        choose("argument", name, (*common, *ignored, *JANUARY_ARGUMENTS))
    given = {name: ARGUMENTS[name][1] for name in common} | JANUARY_ARGUMENTS | constructor
    _no_dropout(given, "drop_rate", "attn_drop_rate")
    fields = {ARGUMENTS[name][0]: given[name] for name in common} | forward_type("v0") | VERSION_0
    fields["dims"] = _dims(given["dims"], given["depths"])
    return fields | {"d_state": given["d_state"], "conv": 3, "conv_bias": True, "crop_odd": True}


def _dims(dims: int | list[int], depths: list[int]) -> list[int]:
    return [dims * 2**i for i in range(len(depths))] if isinstance(dims, int) else list(dims)


def _no_dropout(given: dict[str, Any], *names: str) -> None:
    for name in names:
        if given[name]:
            raise UserError(
                f"{name}={given[name]}: no released model uses dropout and it is not part of this package; take 0"
            )
