"""Checking the arguments of ``VMamba``, one readable line for the first that does not fit."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any

from vmamba.config import schema
from vmamba.config.errors import UserError

CHOICES = {
    "patch_embed": schema.PatchEmbed,
    "downsample": schema.Downsample,
    "ssm_act": schema.Activation,
    "mlp_act": schema.Activation,
    "gate": schema.Gate,
    "out_norm": schema.OutNorm,
    "routes": schema.Routes,
    "init": schema.Init,
    "mlp": schema.Mlp,
    "norm": schema.NormKind,
    "projection": schema.Projection,
    "cross_scan": schema.CrossScan,
    "scan_in": schema.ScanType,
    "scan_out": schema.ScanType,
    "backend": schema.Backend,
}
AT_LEAST = {"num_classes": 0, "in_chans": 1, "patch_size": 2, "d_state": 1, "dt_rank": 1, "conv": 0}


def choose(what: str, value: object, options: Sequence[str]) -> str:
    """``value`` if it is one of ``options``; else a ``UserError`` that lists them."""
    if value in options:
        return str(value)
    near = get_close_matches(str(value), options, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    raise UserError(f"{what}={value}: unknown. {hint}Choose from: {', '.join(options)}.")


def check(fields: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for the first field of a ``VMamba`` with a value that it cannot have."""
    for name, choice in CHOICES.items():
        choose(name, fields[name], [str(c) for c in choice])
    for name, least in AT_LEAST.items():
        value = fields[name]
        if value is None and name == "dt_rank":
            continue
        if not isinstance(value, int) or value < least:
            raise UserError(f"{name}={value}: must be a whole number of at least {least}")
    for name in ("ssm_ratio", "mlp_ratio"):
        if not isinstance(fields[name], Real):
            raise UserError(f"{name}={fields[name]}: must be a number")
    for name in ("drop_path", "drop_rate"):
        if not isinstance(fields[name], Real) or not 0 <= fields[name] < 1:
            raise UserError(f"{name}={fields[name]}: must be in [0, 1)")
    _check_stages(fields)
    if fields["conv"] and fields["conv"] % 2 == 0:
        raise UserError(f"conv={fields['conv']}: an even kernel changes the map's size; take an odd one, or 0 for none")
    if fields["sequential"] and fields["routes"] == "cascade2d":
        raise UserError(
            "routes=cascade2d with sequential=True: the cascade scans rows, then columns, two groups at once each; "
            "take a forward type that scans its routes together (v05)"
        )


def _check_stages(fields: Mapping[str, Any]) -> None:
    depths, dims = fields["depths"], fields["dims"]
    for name, value in (("depths", depths), ("dims", dims)):
        if not isinstance(value, Sequence) or not value or not all(isinstance(v, int) and v >= 1 for v in value):
            raise UserError(f"{name}={value}: must be a list of whole numbers of at least 1, one a stage")
    if len(depths) != len(dims):
        raise UserError(
            f"depths={list(depths)} has {len(depths)} stages and dims={list(dims)} has {len(dims)}: give one entry "
            "a stage in both"
        )
    if fields["downsample"] == "none" and len(set(dims)) > 1:
        raise UserError(
            f"downsample=none with dims={list(dims)}: without downsampling the width cannot change; take equal dims, "
            "or downsample=v3"
        )
    if fields["ssm_ratio"] <= 0 and fields["mlp"] == "none":
        raise UserError("ssm_ratio=0 with mlp=none leaves a block with nothing in it: keep one of the two")
    if fields["ssm_ratio"] > 0 and int(fields["ssm_ratio"] * min(dims)) < 1:
        raise UserError(f"ssm_ratio={fields['ssm_ratio']} leaves no inner channel of {min(dims)}: take a larger one")
    if fields["mlp"] != "none" and int(fields["mlp_ratio"] * min(dims)) < 1:
        raise UserError(f"mlp_ratio={fields['mlp_ratio']} leaves no hidden channel of {min(dims)}: take a larger one")
    if fields["patch_embed"] == "v2" and (fields["patch_size"] % 2 or dims[0] % 2):
        raise UserError(
            f"patch_embed=v2 with patch_size={fields['patch_size']} and dims[0]={dims[0]}: it halves both, so take "
            "even ones, or patch_embed=v1"
        )
