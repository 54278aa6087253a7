"""Run folders as a sweep leaves them, with chosen scores."""

import json
from pathlib import Path

import yaml


def write_run(
    folder: Path, asked: dict, score: float | None, *, state="finished", error="", steps=20, **result
) -> None:
    """A run folder: ``asked`` become its overrides and its configuration, ``score`` its best val/acc1 (None: none)."""
    folder.mkdir(parents=True)
    config: dict = {"name": "demo", "seed": 0, "task": {"name": "cls", "metric": "val/acc1", "higher_is_better": True}}
    for key, value in asked.items():
        node, *leaf = key.split(".")
        if leaf:
            config.setdefault(node, {})[leaf[0]] = value
        else:
            config[node] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(
        yaml.safe_dump([f"{key}={json.dumps(value)}" for key, value in asked.items()])
    )
    status = {"state": state, "uid": folder.name} | ({"error": error} if error else {})
    (folder / "status.json").write_text(json.dumps(status))
    with open(folder / "metrics.jsonl", "w") as file:
        for step in range(1, steps + 1):
            metrics = {"train/loss": 1 / step} | ({"val/acc1": (score or 1) * step / steps} if step % 5 == 0 else {})
            file.write(json.dumps({"step": step, "epoch": step / 10, "time": 1e9 + step, "metrics": metrics}) + "\n")
    if score is not None:
        found = {"metric": "val/acc1", "best": {"val/acc1": score}, "final": {"val/acc1": score, "val/loss": 1.0}}
        (folder / "result.json").write_text(json.dumps(found | {"seconds": 3.0, "params": 2e6} | result))


def write_sweep(root: Path) -> Path:
    """Two widths of the state by three seeds, and one more that failed."""
    number = 0
    for state, scores in ((1, (80.0, 80.4, 80.2)), (4, (82.0, 82.3, 82.1))):
        for seed, score in enumerate(scores):
            asked = {"model.d_state": state, "seed": seed, "log_every": 10 + number}
            write_run(root / str(number), asked, score, images_per_s=1000 / state)
            number += 1
    write_run(root / "6", {"model.d_state": 16, "seed": 0, "log_every": 99}, None, state="failed", error="loss is nan")
    return root


def submit(root: Path, uri: str = "", **info) -> None:
    """Makes of ``root`` a sweep that a pool, gone by now, has run; its points are known in the store ``uri``."""
    lines = []
    for folder in sorted(path for path in root.iterdir() if path.name.isdigit()):
        line = {"point": int(folder.name), "attempt": 1, "launcher": "subprocess", "job": f"4194399.{folder.name}"}
        lines.append(line | {"overrides": [], "folder": folder.name, "log": f"logs/{folder.name}.log", "time": 1.0})
        if uri:
            state = {"run_id": f"r{folder.name}", "experiment_id": "1"}
            (folder / "mlflow.json").write_text(json.dumps({"delivered": True, "stores": {uri: state}}))
    (root / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    about = {"uid": "u", "name": root.name, "created": 1.0, "command": ["-m", "seed=0,1,2"], "varied": [], "points": 7}
    (root / "sweep.json").write_text(json.dumps(about | info))
