"""Holding what MLflow has of runs against their folders: is every value there, once, and did every run end well?"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from vmamba.tracking.describe import key_name
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.mlflow_view import UID


@dataclass
class Delivered:
    """Counts over all runs: ``values`` in their metrics.jsonl, and how many of those MLflow lacks or has twice."""

    runs: int = 0
    values: int = 0
    lost: int = 0
    doubled: int = 0
    other: int = 0  # there under the right step with another number
    runs_missing: int = 0
    runs_doubled: int = 0
    runs_failed: int = 0

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost + self.doubled + self.other + self.runs_missing + self.runs_doubled + self.runs_failed)


def check(client, experiment: str, folders: Iterable[RunFolder]) -> Delivered:
    """Asks the store for every value. ``client``: an ``MlflowClient``; ``experiment``: the experiment's name."""
    found = Delivered()
    there = client.get_experiment_by_name(experiment)
    for folder in folders:
        found.runs += 1
        runs = client.search_runs([there.experiment_id], f"tags.`{UID}` = '{folder.uid}'") if there else []
        found.runs_missing += not runs
        found.runs_doubled += len(runs) > 1
        found.runs_failed += bool(runs) and runs[0].info.status != "FINISHED"
        wanted = {(key_name(k), r["step"]): v for r in folder.records() for k, v in r["metrics"].items()}
        found.values += len(wanted)
        stored = _stored(client, runs[0].info.run_id, {key for key, _ in wanted}) if runs else []
        counts, values = Counter(place for place, _ in stored), dict(stored)
        found.lost += sum(place not in counts for place in wanted)
        found.doubled += sum(count - 1 for count in counts.values())
        found.other += sum(place in values and values[place] != value for place, value in wanted.items())
    return found


def _stored(client, run_id: str, keys: set[str]) -> list[tuple[tuple[str, int], float]]:
    """((metric, step), value) of everything the store has of these metrics."""
    points = [point for key in keys for point in client.get_metric_history(run_id, key)]
    return [((point.key, point.step), point.value) for point in points]
