"""The embedded scenes: deterministic, whole or not there, and what COCO's and ADE20K's readers take them for."""

import hashlib
import json
import threading

import numpy as np
import pytest
from PIL import Image

from vmamba.config.errors import UserError
from vmamba_tasks.scenes import CLASSES, MAP_CLASSES, MAP_PALETTE, default_root, make
from vmamba_tasks.scenes.compose import COUNTS, SIZE, VISIBLE, scene


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setitem(COUNTS, "train", 6)
    monkeypatch.setitem(COUNTS, "val", 3)


def digest(root) -> str:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(root)).encode() + p.read_bytes() for p in files)).hexdigest()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_scene_depends_on_split_and_index_alone(split):
    first = scene(split, 3)
    scene(split, 4)
    again = scene(split, 3)
    assert np.array_equal(first.image, again.image) and first.labels == again.labels
    assert not np.array_equal(first.image, scene(split, 4).image)
    assert first.image.shape == (SIZE, SIZE, 3) and first.image.dtype == first.owner.dtype == np.uint8


@pytest.mark.parametrize("split, labels, ink", [("train", (9, 4, 2, 2), 1704), ("val", (2, 8, 5, 1), 1821)])
def test_the_first_scenes_stay_what_the_tables_were_measured_on(split, labels, ink):
    made = scene(split, 0)
    assert made.labels == labels
    assert made.owner.astype(bool).sum() == pytest.approx(ink, abs=3)  # float rounding may move an edge pixel


def test_the_splits_show_different_handwriting():
    from vmamba_tasks.scenes.compose import _handwriting

    train, val = ({image.tobytes() for image in _handwriting(split)[0]} for split in ("train", "val"))
    assert len(train & val) <= 0.01 * len(val)  # load_digits itself repeats a picture or two


def test_every_digit_stays_visible_and_all_classes_occur():
    seen = set()
    for index in range(40):
        made = scene("train", index)
        areas = np.bincount(made.owner.ravel(), minlength=len(made.labels) + 1)[1:]
        assert 1 <= len(made.labels) <= 5 and areas.min() >= 20
        assert set(np.unique(made.class_map())) == {0, *(label + 1 for label in made.labels)}
        seen |= set(made.labels)
    assert seen == set(range(10)) and 0.5 < VISIBLE < 1


def test_files_have_the_two_layouts(tmp_path, few):
    root = make(tmp_path / "scenes")
    for split, count in COUNTS.items():
        listed = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        assert [c["name"] for c in listed["categories"]] == list(CLASSES)
        assert len(listed["images"]) == count and len({a["id"] for a in listed["annotations"]}) == len(
            listed["annotations"]
        )
        for entry in listed["images"]:
            image = Image.open(root / "images" / split / entry["file_name"])
            classes = np.array(Image.open(root / "annotations" / split / entry["file_name"]))
            assert image.mode == "RGB" and image.size == (entry["width"], entry["height"])
            assert classes.dtype == np.uint8 and classes.shape == image.size[::-1]
            assert classes.max() < len(MAP_CLASSES) == len(MAP_PALETTE)


def test_masks_and_boxes_are_what_coco_reads(tmp_path, few):
    mask = pytest.importorskip("pycocotools.mask", reason="needs the extra det")
    root = make(tmp_path / "scenes")
    listed = json.loads((root / "annotations" / "instances_train.json").read_text())
    for note in listed["annotations"]:
        size = note["segmentation"]["size"]
        decoded = mask.decode(mask.frPyObjects(note["segmentation"], *size))
        assert decoded.sum() == note["area"]
        assert mask.toBbox(mask.encode(np.asfortranarray(decoded))).tolist() == note["bbox"]
        name = listed["images"][note["image_id"] - 1]["file_name"]
        classes = np.array(Image.open(root / "annotations" / "train" / name))
        assert (classes[decoded.astype(bool)] == note["category_id"]).all()


def test_made_twice_or_by_two_at_once_it_is_the_same(tmp_path, few):
    roots = [tmp_path / "a", tmp_path / "b", tmp_path / "b", tmp_path / "b"]
    threads = [threading.Thread(target=make, args=(root,)) for root in roots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_whole_set_is_left_alone(tmp_path, few):
    root = make(tmp_path / "scenes")
    before = (root / "scenes.json").stat().st_mtime_ns
    assert make(root) == root and (root / "scenes.json").stat().st_mtime_ns == before


def test_it_is_kept_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root().parent == tmp_path / "vmamba" and default_root().name.startswith("scenes-")


def test_a_folder_that_holds_something_else_is_refused(tmp_path, few):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="holds other files"):
        make(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        make(tmp_path / "mine.txt")
    with pytest.raises(UserError, match=r"cannot be written to .*give data\.root="):
        make(tmp_path / "mine.txt" / "scenes")


def test_half_a_set_is_named(tmp_path, few):
    root = make(tmp_path / "scenes")
    (root / "images" / "val" / "0001.png").unlink()
    with pytest.raises(UserError, match="has 2 of 3 images: delete"):
        make(root)
