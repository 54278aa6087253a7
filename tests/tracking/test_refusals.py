"""What is not delivered, or refused: one line with the remedy, exit code 2, and no password in it or anywhere else."""

import http.server
import sqlite3
import threading

import pytest

from vmamba import track
from vmamba.compare import __main__ as compare
from vmamba.config.compose import compose
from vmamba.config.errors import UserError


def sync(folder, *words):
    return track.main(["sync", str(folder.path), *words])


@pytest.mark.parametrize(
    ("uri", "words"),
    [("./mlruns", "sqlite:////absolute"), ("ftp://x", "ftp://x"), ("http://127.0.0.1:9", "no MLflow server answers")],
)
def test_bad_uri_is_one_line_and_code_2(outputs, make_run, capsys, uri, words):
    assert sync(make_run(outputs / "a"), "--uri", uri) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1


def test_bad_folders_are_named_and_the_good_one_is_delivered(outputs, make_run, capsys, tmp_path):
    good = make_run(outputs / "a")
    (tmp_path / "empty").mkdir()
    assert track.main(["sync", str(tmp_path / "nowhere"), str(tmp_path / "empty"), str(good.path)]) == 2
    said = capsys.readouterr()
    assert "nowhere: no such folder" in said.err and "not a run folder" in said.err
    assert "a: 67 new values" in said.out


@pytest.mark.parametrize(("words", "said"), [(["nope"], "sync"), (["sync"], "FOLDER"), ([], "sync")])
def test_unknown_commands_are_one_line_and_code_2(capsys, words, said):
    with pytest.raises(SystemExit) as caught:
        track.main(words)
    message = capsys.readouterr().err
    assert caught.value.code == 2 and said in message and message.count("\n") == 1


def test_ui_without_a_store(tmp_path, capsys):
    assert track.main(["ui", str(tmp_path)]) == 2
    assert "no store there yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("http://ann:hush-hush@127.0.0.1:9", "MLFLOW_TRACKING_PASSWORD in the environment"),
        ("postgresql://ann:hush-hush@127.0.0.1/mlflow", "PGPASSWORD"),
        ("postgresql:///mlflow?password=hush-hush", "PGPASSWORD"),
    ],
)
def test_a_password_in_the_uri_is_refused_and_not_repeated(outputs, make_run, capsys, uri, remedy):
    folder = make_run(outputs / "a")
    assert sync(folder, "--uri", uri) == 2
    message = capsys.readouterr().err
    assert remedy in message and message.count("\n") == 1 and "hush-hush" not in message
    with pytest.raises(UserError, match=r"tracking\.uri carries a password") as caught:
        compose([f"tracking.uri='{uri}'"])
    assert remedy in str(caught.value) and "hush-hush" not in str(caught.value)
    assert not any(b"hush-hush" in path.read_bytes() for path in outputs.rglob("*") if path.is_file())


def test_a_secret_in_the_jobs_environment_is_refused():
    with pytest.raises(UserError, match=r"launcher\.env holds HF_TOKEN, .* export it where you submit"):
        compose(["+launcher.env={HF_TOKEN: hush-hush, TOKENIZERS_PARALLELISM: 'false'}"])
    compose(["+launcher.env={TOKENIZERS_PARALLELISM: 'false'}"])


def test_store_of_another_mlflow_is_one_line_with_the_remedy(outputs, make_run, capsys):
    database = outputs / "mlflow.db"
    with sqlite3.connect(database) as connection:
        connection.execute("update alembic_version set version_num = 'c0ffee'")
    assert sync(make_run(outputs / "a")) == 2
    message = capsys.readouterr().err
    assert "made by another MLflow" in message and f"mlflow db upgrade sqlite:///{database}" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("version", "said"), [(b"2.9.2", "the server is MLflow 2.9.2"), (b"<html>", "is it an MLflow")]
)
def test_server_of_another_mlflow_is_one_line_with_its_version(outputs, make_run, capsys, version, said):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/version" else 404)
            self.end_headers()
            self.wfile.write(version if self.path == "/version" else b"no such page\n")

        def log_message(self, *words):
            pass

        do_POST = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert sync(make_run(outputs / "a"), "--uri", f"http://127.0.0.1:{server.server_port}") == 2
    finally:
        server.shutdown()
        server.server_close()
    message = capsys.readouterr().err
    assert said in message and "404" in message and message.count("\n") == 1


@pytest.mark.parametrize("command", [track.main, compare.main], ids=["track", "compare"])
@pytest.mark.parametrize("port", ["99999", "0", "-1", "http"])
def test_a_port_that_is_none_is_one_line(command, port, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        command([*(["ui"] if command is track.main else []), str(tmp_path), f"--port={port}"])
    assert left.value.code == 2
    assert f"{port}: a port is a whole number from 1 to 65535" in capsys.readouterr().err
