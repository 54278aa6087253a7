"""What the benchmarks of whole networks are asked for, and one of their measurements."""

from dataclasses import dataclass

import torch

from vmamba.config.errors import UserError
from vmamba.models import list_models

TIMM = (
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "swin_base_patch4_window7_224",
    "convnext_tiny",
)
MODES = ("eager", "default", "reduce-overhead")  # the last two are torch.compile's
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Job:
    """What one process measures."""

    model: str
    mode: str
    dtype: str
    batch: int
    side: int
    repeats: int
    device: str
    scan: str
    forward_type: str  # of ours; "": the model's own


@dataclass(frozen=True)
class Asked:
    """The command line's words, as far as a benchmark takes them.

    Args:
        only: models' names, by commas; "": the benchmark's own.
        modes: of ``MODES``, by commas; "": the benchmark's own.
        dtype: autocast's, bf16 or fp16; fp32 for none.
        scan: our models' backend.
        forward_type: of our models; "": their own.
        batch, size: images, and their side in pixels; None: the benchmark's own.
    """

    only: str = ""
    modes: str = ""
    dtype: str = "bf16"
    scan: str = "auto"
    forward_type: str = ""
    batch: int | None = None
    size: int | None = None

    def jobs(
        self, device: torch.device, small: bool, names: tuple[str, ...], modes: tuple[str, ...], repeats: int
    ) -> list[Job]:
        """A job for every mode and name: of the default ``names`` and ``modes``, at 128 images of 224 x 224.

        ``small``: nano alone, eager, plain float32, two images of 32 x 32. UserError for an unknown name or mode.
        """
        names, modes = (("vmamba_nano",), ("eager",)) if small else (names, modes)
        dtype, batch, side, repeats = ("fp32", 2, 32, 2) if small else (self.dtype, 128, 224, repeats)
        about = (dtype, self.batch or batch, self.size or side, repeats, str(device), self.scan, self.forward_type)
        kinds = chosen("--modes", self.modes, modes, MODES)
        names = chosen("--only", self.only, names, (*list_models(), *TIMM))
        return [Job(name, kind, *about) for kind in kinds for name in names]


def chosen(flag: str, given: str, default: tuple[str, ...], known: tuple[str, ...]) -> list[str]:
    """The names given by commas, or the default. UserError for one that is not ``known``."""
    names = given.split(",") if given else list(default)
    for name in names:
        if name not in known:
            raise UserError(f"{flag} {name}: unknown. Choose from: {', '.join(known)}.")
    return names
