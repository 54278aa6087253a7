"""The typed schema of a run: every key, its type, its default and its choices.

The YAML files of ``conf/`` fill it, the command line overrides it, and ``rules.py`` checks what one field alone
cannot know. No torch in here: composing and validating must answer at once.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING


class Choice(StrEnum):
    """A string with a fixed set of values; prints and compares as the plain string."""


def choice(name: str, *values: str) -> type[Choice]:
    return Choice(name, [(v, v) for v in values], module=__name__)


Family = choice("Family", "vmamba", "timm")
PatchEmbed = choice("PatchEmbed", "v1", "v2")
Downsample = choice("Downsample", "v1", "v2", "v3", "none")
Activation = choice("Activation", "silu", "gelu", "relu", "sigmoid")
Gate = choice("Gate", "act", "linear", "none")
OutNorm = choice("OutNorm", "ln", "none", "dwconv3", "cnorm", "softmax", "sigmoid")
Routes = choice("Routes", "cross2d", "unidi", "bidi", "cascade2d")
Init = choice("Init", "v0", "v1", "v2")
Mlp = choice("Mlp", "mlp", "gmlp", "none")
NormKind = choice("NormKind", "ln", "ln2d", "bn")
Projection = choice("Projection", "einsum", "conv")
CrossScan = choice("CrossScan", "torch", "triton")
ScanType = choice("ScanType", "float32", "input")
Backend = choice("Backend", "auto", "naive", "cpu", "triton", "core", "oflex", "mamba_ssm", "fused")
Mode = choice("Mode", "train", "eval")
Amp = choice("Amp", "auto", "bf16", "fp16", "fp32")
Device = choice("Device", "auto", "cpu", "cuda")
Store = choice("Store", "mlflow", "none")
Source = choice("Source", "digits", "timm")
Loop = choice("Loop", "epochs", "iters")


@dataclass
class Model:
    """What is computed: the fields that change the function or its parameters.

    ``family=timm`` takes any timm model by ``name`` (with ``kwargs`` for its constructor) and ignores the fields
    from ``depths`` on, but for ``drop_path`` and ``grad_checkpointing``.
    """

    family: Family = Family.vmamba
    name: str = MISSING  # vmamba_tiny_s1l8, or a timm model's name
    num_classes: int | None = None  # None: the data set's
    in_chans: int | None = None  # None: the data set's
    drop_path: float = 0.0  # stochastic depth of the last block; rises linearly from 0
    grad_checkpointing: bool = False  # recompute block activations in the backward
    kwargs: dict[str, Any] = field(default_factory=dict)  # family=timm only
    depths: list[int] = field(default_factory=list)  # blocks a stage
    dims: list[int] = field(default_factory=list)  # channels a stage
    patch_size: int = 4
    patch_embed: PatchEmbed = PatchEmbed.v2
    patch_norm: bool = True
    pos_embed: bool = False
    downsample: Downsample = Downsample.v3
    d_state: int = 1
    ssm_ratio: float = 2.0  # inner width over stage width; 0: no scan branch
    dt_rank: int | None = None  # None: ceil(channels / 16)
    ssm_act: Activation = Activation.silu
    conv: int = 3  # depthwise convolution before the scan; 0: none
    conv_bias: bool = False
    gate: Gate = Gate.none  # act: y * act(z); linear: y * z; none: no z
    out_norm: OutNorm = OutNorm.ln
    out_act: bool = False  # GELU after out_norm
    routes: Routes = Routes.cross2d
    init: Init = Init.v0
    mlp: Mlp = Mlp.mlp
    mlp_ratio: float = 4.0
    mlp_act: Activation = Activation.gelu


@dataclass
class ForwardType:
    """How the same function is computed. ``released_with``: the scan the name stood for upstream."""

    name: str = MISSING
    projection: Projection = Projection.einsum  # x_proj and dt_proj by einsum, or as grouped 1x1 convolutions
    cross_scan: CrossScan = CrossScan.torch
    scan_in: ScanType = ScanType.float32  # dtype the scan's inputs are cast to
    scan_out: ScanType = ScanType.float32  # dtype of the scan's output
    sequential: bool = False  # one scan call a route, instead of four groups in one
    channel_last_only: bool = False
    released_with: Backend = Backend.oflex
    what: str = ""  # for the generated table
    use: str = ""


@dataclass
class Norm:
    """Normalisation and with it the layout: ln is channel-last, ln2d and bn channel-first."""

    name: NormKind = NormKind.ln2d
    what: str = ""
    use: str = ""


@dataclass
class Scan:
    """Which implementation of the scan runs. ``auto``: the best one here that keeps the forward type's contract."""

    backend: Backend = Backend.auto


@dataclass
class Task:
    """``entry`` is ``package.module:Class``; nothing else knows the task."""

    name: str = MISSING
    entry: str = MISSING
    metric: str = MISSING  # what "best" means
    higher_is_better: bool = True


@dataclass
class Data:
    """A data set. ``source=timm`` goes through timm's readers: folder, tar, wds/…, hfds/…, tfds/…, torch/…."""

    name: str = MISSING
    source: Source = Source.timm
    reader: str = ""  # timm's prefix: "" (folder or tar), "wds/name", "hfds/name", "tfds/name", "torch/name"
    root: str | None = None
    train_split: str = "train"
    val_split: str = "validation"
    num_classes: int = MISSING
    in_chans: int = 3
    img_size: int = 224
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    interpolation: str = "bicubic"
    crop_pct: float = 0.875  # evaluation: resize to img_size / crop_pct, centre crop
    workers: int = 8
    how_to_get: str = ""  # said when root is missing


@dataclass
class Augment:
    """Training augmentation, in timm's terms."""

    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: list[float] = field(default_factory=lambda: [0.75, 4.0 / 3.0])
    hflip: float = 0.5
    color_jitter: float = 0.4
    auto_augment: str | None = None
    reprob: float = 0.0
    remode: str = "pixel"
    recount: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: str = "batch"


@dataclass
class Ema:
    enabled: bool = False
    decay: float = 0.9999
    warmup: bool = False  # ramp the decay up over the first steps (short runs)


@dataclass
class Recipe:
    """How a model is trained. Learning rates are for a total batch of ``lr_batch`` and scale with it (0: as given)."""

    name: str = MISSING
    loop: Loop = Loop.epochs
    epochs: int = 300
    iters: int = 0  # optimizer steps, with loop=iters
    batch_size: int = 128  # a process and micro-step
    accumulate: int = 1  # micro-steps an optimizer step
    eval_every: int = 1  # epochs, or optimizer steps with loop=iters
    optimizer: str = "adamw"  # a timm optimizer
    lr: float = 5e-4
    lr_batch: int = 512
    min_lr: float = 5e-6
    warmup_lr: float = 5e-7
    warmup: float = 20  # epochs, or steps with loop=iters
    weight_decay: float = 0.05
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    clip_grad: float | None = 5.0  # global norm
    smoothing: float = 0.1
    augment: Augment = field(default_factory=Augment)
    ema: Ema = field(default_factory=Ema)


@dataclass
class Precision:
    amp: Amp = Amp.auto  # auto: bf16 on a GPU that has it, fp32 on a CPU
    tf32: bool = True
    cudnn_benchmark: bool = True


@dataclass
class Tracking:
    store: Store = Store.mlflow
    uri: str | None = None  # None: sqlite file in the outputs folder
    experiment: str = "vmamba"
    run_name: str | None = None  # None: the run folder's name
    log_checkpoint: bool = True  # the best checkpoint as an artifact
    system_metrics: bool = True
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Checkpoint:
    keep_last: int = 2
    every_epochs: int = 1
    every_steps: int = 0  # 0: at the ends of epochs only
    best: bool = True


@dataclass
class Limit:
    """Cuts a run short for a smoke test; None: no limit."""

    train_steps: int | None = None  # optimizer steps in all
    eval_batches: int | None = None


@dataclass
class Run:
    """One run, whole."""

    mode: Mode = Mode.train
    model: Model = field(default_factory=Model)
    forward_type: ForwardType = field(default_factory=ForwardType)
    norm: Norm = field(default_factory=Norm)
    scan: Scan = field(default_factory=Scan)
    task: Task = field(default_factory=Task)
    data: Data = field(default_factory=Data)
    recipe: Recipe = field(default_factory=Recipe)
    precision: Precision = field(default_factory=Precision)
    tracking: Tracking = field(default_factory=Tracking)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    limit: Limit = field(default_factory=Limit)
    ckpt: str | None = None  # mode=eval: a file or a run folder
    resume: str = "auto"  # auto: from this run folder's newest checkpoint; never; or a path
    seed: int = 0
    deterministic: bool = False
    device: Device = Device.auto
    compile: bool = False
    log_every: int = 10  # optimizer steps between records
    outputs: str = "outputs"  # folder of all runs
    name: str = MISSING  # the run folder's name, without the time
