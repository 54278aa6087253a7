"""Weights for evaluation, from any file that carries some: ours, a published one, safetensors."""

import logging
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from vmamba.config.errors import UserError
from vmamba.engine.checkpoint import first_line, read, steps
from vmamba.engine.foreign import read as foreign_read
from vmamba.engine.foreign import strangers

log = logging.getLogger("vmamba")
EMA = ("ema", "model_ema", "state_dict_ema")
PLAIN = ("model", "state_dict", "module")
ZIP = b"PK\x03\x04"  # how torch's files of today begin
PREFIXES = ("module.", "_orig_mod.")


def find(ckpt: str, key: str = "ckpt") -> Path:
    """``ckpt`` is a file or a run folder (its best weights, else its newest checkpoint). UserError if neither.

    ``key``: the setting it came from.
    """
    path = Path(ckpt).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{key}={ckpt}: no such file or run folder")
    for folder in (path / "checkpoints", path):
        found = [best] if (best := folder / "best.pt").is_file() else steps(folder)
        if found:
            return found[0]
    raise UserError(f"{key}={ckpt}: no checkpoints in this folder; give a run folder that has some, or a file")


@dataclass
class Found:
    """Weights by name, ``kind`` "ema" (averaged) or "model", and what the file says of its run ("" if nothing)."""

    state: dict[str, torch.Tensor]
    kind: str
    written_by: str = ""


def load(path: str | Path) -> Found:
    """The weights in a file (or the best ones of a run folder), the averaged ones where there are any.

    Takes .safetensors, what torch.load opens with weights-only, archives or older files, and mmengine's checkpoints: a
    bare state dict, or one under the keys in use (``ema``, ``model_ema``, ``model``, ``state_dict``, ...). Raises
    UserError for anything else.
    """
    path = find(str(path), "path")
    if path.suffix == ".safetensors":
        return Found(_safetensors(path), "model")
    content = _read(path)
    for kind, keys in (("ema", EMA), ("model", PLAIN)):
        for key in keys:
            if isinstance(content.get(key), dict) and content[key]:
                return Found(_clean(content[key]), kind, _written_by(content))
    weights = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not weights:
        raise UserError(f"{path} holds no weights: expected a state dict, or one under {', '.join(EMA + PLAIN)}")
    return Found(_clean(weights), "model")


def _written_by(content: dict) -> str:
    """For our own checkpoints, the run's model and data."""
    try:
        config = content["config"]
        return f"of model.name={config['model']['name']} on data.name={config['data']['name']}"
    except (KeyError, TypeError):
        return ""


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return _clean(load_file(path))
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}): it is damaged; get it again") from None


def _read(path: Path) -> dict:
    try:
        foreign = _foreign(path)
        # published training files carry their configuration as a yacs node, a dict by another name
        stand_ins = [(OrderedDict, name) for name in foreign if name.endswith(".CfgNode")]
        if any(name.startswith("mmengine.") for name in foreign):
            content = foreign_read(path)
        else:
            with torch.serialization.safe_globals(stand_ins):
                content = read(path)
    except pickle.UnpicklingError:
        names = ", ".join(foreign) if foreign else "an unknown kind"
        raise UserError(
            f"{path} holds objects that run code when loaded ({names}): refused; save its state dict alone, "
            "or as .safetensors"
        ) from None
    except Exception as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}): it is truncated or not a checkpoint; get it again"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint: expected a dict of weights")
    return content


def _foreign(path: Path) -> list[str]:
    """The names of what a file holds besides tensors and plain values; nothing of it is loaded."""
    with open(path, "rb") as file:
        archive = file.read(len(ZIP)) == ZIP
    return torch.serialization.get_unsafe_globals_in_checkpoint(path) if archive else strangers(path)


def _clean(state: dict) -> dict[str, torch.Tensor]:
    """Without the prefixes that DDP and torch.compile put before names."""
    while state and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), "")):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def fit_into(model: nn.Module, state: dict[str, torch.Tensor], source: str, hint: str = "") -> None:
    """Loads ``state`` into ``model``, all of it. A misfit is one line: how many keys of which kind, and ``hint``."""
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shaped = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if not (missing or unexpected or shaped):
        model.load_state_dict(state, strict=True)
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} keys missing (e.g. {missing[0]})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected (e.g. {unexpected[0]})")
    if shaped:
        key = shaped[0]
        sizes = f"{tuple(state[key].shape)} for {tuple(own[key].shape)}"
        parts.append(f"{len(shaped)} of another shape (e.g. {key}: {sizes})")
    remedy = hint or "check model=, data.num_classes and data.in_chans"
    raise UserError(f"{source} is not a checkpoint of this model: {', '.join(parts)}; {remedy}")


def start(task, model: nn.Module, ckpt: str) -> dict:
    """Gives ``model`` the weights of ``init.ckpt`` as far as they fit; returns what was taken, for the manifest."""
    path = find(ckpt, "init.ckpt")
    found = load(path)
    counts = task.start_from(model, found.state, f"init.ckpt={path} {found.written_by}".strip())
    log.info(
        "starting from the %s weights of %s: %d tensors loaded, %d missing there (fresh), %d of it unused",
        "averaged" if found.kind == "ema" else "plain", path, counts["loaded"], counts["missing"], counts["unused"],
    )  # fmt: skip
    return {"ckpt": str(path), "weights": found.kind, **counts}


def fit_part(
    model: nn.Module, state: dict[str, torch.Tensor], source: str, needed: str, fresh: tuple[str, ...], hint: str
) -> dict[str, int]:
    """Loads what fits of ``state``; all of the names that begin with ``needed`` must, but for those with ``fresh``.

    Returns how many tensors were ``loaded``, are ``missing`` in ``state`` or of another shape, and are left ``unused``.
    Raises UserError, naming ``source``, when a needed one does not fit.
    """
    own = model.state_dict()
    fitting = {name: w for name, w in state.items() if name in own and own[name].shape == w.shape}
    must = [name for name in own if name.startswith(needed) and not name.startswith(fresh)]
    lost = [name for name in must if name not in fitting]
    if lost:
        name = lost[0]
        why = f"{tuple(state[name].shape)} for {tuple(own[name].shape)}" if name in state else "missing"
        raise UserError(f"{source} does not fit: {len(lost)} of {len(must)} weights, e.g. {name} ({why}); {hint}")
    model.load_state_dict(own | fitting)
    return {"loaded": len(fitting), "missing": len(own) - len(fitting), "unused": len(state) - len(fitting)}
