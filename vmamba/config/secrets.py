"""Passwords have no place in a configuration: it is written to config.yaml, shown, and sent to MLflow."""

import re
from urllib.parse import parse_qsl, urlsplit

FROM_ENVIRONMENT = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
OF_DATABASE = "the database's own way (PostgreSQL: PGPASSWORD, or ~/.pgpass)"
NAMES = re.compile(r"(^|_)(SSL)?(PASSWORD|PASSWD|SECRET|TOKEN|KEY)(_|$)", re.IGNORECASE)


def in_uri(key: str, uri: str | None) -> str | None:
    """The line that refuses a URI with a password in it, which it does not repeat; None for one without.

    ``key``: where the URI came from. User names are fine for a database, not for a server, which would not see them.
    """
    server = str(uri).lower().startswith(("http:", "https:"))
    try:
        parts = urlsplit(str(uri))
        there = parts.password is not None or (server and "@" in parts.netloc)
    except ValueError:
        return None
    if not there and not any(NAMES.search(name) for name, _ in parse_qsl(parts.query)):
        return None
    remedy = f"set {FROM_ENVIRONMENT} in the environment" if server else f"give it in {OF_DATABASE}"
    return f"{key} carries a password, which would go into config.yaml, logs and MLflow: leave it out, and {remedy}"


def in_environment(key: str, names: list[str]) -> str | None:
    """The line that refuses variables of these names in a configuration, None if none is a secret's."""
    found = [name for name in names if NAMES.search(name)]
    if not found:
        return None
    return (
        f"{key} holds {', '.join(found)}, which would go into config.yaml and MLflow: export it where you submit (jobs "
        "inherit it), or, for MLflow, keep it in ~/.mlflow/credentials"
    )
