"""What MLflow and the layers below it raise, as one line with a remedy."""

import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from vmamba.config.errors import UserError
from vmamba.config.secrets import FROM_ENVIRONMENT

BELOW = ("sqlite3", "sqlalchemy", "requests", "alembic", "psycopg2")
PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")  # MLflow's codes of 429 and 5xx
SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+), but expected (\w+)\)")
LONGEST = 200


class NotDelivered(Exception):
    """The store could not be reached or refused; the records stay in the run folder. One line."""


class Busy(NotDelivered):
    """It is there, but too slow, locked or in trouble just now: worth another try."""


class Held(Busy):
    """Another process has the lock."""


@contextmanager
def refusals(uri: str) -> Iterator[None]:
    """Turns what MLflow and the layers below it raise into ``NotDelivered`` with one line."""
    try:
        yield
    except (NotDelivered, UserError):
        raise
    except ImportError as error:
        raise NotDelivered(f"{uri}: this kind of store needs a package that is not here ({error})") from error
    except Exception as error:
        from mlflow.exceptions import MlflowException

        below = type(error).__module__.split(".")[0] in BELOW
        if not (below or isinstance(error, MlflowException | OSError)):
            raise
        code = getattr(error, "error_code", None)
        busy = (below or code in PASSING) and not SCHEMA.search(str(error))
        raise (Busy if busy else NotDelivered)(f"{uri}: {_why(error, uri)}") from error


def one_line(error: BaseException) -> str:
    """The first line of an error, cut to a readable length; of a request that got no answer, why."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    cause = re.search(r"Max retries exceeded.*Caused by (\w+)\(", text)
    if cause:
        return f"the server does not answer ({cause[1]})"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _why(error: Exception, uri: str) -> str:
    """The reason, and what to do about it where that is known."""
    code, text = getattr(error, "error_code", None), str(error)
    if code == "UNAUTHENTICATED":
        return _unknown_user()
    if code == "PERMISSION_DENIED":
        return f"{_user()} may not do that there: ask for EDIT on the experiment, or take another tracking.experiment"
    if schema := SCHEMA.search(text):
        return (
            f"made by another MLflow than this {version('mlflow')} (schema {schema[1]}, here {schema[2]}): back it up "
            f"and run `mlflow db upgrade {uri}`, or take the newer MLflow that made it"
        )
    if uri.startswith("http") and "Max retries exceeded" not in text:
        return one_line(error) + _other_version(uri)
    return one_line(error)


def _unknown_user() -> str:
    if os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return "the server refuses the token in MLFLOW_TRACKING_TOKEN: get a valid one"
    known = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if not known and not (Path.home() / ".mlflow" / "credentials").is_file():
        return f"the server wants a user name and password: set {FROM_ENVIRONMENT} in the environment"
    return f"the server does not know {_user()} with that password: check {FROM_ENVIRONMENT} in the environment"


def _user() -> str:
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    return f"user '{name}'" if name else "the user of ~/.mlflow/credentials"


def _other_version(uri: str) -> str:
    """What there is to say of the server's version: nothing, if it is ours."""
    ours = version("mlflow")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=3) as reply:
            theirs = reply.read(100).decode("utf-8", "replace").strip().strip('"')
    except (OSError, ValueError):
        theirs = ""
    if not re.fullmatch(r"\d+\.\d+\S*", theirs):
        return f" ({uri} does not tell its version: is it an MLflow server?)"
    if theirs.split(".")[:2] == ours.split(".")[:2]:
        return ""
    return f" (the server is MLflow {theirs}, this is {ours}: bring the older one up to date)"
