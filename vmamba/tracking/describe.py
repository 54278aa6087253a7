"""What MLflow is told of a run besides its curves: params, tags and final numbers, taken from the run folder."""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from vmamba.config.errors import UserError
from vmamba.tracking.atomic import read_json
from vmamba.tracking.folder import RunFolder

LONGEST = 500
# keys that explain a choice to a reader, and would differ wherever the choice does
PROSE = ("forward_type.what", "forward_type.use", "norm.what", "norm.use", "data.how_to_get")
CUT = "… (cut; whole in config.yaml)"
STATES = {"queued": "SCHEDULED", "running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


def config_of(folder: RunFolder) -> dict:
    """The resolved configuration of a run folder; empty if it has none."""
    return _yaml(folder.config, dict) or {}


def params(folder: RunFolder) -> dict[str, str]:
    """Every setting of the configuration as a param ("model.depths": "[2, 2, 5, 2]"): MLflow compares runs by these."""
    settings = {name: value for name, value in flat(config_of(folder)).items() if name not in PROSE}
    found = {key_name(name): _text(value) for name, value in settings.items()}
    return {
        name: value if len(value) <= LONGEST else value[: LONGEST - len(CUT)] + CUT for name, value in found.items()
    }


def run_name(folder: RunFolder) -> str:
    """The run's name in MLflow, whose tables cut names: of a point its number and what it is on each axis, in short."""
    axes = {key.removeprefix("axis."): value for key, value in _place(folder).items() if key.startswith("axis.")}
    if not axes:
        return folder.name
    return " ".join([folder.path.name, *(f"{short(key)}={value}" for key, value in axes.items())])[:250]


def short(key: str) -> str:
    """The last part of a dotted key: ``d_state`` for ``model.d_state``; ``model`` for ``model.name``."""
    parts = key.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]


def tags(folder: RunFolder) -> dict[str, str]:
    """What runs are searched and grouped by: in a sweep its name and "axis.KEY". Git comes with the manifest."""
    config, manifest = config_of(folder), read_json(folder.manifest)
    git = manifest.get("git") or {}
    hardware = manifest.get("hardware") or {}
    named = {
        group: (config.get(group) or {}).get("name")
        for group in ("model", "task", "forward_type", "norm", "data", "recipe")
    }
    found = {
        **named,
        **_place(folder),
        "overrides": " ".join(_words(folder)) or "(none)",
        "scan": (config.get("scan") or {}).get("backend"),
        "op_backend": manifest.get("op_backend"),  # what scan=auto came to
        "compiled": manifest.get("compiled"),  # what compile_mode=auto did
        "seed": config.get("seed"),
        "mode": config.get("mode"),
        "run_folder": str(folder.path),
        "git_commit": git.get("commit"),
        "git_dirty": git.get("dirty"),
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.name": "vmamba.run",
        "mlflow.source.type": "LOCAL",
        "device": (hardware.get("gpus") or [hardware.get("cpu")])[0],
        "host": hardware.get("host"),
        "error": folder.read_status().get("error"),
        **((config.get("tracking") or {}).get("tags") or {}),
    }
    return {key_name(name): _text(value)[:5000] for name, value in found.items() if value is not None}


def _words(folder: RunFolder) -> list[str]:
    return [str(word) for word in _yaml(folder.overrides, list) or []]


def _place(folder: RunFolder) -> dict[str, str]:
    """The sweep the run is a point of, and its value on every axis."""
    sweep = read_json(folder.path.parent / "sweep.json")
    asked = dict(word.lstrip("+").partition("=")[::2] for word in _words(folder))
    axes = {f"axis.{key}": asked[key] for key in sweep.get("varied", []) if key in asked}
    return {"sweep": sweep["name"], **axes} if sweep.get("name") else {}


def final_metrics(folder: RunFolder) -> dict[str, float]:
    """The numbers of ``result.json``: "final/val_acc1", "best/val_acc1", "result/images_per_s"."""
    found = {}
    for name, value in read_json(folder.result).items():
        group = {name: value} if not isinstance(value, dict) else flat(value)
        prefix = name if isinstance(value, dict) else "result"
        for key, number in group.items():
            if (isinstance(number, int | float) and not isinstance(number, bool)) or number in ("nan", "inf", "-inf"):
                found[key_name(f"{prefix}/{key.replace('/', '_')}")] = float(number)
    return found


def datasets(folder: RunFolder) -> list:
    """The data sets of the manifest as MLflow's dataset inputs: name, digest (what the fingerprint says), context."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = read_json(folder.manifest).get("data") or {}
    root = (config_of(folder).get("data") or {}).get("root")
    found = []
    for split, context in (("train", "training"), ("val", "evaluation")):
        if facts := data.get(split):
            text = json.dumps(facts, sort_keys=True)
            name = f"{data.get('name', 'data')}-{split}"
            digest = sha256(text.encode()).hexdigest()[:36]  # MLflow's longest
            source = json.dumps({"uri": str(root) if root else "embedded"})
            dataset = Dataset(name, digest, "local", source, profile=text)
            found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return found


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """A nested dictionary with dotted keys; empty ones and lists stay values."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def key_name(name: str) -> str:
    """``name`` in the characters MLflow allows in a key, at most 250 of them."""
    return re.sub(r"[^\w./ :-]", "_", str(name))[:250]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, list | dict) else str(value)


def _yaml(path: Path, kind: type) -> Any:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not readable as YAML ({str(error).splitlines()[0]})") from error
    if value is not None and not isinstance(value, kind):
        raise UserError(f"{path}: expected a {kind.__name__}, found a {type(value).__name__}")
    return value
