"""A team's server, started with the command of docker/compose.yaml: a real ``mlflow server`` on a real PostgreSQL."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers import DOCKER, PASSWORD, USER, compose, login

from vmamba import track
from vmamba.bench import outage
from vmamba.tracking import store
from vmamba.tracking.atomic import read_json
from vmamba.tracking.describe import config_of, final_metrics, params
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.refusals import NotDelivered, refusals

pytestmark = pytest.mark.postgres
SECRETS = (PASSWORD, USER[1])
RUN = [
    "model.depths=[1]",
    "model.dims=[16]",
    "data.img_size=16",
    "recipe.epochs=1",
    "recipe.warmup=0",
    "log_every=5",
    "scan=cpu",
    "tracking.log_checkpoint=true",
]


@pytest.fixture
def ann(monkeypatch):
    login(monkeypatch, *USER)


def files_with_secrets(*roots: Path) -> list[Path]:
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if any(secret.encode() in path.read_bytes() for secret in SECRETS)]


def train(cwd: Path, *words: str) -> subprocess.Popen:
    cwd.mkdir()
    command = [sys.executable, "-m", "vmamba.run", *RUN, *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # two at once
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trained(process: subprocess.Popen, cwd: Path) -> tuple[RunFolder, str]:
    said = process.communicate(timeout=280)[0]
    assert process.returncode == 0, said
    (config,) = cwd.glob("outputs/*/config.yaml")
    folder = RunFolder(config.parent)
    end = time.monotonic() + 120
    while not read_json(folder.mlflow)["delivered"]:  # on a busy machine the feeder outlives the run
        assert time.monotonic() < end, said
        time.sleep(0.2)
    return folder, said


def test_only_the_uri_differs_between_a_file_and_the_server(server, ann, postgres, query, tmp_path):
    """The same words and the same code: everything of a run lands in an SQLite file and on the server."""
    here, there = train(tmp_path / "a"), train(tmp_path / "b", f"tracking.uri={server.uri}")
    (local, _), (remote, said) = trained(here, tmp_path / "a"), trained(there, tmp_path / "b")
    assert read_json(remote.mlflow)["message"].startswith(f"MLflow: {server.uri}/#/experiments/")
    stored = {
        "local": lambda sql: query(tmp_path / "a" / "outputs" / "mlflow.db", sql),
        "remote": lambda sql: postgres.ask("mlflow", sql),
    }
    seen = {}
    for name, folder in (("local", local), ("remote", remote)):
        ask, tag = stored[name], f"select run_uuid from tags where key = 'vmamba.uid' and value = '{folder.uid}'"
        ((run,),) = ask(tag)
        assert ask(f"select status from runs where run_uuid = '{run}'") == [("FINISHED",)]
        points = ask(f"select key, step, value from metrics where run_uuid = '{run}' and key not like 'system/%'")
        wanted = {(key, r["step"], value) for r in folder.records() for key, value in r["metrics"].items()}
        last = max(step for _, step, _ in wanted)
        wanted |= {(key, last, value) for key, value in final_metrics(folder).items()}
        assert len(points) == len(wanted) and set(points) == wanted
        assert dict(ask(f"select key, value from params where run_uuid = '{run}'")) == params(folder)
        seen[name] = {key for (key,) in ask(f"select key from tags where run_uuid = '{run}'")}
        (where,) = next(iter(ask(f"select artifact_uri from runs where run_uuid = '{run}'")))
        kept = Path(where) if name == "local" else server.artifacts / where.removeprefix("mlflow-artifacts:/")
        names = {path.name for path in kept.rglob("*") if path.is_file()}
        assert names >= {"config.yaml", "overrides.yaml", "manifest.json", "result.json", "curves.png", "run.log"}
        assert (kept / "checkpoints" / "best.pt").stat().st_size == (folder.checkpoints / "best.pt").stat().st_size
    assert seen["local"] == seen["remote"]
    assert config_of(local)["tracking"] | {"uri": server.uri} == config_of(remote)["tracking"]
    assert not any(secret in said for secret in SECRETS)
    assert not files_with_secrets(tmp_path, server.folder)


@pytest.mark.parametrize(
    ("name", "password", "words"),
    [
        (None, None, "wants a user name and password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("ann", "not-this-one", "does not know user 'ann' with that password: check MLFLOW_TRACKING_USERNAME"),
        ("nobody", "open-sesame-0001", "does not know user 'nobody'"),
    ],
)
def test_who_is_not_let_in_gets_one_line(
    server, outputs, make_run, monkeypatch, tmp_path, capsys, name, password, words
):
    login(monkeypatch, name, password)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = make_run(outputs / "a", uri=server.uri)
    assert track.main(["sync", str(folder.path)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and (not password or password not in said)


def test_credentials_may_come_from_mlflows_own_file(server, outputs, make_run, monkeypatch, tmp_path, capsys):
    login(monkeypatch, None, None)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    word = f"[mlflow]\nmlflow_tracking_username = {USER[0]}\nmlflow_tracking_password = {USER[1]}\n"
    (tmp_path / ".mlflow" / "credentials").write_text(word)
    assert track.main(["sync", str(make_run(outputs / "a", uri=server.uri).path)]) == 0
    assert re.fullmatch(rf"a: 67 new values; {server.uri}/#/\S+\n", capsys.readouterr().out)


def test_what_a_user_may_not_do_says_whom_to_ask(server, ann):
    refused = pytest.raises(NotDelivered, match="user 'ann' may not do that there: ask for EDIT on the experiment")
    with refused, refusals(server.uri):
        store.connect(server.uri).delete_experiment("0")


def test_server_killed_in_mid_training_loses_nothing_and_blocks_nothing(server, ann, tmp_path):
    rows, told, folder = outage.run(tmp_path, server, 3.0, OMP_NUM_THREADS="1")
    assert told.well and told.values > 100, told
    assert [row["part"] for row in rows] == ["before", "during", "after", "all"]
    assert rows[1]["recording (% of the time)"] < 1.0, rows
    assert "training goes on, the records wait in the run folder" in folder.log.read_text()
    assert read_json(folder.mlflow)["delivered"] and not files_with_secrets(tmp_path, server.folder)


def test_compose_file_binds_to_the_loopback_and_holds_no_secret():
    services, text = compose(), (DOCKER / "compose.yaml").read_text()
    assert services["mlflow"]["ports"] == ["${MLFLOW_BIND:-127.0.0.1}:${MLFLOW_PORT:-5000}:5000"]
    assert "ports" not in services["postgres"]
    for service in services.values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name or "SECRET" in name:
                assert re.fullmatch(r"\$\{[A-Z_]+:\?set it in docker/\.env.*\}", value), name
    asked = set(re.findall(r"\$\{([A-Z_]+)", text))
    offered = dict(line.split("=", 1) for line in (DOCKER / ".env.example").read_text().splitlines() if line[0] != "#")
    assert asked == set(offered)
    assert not any(value for name, value in offered.items() if "PASSWORD" in name or "SECRET" in name)
    ignored = subprocess.run(["git", "-C", DOCKER, "check-ignore", "-q", ".env"], capture_output=True)
    assert ignored.returncode == 0 or not os.path.exists(DOCKER.parent / ".git")
