"""``python -m vmamba.export_config task=det [overrides] [--out FILE]``: a run as a plain OpenMMLab config file.

The stock tools of mmdet and mmseg load and run it wherever this package is installed: it names our backbone by
``custom_imports`` and holds nothing but dicts. Model, data, recipe and evaluation are the run's; the engine is theirs.
"""

import shlex
import sys
from importlib import import_module
from pathlib import Path

from vmamba.config.compose import compose
from vmamba.config.errors import UserError
from vmamba.config.paths import writable
from vmamba.config.words import Parser
from vmamba.tracking.atomic import write_text

EXPORT = "vmamba_tasks.dense.export"  # reached by name: it needs torch
TASKS = ("det", "seg")
HEAD = """\
# {command}
# From a checkout of mmdet or mmseg, where vmamba is installed too: python tools/train.py THIS_FILE
# In float32, as the published models were trained
"""


def main(argv: list[str] | None = None) -> int:
    """Writes one file; returns the exit code (2 for a user's mistake)."""
    given = _parser().parse_intermixed_args(argv)
    try:
        path = write(given.overrides, given.out)
    except UserError as mistake:
        print(f"vmamba export_config: {mistake}", file=sys.stderr)
        return 2
    print(f"written to {path}")
    return 0


def write(overrides: list[str], out: Path | None = None) -> Path:
    """The file of the run that ``overrides`` compose. Raises UserError for a run that has no OpenMMLab form."""
    cfg, _ = compose(overrides)
    if cfg.task.name not in TASKS:
        raise UserError(f"task={cfg.task.name} is not OpenMMLab's: export task=det or task=seg")
    path = Path(out or f"{cfg.name}.py")
    if path.suffix != ".py":
        raise UserError(f"--out {path}: an OpenMMLab config is a Python file; take {path.with_suffix('.py')}")
    writable(path.parent, f"--out {path}: {path.parent}")
    exporter = import_module(EXPORT)
    text = exporter.as_text(exporter.mm_config(cfg, path))
    write_text(path, HEAD.format(command=shlex.join(["python", "-m", "vmamba.export_config", *overrides])) + text)
    return path


def _parser() -> Parser:
    parser = Parser(prog="python -m vmamba.export_config", description=__doc__)
    parser.add_argument("overrides", nargs="+", metavar="key=value", help="as of python -m vmamba.run: task=det …")
    parser.add_argument("--out", type=Path, help="the file to write (default: <task>-<model>-<data>.py)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
