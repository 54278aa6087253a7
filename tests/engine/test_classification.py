import logging
import math
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_task import TinyTask, config, train

from vmamba.config.errors import UserError
from vmamba.config.schema import Augment, Data
from vmamba.engine.distributed import Env
from vmamba_tasks.classification import Classification
from vmamba_tasks.classification.data import Digits

CPU = Env(torch.device("cpu"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three classes of coloured noise: 12 training and 5 validation images each, as JPEG files."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for number, label in enumerate(("ant", "bee", "cat")):
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 100, (20, 24, 3), dtype=np.uint8)
                pixels[..., number] += 150
                Image.fromarray(pixels).save(folder / f"{index}.JPEG")
    return root


def folder_config(folder, **changes):
    data = Data(name="imagefolder", root=str(folder), num_classes=3, img_size=16, workers=0, how_to_get="Ask for it.")
    cfg = config(data=data, recipe__batch_size=6, recipe__epochs=1)
    cfg.recipe.augment = Augment(auto_augment="rand-m5-mstd0.5-inc1", mixup=0.8, cutmix=1.0, reprob=0.25)
    for key, value in changes.items():
        setattr(cfg.data, key, value)
    return cfg


def test_digits_split_is_fixed_stratified_and_disjoint():
    train_set, val_set = Digits(True, "L"), Digits(False, "L")
    assert (len(train_set), len(val_set)) == (1438, 359)
    assert np.bincount(val_set.labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert val_set.digest().startswith("617b4fe6e84afdb8")
    image, label = train_set[0]
    assert image.size == (8, 8) and image.mode == "L" and 0 <= label < 10
    assert len(Digits(True, "RGB")[0][0].getbands()) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_image_folder(images, tmp_path, workers):
    result = train(folder_config(images, workers=workers), tmp_path)
    assert result["steps"] == 6 and result["final"]["val/acc5"] == 100


def test_tar_files(images, tmp_path):
    root = tmp_path / "tars"
    root.mkdir()
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            for label in ("ant", "bee", "cat"):
                tar.add(images / split / label, arcname=label)
    result = train(folder_config(root), tmp_path / "tar")
    same = train(folder_config(images), tmp_path / "folder")
    assert result["final"]["val/loss"] == same["final"]["val/loss"]


def test_torchvision_reader(images, tmp_path):
    assert train(folder_config(images, reader="torch/image_folder"), tmp_path)["steps"] == 6
    with pytest.raises(UserError, match=r"data.num_classes=5, but .*/train has 3 classes"):
        train(folder_config(images, reader="torch/image_folder", num_classes=5), tmp_path)


def test_every_image_counts_once_over_ranks(images):
    sums = []
    for world in (1, 2, 4):
        parts = []
        for rank in range(world):
            cfg = folder_config(images)
            cfg.mode, cfg.ckpt = "eval", "x"
            task = TinyTask(cfg, Env(torch.device("cpu"), rank=rank, world_size=world))
            parts.append([len(targets) for _, targets in task.val_loader])
        sums.append(sum(map(sum, parts)))
    assert sums == [15, 15, 15]


def broken_copy(images, tmp_path, split: str, count: int):
    root = tmp_path / "copy"
    for source in images.glob("*/*/*"):
        target = root / source.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    for path in sorted((root / split).glob("*/*"))[:count]:
        path.write_bytes(path.read_bytes()[:300])
    return root


def test_broken_training_image_is_skipped_and_named(images, tmp_path, caplog):
    root = broken_copy(images, tmp_path, "train", 1)
    with caplog.at_level(logging.WARNING, "vmamba"):
        assert train(folder_config(root), tmp_path / "run")["steps"] == 6
    assert [r.getMessage() for r in caplog.records] == [f"broken image, skipped: {root}/train/ant/0.JPEG"]


def test_broken_validation_image_does_not_count(images, tmp_path):
    cfg = folder_config(broken_copy(images, tmp_path, "val", 2))
    cfg.mode, cfg.ckpt = "eval", "x"
    task = TinyTask(cfg, CPU)
    metrics = task.evaluate(task.build_model().eval())
    assert round(metrics["val/acc1"] * 13 / 100, 6) % 1 == 0 and metrics["val/acc5"] == pytest.approx(100)


def test_of_16_bits_the_upper_eight_are_read(images, tmp_path):
    root = shutil.copytree(images, tmp_path / "images")
    grey = np.arange(480, dtype=np.uint16).reshape(20, 24) * 136
    for path in list(root.rglob("*.JPEG")):
        Image.fromarray(grey).save(path.with_suffix(".png"))
        path.unlink()
    image, _ = Classification(folder_config(root), CPU).val_set.read[0]
    assert image.mode == "RGB" and (np.asarray(image) == (grey >> 8)[..., None]).all()


def test_an_image_of_more_pixels_than_pil_opens_is_skipped(images, tmp_path, caplog, monkeypatch):
    root = shutil.copytree(images, tmp_path / "images")
    Image.new("RGB", (60, 24)).save(root / "val" / "ant" / "1.JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 480)  # it opens twice as many
    opened = Classification(folder_config(root), CPU).val_set
    assert [opened[index][1] for index in range(3)] == [0, -1, 0]
    opened.check()
    assert "broken image, skipped" in caplog.text and "1.JPEG" in caplog.text


def test_many_broken_images_are_refused(images, tmp_path):
    with pytest.raises(UserError, match=r"images read were broken, e.g. .*JPEG: check that the data set"):
        train(folder_config(broken_copy(images, tmp_path, "train", 20)), tmp_path / "run")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_validation_set_of_broken_images_is_refused(images, tmp_path, workers):
    cfg = folder_config(broken_copy(images, tmp_path, "val", 15), workers=workers)
    cfg.mode, cfg.ckpt = "eval", "x"
    task = TinyTask(cfg, CPU)
    with pytest.raises(UserError, match=r"of \d+ images read were broken, e.g. .*JPEG: check that") as caught:
        task.evaluate(task.build_model().eval())
    task.close()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": None}, "data=imagefolder: data.root is missing. Ask for it."),
        ({"root": "/nowhere/at/all"}, "data.root=/nowhere/at/all: no such folder. Ask for it."),
        (
            {"num_classes": 1000},
            "data.num_classes=1000, but .*/train has 3 classes .ant, bee, cat.: set data.num_classes=3",
        ),
        ({"train_split": "trn"}, "has train/, val/ but no trn .data.train_split.: expected <root>/train/<class>"),
        ({"in_chans": 2}, "data.in_chans=2: images have 1, 3 or 4 channels"),
        ({"reader": "zip/x"}, "data.reader=zip/x: choose wds/"),
        ({"reader": "wds/x", "root": None}, "data.root is missing"),
        ({"reader": "torch/places"}, "data.reader=torch/places, data.root=.* cannot be opened: Unknown torchvision"),
        ({"reader": "tfds/x"}, "data.reader=tfds/x needs a package: pip install tensorflow-datasets"),
    ],
)
def test_what_cannot_be_opened_is_one_line(images, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        train(folder_config(images, **changes), tmp_path)
    assert "\n" not in str(caught.value)


def test_layouts_that_are_not(images, tmp_path):
    flat = tmp_path / "flat" / "train"
    flat.mkdir(parents=True)
    (flat / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"train has no class folders \(1 images directly in it\): expected"):
        train(folder_config(tmp_path / "flat"), tmp_path / "run")
    (flat / "ant").mkdir()
    with pytest.raises(UserError, match=r"train has 1 images directly in it, beside its class folders: move them"):
        train(folder_config(tmp_path / "flat"), tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has nothing in it but no train"):
        train(folder_config(tmp_path / "empty"), tmp_path / "run")
    with pytest.raises(UserError, match=r"a.jpg is a file: give the folder that has both splits"):
        train(folder_config(flat / "a.jpg"), tmp_path / "run")
    only = tmp_path / "only"
    only.mkdir()
    (only / "train").symlink_to(images / "train")
    with pytest.raises(UserError, match=r"has train/ but no validation .data.val_split"):
        train(folder_config(only), tmp_path / "run")


@pytest.mark.parametrize(
    ("size", "reason"),
    [(0, "empty file"), (700, "empty header"), (1700, "there are none")],  # cut in the header, in the first image
)
def test_a_tar_file_that_is_not_whole_is_one_line(images, tmp_path, size, reason):
    path = tmp_path / "train.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(images / "train" / "ant", arcname="ant")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=rf"train.tar: no images could be read from it \({reason}\)") as caught:
        train(folder_config(tmp_path), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_class_folders_without_images_are_one_line(tmp_path):
    (tmp_path / "train" / "ant").mkdir(parents=True)
    (tmp_path / "train" / "ant" / "0.tif").touch()
    said = r"train: no images could be read from it \(Found 0 images .*, whose names end in .png, .jpg, .jpeg\)"
    with pytest.raises(UserError, match=said) as caught:
        train(folder_config(tmp_path), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_digits_are_ten():
    cfg = config()
    cfg.data.num_classes = 5
    with pytest.raises(UserError, match=r"data.num_classes=5, but digits has 10 classes .0, 1, 2, …."):
        Classification(cfg, CPU)


def test_other_classes_in_validation_are_refused(images, tmp_path):
    root = tmp_path / "images"
    shutil.copytree(images, root)
    (root / "val" / "cat").rename(root / "val" / "dog")
    with pytest.raises(UserError, match=r"different classes: cat only in training, dog only in validation"):
        Classification(folder_config(root), CPU)


def test_mixup_with_a_classifier_of_more_classes_than_the_data(images):
    cfg = folder_config(images)
    cfg.model.num_classes = 7
    batch = torch.zeros(6, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = Classification(cfg, CPU).train_step(lambda mixed: torch.zeros(len(mixed), 7), batch)["loss"]
    assert loss.item() == pytest.approx(math.log(7))


def evaluation(ckpt, **changes):
    return config(mode="eval", ckpt=str(ckpt), **changes)


def test_evaluation_of_a_run_folder_repeats_its_best(tmp_path):
    result = train(config(recipe__ema__enabled=True), tmp_path / "run")
    again = train(evaluation(tmp_path / "run"), tmp_path / "eval")
    assert again["weights"] == "ema" and again["ckpt"].endswith("best.pt")
    for name in ("val/loss", "val/acc1", "val/acc5"):
        assert again["final"][name] == result["best"][name]


def test_evaluation_of_another_model_is_one_line(tmp_path):
    train(config(recipe__epochs=1), tmp_path / "run")
    with pytest.raises(UserError, match=r"of model.name=tiny on data.name=digits is not a checkpoint of this model"):
        train(evaluation(tmp_path / "run", model__kwargs={"width_extra": 1}), tmp_path / "eval")
