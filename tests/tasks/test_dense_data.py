"""What is read, in which order, and the one line for each data set that is not what it should be."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_trees import DET, METRICS, SEG, picture, run, task_of, words
from PIL import Image

from vmamba.config.errors import UserError
from vmamba.engine import distributed
from vmamba_tasks.dense.data import GroupedStream
from vmamba_tasks.openmm.loading import annotated_image


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def no_boxes(content: dict) -> None:
    content["annotations"].clear()


def other_names(content: dict) -> None:
    content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cow"}]


def first(path: Path, **fields) -> None:
    edit(path, lambda content: content["annotations"][0].update(fields))


TRAIN, VAL = "annotations/instances_train2017.json", "annotations/instances_val2017.json"
DET_MISTAKES = {
    "no folder": (lambda r: shutil.rmtree(r), ["data.root=", "no such folder", "cocodataset.org"]),
    "no images folder": (lambda r: shutil.rmtree(r / "val2017"), ["data.val_split=val2017", "train2017/"]),
    "no json": (lambda r: (r / TRAIN).unlink(), ["data.train_boxes=", "no such file", "instances_val2017.json"]),
    "half a json": (lambda r: (r / VAL).write_text((r / VAL).read_text()[:200]), ["not readable as JSON", "damaged"]),
    "another json": (lambda r: (r / VAL).write_text('{"info": 1}'), ["not a COCO instances file", "no images"]),
    "captions": (lambda r: edit(r / VAL, lambda c: [a.pop("bbox") for a in c["annotations"]]), ["no bbox"]),
    "half the images": (
        lambda r: [(r / "train2017" / f"{n:012d}.jpg").unlink() for n in (1, 3)],
        ["lacks 2 of 6 images", "000000000001.jpg", "whole"],
    ),
    "other categories": (lambda r: edit(r / TRAIN, other_names), ["2 categories (cat, cow", "data.classes="]),
    "masks of another size": (
        lambda r: edit(r / VAL, lambda c: c["annotations"][1].update(segmentation={"size": [9, 9], "counts": [81]})),
        ["mask of annotation 2 has size [9, 9]", "[72, 48]"],
    ),
    "images of another size": (
        lambda r: edit(r / VAL, lambda c: [i.update(width=96, height=144) for i in c["images"]]),
        ["000000000000.jpg is 48 x 72", "boxes for 96 x 144"],
    ),
    "other order": (
        lambda r: edit(r / VAL, lambda c: c["categories"].reverse()),
        ["another order than data.classes", "toothbrush, hair drier", "the same in train and val"],
    ),
    "a box of two numbers": (
        lambda r: first(r / TRAIN, bbox=[4, 6]),
        ["annotation 1 has bbox [4, 6]", "[x, y, width,"],
    ),
    "an id twice": (lambda r: first(r / VAL, id=2), ["two annotations have id 2", "number them anew"]),
    "a line for a mask": (
        lambda r: first(r / VAL, segmentation=[[4, 6, 22, 24]]),
        ["mask of annotation 1", "three points"],
    ),
    "a mask not in a list": (lambda r: first(r / TRAIN, segmentation=[4, 6, 22, 6, 22, 24]), ["a list of polygons"]),
    "a point to be measured by": (
        lambda r: first(r / VAL, area=0, bbox=[4, 6, 0, 0], segmentation=[]),
        ["1 of 6 objects have no segmentation"],
    ),
    "no box at all": (lambda r: edit(r / TRAIN, no_boxes), ["none of its 6 images has a box", "recipe.det.min_size"]),
}


@pytest.mark.parametrize("what", DET_MISTAKES)
def test_detection_data_that_are_not_right_get_one_line(what, coco, tmp_path):
    root = shutil.copytree(coco, tmp_path / "coco")
    spoil, parts = DET_MISTAKES[what]
    spoil(root)
    refused([*DET, f"data.root={root}"], parts)


def grey_to_colour(root: Path) -> None:
    Image.fromarray(picture(0)).save(root / "annotations/training/ADE_0.png")


SEG_MISTAKES = {
    "no maps": (lambda r: shutil.rmtree(r / "annotations"), ["data.train_maps=annotations/training", "ADE20K is free"]),
    "half the maps": (
        lambda r: (r / "annotations/training/ADE_3.png").unlink(),
        ["lacks 1 of 6 class maps", "ADE_3.png"],
    ),
    "no images": (lambda r: [p.unlink() for p in (r / "images/validation").iterdir()], ["has no images"]),
    "a colour map": (grey_to_colour, ["ADE_0.png has 3 dimensions", "grey PNG"]),
    "two suffixes": (
        lambda r: (r / "images/validation/ADE_1.jpg").rename(r / "images/validation/ADE_1.png"),
        ["images/validation has images with several suffixes (.jpg, .png)"],
    ),
    "a map of another size": (
        lambda r: Image.fromarray(np.zeros((9, 9), np.uint8)).save(r / "annotations/training/ADE_0.png"),
        ["ADE_0.png is 9 x 9", "ADE_0.jpg 48 x 72"],
    ),
    "a broken map": (lambda r: (r / "annotations/training/ADE_0.png").write_bytes(b"x"), ["ADE_0.png is not readable"]),
}


@pytest.mark.parametrize("what", SEG_MISTAKES)
def test_segmentation_data_that_are_not_right_get_one_line(what, ade, tmp_path):
    root = shutil.copytree(ade, tmp_path / "ade")
    spoil, parts = SEG_MISTAKES[what]
    spoil(root)
    refused([*SEG, f"data.root={root}"], parts)


@pytest.mark.parametrize(("zero", "said"), [("false", "and 255 is no class"), ("true", "and 0 or 255 is no class")])
def test_maps_with_255_for_the_foreground_are_warned_of(zero, said, ade, tmp_path, caplog):
    root = shutil.copytree(ade, tmp_path / "ade")
    for path in root.glob("annotations/*/*.png"):
        Image.fromarray(np.where(np.asarray(Image.open(path)), 255, 0).astype(np.uint8)).save(path)
    two = ["data.classes=[ground,thing]", "data.num_classes=2", f"data.reduce_zero_label={zero}"]
    task_of([*SEG, f"data.root={root}", *two])
    assert caplog.text.count("all pixels of the maps looked at are 0 or 255") == 2 and said in caplog.text


def test_more_classes_in_the_maps_than_in_the_model(ade):
    told = [*SEG, f"data.root={ade}"]
    few = f"data.classes={[f'c{n}' for n in range(149)]}"
    refused([*told, few, "data.num_classes=149"], ["has class 150", "data.num_classes=149", "allows 149"])
    refused([*told, "data.num_classes=149"], ["ADE20K", "has 150 classes", "said to have 149", "data.classes=[…]"])
    refused([*told, few], ["data.classes has 149 classes", "said to have 150"])
    grey = ["data.in_chans=1", "data.mean=[0.5]", "data.std=[0.5]"]
    refused([*SEG, f"data.root={ade}", *grey], ["data.in_chans=1", "3 channels"])
    refused([*SEG, f"data.root={ade}", "model.depths=[1,1,1]", "model.dims=[8,8,8]"], ["4 stages"])


def test_more_classes_than_a_byte_tells_apart(ade):
    """mmseg would take class 256 of a 16-bit map for class 0."""
    for classes, zero, most in ((256, "false", 255), (255, "true", 254)):
        told = [f"data.classes={[f'c{n}' for n in range(classes)]}", f"data.num_classes={classes}"]
        refused(
            [*SEG, f"data.root={ade}", *told, f"data.reduce_zero_label={zero}"],
            [f"data.num_classes={classes}", f"{most} classes apart at most"],
        )


def test_boxes_may_lie_elsewhere(coco):
    """The metric reads the file that the data set reads."""
    task = task_of([*DET, f"data.root={coco}", f"data.val_boxes={coco / VAL}"])
    assert Path(task.metric_config["ann_file"]) == coco / VAL == Path(task.val_set.read.dataset.ann_file)


def refused(words: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        task_of(words)
    line = str(caught.value)
    assert "\n" not in line and len(re.sub(r"popen-gw\d+/", "", line)) < 500  # pytest -n adds a folder
    for part in parts:
        assert part in line, line


def test_an_unreadable_image_is_skipped_in_training_and_left_out_of_the_score(coco, tmp_path, caplog):
    root = shutil.copytree(coco, tmp_path / "coco")
    (root / "train2017" / "000000000002.jpg").write_bytes(b"no image")
    (root / "val2017" / "000000000001.jpg").write_bytes(b"no image")
    result = run([*DET, f"data.root={root}", "recipe.epochs=1"], tmp_path / "run")
    assert result["steps"] == 2 and "broken image, skipped" in caplog.text
    assert "000000000001.jpg" in caplog.text


@pytest.mark.parametrize("task", ["det", "seg"])
def test_validation_images_that_are_all_unreadable_are_refused(task, coco, ade, tmp_path):
    root = shutil.copytree(coco if task == "det" else ade, tmp_path / "tree")
    opened = task_of(words(task, root, root))
    for path in (root / ("val2017" if task == "det" else "images/validation")).iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"of \d+ images read were broken, e.g. .*jpg: check that"):
        opened.evaluate(opened.build_model().eval())
    opened.close()


def test_some_of_a_files_categories_can_be_left_out(coco, caplog):
    caplog.set_level("INFO")
    task = task_of([*DET, f"data.root={coco}", "data.classes=[person,car]", "data.num_classes=2"])
    assert "78 of 80 categories are not in data.classes" in caplog.text
    labels = [i["bbox_label"] for n in range(3) for i in task.val_set.read.dataset.get_data_info(n)["instances"]]
    assert labels == [0, 1, 1]  # person and two cars; bicycle and motorcycle are out


@pytest.mark.parametrize("task", ["det", "seg"])
def test_an_image_lies_as_its_annotations_do(task, coco, ade, tmp_path):
    """OpenCV obeys an EXIF tag; annotations may be of the pixels as stored (the first image) or as shown."""
    from PIL import ImageOps

    source = coco if task == "det" else ade
    root = shutil.copytree(source, tmp_path / "tree")
    folder = root / ("val2017" if task == "det" else "images/validation")
    first, second = sorted(folder.iterdir())[:2]
    for path in (first, second):
        image = Image.open(path)
        stored = image if path == first else image.transpose(Image.Transpose.ROTATE_90)
        tag = image.getexif()
        tag[0x0112] = 6  # shown a quarter turned clockwise
        stored.save(path, exif=tag, quality=95)
    assert ImageOps.exif_transpose(Image.open(second)).size == Image.open(source / second.relative_to(root)).size
    dataset = task_of(words(task, root, root)).val_set.read.dataset
    for place, path in enumerate((first, second)):
        sample = dataset[place]["data_samples"]
        wanted = np.asarray(Image.open(path) if path == first else Image.open(source / path.relative_to(root)))
        drawn = annotated_image(str(path), sample.ori_shape)
        assert sample.ori_shape == wanted.shape[:2] == drawn.shape[:2]
        assert np.abs(drawn.astype(int) - wanted).mean() < 10  # compressed once more; 85 for two other pictures
    Image.fromarray(picture(0)[:9]).save(first)
    with pytest.raises(OSError, match="is 48 x 9, its annotations are 48 x 72"):
        dataset[0]


def test_images_in_folders_of_folders_and_hidden_files_beside_them(ade, tmp_path):
    """PNG files in one folder a city, one a link, as in Cityscapes; ._NAME is what macOS leaves in archives."""
    root = tmp_path / "cities"
    for kind in ("images", "annotations"):
        for split in ("training", "validation"):
            (root / kind / split / "bonn").mkdir(parents=True)
            (root / "elsewhere" / kind / split).mkdir(parents=True)
            (root / kind / split / "ulm").symlink_to(root / "elsewhere" / kind / split)
            for number, path in enumerate(sorted((ade / kind / split).iterdir())):
                target = root / kind / split / ("ulm" if number % 2 else "bonn") / f"{path.stem}.png"
                Image.open(path).save(target)
                target.with_name(f"._{target.name}").write_bytes(b"no image")
    task = task_of([*SEG, f"data.root={root}"])
    assert (len(task.train_set), len(task.val_set)) == (6, 3) and task.train_set[1][1] == 1


def test_an_error_in_a_pipeline_is_not_taken_for_a_broken_image(coco):
    read = task_of([*DET, f"data.root={coco}"]).train_set.read
    read.dataset.pipeline.transforms.append(lambda _: int("x"))
    with pytest.raises(RuntimeError, match=r"jpg: ValueError in its pipeline \(invalid literal"):
        read[0]


def test_images_of_several_sizes_are_evaluated_in_one_batch(ade, tmp_path):
    told = [*SEG, f"data.root={ade}"]
    one = run([*told, "limit.train_steps=1"], tmp_path / "run")
    many = run([*told, "mode=eval", f"ckpt={tmp_path / 'run'}", "data.eval_batch=3"], tmp_path / "eval")
    assert all(many["final"][name] == pytest.approx(one["final"][name], abs=0.2) for name in METRICS["seg"])


def test_a_batch_of_one_image_is_refused_where_batch_norms_see_one_value(ade, tmp_path):
    with pytest.raises(UserError, match=r"recipe\.batch_size=1: .* two images or more") as caught:
        run([*SEG, f"data.root={ade}", "recipe.batch_size=1"], tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_images_smaller_than_the_crop_are_padded(ade, tmp_path):
    result = run([*SEG, f"data.root={ade}", "recipe.seg.crop=128", "limit.train_steps=2"], tmp_path / "run")
    assert result["steps"] == 2 and np.isfinite(result["final"]["train/loss"])


def test_a_sample_depends_on_its_place_alone(coco):
    loader = task_of([*DET, f"data.root={coco}", "recipe.det.short_sides=[48,64,80]", "recipe.det.crop_sides=[40,56]",
                      "recipe.det.crop_range=[24,40]"]).train_loader()  # fmt: skip
    stream = loader.dataset
    once, _ = stream.sample(3, 1)
    np.random.rand(100)
    again, _ = stream.sample(3, 1)
    assert torch.equal(once["inputs"], again["inputs"])
    assert any(once["inputs"].shape != stream.sample(epoch, 1)[0]["inputs"].shape for epoch in range(6))


@pytest.mark.parametrize(("batch", "ranks"), [(2, 1), (3, 2), (1, 4)])
def test_batches_are_of_one_aspect_and_see_everything_once(batch, ranks):
    tall = np.random.RandomState(0).rand(101) < 0.3
    seen, mixed = [], 0
    streams = [GroupedStream(range(101), tall, batch, 0, rank, ranks) for rank in range(ranks)]
    for rows in zip(*(stream.order(5) for stream in streams), strict=True):
        whole = np.concatenate(rows)
        seen += whole.tolist()
        mixed += len(set(tall[whole])) > 1
    assert len(seen) == len(set(seen)) == 101 // (batch * ranks) * batch * ranks
    assert mixed <= 1 and seen != sorted(seen)
    assert (streams[0].order(5) == streams[0].order(5)).all() and (streams[0].order(5) != streams[0].order(6)).any()


def perfect(task):
    """The metric of a detector that finds everything there is."""
    from vmamba_tasks.openmm import parts

    metric = parts.metric("mmdet", task.metric_config, task.val_set.read.dataset.metainfo)
    for index in range(3):
        sample = task.val_set.read.dataset[index]["data_samples"]
        found = sample.gt_instances.clone()
        found.bboxes, found.scores = found.bboxes.tensor, torch.ones(len(found))
        found.masks = torch.from_numpy(found.masks.to_ndarray()).bool()
        sample.pred_instances = found
        metric.process({}, [sample.to_dict()])
    return metric


def test_a_coco_file_of_another_tool_is_measured_right(coco, tmp_path, caplog):
    """Without ``iscrowd``, numbered from 0, with ./ before the names; objects of no image or category are named."""
    root = shutil.copytree(coco, tmp_path / "coco")

    def change(content: dict) -> None:
        for note in content["annotations"]:
            del note["iscrowd"]
            note["id"] -= 1
        for image in content["images"]:
            image["file_name"] = f"./{image['file_name']}"
        content["annotations"] += [content["annotations"][-1] | {"id": 98, "image_id": 7}]
        content["annotations"] += [content["annotations"][1] | {"id": 99, "category_id": 12}]

    edit(root / VAL, change)
    task = task_of([*DET, f"data.root={root}"])
    assert "1 of 8 annotations are left out, e.g. one of image_id 7, which none of its images has" in caplog.text
    assert "1 of 8 annotations are left out, e.g. one of category_id 12, which none of its categories" in caplog.text
    scores = task._score(perfect(task))
    assert scores["val/bbox_mAP"] == scores["val/segm_AP50"] == pytest.approx(100, abs=0.5)


def test_the_score_is_over_all_ranks_however_uneven(coco, monkeypatch):
    """Perfect predictions in parts of 2 and 1 images: OpenMMLab's own gathering would drop the third."""
    task = task_of([*DET, f"data.root={coco}"])
    metric = perfect(task)
    parted = [metric.results[:2], metric.results[2:]]
    monkeypatch.setattr(distributed, "gather", lambda _: parted)
    scores = task._score(metric)
    assert scores["val/bbox_mAP"] == scores["val/bbox_AP50"] == pytest.approx(100, abs=0.5)
    assert scores["val/segm_AP50"] == pytest.approx(100, abs=0.5)
