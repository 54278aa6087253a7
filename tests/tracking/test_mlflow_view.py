"""One run folder in MLflow: everything once, however often and wherever from it is sent."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vmamba import track
from vmamba.config.errors import UserError
from vmamba.tracking import describe, parent, store, system
from vmamba.tracking.atomic import read_json, write_json
from vmamba.tracking.folder import RunFolder, read_records
from vmamba.tracking.mlflow_view import View

COUNT = "select count(*) from metrics"
VALUES = 30 + 30 + 3 + 4  # loss, lr, val/acc1; final/val_acc1, best/val_acc1, best/epoch, result/images_per_s


def sync(folder, *words):
    return track.main(["sync", str(folder.path), *words])


def test_everything_arrives_once(outputs, make_run, query, capsys):
    folder, database = make_run(outputs / "a"), outputs / "mlflow.db"
    assert sync(folder) == 0
    assert f"{VALUES} new values" in capsys.readouterr().out
    assert sync(folder) == 0
    assert "0 new values" in capsys.readouterr().out
    assert query(database, COUNT) == [(VALUES,)]
    assert query(database, "select name, status from runs") == [("a", "FINISHED")]

    first, last = folder.read_status()["started"], folder.read_status()["ended"]
    assert query(database, "select start_time, end_time from runs") == [(int(first * 1000), int(last * 1000))]
    times = query(database, "select timestamp from metrics where key = 'train/loss' order by step")
    assert [t for (t,) in times] == [int(record["time"] * 1000) for record in folder.records()]

    tags = dict(query(database, "select key, value from tags"))
    wanted = {"model": "nano", "task": "cls", "forward_type": "v05", "norm": "ln2d", "scan": "auto", "data": "digits"}
    wanted |= {"op_backend": "cpu", "compiled": "reduce-overhead"}
    wanted |= {"seed": "3", "git_commit": "c0ffee", "git_dirty": "True", "run_folder": str(folder.path)}
    assert wanted.items() <= tags.items()
    params = dict(query(database, "select key, value from params"))
    assert tags["overrides"] == "model=nano seed=3" and params["model.depths"] == "[1, 2]"
    assert "overrides" not in params  # MLflow's compare page would show them as something that differs
    assert len(params["data.classes"]) == 500 and params["data.classes"].endswith(describe.CUT)
    assert params["forward_type.name"] == "v05" and "forward_type.use" not in params

    stored = {path.name for path in (outputs / "mlartifacts").rglob("*") if path.is_file()}
    assert stored == {"config.yaml", "overrides.yaml", "manifest.json", "result.json", "status.json"}


def test_pictures_arrive_as_they_are_drawn(outputs, make_run):
    folder = make_run(outputs / "a")
    view = View(folder, store.uri_of(folder, describe.config_of(folder))).open()

    def stored() -> list[str]:
        return sorted(path.name for path in (outputs / "mlartifacts").rglob("pictures/*"))

    view.deliver()
    assert stored() == []
    for step in (1, 2):
        folder.pictures.mkdir(exist_ok=True)
        (folder.pictures / f"step-{step:07d}.png").write_bytes(b"png")
        view.deliver()
        assert stored() == [f"step-{n:07d}.png" for n in range(1, step + 1)]


def test_weights_are_copied_if_so_configured(outputs, make_run):
    assert sync(make_run(outputs / "a", log_checkpoint=True)) == 0
    assert list((outputs / "mlartifacts").rglob("best.pt"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_between_sending_and_noting(outputs, make_run, query, when):
    folder, database = make_run(outputs / "a"), outputs / "mlflow.db"
    view = View(folder, store.uri_of(folder, describe.config_of(folder))).open()
    send = view.client.log_batch

    def die(*words, **named):
        if when == "after":
            send(*words, **named)
        raise KeyboardInterrupt

    view.client.log_batch = die
    view._told_of_manifest = True
    with pytest.raises(KeyboardInterrupt):
        view.deliver()
    assert query(database, COUNT) == [(63 if when == "after" else 0,)]
    assert sync(folder) == 0
    assert query(database, COUNT) == [(VALUES,)]
    assert query(database, "select count(*) from runs") == [(1,)]


def test_lost_notes_and_moved_folder_find_the_run_again(outputs, make_run, query, tmp_path):
    folder, database = make_run(outputs / "a"), outputs / "mlflow.db"
    assert sync(folder) == 0
    folder.mlflow.unlink()
    shutil.move(folder.path, tmp_path / "elsewhere")
    assert sync(RunFolder(tmp_path / "elsewhere")) == 0
    assert query(database, COUNT) == [(VALUES,)]
    assert query(database, "select count(*) from runs") == [(1,)]


def test_second_store_and_back(outputs, make_run, query, empty_store):
    folder, other = make_run(outputs / "a"), outputs / "other.db"
    shutil.copy(empty_store, other)
    for uri in (f"sqlite:///{other}", f"sqlite:///{outputs / 'mlflow.db'}", f"sqlite:///{other}"):
        assert sync(folder, "--uri", uri) == 0
    assert query(other, COUNT) == query(outputs / "mlflow.db", COUNT) == [(VALUES,)]


def test_growing_and_resumed_run(outputs, make_run, query):
    """Steps repeated after a resume are kept once, new ones are added, the status follows."""
    folder, database = make_run(outputs / "a", state="failed"), outputs / "mlflow.db"
    assert sync(folder) == 0
    assert query(database, "select status from runs") == [("FAILED",)]
    folder.write_status("running")
    with folder.writer(resume_step=20) as writer:
        for step in range(21, 41):
            writer.log(step, step / 10, {"train/loss": 9.0})
    view = View(folder, f"sqlite:///{database}").open()
    assert query(database, "select status from runs") == [("RUNNING",)]
    assert view.deliver() == 10
    folder.write_status("finished")
    view.close()
    rows = query(database, "select step from metrics where key = 'train/loss' order by step")
    assert rows == [(step,) for step in range(1, 41)]
    assert query(database, "select status from runs") == [("FINISHED",)]


def test_only_whole_lines_and_only_new_ones_are_read(outputs, make_run):
    folder = make_run(outputs / "a", steps=0, state="running")
    view = View(folder, f"sqlite:///{outputs / 'mlflow.db'}").open()
    line = '{"step": 1, "epoch": 0.1, "time": 1700000000.5, "metrics": {"x": "nan", "odd?key": 2}}\n'
    folder.metrics.write_text(line[:30])
    assert view.deliver() == 0
    folder.metrics.write_text(line + "not json\n" + line.replace('"step": 1', '"step": 2') + line[:9])
    assert view.deliver() == 4
    assert view.deliver() == 0


def test_many_records_go_in_large_batches(outputs, make_run, query):
    folder = make_run(outputs / "a", steps=1700, state="running")
    view = View(folder, f"sqlite:///{outputs / 'mlflow.db'}").open()
    sizes, send = [], view.client.log_batch

    def count(run_id, metrics=(), **named):
        sizes.append(len(metrics))
        send(run_id, metrics=metrics, **named)

    view.client.log_batch = count
    assert view.deliver() == 1700 * 2 + 170
    assert max(sizes) <= 1000 and len([size for size in sizes if size]) <= 5
    assert query(outputs / "mlflow.db", COUNT) == [(1700 * 2 + 170,)]


def test_changed_params_of_a_resume_become_a_tag(outputs, make_run, query):
    folder = make_run(outputs / "a")
    assert sync(folder) == 0
    folder.config.write_text(folder.config.read_text().replace("seed: 3", "seed: 4"))
    assert sync(folder) == 0
    tags = dict(query(outputs / "mlflow.db", "select key, value from tags"))
    assert tags["changed_on_resume"] == "seed: 3 -> 4"


def test_run_deleted_in_the_store_is_made_again_whole(outputs, make_run, query):
    folder = make_run(outputs / "a")
    (folder.checkpoints / "step_0000030.pt").write_bytes(b"weights")
    assert sync(folder) == 0
    view = View(folder, f"sqlite:///{outputs / 'mlflow.db'}").open()
    view.client.delete_run(view.run_id)
    assert sync(folder) == 0
    assert query(outputs / "mlflow.db", "select lifecycle_stage, count(*) from runs group by 1") == [
        ("active", 1),
        ("deleted", 1),
    ]
    (run,) = view.client.search_runs([view.state["experiment_id"]])
    assert [data.dataset.name for data in run.inputs.dataset_inputs] == ["digits-train", "digits-val"]
    assert [model.step for model in run.outputs.model_outputs] == [30]


def test_sync_of_a_dead_runs_folder_says_killed(outputs, make_run, query):
    folder = make_run(outputs / "a", state="running")
    status = read_json(folder.status)
    folder.status.write_text(folder.status.read_text().replace(f'"pid": {status["pid"]}', '"pid": 4194399'))
    assert sync(folder) == 0
    assert query(outputs / "mlflow.db", "select status from runs") == [("KILLED",)]
    assert folder.read_status()["state"] == "killed" and folder.curves.is_file()


def test_default_store_lies_in_the_outputs_folder(tmp_path):
    folder = RunFolder(tmp_path / "outputs" / "sweep" / "0")
    folder.path.mkdir(parents=True)
    config = {"outputs": str(tmp_path / "outputs")}
    assert store.uri_of(folder, config) == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert store.uri_of(folder, {"outputs": "/not/here"}) == f"sqlite:///{folder.path.parent}/mlflow.db"
    config["tracking"] = {"uri": "sqlite:///mine.db"}
    assert store.uri_of(folder, config) == f"sqlite:///{tmp_path}/outputs/mine.db"
    with pytest.raises(UserError, match="folder store is closed"):
        store.absolute("mlruns", tmp_path)


def test_a_folder_of_runs_delivers_what_is_not_there_yet(outputs, make_run, query, capsys):
    first = make_run(outputs / "a")
    assert sync(first) == 0
    make_run(outputs / "sweep-x" / "0", state="failed", uri=f"sqlite:///{outputs}/mlflow.db")
    RunFolder(outputs / "sweep-x" / "1").create().write_status("queued")
    capsys.readouterr()
    assert track.main(["sync", str(outputs)]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 runs were delivered before" in said and "sweep-x/0: 63 new values" in said and said.count("\n") == 2
    assert query(outputs / "mlflow.db", "select name, status from runs order by 1") == [
        ("a", "FINISHED"),
        ("sweep-x/0", "FAILED"),
    ]


def test_system_metrics_lie_in_the_run_folder_until_they_are_there(outputs, make_run, query, monkeypatch):
    folder = make_run(outputs / "a", state="running")
    monkeypatch.setattr(system, "SECONDS", 0.05)
    for _ in range(2):  # two lives of a run
        sampler = system.Sampler(folder)
        sampler.start()
        time.sleep(0.4)
        sampler.stop()
    steps = [record["step"] for record in read_records(folder.system)]
    assert steps == list(range(len(steps))) and len(steps) >= 4
    folder.write_status("finished")
    assert sync(folder) == 0 and sync(folder) == 0
    rows = query(outputs / "mlflow.db", "select step from metrics where key = 'system/cpu_utilization_percentage'")
    assert [step for (step,) in rows] == steps


def test_points_of_a_sweep_that_begin_at_once_make_one_parent_run(outputs, query):
    """Where the launcher could not make it."""
    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    client = store.connect(uri)
    experiment = store.experiment(client, uri, "exp", outputs)
    about = {"uid": "5eed", "command": [], "varied": ["seed"], "points": 8, "created": 1.7e9, "name": "sweep-x"}
    write_json(outputs / "sweep.json", about)
    with ThreadPoolExecutor(8) as points:
        told = list(points.map(lambda _: parent.ensure(client, uri, experiment, outputs / "sweep.json"), range(8)))
    assert query(outputs / "mlflow.db", "select run_uuid, name from runs") == [(told[0], "sweep-x")]
    assert len(set(told)) == 1
