"""The feeder beside a training process: success, failure, SIGKILL, a dead server, Ctrl-C."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from types import SimpleNamespace

import pytest

from vmamba import track
from vmamba.tracking import follower
from vmamba.tracking.atomic import read_json
from vmamba.tracking.feeder import Feeder, owner, settle
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.mlflow_view import View
from vmamba.tracking.process import BOOT, born
from vmamba.tracking.refusals import Busy, NotDelivered

TRAINER = """
import os, signal, sys, time
from types import SimpleNamespace
from vmamba.tracking.feeder import Feeder
from vmamba.tracking.folder import RunFolder

folder, how = RunFolder(sys.argv[1]), sys.argv[2]
folder.write_status("running")
feeder = Feeder(folder, SimpleNamespace(store="mlflow")).start()
writer = folder.writer()
for step in range(1, 51):
    writer.log(step, step / 10, {"train/loss": 1 / step})
if how == "kill":
    os.fork() or time.sleep(1.5) or os._exit(0)  # a worker that holds the pipe for a while
    os.kill(os.getpid(), signal.SIGKILL)
if how == "interrupt":
    try:
        time.sleep(30)
    except KeyboardInterrupt:
        folder.write_status("killed", error="interrupted")
        print(feeder.finish(200).message)
        sys.exit(130)
writer.close()
folder.write_status("finished" if how == "finish" else "failed")
outcome = feeder.finish(200)
print(outcome.message)
if how == "raise":
    raise ValueError("boo")
"""
EXPECTED = {"finish": "FINISHED", "raise": "FAILED", "kill": "KILLED", "interrupt": "KILLED"}


def wait_for(condition, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def four_runs(tmp_path_factory, make_config):
    """Four trainers started at once on an outputs folder without a store; (outputs, output of each)."""
    outputs = tmp_path_factory.mktemp("outputs")
    trainers = {}
    for how in EXPECTED:
        folder = RunFolder(outputs / how).create()
        folder.write_config(make_config(outputs), [])
        command = [sys.executable, "-c", TRAINER, str(folder.path), how]
        trainers[how] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    interrupted = RunFolder(outputs / "interrupt")
    wait_for(lambda: len(list(interrupted.records())) == 50 and interrupted.mlflow.is_file())
    os.killpg(trainers["interrupt"].pid, signal.SIGINT)
    said = {how: trainer.communicate(timeout=250)[0] for how, trainer in trainers.items()}
    wait_for(lambda: read_json(outputs / "kill" / "mlflow.json").get("delivered"))
    return outputs, said, {how: trainer.returncode for how, trainer in trainers.items()}


@pytest.mark.parametrize("how", EXPECTED)
def test_each_end_has_its_status_and_all_its_records(four_runs, query, how):
    outputs, said, codes = four_runs
    database = outputs / "mlflow.db"
    assert query(database, f"select status from runs where name = '{how}'") == [(EXPECTED[how],)]
    rows = query(database, f"select step from metrics join runs using (run_uuid) where name = '{how}' order by 1")
    assert rows == [(step,) for step in range(1, 51)]
    assert codes[how] == {"finish": 0, "raise": 1, "kill": -9, "interrupt": 130}[how]
    if how == "kill":
        assert "SIGKILL" in RunFolder(outputs / "kill").read_status()["error"]
    else:
        assert said[how].startswith("MLflow: run ") and "vmamba.track ui" in said[how]


def test_store_made_by_four_at_once_is_sound_and_in_wal_mode(four_runs, query):
    outputs = four_runs[0]
    assert query(outputs / "mlflow.db", "pragma integrity_check") == [("ok",)]
    assert query(outputs / "mlflow.db", "pragma journal_mode") == [("wal",)]
    assert query(outputs / "mlflow.db", "select count(*) from experiments where name = 'exp'") == [(1,)]


def test_dead_server_costs_nothing_and_a_later_sync_delivers(outputs, make_run, query):
    folder = make_run(outputs / "a", state="running", uri="http://127.0.0.1:9")
    began = time.monotonic()
    feeder = Feeder(folder, SimpleNamespace(store="mlflow")).start()
    with folder.writer() as writer:
        for step in range(31, 131):
            writer.log(step, step / 10, {"train/loss": 1.0})
    assert time.monotonic() - began < 1.0
    folder.write_status("finished")
    outcome = feeder.finish(timeout=60)
    assert time.monotonic() - began < 10.0
    assert not outcome.delivered and "no MLflow server answers" in outcome.message
    assert f"python -m vmamba.track sync {folder.path}" in outcome.message and "\n" not in outcome.message
    assert track.main(["sync", str(folder.path), "--uri", f"sqlite:///{outputs / 'mlflow.db'}"]) == 0
    assert query(outputs / "mlflow.db", "select count(*) from metrics where key = 'train/loss'") == [(130,)]


@pytest.mark.slow
def test_server_takes_runs_and_artifacts(outputs, make_run, query):
    """``track ui`` is a server too: what is sent to it over HTTP lies in its store, artifacts included."""
    folder = make_run(outputs / "a", log_checkpoint=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vmamba.track", "ui", str(outputs), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def healthy():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
        except OSError:
            return False

    try:
        wait_for(healthy, 120)
        for _ in range(2):
            assert track.main(["sync", str(folder.path), "--uri", f"http://127.0.0.1:{port}"]) == 0
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    assert query(outputs / "mlflow.db", "select count(*) from metrics where key = 'train/loss'") == [(30,)]
    assert query(outputs / "mlflow.db", "select status from runs") == [("FINISHED",)]
    assert list((outputs / "mlartifacts").rglob("best.pt"))


def test_store_none_does_nothing_and_says_so(tmp_path):
    folder = RunFolder(tmp_path / "run").create()
    outcome = Feeder(folder, SimpleNamespace(store="none")).start().finish()
    assert outcome.delivered and "tracking: none" in outcome.message
    assert not folder.feeder_log.exists() and not folder.mlflow.exists()


def test_feeder_that_cannot_start_stops_nothing(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run").create()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    outcome = Feeder(folder, SimpleNamespace(store="mlflow")).start().finish()
    assert not outcome.delivered and "did not start" in outcome.message and "sync" in outcome.message


def test_a_store_that_is_too_slow_is_tried_again_at_the_end(outputs, make_run, monkeypatch, query):
    """Not so one that refuses: the run would wait for nothing."""
    folder = make_run(outputs / "a")
    monkeypatch.setattr(follower, "time", SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic))
    over = threading.Event()
    over.set()
    over.parent = os.getpid()
    close, left = View.close, [Busy("too slow"), Busy("too slow")]

    def slow(view):
        if left:
            raise left.pop()
        return close(view)

    monkeypatch.setattr(View, "close", slow)
    out = os.open(os.devnull, os.O_WRONLY)
    assert follower.Follower(folder, over, out).run() == 0 and not left
    assert query(outputs / "mlflow.db", "select name, status from runs") == [("a", "FINISHED")]
    left += [NotDelivered("no"), NotDelivered("no")]
    assert follower.Follower(folder, over, out).run() == 1 and len(left) == 1
    os.close(out)


@pytest.mark.skipif(not BOOT.is_file(), reason="needs Linux's /proc, where a process has its start")
def test_another_program_of_the_same_number_is_not_the_writer(outputs, make_run, tmp_path):
    program = tmp_path / "a) R 1"  # its name stands in the midst of /proc/PID/stat
    program.symlink_to(shutil.which("sleep"))
    folder = make_run(outputs / "a", state="running")
    assert folder.read_status()["born"] == born(os.getpid())
    other = subprocess.Popen([program, "60"])
    try:
        own = folder.read_status() | {"pid": other.pid}
        old = {key: value for key, value in own.items() if key != "born"}
        for status in (old, own | {"born": None}, own | {"born": born(other.pid)}):
            folder.status.write_text(json.dumps(status))
            settle(folder)
            assert owner(folder) == other.pid and folder.read_status()["state"] == "running"
        _, start = born(other.pid).split()
        for other_life in (own["born"], f"another-boot {start}"):
            folder.status.write_text(json.dumps(own | {"born": other_life}))
            assert owner(folder) is None
        settle(folder)
        assert folder.read_status()["state"] == "killed"
    finally:
        other.kill()
        other.wait()
