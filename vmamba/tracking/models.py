"""The checkpoints that a finished run keeps, as MLflow's logged models: searchable, comparable, linked to run and step.

A model is "external" in MLflow's sense: the weights stay in the run folder (its tag ``file``), or lie among the run's
artifacts where ``tracking.log_checkpoint`` puts them; nothing is copied to make one.
"""

import re
from pathlib import Path

from vmamba.tracking.atomic import read_json
from vmamba.tracking.folder import RunFolder

STEP = re.compile(r"step_(\d+)\.pt")
PARAMS = ("model", "forward_type", "norm", "data", "recipe", "task")


def kept(folder: RunFolder) -> dict[str, tuple[Path, int]]:
    """Files and their steps: ``best`` the weights of the best evaluation, ``final`` the last training checkpoint."""
    found = {}
    best, step = folder.checkpoints / "best.pt", (read_json(folder.result).get("best") or {}).get("step")
    if best.is_file() and isinstance(step, int):
        found["best"] = best, step
    if last := max(folder.checkpoints.glob("step_*.pt"), default=None, key=_step):
        found["final"] = last, _step(last)
    return found


def register(client, run_id: str, experiment_id: str, folder: RunFolder, config: dict) -> dict[str, str]:
    """Makes the models of ``kept`` that MLflow does not have; returns the ids by kind. Called again it does no more.

    One whose file has been replaced (the run went on and did better) is deleted.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

    files, found = kept(folder), {}
    for model in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        kind, step = model.tags.get("kept"), model.tags.get("step")
        if kind in files and step == str(files[kind][1]):
            found[kind] = model.model_id
        elif kind:
            client.delete_logged_model(model.model_id)
    names = {group: str((config.get(group) or {}).get("name")) for group in PARAMS if config.get(group)}
    for kind, (path, step) in files.items():
        if kind in found:
            continue
        tags = {MLFLOW_MODEL_IS_EXTERNAL: "true", "kept": kind, "step": str(step), "file": str(path)}
        name = re.sub(r"[/:.%\"']", "_", f"{names.get('model', 'model')}-{kind}")
        model = client.create_logged_model(experiment_id, name, run_id, tags, names, model_type="checkpoint")
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
        found[kind] = model.model_id
    return found


def _step(path: Path) -> int:
    match = STEP.fullmatch(path.name)
    return int(match[1]) if match else -1
