"""The rules between fields: what each field alone allows but no run can do. Each gives its reason and the remedy."""

import ctypes
from collections.abc import Iterator
from itertools import chain

from vmamba.config import network, ranges, secrets
from vmamba.config.errors import UserError
from vmamba.config.schema import Run
from vmamba_ops.limits import NETWORK_LIMITS, unfit


def check(run: Run, *, cuda: bool | None = None) -> None:
    """Raises ``UserError`` with the first broken rule. ``cuda``: is there a GPU where it will run (None: unknown)."""
    for line in chain(ranges.broken(run), _task_data(run), broken(run, cuda=cuda)):
        raise UserError(line)


def broken(run: Run, *, cuda: bool | None = None) -> Iterator[str]:
    """One line for every rule between settings that this run breaks, whatever its task and data."""
    yield from _run(run)
    yield from _model_data(run)
    yield from _launcher(run)
    yield from search(run)
    yield from _recipe(run)
    yield from _precision(run, cuda)
    if run.model.family == "vmamba":
        yield from _shape(run)
        yield from _forward_type(run)
        yield from _backend(run, cuda)


def cuda_here() -> bool:
    """Whether this machine has a usable CUDA device."""
    return cuda_devices() > 0


def cuda_devices() -> int:
    """How many CUDA devices this process may use, asked of the driver (a millisecond, no torch)."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    known = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if known else 0


def stage_maps(run: Run) -> list[int]:
    """The side of the (square) feature map of each stage."""
    model, side = run.model, run.data.img_size
    side, _ = network.patch_grid(model.patch_embed, model.patch_size, (side, side))
    sides = [side]
    for _ in model.depths[1:]:
        side = {"none": side, "v2": side // 2}.get(str(model.downsample), (side + 1) // 2)
        sides.append(side)
    return sides


def _task_data(run: Run) -> Iterator[str]:
    """Whether the task can read the data."""
    task, data = str(run.task.name), run.data
    has = {"det": data.train_boxes and data.val_boxes, "seg": data.train_maps and data.val_maps}
    real = {"det": "data=coco data.root=/path/to/coco", "seg": "data=ade20k data.root=/path/to/ADEChallengeData2016"}
    if task in real and not has[task]:
        what = "boxes" if task == "det" else "class maps"
        yield f"task={task} with data={data.name}: they have no {what}; take data=scenes (embedded) or {real[task]}"
    if task == "cls" and data.source in ("scenes", "files"):
        yield f"task=cls with data={data.name}: they have no label an image; take data=digits, or task=det or task=seg"
    if run.tta and (run.mode != "eval" or task != "seg"):
        yield "tta=true goes with mode=eval task=seg ckpt=…: several scales and flips are for evaluating class maps"


def _model_data(run: Run) -> Iterator[str]:
    """Whether the model takes the images, and has their classes."""
    model, data = run.model, run.data
    if model.in_chans not in (None, data.in_chans):
        yield (
            f"model.in_chans={model.in_chans} with data.in_chans={data.in_chans}: the model would not take the images; "
            f"leave model.in_chans away, or read them so by data.in_chans={model.in_chans}"
        )
    if run.task.name == "cls" and model.num_classes is not None and model.num_classes < data.num_classes:
        yield (
            f"model.num_classes={model.num_classes} with data.num_classes={data.num_classes}: there are labels that "
            "the model cannot give; leave model.num_classes away, or take a larger one"
        )


def _run(run: Run) -> Iterator[str]:
    if not run.name or "/" in run.name or not run.outputs:
        yield f"outputs={run.outputs} name={run.name}: runs lie in outputs/name-TIME; give both, and no / in name"
    if run.outputs.startswith("~"):
        yield f"outputs={run.outputs}: give the path in full, e.g. outputs=$HOME{run.outputs[1:]}"
    if run.mode == "eval" and not run.ckpt:
        yield "mode=eval needs weights: add ckpt=/path/to/file.pth (or .safetensors, or a run folder)"
    if run.compile and run.compile_mode not in ("auto", "default") and run.recipe.accumulate > 1:
        yield (
            f"compile_mode={run.compile_mode} with recipe.accumulate={run.recipe.accumulate}: a CUDA graph writes its "
            "gradients over those of the micro-step before; take compile_mode=auto, or a larger recipe.batch_size"
        )
    if run.resume not in ("auto", "never") and "/" not in run.resume and not run.resume.endswith(".pt"):
        yield f"resume={run.resume}: choose auto, never, or the path of a checkpoint of this project"
    if line := secrets.in_uri("tracking.uri", run.tracking.uri):
        yield line


def _launcher(run: Run) -> Iterator[str]:
    there = run.launcher
    if line := secrets.in_environment("launcher.env", list(there.env)):
        yield line
    if there.kind == "slurm" and (there.warning < 10 or there.time * 60 < 2 * there.warning):
        yield (
            f"launcher.time={there.time} (minutes) with launcher.warning={there.warning} (seconds before the end, when "
            "a run saves): at least half of the time must be left to it, 10 s to the saving; take a longer time, or "
            f"launcher.warning={max(10, there.time * 20)}"
        )


def search(run: Run) -> Iterator[str]:
    """Those of them that are about a search as a whole."""
    search = run.search
    if search.trials < 0 or (search.batch is not None and search.batch < 1):
        yield f"search.trials={search.trials} search.batch={search.batch}: as many as there are to be, from 1"
    if search.trials and (search.objective is None) != (search.minimize is None):
        yield (
            f"search.objective={search.objective} with search.minimize={search.minimize}: give both (minimize=true or "
            "false), or neither for the task's own metric"
        )
    if search.trials and run.launcher.wait is False and run.launcher.kind != "local":
        yield (
            "search.trials with launcher.wait=false: a search learns from its results, so its process stays; leave "
            "launcher.wait away, and start it under nohup or tmux (vmamba.sweep resume goes on with one that is gone)"
        )


def _recipe(run: Run) -> Iterator[str]:
    recipe = run.recipe
    if recipe.loop == "iters" and recipe.iters < 1:
        yield f"recipe.loop=iters needs recipe.iters > 0, got {recipe.iters}"
    length = recipe.epochs if recipe.loop == "epochs" else recipe.iters
    if recipe.schedule == "step" and not recipe.milestones:
        yield "recipe.schedule=step needs recipe.milestones=[…]: the epochs (loop=iters: steps) at which the rate falls"
    if recipe.warmup >= length:
        unit = str(recipe.loop)
        yield f"recipe.warmup={recipe.warmup:g} {unit} leaves nothing of recipe.{unit}={length}: make it shorter"
    if (recipe.augment.mixup > 0 or recipe.augment.cutmix > 0) and recipe.batch_size % 2:
        yield f"recipe.batch_size={recipe.batch_size}: mixup and cutmix pair up images; take an even batch"


def _on_cpu(run: Run, cuda: bool | None) -> bool:
    return run.device == "cpu" or (run.device == "auto" and cuda is False)


def _precision(run: Run, cuda: bool | None) -> Iterator[str]:
    if run.precision.amp == "fp16" and _on_cpu(run, cuda):
        yield "precision=fp16 needs a GPU: take precision=bf16 or precision=fp32 on a CPU"
    if run.device == "cuda" and cuda is False:
        yield "device=cuda: there is no CUDA device here; take device=auto or device=cpu"


def _shape(run: Run) -> Iterator[str]:
    model = run.model
    try:
        network.check_shape(vars(model), prefix="model.")
    except UserError as misfit:
        yield str(misfit)
        return
    if min(stage_maps(run)) < 1:
        yield (
            f"data.img_size={run.data.img_size} is too small for model.patch_size={model.patch_size} and "
            f"{len(model.depths)} stages (feature maps {stage_maps(run)}): take larger images or a smaller patch"
        )


def _forward_type(run: Run) -> Iterator[str]:
    forward = run.forward_type
    if forward.channel_last_only and run.norm.name != "ln":
        yield (
            f"forward_type={forward.name} with norm={run.norm.name}: {forward.name} is channel-last only; "
            "take norm=ln, or forward_type=v05, which computes the same function in either layout"
        )
    if forward.sequential and run.model.routes == "cascade2d":
        yield (
            f"forward_type={forward.name} with model.routes=cascade2d: {forward.name} calls the scan once a route over "
            "the whole map, cascade2d scans rows and columns in turn; take another forward_type"
        )


def _backend(run: Run, cuda: bool | None) -> Iterator[str]:
    backend = str(run.scan.backend)
    if backend == "auto":
        return
    limit = NETWORK_LIMITS[backend]
    if limit.missing:
        yield f"scan={backend}: {limit.missing.replace('use backend=auto', 'take scan=auto')}"
        return
    if limit.max_d_state is not None and run.model.d_state > limit.max_d_state:
        yield (
            f"scan={backend} takes d_state up to {limit.max_d_state}, model.d_state={run.model.d_state}: "
            "take scan=auto, or a smaller model.d_state"
        )
    elif backend == "fused":
        inner = [int(run.model.ssm_ratio * width) for width in run.model.dims]
        if why := next(filter(None, (unfit(width, 1, str(run.model.routes)) for width in inner)), ""):
            yield f"scan=fused with model.dims={list(run.model.dims)}: {why}; take scan=auto"
    half = run.precision.amp != "fp32" and run.forward_type.scan_in == "input"
    if limit.out_as_in and half and run.forward_type.scan_out == "float32":
        yield (
            f"scan={backend} writes its output in the input's type, forward_type={run.forward_type.name} promises "
            "float32 out of 16-bit input: take scan=oflex, or forward_type=v2, or precision=fp32"
        )
    if _on_cpu(run, cuda) and "cpu" not in limit.devices:
        why = "device=cpu" if run.device == "cpu" else "there is no CUDA device here"
        yield f"scan={backend} runs on a GPU and {why}: take scan=auto (or scan=cpu)"
    if "cuda" not in limit.devices and (run.device == "cuda" or (run.device == "auto" and cuda)):
        yield f"scan={backend} runs on the CPU and this run is on a GPU: take scan=auto, or add device=cpu"
