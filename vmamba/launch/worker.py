"""One point in a process of its own: ``python -m vmamba.launch.worker RUN_FOLDER``.

The run folder's ``config.yaml`` is the whole input. Exit codes: 0 finished, 1 and 2 failed, 75 interrupted and to be
run again, 130 and 143 interrupted for good.
"""

import logging
import os
import sys
from pathlib import Path

import yaml

from vmamba.config.compose import load
from vmamba.config.errors import UserError
from vmamba.engine.signals import hold
from vmamba.launch import turns
from vmamba.tracking.folder import RunFolder

log = logging.getLogger("vmamba")


def main() -> None:
    hold()
    sys.exit(work(Path(sys.argv[1])))


def work(path: Path) -> int:
    """Runs the point in ``path``; every rank calls it. Returns the exit code; what happened is in the status."""
    from vmamba.job import go_on  # here, so that signals are held first

    folder, main = RunFolder(path), int(os.environ.get("RANK", 0)) == 0
    cfg = load(folder.config)
    go_on(cfg, path)
    limit = cfg.launcher.requeues
    done = not turns.begin(folder, limit) if main else turns.over(folder)
    if done:
        return 0 if folder.read_status().get("state") == "finished" else 1
    code = _run(cfg, folder, main)
    if code < 128:
        return code
    return turns.AGAIN if not main or turns.interrupted(folder, limit) else code


def _run(cfg, folder: RunFolder, main: bool) -> int:
    from vmamba.job import log_to, start

    if main:
        log_to(folder.path)
    words = yaml.safe_load(folder.overrides.read_text()) if folder.overrides.is_file() else []
    try:
        start(cfg, folder.path if main else None, words or [])
        return 0
    except SystemExit as left:
        return int(left.code or 0)
    except UserError as mistake:
        log.error("%s", mistake)
        if main:
            folder.write_status("failed", error=str(mistake))
        return 2
    except BaseException as failure:
        if main and folder.read_status().get("state") in ("queued", "running"):
            folder.write_status("failed", error=f"{type(failure).__name__}: {failure}")
        raise


if __name__ == "__main__":
    main()
