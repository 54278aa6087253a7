"""``python -m vmamba.bench``: speed of the ops, and the history of speed-up, on the machine at hand."""

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Runs one benchmark, prints its table, and writes it to a CSV (and to MLflow, if asked)."""
    given = _parser().parse_args(argv)
    import torch

    from vmamba.bench import ops, report, speed_history
    from vmamba.bench.measure import card

    if given.device == "cuda" and not torch.cuda.is_available():
        print("vmamba bench: --device cuda: torch sees no CUDA device here; leave it out", file=sys.stderr)
        return 2
    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu" and not given.small:
        print("vmamba bench: without a GPU only the small form runs in a reasonable time: add --small", file=sys.stderr)
        return 2
    rows, conditions = {"ops": ops, "speed_history": speed_history}[given.what].run(device, given.small)
    conditions = {"card": card(device), "small": given.small} | conditions
    report.show(rows)
    path = report.save(given.what, card(device), rows, given.out, conditions)
    print(f"written to {path}")
    if given.mlflow:
        report.to_mlflow(given.what, rows, conditions, path, given.mlflow)
        print(f"recorded in {given.mlflow}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vmamba.bench", description=__doc__)
    parser.add_argument("what", choices=["ops", "speed_history"])
    parser.add_argument("--small", action="store_true", help="tiny shapes, seconds on a CPU: shows that it runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the GPU where there is one")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder of the CSV (default: %(default)s)")
    parser.add_argument("--mlflow", metavar="URI", help="also record it there, e.g. sqlite:////path/mlflow.db")
    return parser


if __name__ == "__main__":
    sys.exit(main())
