"""``launcher=local``: the points one after another in this process; what one of them does stops no other."""

import logging
import os
import sys

import yaml

from vmamba.config.compose import load
from vmamba.launch.folder import SweepFolder

log = logging.getLogger("vmamba")
FORMAT = logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S")


def submit(sweep: SweepFolder, lines: list[dict]) -> list[dict]:
    """Says which process will run the points: this one."""
    return [line | {"job": f"{os.getpid()}.{line['point']}", "log": f"{line['folder']}/run.log"} for line in lines]


def run(sweep: SweepFolder, lines: list[dict]) -> dict[int, float | None]:
    """Runs the points and returns their best metrics, None for one that failed.

    An interruption (Ctrl-C, SIGTERM) ends the sweep: SystemExit, and the points not begun stay in the queue.
    """
    from vmamba.job import start

    if not logging.getLogger().handlers:  # vmamba.sweep resume
        logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(FORMAT)  # of a sweep Hydra sets up its own, with its name in each line
    found = {}
    for count, line in enumerate(lines, 1):
        folder = sweep.run(line)
        words = " ".join(line["overrides"]) or "(as given)"
        handler = logging.FileHandler(folder.log)
        handler.setFormatter(FORMAT)
        logging.getLogger().addHandler(handler)
        log.info("point %d, %d of %d: %s", line["point"], count, len(lines), words)
        try:
            given = yaml.safe_load(folder.overrides.read_text()) or []
            found[line["point"]] = start(load(folder.config), folder.path, given)
        except SystemExit as left:
            if isinstance(left.code, int) and left.code >= 128:
                raise
            found[line["point"]] = None
        except KeyboardInterrupt:  # while the engine does not listen for it
            folder.write_status("killed", error="interrupted")
            raise SystemExit(130) from None
        except Exception as failure:
            log.exception("point %d failed", line["point"])
            if folder.read_status().get("state") != "failed":
                folder.write_status("failed", error=f"{type(failure).__name__}: {failure}")
            found[line["point"]] = None
        finally:
            logging.getLogger().removeHandler(handler)
            handler.close()
    return found
