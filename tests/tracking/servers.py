"""The server of docker/compose.yaml, run here: its command and environment, one worker, a user with few rights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
import yaml

from vmamba.bench.server import Server

DOCKER = Path(__file__).parents[2] / "docker"
ADMIN, PASSWORD, USER = "overseer", "open-sesame-0001", ("ann", "hush-hush-hush-42")


def compose() -> dict:
    """The services of the compose file."""
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]


@contextmanager
def served(postgres, folder: Path) -> Iterator[Server]:
    """The server, on a database of its own."""
    service = compose()["mlflow"]
    fixed = {name: value for name, value in service["environment"].items() if "$" not in value}
    given = {"MLFLOW_AUTH_ADMIN_USERNAME": ADMIN, "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    given |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "any", "MLFLOW_SERVER_ALLOWED_HOSTS": ""}
    there = postgres.environment | {"MLFLOW_AUTH_CONFIG_PATH": str(DOCKER / "auth.ini")}
    assert set(service["environment"]) == {*fixed, *given, "PGPASSWORD"}
    env, words = fixed | given | there, tuple(service["command"][2:])
    with Server(folder, postgres.database("mlflow"), words, **env) as found:
        body = {"username": USER[0], "password": USER[1]}
        made = requests.post(f"{found.uri}/api/2.0/mlflow/users/create", json=body, auth=(ADMIN, PASSWORD), timeout=30)
        assert made.status_code == 200, made.text
        yield found


def login(patch, name: str | None, password: str | None) -> None:
    """The environment of a user, or of nobody."""
    for variable, value in (("MLFLOW_TRACKING_USERNAME", name), ("MLFLOW_TRACKING_PASSWORD", password)):
        patch.setenv(variable, value) if value else patch.delenv(variable, raising=False)
