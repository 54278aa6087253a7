"""``python -m vmamba.bench``: speed of ops and models on the machine at hand, parameters and FLOPs anywhere."""

import sys
from importlib import import_module
from pathlib import Path

from vmamba.config.errors import UserError
from vmamba.config.paths import writable
from vmamba.config.words import Parser, positive

MODULES = {
    "ops": "vmamba.bench.ops",
    "fused": "vmamba.bench.fused",
    "host": "vmamba.bench.host",
    "cold": "vmamba.bench.cold",
    "parity": "vmamba.bench.parity",
    "speed_history": "vmamba.bench.speed_history",
    "models": "vmamba.bench.models",
    "scaling": "vmamba.bench.scaling",
    "engine": "vmamba.bench.engine",
    "profile": "vmamba.bench.profile",
    "complexity": "vmamba.bench.complexity",
    "dense": "vmamba_tasks.dense.bench",
}
OPTIONS = {
    "models": ("only", "modes", "dtype", "scan", "forward_type", "batch", "size", "workers"),
    "scaling": ("only", "modes", "dtype", "scan", "batch", "sizes", "workers"),
    "engine": ("modes", "dtype", "scan"),
    "profile": ("only", "modes", "dtype", "scan", "forward_type", "batch", "size"),
    "dense": ("only", "modes", "scan"),
}
COUNTED = ("complexity", "parity")  # nothing is timed, so a CPU does for all of it


def main(argv: list[str] | None = None) -> int:
    """Runs one benchmark, prints its table, and writes it to a CSV (and to MLflow, if asked)."""
    given = _parser().parse_args(argv)
    import torch

    from vmamba.bench import plots, report
    from vmamba.bench.measure import card
    from vmamba.tracking import store

    if given.device == "cuda" and not torch.cuda.is_available():
        print("vmamba bench: --device cuda: torch sees no CUDA device here; leave it out", file=sys.stderr)
        return 2
    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu" and not given.small and given.what not in COUNTED:
        print("vmamba bench: without a GPU only the small form runs in a reasonable time: add --small", file=sys.stderr)
        return 2
    try:
        writable(given.out, f"--out {given.out}", "give another folder by --out")  # before anything is measured
        if given.mlflow:
            given.mlflow = store.absolute(given.mlflow, Path.cwd())
        options = {name: getattr(given, name) for name in OPTIONS.get(given.what, ())}
        coming, conditions = import_module(MODULES[given.what]).run(device, given.small, **options)
        rows, stopped = report.collect(coming)
    except UserError as mistake:
        print(f"vmamba bench: {mistake}", file=sys.stderr)
        return 2
    if stopped:
        print(f"vmamba bench: stopped after {len(rows)} rows", file=sys.stderr)
    if not rows:
        return 130
    conditions = {"card": card(device), "small": given.small} | conditions
    report.show(rows)
    path = report.save(given.what, card(device), rows, given.out, conditions, given.add)
    picture = plots.draw(given.what, report.read(path), path)
    written = [path, *([picture] if picture else [])]
    print(f"written to {', '.join(map(str, written))}")
    if given.mlflow:
        try:
            report.to_mlflow(given.what, rows, conditions, written, given.mlflow)
        except store.NotDelivered as error:
            print(f"vmamba bench: not in MLflow: {error}", file=sys.stderr)
            return 2
        print(f"recorded in {given.mlflow}")
    return 130 if stopped else 0


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(positive(side) for side in text.split(","))


def _parser() -> Parser:
    parser = Parser(prog="python -m vmamba.bench", description=__doc__)
    parser.add_argument("what", choices=[*MODULES])
    parser.add_argument("--small", action="store_true", help="tiny shapes, seconds on a CPU: shows that it runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the GPU where there is one")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder of the CSV (default: %(default)s)")
    parser.add_argument("--mlflow", metavar="URI", help="also record it there, e.g. sqlite:////path/mlflow.db")
    parser.add_argument("--add", action="store_true", help="keep the rows that today's CSV has")
    parser.add_argument("--only", default="", metavar="NAME,...", help="models, scaling, profile, dense: these alone")
    parser.add_argument(
        "--modes", default="", metavar="MODE,...", help="models, scaling, engine, profile, dense: eager, default, …"
    )
    parser.add_argument(
        "--dtype", default="bf16", choices=["bf16", "fp16", "fp32"], help="models, scaling, engine, profile: autocast's"
    )
    parser.add_argument("--scan", default="auto", help="our models' backend (default: %(default)s); dense: several")
    parser.add_argument("--forward_type", default="", help="models, profile: of our models (default: their own)")
    parser.add_argument("--batch", type=positive, help="models, profile: images a step; scaling: those at 224 pixels")
    parser.add_argument("--size", type=positive, help="models, profile: their side in pixels (default: 224)")
    parser.add_argument("--sizes", type=_sizes, default=(), metavar="SIDE,...", help="scaling: the sides (224 to 1536)")
    parser.add_argument("--workers", type=positive, help="models, scaling: processes that compile at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
