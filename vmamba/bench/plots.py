"""Pictures of the tables that are read better as one: PNG beside the CSV."""

from pathlib import Path

from vmamba.bench.report import Row

COLOURS = {"eager": "#9ecae1", "default": "#3182bd", "reduce-overhead": "#08306b"}


def draw(kind: str, rows: list[Row], path: Path) -> Path | None:
    """Draws the table to ``path`` with the suffix .png; None for a kind that has no picture."""
    plot, size, number = DRAWN.get(kind, (None, None, None))
    if not plot or not any(row[number] for row in rows):
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    plot(figure, [row for row in rows if row[number]])
    first = rows[0]
    figure.suptitle(f"{path.stem.replace('_', ' ')}, {first['amp']}, random images on the device", fontsize=10)
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=120)
    return target


def _models(figure, rows: list[Row]) -> None:
    """Two panels, evaluation and training: a bar for every model and compile mode."""
    names = list(dict.fromkeys(map(_name, rows)))
    modes = [mode for mode in COLOURS if any(row["compile"] == mode for row in rows)]
    height = 0.8 / len(modes)
    for axes, phase in zip(figure.subplots(1, 2, sharey=True), ("eval", "train"), strict=True):
        for offset, mode in enumerate(modes):
            found = {_name(row): row["images_per_s"] for row in rows if (row["phase"], row["compile"]) == (phase, mode)}
            places = [names.index(name) + (offset - (len(modes) - 1) / 2) * height for name in found]
            bars = axes.barh(places, found.values(), height, color=COLOURS[mode], label=mode)
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=6, padding=2)
        axes.set(title=phase, xlabel="images/s", yticks=range(len(names)))
        axes.set_yticklabels(names, fontsize=7)
        axes.margins(x=0.15)
    axes.invert_yaxis()
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, title="compile", loc="outside lower center", ncols=3, fontsize=7, title_fontsize=7)


def _name(row: Row) -> str:
    """The model, with what it was measured with that is not its own."""
    size = "" if row["size"] == 224 else f"{row['size']} pixels"
    return ", ".join(filter(None, (row["model"], row.get("forward_type"), size)))


def _line(row: Row) -> str:
    return f"{row['model']}, {row['compile']}, batch {row['batch_at_224']}"


def _scaling(figure, rows: list[Row]) -> None:
    """Pixels a second over the side of the image, and memory an image, for every model and compile mode."""
    lines = dict.fromkeys(map(_line, rows))
    with_memory = any(row["memory_GB"] for row in rows)
    panels = figure.subplots(1, 2 + with_memory)
    sides = sorted({row["size"] for row in rows})
    for line in lines:
        own = [row for row in rows if _line(row) == line]
        for axes, phase in zip(panels, ("eval", "train"), strict=False):
            points = [(row["size"], row["Mpixels_per_s"]) for row in own if row["phase"] == phase]
            axes.plot(*zip(*points, strict=True), marker="o", label=line)
        memory = [(r["size"], r["memory_GB"] / r["batch"]) for r in own if r["phase"] == "train" and r["memory_GB"]]
        if memory:
            panels[2].loglog(*zip(*memory, strict=True), marker="o")
            panels[2].set(title="train", ylabel="memory an image (GB)")
    for axes, phase in zip(panels, ("eval", "train"), strict=False):
        axes.set(title=phase, ylabel="megapixels/s", ylim=(0, 1.05 * axes.dataLim.ymax))  # once all lines are there
    for axes in panels:
        axes.set_xlabel("side of the image (pixels)")
        axes.set_xticks(sides, [f"{side:.0f}" for side in sides], fontsize=7)
        axes.minorticks_off()
    panels[0].legend(fontsize=7)


def _bar(row: Row) -> str:
    return f"{_name(row)}, {row['phase']}, {row['compile']}"


def _profile(figure, rows: list[Row]) -> None:
    """A bar for every model, phase and compile mode: milliseconds of kernels a step, by kind."""
    axes = figure.subplots()
    bars = list(dict.fromkeys(map(_bar, rows)))
    kinds = list(dict.fromkeys(row["kind"] for row in sorted(rows, key=lambda row: -row["ms"])))
    ends = dict.fromkeys(bars, 0.0)
    longest = max(sum(row["ms"] for row in rows if _bar(row) == bar) for bar in bars)
    for i, kind in enumerate(kinds):
        found = {_bar(row): row["ms"] for row in rows if row["kind"] == kind}
        places, left = [bars.index(bar) for bar in found], [ends[bar] for bar in found]
        drawn = axes.barh(places, found.values(), left=left, color=f"C{i % 10}", hatch="//" * (i // 10), label=kind)
        wide = [f"{ms:.1f}" if ms > 0.04 * longest else "" for ms in found.values()]
        axes.bar_label(drawn, wide, label_type="center", fontsize=7, color="white")
        for bar, ms in found.items():
            ends[bar] += ms
    axes.set_yticks(range(len(bars)), bars, fontsize=8)
    axes.set_xlabel("milliseconds of kernels a step")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=5, fontsize=7)


# how it is drawn, inches, the column without which a row is not
DRAWN = {
    "models": (_models, (11, 8), "images_per_s"),
    "scaling": (_scaling, (13, 4.2), "images_per_s"),
    "profile": (_profile, (11, 5), "ms"),
}
