"""The report and MLflow: beside the parent run, when the store is gone or another's, and runs whose process died."""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from folders import submit, write_run, write_sweep

from vmamba.compare.__main__ import main
from vmamba.compare.make import where
from vmamba.launch.folder import SweepFolder
from vmamba.tracking import store
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.mlflow_view import View


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An sqlite store with nothing in it, made once."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    store.connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(tmp_path, empty_store) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def sweep(tmp_path) -> Path:
    return write_sweep(tmp_path / "sweep-demo")


def test_the_report_and_a_view_are_beside_the_parent_run(sweep, uri, tmp_path, capsys):
    client = store.connect(uri)
    experiment = store.experiment(client, uri, "vmamba", tmp_path)
    run = client.create_run(experiment).info.run_id
    submit(sweep, uri, stores={uri: run})
    assert main([str(sweep)]) == 0
    stored = {file.path for file in client.list_artifacts(run, "report")}
    assert stored == {"report/report.md", "report/report.csv", "report/report.html"}
    (tag,) = (value for key, value in client.get_experiment(experiment).tags.items() if key.endswith(run))
    assert json.loads(tag)["name"] == "sweep-demo"
    said = capsys.readouterr()
    pages = [line for line in said.out.splitlines() if line.startswith("MLflow, ")]
    assert pages == where(SweepFolder(sweep))[1:3]
    assert "compare the 6 runs that have a result: http://127.0.0.1:5000/#/compare-runs?runs=%5B%22r0%22" in pages[0]
    assert "r5" in pages[0] and "r6" not in pages[0]  # it failed
    assert f"viewStateShareKey={run}" in pages[1] and said.err == ""
    assert "vmamba -m seed=0,1,2" in (sweep / "report" / "report.md").read_text()


def test_a_store_that_moved_with_its_runs_is_found_and_one_that_did_not_is_named(sweep, uri, tmp_path, capsys):
    client = store.connect(uri)
    store.experiment(client, uri, "vmamba", tmp_path)
    submit(sweep, "sqlite:////where/it/was/mlflow.db", stores={"sqlite:////where/it/was/mlflow.db": "r"})
    assert main([str(sweep / "0"), "--out", str(tmp_path / "a")]) == 0
    assert f"(start it first: python -m vmamba.track ui {tmp_path})" in capsys.readouterr().out
    (tmp_path / "mlflow.db").unlink()
    assert main([str(sweep)]) == 0
    shown = capsys.readouterr()
    assert "MLflow, " not in shown.out and "/where/it/was/mlflow.db: MLflow's file is not here" in shown.err
    assert not Path("/where").exists()


def test_a_sweep_submitted_while_the_store_was_down_gets_its_parent_now(sweep, uri, tmp_path):
    client = store.connect(uri)
    store.experiment(client, uri, "vmamba", tmp_path)
    submit(sweep, uri)
    assert main([str(sweep)]) == 0
    (parent,) = client.search_runs(["1"])
    assert parent.data.tags["kind"] == "sweep"
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["report"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [("server", "no MLflow server answers at http://127.0.0.1:9"), ("version", "made by another MLflow than this")],
)
def test_a_store_that_fails_is_one_line_and_the_rest_is_shown(spoil, said, sweep, uri, capsys):
    if spoil == "version":
        with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
            database.execute("update alembic_version set version_num = 'abc123'")
    submit(sweep, "http://127.0.0.1:9" if spoil == "server" else uri)
    assert main([str(sweep)]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and said in shown.err
    assert "| 4 | 3 | 82.13 ± 0.15 |" in shown.out
    assert said in (sweep / "report" / "report.html").read_text()


def test_runs_of_a_filter_that_cannot_be_asked_are_one_line_and_the_folders_are_shown(sweep, capsys):
    assert main([str(sweep), "--filter", "tags.x = 'y'", "--uri", "http://127.0.0.1:9"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and "no MLflow server answers" in shown.err and "7 runs" in shown.out


def test_runs_of_a_filter_and_of_ids(tmp_path, uri, capsys):
    for number in range(3):
        folder = tmp_path / str(number)
        write_run(folder, {"seed": number, "tracking.uri": uri}, 80.0 + number)
        View(RunFolder(folder), uri).open().close()
    ids = {run.data.tags["seed"]: run.info.run_id for run in store.connect(uri).search_runs(["1"])}
    assert main(["--uri", uri, "--filter", "tags.seed != '2'", "--out", str(tmp_path / "a")]) == 0
    assert "2 runs: 2 finished" in capsys.readouterr().out
    assert main(["--uri", uri, "--runs", f"{ids['0']},{ids['2']}", "--out", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "2 runs: 2 finished" in out and ids["2"] in out and ids["1"] not in out
    for words, part in ((["--filter", "nonsense"], "Invalid"), (["--runs", "abc"], "not found")):
        assert main(["--uri", uri, *words]) == 2
        err = capsys.readouterr().err
        assert part in err and err.count("\n") == 1


def test_a_run_whose_process_and_feeder_died_ends_in_the_folder_and_in_mlflow(sweep, uri, tmp_path, capsys):
    """A lost machine: nobody was left to say so, and the launcher's process is gone too."""
    write_run(sweep / "7", {"model.d_state": 1, "seed": 3, "tracking.uri": uri}, None, state="running")
    status = json.loads((sweep / "7" / "status.json").read_text())
    (sweep / "7" / "status.json").write_text(json.dumps(status | {"pid": 4194399, "host": "a-node-that-is-gone"}))
    folder = RunFolder(sweep / "7")
    View(folder, uri).open().deliver()
    client = store.connect(uri)
    (run,) = client.search_runs(["1"], "attributes.status = 'RUNNING'")
    notes = json.loads(folder.mlflow.read_text()) | {"delivered": False, "message": ""}
    submit(sweep)
    folder.mlflow.write_text(json.dumps(notes))
    assert main([str(sweep)]) == 0
    assert client.get_run(run.info.run_id).info.status == "KILLED"
    assert folder.read_status()["state"] == "killed"
    assert "was still noted as running, is killed now; delivered to MLflow" in capsys.readouterr().err
    assert main([str(sweep)]) == 0
    assert "still noted" not in capsys.readouterr().err


def test_a_point_between_two_lives_is_left_to_its_launcher(sweep, capsys):
    """Killed, and not yet put back in the queue: the process that hands out the points is alive."""
    status = {"state": "running", "uid": "u", "pid": 4194399, "host": socket.gethostname()}
    for number in (0, 1):
        (sweep / str(number) / "status.json").write_text(json.dumps(status))
    submit(sweep)
    lines = (sweep / "jobs.jsonl").read_text().splitlines()
    launcher = subprocess.Popen([sys.executable, "-c", "input()", "vmamba"], stdin=subprocess.PIPE)
    lines[0] = lines[0].replace("4194399.0", f"{launcher.pid}.0")
    (sweep / "jobs.jsonl").write_text("\n".join(lines) + "\n")
    try:
        assert main([str(sweep)]) == 0
    finally:
        launcher.communicate(b"\n")
    states = [json.loads((sweep / str(number) / "status.json").read_text())["state"] for number in (0, 1)]
    assert states == ["running", "killed"]
    assert "7 runs: 4 finished, 1 running, 1 killed, 1 failed" in capsys.readouterr().out


def test_a_run_sent_elsewhere_by_itself_gets_no_parent(tmp_path, uri):
    write_run(tmp_path / "alone", {"tracking.uri": uri, "tracking.experiment": "vmamba"}, None, state="queued")
    submit(tmp_path / "alone")
    command = [sys.executable, "-m", "vmamba.tracking.parent", str(tmp_path / "alone")]
    assert subprocess.run(command, input=".\n", text=True).returncode == 0
    client = store.connect(uri)
    assert client.get_experiment("1").name == "vmamba" and client.search_runs(["1"]) == []


def test_a_sweep_that_is_not_over_says_how_far_it_is(sweep, capsys):
    for number, state in ((0, "queued"), (1, "running")):
        (sweep / str(number) / "status.json").write_text(json.dumps({"state": state, "uid": "u"}))
        (sweep / str(number) / "result.json").unlink()
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "7 runs: 4 finished, 1 running, 1 queued, 1 failed." in out and "| 1 | 1 of 3 | 80.20 |" in out
    assert "- 1: running (" in out


def test_a_folder_that_is_not_there_is_one_line_and_the_others_are_shown(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(sweep), "nowhere"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and "nowhere: no such folder" in shown.err and "7 runs" in shown.out
