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
Source = choice("Source", "digits", "timm", "scenes", "files", "synthetic")
Loop = choice("Loop", "epochs", "iters")
Where = choice("Where", "local", "subprocess", "slurm")
CompileMode = choice("CompileMode", "auto", "default", "reduce-overhead", "max-autotune")
Sampler = choice("Sampler", "tpe", "random")
Schedule = choice("Schedule", "cosine", "step", "poly")
Interpolation = choice("Interpolation", "bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")
EraseMode = choice("EraseMode", "const", "rand", "pixel")
MixupMode = choice("MixupMode", "batch", "pair", "elem")


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
    base: str | None = None  # det, seg: an OpenMMLab config file whose model is taken instead, with our backbone
    pictures: int = 4  # det, seg: validation samples drawn at every evaluation; 0: none


@dataclass
class Data:
    """A data set. ``source=timm`` goes through timm's readers: folder, tar, wds/…, hfds/…, tfds/…, torch/….

    Detection and segmentation take ``source=files``: images in the folders ``train_split`` and ``val_split`` below
    ``root``, with COCO files (``*_boxes``) or folders of class maps (``*_maps``); ``source=scenes`` is the same,
    written first.
    """

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
    interpolation: Interpolation = Interpolation.bicubic
    crop_pct: float = 0.875  # evaluation: resize to img_size / crop_pct, centre crop
    workers: int = 8
    how_to_get: str = ""  # said when root is missing
    train_boxes: str = ""  # COCO file below root
    val_boxes: str = ""
    train_maps: str = ""  # folder of class maps (PNG) below root
    val_maps: str = ""
    map_classes: int | None = None  # classes of the maps, where there is one more than of boxes; None: num_classes
    reduce_zero_label: bool = False  # in the maps 0 is "other": not learned, 1 is the first class
    classes: list[str] = field(default_factory=list)  # their names; empty: COCO's (boxes), ADE20K's (maps)
    eval_batch: int = 1  # det, seg: images a process and evaluation step


@dataclass
class Augment:
    """Training augmentation, in timm's terms."""

    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: list[float] = field(default_factory=lambda: [0.75, 4.0 / 3.0])
    hflip: float = 0.5
    color_jitter: float = 0.4
    auto_augment: str | None = None
    reprob: float = 0.0
    remode: EraseMode = EraseMode.pixel  # erased with: one colour, a random one, noise
    recount: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: MixupMode = MixupMode.batch


@dataclass
class Ema:
    enabled: bool = False
    decay: float = 0.9999
    warmup: bool = False  # ramp the decay up over the first steps (short runs)


@dataclass
class Detect:
    """Detection: Mask R-CNN's sizes, and how images are resized. Sides in pixels; the ratio is always kept."""

    scale: list[int] = field(default_factory=lambda: [1333, 800])  # longest and shortest side
    short_sides: list[int] = field(default_factory=list)  # multi-scale training: the shortest side is one of these
    crop_sides: list[int] = field(default_factory=list)  # and half of the images are first brought to one of these, …
    crop_range: list[int] = field(default_factory=lambda: [384, 600])  # … and cropped to sides between these two
    flip: float = 0.5
    min_size: int = 32  # smaller images are left out of training
    channels: int = 256  # of the FPN, the RPN and the mask head
    hidden: int = 1024  # of the box head's two layers
    mask_convs: int = 4
    anchor_scale: int = 8  # an anchor's side over its level's stride
    nms_pre: int = 2000  # boxes a level before NMS in training; half of it in evaluation
    proposals: int = 1000  # kept after NMS
    rpn_samples: int = 256  # anchors an image the loss is taken of
    roi_samples: int = 512


@dataclass
class Segment:
    """Segmentation: UperNet's sizes, and how images are resized. Sides in pixels; the ratio is always kept."""

    scale: list[int] = field(default_factory=lambda: [2048, 512])  # longest and shortest side
    ratio: list[float] = field(default_factory=lambda: [0.5, 2.0])  # training: scale times a number between these
    crop: int = 512
    cat_max_ratio: float = 0.75  # share of a crop that one class may have
    flip: float = 0.5
    distort: bool = True  # brightness, contrast, saturation, hue
    channels: int = 512  # of the decoder
    aux_channels: int = 256  # of the auxiliary head
    dropout: float = 0.1
    init_std: float = 0.01  # of the heads' last weights; larger ones leave the even guess sooner
    tta_ratios: list[float] = field(default_factory=lambda: [0.5, 0.75, 1.0, 1.25, 1.5, 1.75])  # with tta=true


@dataclass
class Recipe:
    """How a model is trained. Learning rates are for a total batch of ``lr_batch`` and scale with it (0: as given).

    ``schedule``, after the warm-up: cosine to ``min_lr``; step, times ``gamma`` at each of ``milestones``; poly, to
    ``min_lr`` with ``power``.
    """

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
    warmup_steps: int | None = None  # the same in steps whatever the loop; None: warmup
    warmup_factor: float | None = None  # the rate starts at this times lr; None: at warmup_lr
    schedule: Schedule = Schedule.cosine
    milestones: list[int] = field(default_factory=list)  # epochs, or steps with loop=iters
    gamma: float = 0.1
    power: float = 1.0
    weight_decay: float = 0.05
    no_decay: list[str] | None = None  # parts of names without weight decay; None: biases and whatever is 1-D
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    clip_grad: float | None = 5.0  # global norm
    sync_bn: bool = True  # det, seg: batch norms of the heads over all GPUs
    smoothing: float = 0.1
    augment: Augment = field(default_factory=Augment)
    ema: Ema = field(default_factory=Ema)
    det: Detect = field(default_factory=Detect)
    seg: Segment = field(default_factory=Segment)


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
    log_checkpoint: bool = False  # copy the best weights to the store; else its logged model says where they are
    system_metrics: bool = True
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Checkpoint:
    keep_last: int = 2
    every_epochs: int = 1
    every_steps: int = 0  # 0: at the ends of epochs only
    best: bool = True


@dataclass
class Launcher:
    """Where the points of a sweep run, and with what, each. ``subprocess`` looks at the fields above ``partition``,
    ``local`` at none."""

    kind: Where = Where.local
    wait: bool | None = None  # stay until all points have ended; None: with subprocess, not with slurm
    parallel: int | None = None  # points at a time; None: what SLURM lets; subprocess: what the GPUs do, or 1
    requeues: int = 5  # times an interrupted point is put back in the queue without having got on since the last time
    snapshot: bool = True  # run from a copy of the code as it is at submission
    gpus: int | None = None  # a node; None: slurm 1, subprocess 1 where there are any
    tasks: int | None = None  # processes a node; None: one a GPU
    env: dict[str, str] = field(default_factory=dict)  # environment variables of the jobs
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int = 1
    cpus: int = 8  # a process
    memory: float | None = None  # GB a node; None: the cluster's default
    time: int = 1440  # minutes; a run that needs longer goes on in the next turn
    warning: int = 120  # seconds before the time limit at which a run saves and goes back to the queue
    constraint: str | None = None
    exclude: str | None = None
    sbatch: dict[str, str] = field(default_factory=dict)  # further options: +launcher.sbatch={reservation: mine}
    srun: list[str] = field(default_factory=list)  # options of srun, e.g. --container-image=…
    setup: list[str] = field(default_factory=list)  # shell lines before it starts: module load cuda, …
    python: str | None = None  # the interpreter there, e.g. "apptainer exec --nv image.sif python"; None: this one


@dataclass
class Search:
    """A sweep whose points Optuna chooses from the results so far, instead of all there are. ``trials`` turns it on."""

    trials: int = 0  # points in all, failed ones included
    batch: int | None = None  # at a time, the next ones learn from them; None: as many as run side by side
    sampler: Sampler = Sampler.tpe
    seed: int = 0
    objective: str | None = None  # a metric of the result, val/loss or images_per_s; None: the task's
    minimize: bool | None = None  # with objective


@dataclass
class Limit:
    """Cuts a run short for a smoke test; None: no limit."""

    train_steps: int | None = None  # optimizer steps in all
    eval_batches: int | None = None


@dataclass
class Start:
    """Where training starts: weights of ours or published, of this task or of classification; None: from scratch."""

    ckpt: str | None = None


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
    init: Start = field(default_factory=Start)
    launcher: Launcher = field(default_factory=Launcher)
    search: Search = field(default_factory=Search)
    ckpt: str | None = None  # mode=eval: a file or a run folder
    tta: bool = False  # mode=eval task=seg: several scales and both flips
    resume: str = "auto"  # auto: from this run folder's newest checkpoint; never; or a path
    seed: int = 0
    deterministic: bool = False
    device: Device = Device.auto
    compile: bool = False  # torch.compile; our own models as one graph
    compile_mode: CompileMode = CompileMode.auto  # reduce-overhead (CUDA graphs) in task=cls on a GPU, else default
    log_every: int = 10  # optimizer steps between records
    outputs: str = "outputs"  # folder of all runs
    name: str = MISSING  # the run folder's name, without the time
