"""Predictions beside ground truth, one PNG: boxes with instance masks, and class maps with a legend.

Numpy arrays in, a file out; knows neither OpenMMLab nor torch. Images are uint8 (H, W, 3) RGB of any sizes.
"""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from vmamba.tracking.atomic import replacing

IGNORED = 255  # in class maps
SCORE = 0.5  # predictions below are not drawn
BOXES = 30  # drawn at most, best first
LEGEND = 24  # classes named at most, largest first
PANEL = 3.0  # inches, the longer side
DPI = 110
GREY = np.full(3, 60.0)  # of a class called background
SOLID, FAINT = 0.75, 0.55  # opacity of class maps and of instance masks

Boxes = Mapping[str, np.ndarray]
Palette = Sequence[Sequence[int]]


def draw_boxes(
    images: Sequence[np.ndarray],
    predictions: Sequence[Boxes],
    truths: Sequence[Boxes],
    classes: Sequence[str],
    path: Path,
    score: float = SCORE,
) -> None:
    """One row an image: predictions on the left, ground truth on the right.

    ``predictions`` and ``truths`` hold an item an image: ``boxes`` (N, 4) as x1, y1, x2, y2 in pixels, ``labels`` (N,)
    as indices into ``classes``; optionally ``masks`` (N, H, W) bool and ``scores`` (N,) in 0 .. 1. Predictions below
    ``score`` are left out; the title says how many of how many are shown.
    """
    figure, axes = _panels(images, 2)
    for row, image, predicted, true in zip(axes, images, predictions, truths, strict=True):
        for axis, name, found in zip(row, ("prediction", "ground truth"), (predicted, true), strict=True):
            drawn, shown = _choose(found, score), len(found["labels"])
            axis.imshow(_with_masks(image, drawn))
            _outline(axis, drawn, classes)
            shown = f"{len(drawn['labels'])}" if "scores" not in found else f"{len(drawn['labels'])} of {shown} boxes"
            axis.set_title(f"{name}: {shown}", fontsize=8)
    _save(figure, path)


def draw_maps(
    images: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    classes: Sequence[str],
    path: Path,
    palette: Palette | None = None,
) -> None:
    """One row an image: the image, the predicted and the true class map over it, and a legend of what occurs.

    ``predictions`` and ``truths`` are integer (H, W): indices into ``classes``, 255 where there is no truth.
    ``palette``: RGB in 0 .. 255 a class; None: colours of our own, grey for a class
    called background. The title gives the share of right pixels.
    """
    colours = np.asarray(_colours(classes) if palette is None else palette, dtype=np.float64)
    figure, axes = _panels(images, 3, legend=True)
    seen = np.zeros(len(classes), dtype=np.int64)
    for row, image, predicted, true in zip(axes, images, predictions, truths, strict=True):
        known = true != IGNORED
        right = 100 * (predicted == true)[known].mean() if known.any() else float("nan")
        titles = ("image", f"prediction: {right:.1f} % of pixels right", "ground truth")
        for axis, title, found in zip(row, titles, (None, predicted, true), strict=True):
            axis.imshow(image if found is None else _with_classes(image, found, colours))
            axis.set_title(title, fontsize=8)
            if found is not None:
                seen += np.bincount(found[found < len(classes)].ravel(), minlength=len(classes))
    order = [index for index in np.argsort(-seen, kind="stable")[:LEGEND] if seen[index]]
    keys = [Patch(color=colours[index] / 255, label=classes[index]) for index in sorted(order)]
    figure.legend(handles=keys, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    _save(figure, path)


def _panels(images: Sequence[np.ndarray], columns: int, legend: bool = False) -> tuple[Figure, np.ndarray]:
    sides = [image.shape[:2] for image in images]
    heights = [PANEL * height / max(height, width) for height, width in sides]
    size = (PANEL * columns, sum(heights) + 0.3 * len(images) + (0.8 if legend else 0))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False, height_ratios=heights)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with replacing(Path(path)) as temp:
        figure.savefig(temp, format="png")


def _choose(found: Boxes, score: float) -> dict[str, np.ndarray]:
    """All truths, or the best predictions, the best one last."""
    if "scores" not in found:
        return dict(found)
    order = np.argsort(-found["scores"], kind="stable")[:BOXES]
    order = order[found["scores"][order] >= score][::-1]  # the best is drawn last, over the others
    return {key: np.asarray(value)[order] for key, value in found.items()}


def _with_masks(image: np.ndarray, found: Boxes) -> np.ndarray:
    mixed = image.astype(np.float64)
    for mask, label in zip(found.get("masks", ()), found["labels"], strict=False):
        mask = mask.astype(bool)
        mixed[mask] += FAINT * (_colour(int(label)) - mixed[mask])
    return mixed.round().astype(np.uint8)


def _with_classes(image: np.ndarray, found: np.ndarray, colours: np.ndarray) -> np.ndarray:
    mixed, known = image.astype(np.float64), found < len(colours)
    mixed[known] += SOLID * (colours[found[known]] - mixed[known])
    return mixed.round().astype(np.uint8)


def _outline(axis, found: Boxes, classes: Sequence[str]) -> None:
    """A rectangle an object, in its class's colour, with the class and the score above it (inside, at the top)."""
    right, bottom = axis.get_xlim()[1], axis.get_ylim()[0]
    for number, (box, label) in enumerate(zip(found["boxes"], found["labels"], strict=True)):
        x1, y1, x2, y2 = (float(edge) for edge in box)
        colour = _colour(int(label)) / 255
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2))
        text = classes[int(label)]
        if "scores" in found:
            text += f" {100 * float(found['scores'][number]):.0f}"
        frame = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
        side, x = ("right", min(x2, right)) if x1 > 0.75 * right else ("left", x1)
        above = "top" if y1 < 0.05 * bottom else "bottom"
        axis.text(x, y1, text, fontsize=7, color="black", ha=side, va=above, bbox=frame)


def _colours(classes: Sequence[str]) -> list[np.ndarray]:
    return [GREY if name == "background" else _colour(index) for index, name in enumerate(classes)]


def _colour(index: int) -> np.ndarray:
    """RGB in 0 .. 255; hues a golden angle apart, so that neighbours differ, in three brightnesses."""
    value = (1.0, 0.85, 0.7)[index % 3]
    return 255 * np.array(colorsys.hsv_to_rgb((0.02 + 0.618034 * index) % 1, 0.75, value))
