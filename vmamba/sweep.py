"""``python -m vmamba.sweep``: a sweep that was submitted, from any shell, at any time later.

status FOLDER    how its points stand
wait FOLDER      stay, with a live table, until all have ended
resume FOLDER    submit again what is missing or failed, each from its latest checkpoint
cancel FOLDER    end what is queued or running; a later resume goes on
report FOLDER    write the report, also while the sweep runs

The exit code is 1 if a point failed or was killed, 2 for a mistake.
"""

import argparse
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from vmamba.config.errors import UserError
from vmamba.config.words import Parser, duration
from vmamba.launch import pool, queue, table, turns
from vmamba.launch import report as reports
from vmamba.launch.folder import SweepFolder
from vmamba.launch.points import Point, points
from vmamba.tracking.folder import ENDED
from vmamba.tracking.process import alive


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except UserError as error:
        print(f"vmamba sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def status(folder: Path) -> int:
    """Prints the table."""
    rows = points(folder)
    table.show(rows, folder)
    _say_search(SweepFolder(folder), rows)
    return _code(rows)


def wait(folder: Path, seconds: float) -> int:
    """Stays until every point has ended."""
    points(folder)
    rows = table.follow(folder, seconds, more=SweepFolder(folder).busy)
    table.show(rows, folder)
    _say_search(SweepFolder(folder), rows)
    reports.write(SweepFolder(folder))
    reports.say(SweepFolder(folder))
    return _code(rows)


def resume(folder: Path, words: list[str]) -> int:
    """Submits the points again that have failed, were killed or never began; those queued or running stay as they are.

    Of a search those that were killed (a failed trial is a result), and then the trials that are left.
    ``words``: changes of the launcher, ``launcher.time=600``; ``search.trials=40`` makes a search longer.
    """
    sweep = SweepFolder.existing(folder)
    with ExitStack() as held:
        held.enter_context(sweep.lock())
        rows, latest = points(folder), sweep.latest()
        if sweep.search.is_file():
            return _resume_search(sweep, rows, words)
        left = [latest[row.number] for row in rows if row.broken]
        if not left:
            print(f"nothing to resume: {table.summary(rows)}")
            return 0
        from vmamba.launch import settings, submit

        launcher = settings.changed(sweep.read_info()["launcher"], words)
        submit.again(sweep, left, launcher, begun=held.close)
    return 0


def _resume_search(sweep: SweepFolder, rows: list[Point], words: list[str]) -> int:
    from vmamba.launch import search, settings, space, submit

    found = space.Space.of(sweep)
    launcher = settings.changed(
        sweep.read_info()["launcher"], [word for word in words if not word.startswith("search.")]
    )
    found = found.changed(words)
    if any(row.state not in ENDED for row in rows):  # left by the process that is gone
        rows = table.follow(sweep.path)
    left = [sweep.latest()[row.number] for row in rows if row.state == "killed"]
    if not left and len(rows) >= found.trials:
        print(f"nothing to resume: {table.summary(rows)}; search.trials={2 * len(rows)} makes the search longer")
        return 0
    found.write(sweep)
    turns.restore(sweep.run({"folder": "."}))
    if left:
        submit.again(sweep, left, launcher, wait=True)
    search.go_on(sweep, found)
    return _code(points(sweep.path))


def cancel(folder: Path) -> int:
    """Ends what has not ended: queued jobs at once, running ones after they have saved."""
    sweep = SweepFolder.existing(folder)
    if sweep.search.is_file():
        turns.cancel(sweep.run({"folder": "."}))  # for the process that would ask for more
    rows, latest = points(folder), sweep.latest()
    left = [row for row in rows if row.state not in ENDED]
    if not left:
        print(f"nothing to cancel: {table.summary(rows)}")
        return 0
    for row in left:
        run = sweep.run(latest[row.number])
        turns.cancel(run)
        if row.state == "queued":
            run.write_status("killed", error="cancelled", started=None)  # its last life is no part of what ends now
    jobs = [row.job for row in left if latest[row.number]["launcher"] == "slurm"]
    if jobs:
        queue.cancel(jobs)
    for row in left:
        if row.job not in jobs and row.state == "running":
            _interrupt(sweep, latest[row.number], row)
    print(f"cancelled {len(left)} of {len(rows)} points; they go on with: python -m vmamba.sweep resume {folder}")
    return 0


def report(folder: Path) -> int:
    """Writes the report of ``vmamba.compare`` and says where."""
    from vmamba.compare.make import PORT, lines, make

    SweepFolder.existing(folder)
    made = make([folder])
    print("\n".join([*lines(made.done.html, made.uri, made.links, PORT), *made.remarks]))
    return _code(points(folder))


def _interrupt(sweep: SweepFolder, line: dict, row: Point) -> None:
    status = sweep.run(line).read_status()
    if line.get("host") and line["host"] != os.uname().nodename:
        raise UserError(f"point {row.number} runs on {line['host']}: cancel it there")
    if alive(status) and pool.alive(f"{status['pid']}.0"):
        os.kill(status["pid"], signal.SIGTERM)


def _say_search(sweep: SweepFolder, rows: list[Point]) -> None:
    """How far the search is, if it is one, and whether anybody is at it."""
    if not sweep.search.is_file():
        return
    from vmamba.launch import search, space

    found = space.Space.of(sweep)
    print(search.summary(sweep, found, rows))
    if len(rows) < found.trials and not sweep.busy():
        print(f"  its process is gone; it goes on with: python -m vmamba.sweep resume {table.relative(sweep.path)}")


def _code(rows: list[Point]) -> int:
    return int(any(row.broken for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m vmamba.sweep", description="A sweep that was submitted.")
    commands = parser.add_subparsers(
        required=True, metavar="{status,wait,resume,cancel,report}", dest="command", parser_class=Parser
    )

    def command(name: str, what: str, run) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=what, description=what)
        found.add_argument("folder", type=Path, metavar="FOLDER", help="outputs/sweep-NAME-DATE_TIME")
        found.set_defaults(run=run)
        return found

    command("status", "how the points stand", lambda given: status(given.folder))
    stay = command("wait", "stay until all points have ended", lambda given: wait(given.folder, given.seconds))
    stay.add_argument("--seconds", type=duration, default=5.0, help="between two looks; default: %(default)s")
    more = command("resume", "submit again what failed or never ran", lambda given: resume(given.folder, given.words))
    more.add_argument(
        "words",
        nargs="*",
        metavar="launcher.KEY=VALUE",
        help="changes, e.g. launcher.time=600; of a search search.trials=40 too",
    )
    command("cancel", "end what is queued or running", lambda given: cancel(given.folder))
    command("report", "write the report, also while the sweep runs", lambda given: report(given.folder))
    return parser


if __name__ == "__main__":
    sys.exit(main())
