"""Composing a run from ``conf/`` and overrides, and saying in one line what does not fit.

``compose(overrides)`` gives the validated, typed ``Run`` beside the plain configuration it came from. Hydra's own
entry point composes the same way; this module is what checks an input before Hydra sees it, and what tests, the
launcher and ``--from`` use.
"""

import functools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vmamba.config import rules, schema
from vmamba.config.errors import UserError
from vmamba.config.explain import explain, explained, unknown_choice, unreadable
from vmamba.config.paths import choices, conf_dir, groups, unused
from vmamba.config.points import FILES, check_axis, parser

SHOWS = {"--cfg", "-c", "--info", "-i"}  # Hydra's flags that run nothing


@functools.cache  # once a process
def register() -> None:
    """Puts the typed schema at the root of the tree, so that a wrong type or key is refused while composing.

    ``${unused:PATH}`` becomes available: a folder of that name, or with a number behind it, that nobody else has. It
    is made at once, unless the command only shows what would run.
    """
    ConfigStore.instance().store(name="schema", node=schema.Run)
    shown = not SHOWS.isdisjoint(sys.argv)
    OmegaConf.register_new_resolver("unused", str if shown else unused, replace=True)


def compose(overrides: Iterable[str] = (), *, cuda: bool | None = None) -> tuple[schema.Run, DictConfig]:
    """The run these overrides stand for. Raises ``UserError`` with one line for whatever does not fit.

    ``cuda``: whether there is a GPU where the run will be; None: not known, so not asked.
    """
    cfg = composed(list(overrides))
    return validate(cfg, cuda=cuda), cfg


def validate(cfg: DictConfig, *, cuda: bool | None = None) -> schema.Run:
    """``cfg`` as a typed ``Run``; a key that is not in the schema, a missing value or a broken rule is a UserError."""
    return checked(typed(cfg), cuda=cuda)


def typed(cfg: DictConfig) -> DictConfig:
    """``cfg`` with the schema's types and nothing else in it, not yet resolved."""
    plain = OmegaConf.to_container(cfg, resolve=False)
    plain.pop("hydra", None)
    try:
        return OmegaConf.merge(_structured(), OmegaConf.create(plain))
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error


@functools.cache
def _structured() -> DictConfig:
    """The schema's types and defaults; a merge leaves it as it is."""
    return OmegaConf.structured(schema.Run)


def checked(typed: DictConfig, *, cuda: bool | None = None) -> schema.Run:
    """What ``typed`` gave, resolved in place and held against the rules."""
    try:
        OmegaConf.resolve(typed)
        missing = sorted(OmegaConf.missing_keys(typed))
        if missing:
            raise UserError(f"{missing[0]} must be given: add {missing[0]}=… to the command")
        run = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    rules.check(run, cuda=cuda)
    return run


def update(cfg: DictConfig, text: str) -> None:
    """Sets the key of one ``key=value``; UserError if there is no such key, or its values are of another type."""
    key, value = text.partition("=")[0], _value(text)
    try:
        # a mapping of the user's own keys (launcher.sbatch, tracking.tags) takes new ones
        own = isinstance(value, dict) and OmegaConf.get_type(OmegaConf.select(cfg, key)) is dict
        OmegaConf.update(cfg, key, value, force_add=own)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error


def load(path: Path, overrides: Iterable[str] = ()) -> DictConfig:
    """A saved ``config.yaml`` with overrides on it, for running the same thing again.

    ``key=value`` sets a key; ``group=choice`` puts a group's file in the place of what was saved, for files that bring
    no other choices with them (a model or an experiment does, and is refused).
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a run folder that has a config.yaml")
    cfg = OmegaConf.load(path)
    OmegaConf.set_struct(cfg, True)
    for text in overrides:
        key, sign, _ = text.partition("=")
        if not sign:
            raise UserError(unreadable(text))
        if key in groups():
            _choose(cfg, key, text.partition("=")[2])
            continue
        update(cfg, text)
    return cfg


def first_point(words: Iterable[str]) -> list[str]:
    """Command-line overrides with every axis cut down to its first value, and Hydra's own left out."""
    plain, files = [], {}
    for override in _parsed(words):
        check_axis(override, search=True)
        if (group := override.key_or_group) in FILES and files.setdefault(group, override) is not override:
            raise UserError(f"{files[group].input_line} {override.input_line}: takes one file; start each by itself")
        if override.is_sweep_override():
            first = (
                next(iter(override.sweep_string_iterator())) if override.is_discrete_sweep() else override.value().start
            )
            plain.append(f"{override.get_key_element()}={first}")
        else:
            plain.append(override.input_line)
    return plain


def check_axes(words: Iterable[str], *, single: bool = False) -> None:
    """UserError for an axis without separate values, as only a search takes them; with ``single``, for any axis."""
    for override in _parsed(words):
        check_axis(override)
        if single and override.is_sweep_override():
            raise UserError(f"{override.input_line}: several values are a sweep: add -m (a list is written [1,2])")


def _parsed(words: Iterable[str]) -> list[Override]:
    """Command-line overrides but for Hydra's own."""
    try:
        parsed = parser().parse_overrides(list(words))
    except OverrideParseException as error:
        raise UserError(unreadable(error.override)) from error
    return [o for o in parsed if o.key_or_group.split(".")[0].split("/")[0] != "hydra"]


def _choose(cfg: DictConfig, group: str, choice: str) -> None:
    """Puts ``group=choice`` in the place of what a saved run has there."""
    if group in ("model", "experiment"):
        raise UserError(f"{group}={choice}: a saved run keeps its {group}; compose a new run to change it")
    if group in FILES:
        raise UserError(f"{group}={choice}: a saved run is one point; start a new sweep instead")
    if choice not in choices(group):
        raise UserError(unknown_choice(group, choice))
    path = conf_dir() / group / f"{choice}.yaml"
    file = OmegaConf.load(path)
    file.pop("defaults", None)
    if path.read_text().startswith("# @package _global_"):
        cfg.merge_with(file)
    else:
        with open_dict(cfg):  # a run saved before there was such a group
            cfg[group] = OmegaConf.merge(OmegaConf.structured(schema.Run.__dataclass_fields__[group].type), file)


def _value(text: str) -> Any:
    try:
        return parser().parse_override(text).value()
    except OverrideParseException as error:
        raise UserError(unreadable(text)) from error


def composed(overrides: list[str]) -> DictConfig:
    """The plain configuration, not yet held against schema and rules. Raises ``UserError`` as ``compose`` does."""
    register()
    for override in _parsed(overrides):
        if override.value() is None and not override.is_delete() and (group := override.key_or_group) in groups():
            raise UserError(f"{group}=null: choose one of {', '.join(choices(group))}, or leave it away")
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="vmamba"), explained():
            return hydra_compose("config", overrides=overrides)
    finally:
        GlobalHydra.instance().hydra = before
