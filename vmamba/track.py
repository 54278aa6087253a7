"""``python -m vmamba.track``: run folders into MLflow, and looking at them.

sync FOLDER... [--uri URI]   deliver run folders (again), or what below outputs/ is not there yet; nothing is sent twice
ui [OUTPUTS] [--port PORT]   MLflow's pages on the store of an outputs folder, for this machine only
"""

import argparse
import os
import sys
from pathlib import Path

from vmamba.config.errors import UserError
from vmamba.config.words import Parser, port
from vmamba.tracking import feeder, follower
from vmamba.tracking import ui as server
from vmamba.tracking.atomic import read_json
from vmamba.tracking.describe import config_of
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.mlflow_view import View
from vmamba.tracking.refusals import Held, NotDelivered, one_line
from vmamba.tracking.store import absolute, locked, sqlite_path, uri_of


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand; returns the exit code (2 for a mistake or a store that cannot be reached)."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (UserError, NotDelivered) as error:
        print(f"vmamba track: {error}", file=sys.stderr)
        return 2


def sync(folders: list[Path], uri: str | None = None) -> int:
    """Delivers each folder and prints one line about it; goes on after a failure. Returns 0, or 2 if one failed."""
    code = 0
    for path in [run for given in folders for run in _runs(given, everything=uri is not None)]:
        try:
            print(_sync_one(RunFolder(path), uri), flush=True)
        except (UserError, NotDelivered) as error:
            print(f"vmamba track: {error}", file=sys.stderr)
            code = 2
    return code


def _runs(path: Path, everything: bool) -> list[Path]:
    """A run folder itself; of an outputs or sweep folder the runs that have begun and are not in MLflow (or all)."""
    if RunFolder(path).status.is_file():
        return [path]
    below = [found.parent for depth in ("*", "*/*") for found in sorted(path.glob(f"{depth}/status.json"))]
    below = [run for run in below if RunFolder(run).read_status().get("state") != "queued"]
    told = [run for run in below if not everything and read_json(RunFolder(run).mlflow).get("delivered")]
    if told:
        print(f"{path}: {len(told)} of {len(below)} runs were delivered before")
    return [run for run in below if run not in told] if below else [path]


def _sync_one(folder: RunFolder, given: str | None) -> str:
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: no such folder; name run folders, outputs/NAME-DATE_TIME")
    if not any(file.is_file() for file in (folder.metrics, folder.result, folder.status)):
        raise UserError(f"{folder.path}: not a run folder (it has no status.json, metrics.jsonl or result.json)")
    uri = uri_of(folder, config_of(folder), given)
    try:
        with locked(folder.path / ".feeder.lock", seconds=1.0):
            feeder.settle(folder)
            view = View(folder, uri).open()
            sent = view.close()
            feeder.note(folder, True, f"MLflow: {view.where()}")
    except Held:
        return f"{folder.name}: its own feeder is delivering it right now; nothing to do"
    except OSError as error:
        raise NotDelivered(f"{folder.path}: {one_line(error)}") from error
    return f"{folder.name}: {sent} new values; {view.where()}"


def ui(outputs: Path, uri: str | None, port: int) -> int:
    """Becomes ``mlflow ui`` on 127.0.0.1 (it has no password: keep it there) with one worker and no job runner."""
    uri = absolute(uri, Path.cwd()) if uri else f"sqlite:///{outputs.resolve() / 'mlflow.db'}"
    path = sqlite_path(uri)
    if path is None and uri.startswith("http"):
        raise UserError(f"{uri} is a server already: open it in a browser")
    if path is not None and not path.is_file():
        raise UserError(f"{path}: no store there yet; run something first, or name another outputs folder")
    if why := server.free(port):
        raise UserError(f"port {port} is taken ({why}): choose another with --port")
    print(f"MLflow on {uri}: http://127.0.0.1:{port} (about ten seconds to start, Ctrl-C ends it)", flush=True)
    command = server.arguments(uri, port, server.artifacts(uri, outputs))
    os.execv(command[0], command)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m vmamba.track", description="Run folders into MLflow, and looking at them.")
    commands = parser.add_subparsers(required=True, metavar="{sync,ui}", dest="command")
    one = commands.add_parser("sync", help="deliver run folders to MLflow (again); nothing is stored twice")
    one.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run folder, or one of many")
    one.add_argument("--uri", help="another store than the run's own: http://host:port or sqlite:///file.db")
    one.set_defaults(run=lambda given: sync(given.folders, given.uri))
    two = commands.add_parser("ui", help="MLflow's pages on the store of an outputs folder, on 127.0.0.1")
    two.add_argument("outputs", nargs="?", type=Path, default=Path("outputs"), help="default: %(default)s")
    two.add_argument("--uri", help="another store than the folder's mlflow.db")
    two.add_argument("--port", type=port, default=5000, help="default: %(default)s")
    two.set_defaults(run=lambda given: ui(given.outputs, given.uri, given.port))
    three = commands.add_parser("follow", help="the process a run starts to feed MLflow")
    three.add_argument("folder", type=Path)
    three.add_argument("--parent", type=int, default=os.getppid())
    three.set_defaults(run=lambda given: follower.follow(RunFolder(given.folder), given.parent))
    return parser


if __name__ == "__main__":
    sys.exit(main())
