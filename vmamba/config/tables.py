"""Tables in ``docs/`` that are written from the configuration files: ``python -m vmamba.config.tables`` renews them."""

import re
from pathlib import Path

import yaml

from vmamba.config.paths import PACKAGE, conf_dir, sweeps_dirs

NEWEST_FIRST = ["v05", "v04", "v03", "v02", "v01", "v4", "v3", "v2", "v1", "v0", "v0seq"]
STARTS = ("Varies:", "Held:", "Cost:", "Reported", "For:", "On ImageNet:", "On a GPU:", "A plain grid")
COLUMNS = [
    "forward_type",
    "what it does",
    "which one to use",
    "projections",
    "cross scan",
    "scan in -> out",
    "released with",
]


def forward_types() -> str:
    """The table ``forward_type -> what it does -> which one to use`` as Markdown."""
    lines = [
        "# Which forward_type?",
        "",
        "Every forward type computes the same function from the same weights; they differ in how. Choose one with",
        "`forward_type=NAME`; a model brings the one it was released with. This page is written from",
        "`conf/forward_type/*.yaml` by `python -m vmamba.config.tables`.",
        "",
        "What a type says holds for every `scan` that is named but `fused`, which computes all types alike.",
        "`scan=auto` keeps to it as well, with one exception:",
        "in `v05` (and `v4`), where speed is the point, it takes `scan=fused` on a GPU that has it (routes cross2d,",
        "d_state 1, inner widths that are multiples of 16). That one has no",
        "projections, cross scan and scan apart. Its state is float32, but each addition of the four routes is rounded",
        "to the network's type, so under 16-bit autocast it is not the float32 output that `v05` names: `scan=oflex`",
        "keeps that to the letter.",
        "",
        "A model released with an older type trains faster, and in less memory, with `forward_type=v05`:",
        "compiled, bf16, batch 128, 224x224, on an H100, `tiny_v0` 829 -> 1,129 images/s and 29.8 -> 18.8 GB,",
        "`small_v0` 447 -> 598 and 52.7 -> 33.0 ([rows](../benchmarks/models_H100-80GB-HBM3_2026-11-27.csv)).",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
    ]
    files = {path.stem: path for path in (conf_dir() / "forward_type").glob("*.yaml")}
    order = [n for n in NEWEST_FIRST if n in files] + sorted(set(files) - set(NEWEST_FIRST))
    for name in order:
        f = yaml.safe_load(files[name].read_text())
        scan = f"{f.get('scan_in', 'float32')} -> {f.get('scan_out', 'float32')}"
        cells = [f"`{name}`", f["what"], f["use"], f.get("projection", "einsum"), f.get("cross_scan", "torch"), scan]
        lines.append("| " + " | ".join([*cells, f.get("released_with", "oflex")]) + " |")
    return "\n".join(lines) + "\n"


def sweeps() -> str:
    """What every file in ``sweeps/`` says of itself, as Markdown."""
    lines = [
        "# Sweeps",
        "",
        "One file an ablation. `python -m vmamba.run ablation=NAME` runs its points here, one after another;",
        "`launcher=subprocess` or `launcher=slurm` sends them elsewhere (see cluster.md). `sweep=NAME` adds an axis to",
        "an ablation, or is a sweep of its own. A key on the command line replaces the file's values of that key.",
        "`search.trials=8` behind one with axes runs those 8 of its points that Optuna chooses from the results so",
        "far. By default everything runs on the embedded digits with the nano model. A project's own folder",
        "`sweeps/ablation`, in the working directory or above it, is found too. This page is written from `sweeps/` by",
        "`python -m vmamba.config.tables`.",
        "",
    ]
    for path in sorted(sweeps_dirs()[-1].glob("*/*.yaml")):
        text = path.read_text()
        head = [line[1:].strip() for line in text.splitlines() if line.startswith("# ")][2:]
        said = re.sub(rf" (?={'|'.join(STARTS)})", "\n- ", " ".join(head))
        lines += [f"## `{path.parent.name}={path.stem}`", "", *_bullets(said), ""]
        sweeper = yaml.safe_load(text)["hydra"]["sweeper"]
        lines += ["```yaml", *(f"{key}: {values}" for key, values in sweeper.get("params", {}).items())]
        lines += [line.strip() for line in text.partition("    points:\n")[2].splitlines()]
        lines += ["```", ""]
    return "\n".join(lines)


def _bullets(text: str) -> list[str]:
    return [line if line.startswith("- ") else f"- {line}" for line in text.splitlines()]


def main() -> None:
    """Writes the pages into the checkout's ``docs``."""
    for name, text in (("forward_types.md", forward_types()), ("sweeps.md", sweeps())):
        page = Path(PACKAGE).parent / "docs" / name
        page.write_text(text)
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
