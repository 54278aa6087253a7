"""What Hydra and OmegaConf refuse, in one line of ours: the wrong word, the nearest right one, the choices."""

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from vmamba.config import schema
from vmamba.config.errors import UserError, meant
from vmamba.config.paths import choices, groups


@contextmanager
def explained() -> Iterator[None]:
    """What Hydra says of overrides that do not compose, as a ``UserError`` of one line."""
    try:
        yield
    except MissingConfigException as error:
        group, _, value = (error.missing_cfg_file or "").rpartition("/")
        line = unknown_choice(group, value) if group else str(error).splitlines()[0]
        raise UserError(line) from error
    except OverrideParseException as error:
        raise UserError(unreadable(error.override)) from error
    except ConfigCompositionException as error:
        raise UserError(explain(error.__cause__ or error)) from error


def unreadable(text: str) -> str:
    """For a word of the command line that is no override."""
    key, sign, value = text.partition("=")
    inner = value.replace('"', '\\"')
    word = shlex.quote(f'{key}="{inner}"')
    quoted = f": a value with signs like ~ ( = goes in quotes twice, {word}" if sign else ""
    return f"'{text}' is not of the form key=value{quoted}"


def unknown_choice(group: str, value: str) -> str:
    """For ``group=value`` without such a file."""
    options = choices(group)
    if group == "recipe" and value.startswith("scenes_"):  # what data=scenes brings is named by the task
        return f"data=scenes has no recipe for task={value.removeprefix('scenes_')}: take task=det or task=seg"
    hint = meant(value, options, 0.5)
    return f"{group}={value}: there is no {group} '{value}'.{hint} Choose from: {', '.join(options)}."


def explain(error: BaseException) -> str:
    """For what OmegaConf or Hydra refused while composing or converting."""
    text = str(error).splitlines()[0]
    key = str(getattr(error, "full_key", None) or "")
    if "Multiple values for" in text:
        group = text.split("Multiple values for ")[1].split(".")[0]
        return f"+{group}=…: {group} is chosen already; write {group}=… without the +"
    if "not in" in text or "Could not override" in text or "is not in struct" in text:
        if not key and "'" in text:
            key = text.split("'")[1]
        if key in groups():
            return f"{key} is a group: choose one of its files, {key}={{{', '.join(choices(key))}}}"
        known = list(_keys(OmegaConf.structured(schema.Run)))
        parent, _, leaf = key.rpartition(".")
        siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent]
        if parent in known and not siblings:
            hint = f" {parent} is a mapping; keys of your own go in with a +: +{parent}={{{leaf}: …}}"
        elif parent in known:
            hint = meant(leaf, siblings) or f" {parent} has: {', '.join(siblings)}."
        else:
            hint = meant(key, groups(), 0.75) or meant(key, known)
        return f"{key}: there is no such setting.{hint}"
    if "is not a ListConfig" in text:
        return f"{key}: takes a list, e.g. {key}=[1,2]"
    text = text.replace("Value '", "'", 1)
    return f"{key}: {text}" if key else text


def _keys(cfg: DictConfig, prefix: str = "") -> Iterable[str]:
    for key in cfg:
        yield f"{prefix}{key}"
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _keys(node, f"{prefix}{key}.")
