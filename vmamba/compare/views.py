"""A sweep's own page in MLflow: a saved view of the experiment with the columns that matter, best run first.

What the experiment page has by itself shows no metric and folds the points under their parent. A saved view is a tag of
the experiment whose value holds the page's state; "Save as new view" in MLflow 3.17 writes the same. Its form is not
documented: ``tests/browser`` holds it against the MLflow that is installed.
"""

import base64
import json
import time
import zlib
from collections.abc import Sequence

from vmamba.compare.points import MEASURES, Point
from vmamba.compare.report import Report
from vmamba.tracking import parent
from vmamba.tracking.describe import key_name

TAG = "mlflow.sharedViewState."
AXES = 20  # of a sweep that get a column: a tag has room for 5,000 characters


def save(client, experiment_id: str, run_id: str, name: str, points: list[Point], done: Report) -> None:
    """Saves the view ``name`` on the points under the run ``run_id``, sorted by the report's metric."""
    metric = f"best/{done.metric.replace('/', '_')}"
    shown = columns(points, done.axes, metric)
    state = {
        "searchFilter": f"tags.`{parent.PARENT}` = '{run_id}'",
        "orderByKey": _column("metrics", metric),
        "orderByAsc": not done.higher,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": shown,
        "columnOrder": [_column("attributes", "Run Name"), *shown],
        "columnWidths": {name: 65 + 7 * len(name.partition("`")[2]) for name in shown},
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    now = int(time.time() * 1000)
    view = {"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    client.set_experiment_tag(experiment_id, TAG + run_id, json.dumps(view))


def address(base: str, experiment_id: str, run_id: str) -> str:
    """The page of the view on the points under ``run_id``."""
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?viewStateShareKey={run_id}"


def columns(points: list[Point], axes: Sequence[str], metric: str) -> list[str]:
    """The metric, the axes as the params they are, and what was measured of any run; MLflow itself has the duration."""
    measured = [name for name in MEASURES if name != "seconds" and any(name in point.measures for point in points)]
    config = points[0].config
    params = [key if key in config else f"{key}.name" for key in axes[:AXES]]
    took = [_column("metrics", f"result/{name}") for name in measured]
    return [_column("metrics", metric), *(_column("params", name) for name in params), *took]


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{key_name(name)}`"
