"""The command: ``python -m vmamba.run [overrides]``, or the console script ``vmamba``.

Composes a run from ``conf/``, says in one line what does not fit (exit code 2), and hands the rest to Hydra and
``vmamba.job``. No torch is imported before the job itself starts.
"""

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from omegaconf import DictConfig

from vmamba import __version__
from vmamba.config import rules
from vmamba.config.compose import SHOWS, check_axes, compose, composed, first_point, load, register, validate
from vmamba.config.errors import UserError, meant
from vmamba.config.paths import conf_dir, unused, writable
from vmamba.config.points import FILES

# vmamba <word> …: the module's main(argv)
COMMANDS = {
    "bench": "vmamba.bench.__main__",
    "compare": "vmamba.compare.__main__",
    "export_config": "vmamba.export_config",
    "sweep": "vmamba.sweep",
    "track": "vmamba.track",
}
AGAIN = ("--from", "--resume")  # flags that take a run folder
# Hydra's: those that take a value, and all
TAKE_VALUE = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
              "--info", "-i", "--experimental-rerun"}  # fmt: skip
FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
         "--shell-completion", "-sc", *TAKE_VALUE}  # fmt: skip


def main() -> None:
    """The entry point of ``python -m vmamba.run`` and of the console script."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        sys.exit(importlib.import_module(COMMANDS[words[0]]).main(words[1:]))
    # argparse takes no flag between two overrides
    words = sys.argv[1:] = sorted(words, key=lambda word: word not in ("-m", "--multirun"))
    try:
        _known(words)
        if words == ["--version"]:
            print(f"vmamba {__version__}")
        elif any(word.split("=")[0] in AGAIN for word in words):
            _again(*_split_again(words))
        elif folder := _evaluates(words):
            _again("--from", folder, words)
        elif int(os.environ.get("RANK", 0)) > 0:
            _other_rank(words)
        else:
            _check(words)
            register()
            _hydra_main()
    except UserError as error:
        print(f"vmamba: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("vmamba: interrupted", file=sys.stderr)
        sys.exit(130)


def _known(words: list[str]) -> None:
    """Refuses a flag or a command that does not exist."""
    for word in words:
        flag = word.split("=")[0]
        if word.startswith("-") and flag not in FLAGS and flag not in AGAIN:
            raise UserError(f"{flag}: there is no such flag.{meant(flag, [*FLAGS, *AGAIN])} See --help.")
    if words and not words[0].startswith(("-", "~")) and "=" not in words[0]:
        hint = meant(words[0], COMMANDS)
        raise UserError(f"{words[0]}: neither key=value nor a command.{hint} Commands: {', '.join(COMMANDS)}.")


@hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> float | None:
    from hydra.core.hydra_config import HydraConfig

    state = HydraConfig.get()
    try:
        return _go(cfg, Path(state.runtime.output_dir), list(state.overrides.task))
    except UserError as mistake:  # Hydra would make a longer message of it
        print(f"vmamba: {mistake}", file=sys.stderr)
        sys.exit(2)


def _go(cfg: DictConfig, path: Path, overrides: list[str]) -> float | None:
    """One run, here or where ``launcher=`` sends it."""
    if cfg.launcher.kind == "local":
        from vmamba.job import start

        with _interrupted(path):
            return start(cfg, path, overrides)
    from vmamba.launch import settings, submit

    run = validate(cfg)
    submit.single(cfg, validate(cfg, cuda=settings.cuda_there(run)), path, overrides)


@contextmanager
def _interrupted(path: Path) -> Iterator[None]:
    """Of a run that Ctrl-C ends before it has begun nothing is left, and it ends by KeyboardInterrupt.

    An extension module that was being imported may have made another exception of it.
    """
    from vmamba.job import forget

    came = False

    def note(*_) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and not ignored, as it is for what a shell runs behind
        signal.signal(signal.SIGINT, note)
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if not came and isinstance(error, Exception):
            raise
        forget(path)
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def _check(words: list[str]) -> None:
    """Refuses what does not compose before Hydra does, whose messages are longer and whose exit code is 1."""
    flags = [word for word in words if word.startswith("-")]
    if any(flag in ("-sc", "--shell-completion", "--help", "-h", "--hydra-help", "--version") for flag in flags):
        return
    overrides = first_point(_overrides(words))
    if not SHOWS.isdisjoint(words):
        compose(overrides)
    elif "-m" in words or "--multirun" in words or any(word.partition("=")[0] in FILES for word in overrides):
        cfg = composed(overrides)  # the rules are for the points, which the launcher holds against them
        if not cfg.search.trials:
            check_axes(_overrides(words))
        writable(Path(cfg.outputs), f"outputs={cfg.outputs}")
    else:
        from vmamba.launch.settings import cuda_there

        check_axes(_overrides(words), single="hydra.mode=MULTIRUN" not in words)
        run, cfg = compose(overrides)
        if run.search.trials:
            raise UserError(f"search.trials={run.search.trials}: it is a sweep; add -m and axes, or sweep=search")
        validate(cfg, cuda=cuda_there(run))
        writable(Path(run.outputs), f"outputs={run.outputs}")


def _overrides(words: list[str]) -> list[str]:
    """The overrides among the words: not the flags, nor the values of flags that take one."""
    found, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word in TAKE_VALUE
        else:
            found.append(word)
    return found


def _evaluates(words: list[str]) -> Path | None:
    """The run folder that ``mode=eval ckpt=RUN_FOLDER`` names: its own configuration is the one to evaluate."""
    given = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("-"))
    folder = Path(given.get("ckpt", "").strip("'\"")).expanduser()
    simple = all("=" in word and not word.startswith("-") for word in words)
    return folder if simple and given.get("mode") == "eval" and (folder / "config.yaml").is_file() else None


def _again(flag: str, folder: Path, overrides: list[str]) -> None:
    """``--from FOLDER [key=value …]``: the same run in a new folder; ``--resume FOLDER``: go on in the same one."""
    from datetime import datetime

    from vmamba.job import go_on, log_to, start

    cfg = load(folder / "config.yaml", overrides)
    if "launcher" in cfg and not any(word.startswith("launcher") for word in overrides):
        cfg.launcher.kind = "local"  # where it ran before says nothing of where it is to run now
    if flag == "--resume" and not any(word.startswith("resume=") for word in overrides):
        go_on(cfg, folder)
    run = validate(cfg, cuda=rules.cuda_here())
    if int(os.environ.get("RANK", 0)) > 0:  # rank 0 has the folder and the log
        start(cfg, None, overrides)
        return
    target = folder
    if flag == "--from":
        writable(Path(run.outputs), f"outputs={run.outputs}")
        target = Path(unused(f"{run.outputs}/{run.name}-{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    try:
        log_to(target)
    except OSError as error:
        raise UserError(
            f"{target}: writing there is not allowed ({error.strerror}); --from makes a new run of it"
        ) from None
    _go(cfg, target, overrides)


def _split_again(words: list[str]) -> tuple[str, Path, list[str]]:
    rest, flag, folder = [], None, None
    words = [part for word in words for part in (word.split("=", 1) if word.split("=")[0] in AGAIN else [word])]
    while words:
        word = words.pop(0)
        if word in AGAIN:
            if not words:
                raise UserError(f"{word} takes a run folder")
            flag, folder = word, Path(words.pop(0))
        elif word.startswith("-"):
            raise UserError(
                f"{word} does not go with {flag or 'a saved run'}: give a run folder and key=value overrides"
            )
        else:
            rest.append(word)
    return flag, folder, rest


def _other_rank(words: list[str]) -> None:
    """Ranks above 0 under torchrun: compose alone, take the run folder from rank 0, write nothing."""
    from vmamba.job import start

    _, cfg = compose(first_point(_overrides(words)), cuda=rules.cuda_here())
    start(cfg, None, [])


if __name__ == "__main__":
    main()
