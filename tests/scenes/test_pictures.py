"""Predictions beside ground truth: what is drawn, in which colours, and that nothing else is left behind."""

import numpy as np
import pytest
from PIL import Image

from vmamba_tasks.dense import pictures
from vmamba_tasks.dense.pictures import IGNORED, draw_boxes, draw_maps

GREY = np.full((40, 60, 3), 90, dtype=np.uint8)


def found(labels, scores=None):
    masks = np.zeros((len(labels), 40, 60), dtype=bool)
    for number in range(len(labels)):
        masks[number, 5 : 5 + 10 * (number + 1), 5:20] = True
    boxes = np.array([[5, 5, 20, 15 + 10 * number] for number in range(len(labels))], dtype=float).reshape(-1, 4)
    made = {"boxes": boxes, "labels": np.array(labels, dtype=int), "masks": masks}
    return made if scores is None else made | {"scores": np.array(scores, dtype=float)}


def share(path, colour) -> float:
    """Share of the picture's pixels that have ``colour``, within two grey levels."""
    pixels = np.array(Image.open(path).convert("RGB")).astype(float)
    return float((np.abs(pixels - colour).max(axis=-1) <= 2).mean())


@pytest.mark.parametrize("rows", [1, 3])
def test_boxes_and_masks_are_drawn_in_their_classes_colours(tmp_path, rows):
    path = tmp_path / "boxes.png"
    draw_boxes([GREY] * rows, [found([0], [0.9])] * rows, [found([1])] * rows, ("cat", "dog"), path)
    for label in (0, 1):
        mixed = 90 + pictures.FAINT * (pictures._colour(label) - 90)
        assert share(path, mixed) > 0.02
    assert [entry.name for entry in tmp_path.iterdir()] == ["boxes.png"]


def test_weak_predictions_are_left_out_and_nothing_is_a_picture_too(tmp_path):
    weak, none = tmp_path / "weak.png", tmp_path / "none.png"
    draw_boxes([GREY], [found([0], [0.1])], [found([])], ("cat",), weak)
    draw_boxes([GREY], [found([], [])], [found([])], ("cat",), none)
    mixed = 90 + pictures.FAINT * (pictures._colour(0) - 90)
    assert share(weak, mixed) == share(none, mixed) == 0
    assert share(none, (90, 90, 90)) > 0.5


def test_the_best_boxes_stay_and_the_best_is_drawn_last(monkeypatch):
    monkeypatch.setattr(pictures, "BOXES", 2)
    chosen = pictures._choose(found([0, 1, 2], [0.5, 0.9, 0.7]), score=0.3)
    assert chosen["labels"].tolist() == [2, 1] and chosen["masks"].shape == (2, 40, 60)


def test_boxes_need_no_masks(tmp_path):
    bare = {"boxes": np.array([[1.0, 2, 30, 20]]), "labels": np.array([0])}
    draw_boxes([GREY], [bare | {"scores": np.array([0.8])}], [bare], ("cat",), tmp_path / "b.png")
    assert share(tmp_path / "b.png", pictures._colour(0)) > 0


def test_class_maps_wear_the_palette_and_unknown_pixels_show_the_image(tmp_path):
    palette = [(200, 0, 0), (0, 0, 200)]
    true = np.zeros((40, 60), dtype=np.int64)
    true[:, 30:] = 1
    true[:10] = IGNORED
    predicted = np.where(true == IGNORED, 0, true)
    draw_maps([GREY], [predicted], [true], ("left", "right"), tmp_path / "m.png", palette)
    for colour in palette:
        assert share(tmp_path / "m.png", 90 + pictures.SOLID * (np.array(colour) - 90)) > 0.1
    assert share(tmp_path / "m.png", (90, 90, 90)) > 0.2  # the image, and a quarter of the truth


def test_images_of_different_sizes_share_a_picture(tmp_path):
    sizes = [(40, 60), (80, 30), (20, 20)]
    images = [np.zeros((*size, 3), dtype=np.uint8) for size in sizes]
    maps = [np.zeros(size, dtype=np.int64) for size in sizes]
    draw_maps(images, maps, maps, ("all",), tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").size[0] > 300
