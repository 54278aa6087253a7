"""Showing a run folder in MLflow, as often as one likes: what the store has is never sent again.

``mlflow.json`` in the run folder notes, for every store, the run's id, how far the records have gone in, and the last
step of every metric there. The notes are trusted only if they were closed cleanly; otherwise, or without them, the
store itself is asked: for the run by its ``vmamba.uid`` tag, for the last step of each of its metrics.

A run gone on with from a checkpoint repeats some steps: the store keeps its first record of them.
"""

import time
from pathlib import Path

from vmamba.tracking import describe, models, parent, store
from vmamba.tracking.atomic import read_json, write_json
from vmamba.tracking.batches import BATCH, START, batches
from vmamba.tracking.folder import RunFolder

UID = "vmamba.uid"
PARAMS = 100
UPLOAD_SECONDS = 120


class View:
    """One run folder in one store. Every method raises ``NotDelivered`` where the store fails; just make a new View."""

    def __init__(self, folder: RunFolder, uri: str):
        self.folder, self.uri = folder, uri
        self.config = describe.config_of(folder)
        self.notes = read_json(folder.mlflow)
        self.state: dict = self.notes.setdefault("stores", {}).setdefault(uri, {})
        self.client = None
        self._told_of_manifest = self._has_error = False

    @property
    def run_id(self) -> str:
        return self.state["run_id"]

    def open(self) -> "View":
        """Connects, finds or makes the run, and tells its params, tags and configuration."""
        with store.refusals(self.uri):
            self.client = store.connect(self.uri)
            tracking = self.config.get("tracking") or {}
            outputs = store.outputs_of(self.folder, self.config)
            name = tracking.get("experiment") or "vmamba"
            self.state["experiment_id"] = store.experiment(self.client, self.uri, name, outputs)
            run = self._find() or self._create(tracking.get("run_name") or describe.run_name(self.folder))
            if self.state.get("run_id") != run.info.run_id:
                self.state |= {"data": False, "models": {}, "open": True}  # another run has none of either yet
            if self.state.get("open", True):
                steps = {metric.key: metric.step for metric in run.data._metric_objs}
                self.state |= {"run_id": run.info.run_id, "steps": steps, "read": {}}
            self.state["open"] = True
            self._save()
            if self._status() == "RUNNING" != run.info.status:
                self.client.update_run(self.run_id, status="RUNNING")
            self._has_error = "error" in run.data.tags
            self._describe(dict(run.data.params))
            self._upload(self.folder.config, self.folder.overrides)
        return self

    def deliver(self) -> int:
        """Sends the records that the store does not have; returns how many values that were."""
        with store.refusals(self.uri):
            if not self._told_of_manifest and self.folder.manifest.is_file():
                self._tell_of_manifest()
            sent, read = 0, self.state.setdefault("read", {})
            for path in (self.folder.metrics, self.folder.system):
                for points, place in batches(path, read.get(path.name, START), self.state["steps"]):
                    self._log(points)
                    sent += len(points)
                    read[path.name] = place
                    self._save()
            self._upload(*sorted(self.folder.pictures.glob("*.png")), under="pictures")
            return sent

    def close(self) -> int:
        """Sends the rest, the final numbers, the artifacts and the status; returns how many values were sent."""
        sent = self.deliver()
        with store.refusals(self.uri):
            sent += self._finals()
            self._tell_of_manifest()
            self._upload(self.folder.result, self.folder.status, self.folder.curves, self.folder.log)
            status = self._status()
            if status == "RUNNING":
                self.client.update_run(self.run_id, status=status)
            else:
                ended = self.folder.read_status().get("ended", time.time())
                self.client.set_terminated(self.run_id, status, int(ended * 1000))
            if (self.config.get("tracking") or {}).get("log_checkpoint", False):
                self._upload(*sorted(self.folder.checkpoints.glob("best*")), under="checkpoints")
            self.state["open"] = False
            self._save()
        return sent

    def where(self) -> str:
        """Where to look at the run: a page of the server, or the command that opens the store."""
        if self.uri.startswith("http"):
            base = self.uri.rstrip("/")
            return f"{base}/#/experiments/{self.state['experiment_id']}/runs/{self.run_id}"
        path = store.sqlite_path(self.uri)
        if path is None:
            return f"run {self.run_id} in {self.uri}"
        there = f" {path.parent}" if path.name == "mlflow.db" else f" --uri {self.uri}"
        return f"run {self.folder.name} in {path} (open it: python -m vmamba.track ui{there})"

    def _find(self):
        known = self.state.get("run_id")
        if known:
            found = self._active(known)
            if found is not None:
                return found
        query = f"tags.`{UID}` = '{self.folder.uid}'"
        runs = self.client.search_runs([self.state["experiment_id"]], query, max_results=1)
        return runs[0] if runs else None

    def _active(self, run_id: str):
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _create(self, name: str):
        status = self.folder.read_status()
        started = status.get("started") or status.get("created") or time.time()
        tags = {UID: self.folder.uid} | describe.tags(self.folder)
        sweep = self.folder.path.parent / "sweep.json"
        if above := parent.ensure(self.client, self.uri, self.state["experiment_id"], sweep):
            tags[parent.PARENT] = above
        return self.client.create_run(self.state["experiment_id"], int(started * 1000), tags, name)

    def _status(self) -> str:
        state = self.folder.read_status().get("state")
        return describe.STATES.get(state, "FINISHED" if self.folder.result.is_file() else "RUNNING")

    def _describe(self, stored: dict[str, str]) -> None:
        """Sends params that are not there yet; one whose value changed (a resume with overrides) goes into a tag."""
        from mlflow.entities import Param

        wanted = describe.params(self.folder)
        new = [Param(key, value) for key, value in wanted.items() if key not in stored]
        for start in range(0, len(new), PARAMS):
            self.client.log_batch(self.run_id, params=new[start : start + PARAMS])
        changed = [f"{k}: {stored[k]} -> {v}" for k, v in wanted.items() if stored.get(k, v) != v]
        if changed:
            self.client.set_tag(self.run_id, "changed_on_resume", "; ".join(changed)[:5000])

    def _tell_of_manifest(self) -> None:
        from mlflow.entities import RunTag

        told = [RunTag(key, value) for key, value in describe.tags(self.folder).items()]
        for start in range(0, len(told), PARAMS):
            self.client.log_batch(self.run_id, tags=told[start : start + PARAMS])
        if self._has_error and self._status() == "FINISHED":
            self.client.delete_tag(self.run_id, "error")
            self._has_error = False
        self._upload(self.folder.manifest)
        if not self.state.get("data") and (data := describe.datasets(self.folder)):
            self.client.log_inputs(self.run_id, data)
            self.state["data"] = True
        self._told_of_manifest = self.folder.manifest.is_file()

    def _finals(self) -> int:
        from mlflow.entities import Metric

        if self._status() != "FINISHED":
            return 0
        step = max([0, *(s for key, s in self.state["steps"].items() if not key.startswith("system/"))])
        when = int(self.folder.read_status().get("ended", time.time()) * 1000)
        found = describe.final_metrics(self.folder)
        new = {key: value for key, value in found.items() if self.state["steps"].get(key, -1) < step}
        made = self._models()
        self._log([Metric(k, v, when, step, model_id=made.get(k.split("/")[0])) for k, v in new.items()])
        return len(new)

    def _models(self) -> dict[str, str]:
        """The ids of the run's logged models by kind, which are what their metrics' names begin with."""
        noted = self.state.setdefault("models", {})
        wanted = {kind: step for kind, (_, step) in models.kept(self.folder).items()}
        if noted.get("steps") != wanted:
            found = models.register(self.client, self.run_id, self.state["experiment_id"], self.folder, self.config)
            noted |= {"steps": wanted, "ids": found}
            self._save()
        return noted["ids"]

    def _log(self, points: list) -> None:
        for start in range(0, len(points), BATCH):
            part = points[start : start + BATCH]
            self.client.log_batch(self.run_id, metrics=part)
            self.state["steps"] |= {point.key: point.step for point in part}

    def _upload(self, *paths: Path, under: str | None = None) -> None:
        """Stores files that are there and have changed since they were last stored."""
        sent = self.state.setdefault("artifacts", {})
        for path in paths:
            if not path.is_file() or path.name.startswith("."):
                continue
            stat, name = path.stat(), str(path.relative_to(self.folder.path))
            mark = [self.run_id, stat.st_size, stat.st_mtime_ns]
            if sent.get(name) == mark:
                continue
            with store.patience(UPLOAD_SECONDS):
                self.client.log_artifact(self.run_id, str(path), under)
            sent[name] = mark
            self._save()

    def _save(self) -> None:
        write_json(self.folder.mlflow, self.notes)
