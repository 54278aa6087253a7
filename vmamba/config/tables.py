"""Tables in ``docs/`` that are written from the configuration files: ``python -m vmamba.config.tables`` renews them."""

from pathlib import Path

import yaml

from vmamba.config.paths import PACKAGE, conf_dir

NEWEST_FIRST = ["v05", "v04", "v03", "v02", "v01", "v4", "v3", "v2", "v1", "v0", "v0seq"]
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


def main() -> None:
    """Writes the pages into the checkout's ``docs``."""
    page = Path(PACKAGE).parent / "docs" / "forward_types.md"
    page.write_text(forward_types())
    print(f"wrote {page}")


if __name__ == "__main__":
    main()
