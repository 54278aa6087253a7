"""``python -m vmamba.bench dense``: whole detectors and segmentors, VMamba-T against Swin-T under the same heads.

Mask R-CNN on images of 1280 x 800 and UperNet on 512 x 512, as the engine runs them: bf16 autocast on a GPU (a
detector's heads in float32), images arriving as bytes from the host, the optimizer's step in training; images and
truths are made up. In testing a detector has all the work there can be: 1,000 proposals, all taken for objects.
``kernels_ms`` is the GPU's own part of ``ms``: where it is far less, the host is what is measured.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from vmamba.bench.jobs import chosen
from vmamba.bench.measure import device_work
from vmamba.bench.report import Row
from vmamba.config.compose import compose
from vmamba.engine import compiling, optim
from vmamba.engine.distributed import Env
from vmamba.engine.fit import load_task
from vmamba.engine.precision import Precision
from vmamba_tasks.openmm import extras, parts

MODELS = ("tiny", "swin_tiny")
MODES = ("eager", "default")
PHASES = ("test", "train")
DATA = {"det": "coco", "seg": "ade20k"}
SIZES = {"det": (800, 1280), "seg": (512, 512)}  # height, width
BATCHES = {  # 2 images a GPU in training and 1 in testing are published; the others show the card full
    ("det", "train"): (2, 8),
    ("det", "test"): (1, 8),
    ("seg", "train"): (2, 16),
    ("seg", "test"): (1, 16),
}
OBJECTS = 7  # an image; COCO has 7.3
SURE = 9.0  # logit of class 0, so that every proposal is an object
SMALL = ["recipe.det.channels=16", "recipe.det.hidden=16", "recipe.det.proposals=20"]
SMALL_SEG = ["recipe.seg.channels=16", "recipe.seg.aux_channels=16", "recipe.seg.crop=64"]


def run(
    device: torch.device, small: bool, only: str = "", scan: str = "auto", modes: str = ""
) -> tuple[Iterator[Row], Row]:
    """The rows of the table, and their conditions. ``small``: nano and Swin with thin heads on images of 64 x 64.

    By commas, ``only``: det, seg (both); ``scan``: VMamba's backends; ``modes``: eager (alone), default (the backbone
    compiled, a minute a graph: the first batches alone).
    """
    tasks, kinds = chosen("--only", only, DATA, DATA), chosen("--modes", modes, MODES[:1], MODES)
    for extra in DATA:
        extras.require(extra)
    ours, *others = ("nano", "swin_tiny") if small else MODELS
    networks = [(ours, backend) for backend in scan.split(",")] + [(name, "") for name in others]
    rows = _table(itertools.product(tasks, kinds, networks), device, small)
    return rows, {"amp": "bf16" if device.type == "cuda" else "fp32"}


def _table(choices: Iterable[tuple[str, str, tuple[str, str]]], device: torch.device, small: bool) -> Iterator[Row]:
    for task, mode, network in choices:
        for row in _rows(task, *network, mode, device, small):
            print(*(f"{key}={_short(value)}" for key, value in row.items()), file=sys.stderr, flush=True)
            yield row
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _rows(task: str, name: str, scan: str, mode: str, device: torch.device, small: bool) -> Iterator[Row]:
    """As they are measured."""
    words = [f"task={task}", f"data={DATA[task]}", f"model={name}", "data.root=unused", "recipe.sync_bn=false"]
    words += [f"scan={scan or 'auto'}", f"compile={str(mode != 'eager').lower()}"]
    words.append(f"precision.cudnn_benchmark={str(task == 'seg').lower()}")  # regions change in number at every step
    cfg, _ = compose([*words, *(SMALL if task == "det" else SMALL_SEG)] if small else words)
    kind = load_task(cfg.task.entry)
    whole = kind.__new__(kind)  # a task without data: the images are made here
    whole.cfg, whole.env = cfg, Env(device)
    torch.manual_seed(0)
    model = whole.build_model().to(device)
    if cfg.compile:
        compiling.compile(whole.compiled(model), cfg, device)
    precision = Precision(cfg.precision, device)
    for phase in PHASES:
        batches = BATCHES[task, phase] if mode == "eager" else BATCHES[task, phase][:1]
        for batch in (2,) if small else batches:
            began = time.perf_counter()
            row = {"task": task, "model": name, "scan": scan, "compile": mode, "phase": phase, "batch": batch}
            # an evaluation has one autocast around it, which keeps the converted weights; training one a step
            around = precision.autocast() if phase == "test" else nullcontext()
            with parts.scope(kind.scope), around:  # the scope keeps OpenMMLab from printing, and us
                images = make(task, batch, (64, 64) if small else SIZES[task], cfg)
                step = _test(whole, model, precision) if phase == "test" else _train(whole, model, precision)
                row |= _measure(lambda step=step, images=images: step(images), batch, device, 1 if small else 8)
                row |= _backbone(model, phase, batch, images, precision, device, 1 if small else 8)
            yield row | {"took_s": time.perf_counter() - began}


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _test(task, model, precision) -> Callable[[Any], Any]:
    model.eval()
    if task.name == "det":
        _lean(model, SURE)

    @torch.no_grad()
    def step(images: Any) -> Any:
        with precision.autocast():
            return task.predict(model, images)

    return step


@torch.no_grad()
def _lean(model, logit: float) -> None:
    """Towards class 0."""
    model.roi_head.bbox_head.fc_cls.bias[0] = logit


def _train(task, model, precision) -> Callable[[Any], Any]:
    recipe = task.cfg.recipe
    model.train()
    if task.name == "det":
        _lean(model, 0.0)
    optimizer = optim.optimizer(model, recipe, recipe.batch_size, task.env.device)

    def step(images: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            loss = task.train_step(model, images)["loss"]
        loss.backward()
        optimizer.step()

    return step


def _measure(call: Callable[[], Any], batch: int, device: torch.device, repeats: int) -> Row:
    """Images a second by the median call, waited for, what of it is the GPU's work, and the most memory of torch's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = _seconds(call, device, repeats)
    memory = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
    kernels, launches = device_work(call, device)
    row = {"images_per_s": batch / seconds, "ms": seconds * 1e3, "kernels_ms": kernels, "launches": launches}
    return row | {"memory_MB": memory}


def _backbone(model, phase: str, batch: int, images: Any, precision, device: torch.device, repeats: int) -> Row:
    """The backbone's own share: its forward, in training with its backward, on images that lie on the device."""
    height, width = images["inputs"][0].shape[1:]
    pictures = torch.randn(batch, 3, height, width, device=device)

    def call() -> None:
        with precision.autocast(), nullcontext() if phase == "train" else torch.no_grad():
            features = model.backbone(pictures)
        if phase == "train":
            sum(feature.float().mean() for feature in features).backward()
            model.zero_grad(set_to_none=True)

    return {"backbone_ms": _seconds(call, device, repeats) * 1e3}


def _seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    warmup, times = 1 if repeats == 1 else 3, []
    for _ in range(warmup + repeats):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[warmup:])


def make(task: str, batch: int, size: tuple[int, int], cfg) -> dict[str, list]:
    """OpenMMLab's batch: uint8 images (3, H, W) and data samples with truths, the same for every model."""
    random = np.random.RandomState(0)
    inputs = [torch.from_numpy(random.randint(0, 256, (3, *size), dtype=np.uint8)) for _ in range(batch)]
    sample = _boxes if task == "det" else _map
    return {"inputs": inputs, "data_samples": [sample(random, size, cfg, index) for index in range(batch)]}


def _meta(size: tuple[int, int], index: int) -> dict:
    shape = {"img_shape": size, "ori_shape": size, "pad_shape": size, "batch_input_shape": size}
    return shape | {"img_id": index, "img_path": "", "scale_factor": (1.0, 1.0)}


def _boxes(random: np.random.RandomState, size: tuple[int, int], cfg, index: int):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    height, width = size
    masks, boxes = np.zeros((OBJECTS, height, width), dtype=np.uint8), []
    for mask in masks:
        x, y = random.randint(0, width // 2), random.randint(0, height // 2)
        right, bottom = x + random.randint(width // 16, width // 2), y + random.randint(height // 16, height // 2)
        mask[y:bottom, x:right] = 1
        boxes.append([x, y, right, bottom])
    labels = torch.from_numpy(random.randint(0, cfg.data.num_classes, OBJECTS))
    truth = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32), labels=labels)
    truth.masks = BitmapMasks(masks, height, width)
    found = DetDataSample(metainfo=_meta(size, index))
    found.gt_instances, found.ignored_instances = truth, InstanceData(bboxes=torch.zeros(0, 4))
    return found


def _map(random: np.random.RandomState, size: tuple[int, int], cfg, index: int):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    classes = random.randint(0, cfg.data.num_classes, (1, 8, 8)).repeat(size[0] // 8, 1).repeat(size[1] // 8, 2)
    found = SegDataSample(metainfo=_meta(size, index))
    found.gt_sem_seg = PixelData(data=torch.from_numpy(classes))
    return found
