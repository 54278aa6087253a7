"""What a network's fields may be, for the command line and for ``VMamba`` in Python alike: the first misfit, one line.

No torch in here. ``prefix`` is what stands before a field's name where the user wrote it: "model." on the command line.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from numbers import Real
from typing import Any

from vmamba.config import schema
from vmamba.config.errors import UserError, meant

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
    raise UserError(f"{what}={value}: unknown.{meant(value, options)} Choose from: {', '.join(options)}.")


def check(fields: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for the first argument of a ``VMamba`` with a value that it cannot have."""
    for name, choice in CHOICES.items():
        choose(name, fields[name], [str(c) for c in choice])
    for name in ("drop_path", "drop_rate"):
        if not isinstance(fields[name], Real) or not 0 <= fields[name] < 1:
            raise UserError(f"{name}={fields[name]}: must be in [0, 1)")
    check_shape(fields)
    if fields["sequential"] and fields["routes"] == "cascade2d":
        raise UserError(
            "routes=cascade2d with sequential=True: the cascade scans rows, then columns, two groups at once each; "
            "take a forward type that scans its routes together (v05)"
        )


def check_shape(fields: Mapping[str, Any], prefix: str = "") -> None:
    """Raises ``UserError`` for the first of the sizes (``schema.Model`` has them) that no network can be built of."""
    for name, least in AT_LEAST.items():
        value = fields[name]
        if value is None and name in ("dt_rank", "num_classes", "in_chans"):  # None: the width's, or the data set's
            continue
        if not isinstance(value, int) or value < least:
            raise UserError(f"{prefix}{name}={value}: must be a whole number of at least {least}")
    for name in ("ssm_ratio", "mlp_ratio"):
        if not isinstance(fields[name], Real) or not isfinite(fields[name]):
            raise UserError(f"{prefix}{name}={fields[name]}: must be a number")
    _check_stages(fields, prefix)
    _check_branches(fields, prefix)
    patch, width = fields["patch_size"], fields["dims"][0]
    if fields["patch_embed"] == "v2" and (patch % 2 or width % 2):
        raise UserError(
            f"{prefix}patch_embed=v2 with {prefix}patch_size={patch} and {prefix}dims[0]={width}: it halves both, so "
            f"take even ones, or {prefix}patch_embed=v1"
        )


def _check_stages(fields: Mapping[str, Any], prefix: str) -> None:
    depths, dims = fields["depths"], fields["dims"]
    for name, value in (("depths", depths), ("dims", dims)):
        if not isinstance(value, Sequence) or not value or not all(isinstance(v, int) and v >= 1 for v in value):
            raise UserError(f"{prefix}{name}={value}: must be a list of whole numbers of at least 1, one a stage")
    if len(depths) != len(dims):
        raise UserError(
            f"{prefix}depths={list(depths)} has {len(depths)} stages and {prefix}dims={list(dims)} has {len(dims)}: "
            "give one entry a stage in both"
        )
    if fields["downsample"] == "none" and len(set(dims)) > 1:
        raise UserError(
            f"{prefix}downsample=none with {prefix}dims={list(dims)}: without downsampling the width cannot change; "
            f"take equal dims, or {prefix}downsample=v3"
        )


def _check_branches(fields: Mapping[str, Any], prefix: str) -> None:
    narrowest, scan, mlp = min(fields["dims"]), fields["ssm_ratio"], fields["mlp_ratio"]
    if scan <= 0 and fields["mlp"] == "none":
        raise UserError(
            f"{prefix}ssm_ratio=0 with {prefix}mlp=none leaves a block with nothing in it: keep one of the two"
        )
    if scan > 0 and int(scan * narrowest) < 1:
        raise UserError(f"{prefix}ssm_ratio={scan} leaves no inner channel of {narrowest}: take a larger one")
    if fields["mlp"] != "none" and int(mlp * narrowest) < 1:
        raise UserError(
            f"{prefix}mlp_ratio={mlp} leaves no hidden channel of {narrowest}: take a larger one, or {prefix}mlp=none"
        )
    if fields["conv"] and fields["conv"] % 2 == 0:
        raise UserError(
            f"{prefix}conv={fields['conv']}: an even kernel changes the map's size; take an odd one, or 0 for none"
        )


def patch_grid(version: str, patch_size: int, img_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the map that patch embedding ``version`` makes of an image."""
    if version == "v1":
        return img_size[0] // patch_size, img_size[1] // patch_size
    stride = patch_size // 2
    for _ in range(2):  # two convolutions of kernel stride + 1, padding 1
        img_size = tuple((side + 1 - stride) // stride + 1 for side in img_size)
    return img_size
