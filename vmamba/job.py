"""One job from its composed configuration to its result: what runs here, and what a launcher runs elsewhere.

The order: run folder and configuration first, then the MLflow feeder, then the engine, then the picture and the
last lines on the terminal. Whatever happens in between, the run folder's status says how it ended.
"""

import logging
import sys
from pathlib import Path

from omegaconf import DictConfig

from vmamba.config import rules
from vmamba.config.compose import validate
from vmamba.config.errors import UserError
from vmamba.tracking import curves
from vmamba.tracking.atomic import write_text
from vmamba.tracking.feeder import Feeder, Outcome, owner
from vmamba.tracking.folder import ENDED, RunFolder

log = logging.getLogger("vmamba")


def start(cfg: DictConfig, path: Path | None, overrides: list[str]) -> float | None:
    """Runs one job in the folder ``path`` (None on ranks above 0) and returns its best metric.

    A user's mistake ends the process with one line and exit code 2, an interruption with 130 or 143.
    """
    cfg.outputs = str(Path(cfg.outputs).resolve())
    run = validate(cfg, cuda=rules.cuda_here())
    from vmamba.engine import distributed

    env = distributed.start(run)
    try:
        folder = RunFolder(distributed.broadcast(path))
        if env.is_main:
            return _recorded(cfg, run, folder, env, overrides)
        _unrecorded(run, folder, env)
        return None
    finally:
        distributed.stop()


def log_to(path: Path) -> None:
    """The log on the terminal and in ``run.log`` of a run folder, for runs that Hydra does not set up."""
    path.mkdir(parents=True, exist_ok=True)
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(path / "run.log")]
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S", handlers=handlers
    )


def go_on(cfg: DictConfig, path: Path) -> None:
    """Has a run with checkpoints of its own go on from those, wherever ``resume=`` had it begin."""
    if next(RunFolder(path).checkpoints.glob("step_*.pt"), None):
        cfg.resume = "auto"


def forget(path: Path) -> None:
    """Removes a run folder in which nothing has happened but a line in its log."""
    log = RunFolder(path).log
    if path.is_dir() and {entry.name for entry in path.iterdir()} <= {log.name}:
        log.unlink(missing_ok=True)
        path.rmdir()


def _recorded(cfg: DictConfig, run, folder: RunFolder, env, overrides: list[str]) -> float | None:
    """The job on rank 0, with everything it leaves behind."""
    from vmamba.engine import fit
    from vmamba.engine.nan_guard import NotFinite

    try:
        if pid := owner(folder):
            raise UserError(f"{folder.path}: process {pid} is writing this run; wait for it, or stop it first")
        task = fit.build_task(run, env)
    except UserError as mistake:
        log.error("%s", mistake)
        if folder.read_status().get("state") in ("queued", "running") and not owner(folder):
            folder.write_status("failed", error=str(mistake))
        forget(folder.path)
        sys.exit(2)
    before = _ended(folder)
    folder.create()
    folder.write_config(cfg, overrides)
    folder.write_status("running")
    feeder = Feeder(folder, run.tracking).start()
    state, error, code, result = "failed", None, 1, None
    try:
        result = fit.run(run, folder, env, task=task)
        state, code = "finished", 0
    except SystemExit as left:
        state, error, code = "killed", "interrupted", left.code
    except KeyboardInterrupt:  # while the engine does not listen for it
        state, error, code = "killed", "interrupted", 130
    except (UserError, NotFinite) as mistake:
        error, code = str(mistake), 2 if isinstance(mistake, UserError) else 1
        log.error("%s", error)
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
        raise
    finally:
        if folder.metrics.is_file():
            curves.draw(folder)
        folder.write_status(state, **({"error": error} if error else {}))
        if code == 2 and before.get(folder.metrics) == _texts(folder.metrics).get(folder.metrics):
            for path, text in before.items():  # a mistake typed at a run that had ended: it is what it was
                write_text(path, text)
        _last_lines(folder, result, feeder.finish(5.0 if state == "killed" else 20.0))
    if code:
        sys.exit(code)
    return result["best"].get(run.task.metric)


def _ended(folder: RunFolder) -> dict[Path, str]:
    """The records of a run that has ended, which another start writes anew; nothing of any other."""
    paths = (folder.config, folder.overrides, folder.manifest, folder.status, folder.metrics)
    return _texts(*paths) if folder.read_status().get("state") in ENDED else {}


def _texts(*paths: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in paths if path.is_file()}


def _unrecorded(run, folder: RunFolder, env) -> None:
    """The job on another rank: rank 0 says what went wrong, this one only leaves with the same code."""
    from vmamba.engine import fit

    try:
        fit.run(run, folder, env)
    except UserError:
        sys.exit(2)


def _last_lines(folder: RunFolder, result: dict | None, outcome: Outcome) -> None:
    if result:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in result["final"].items() if name.startswith("val"))
        log.info("%s  in %.0f s", shown, result["seconds"])
    log.info("run folder: %s", folder.path)
    log.info("%s", outcome.message)
