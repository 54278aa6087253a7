"""The number format of a run: autocast, the loss scaler of float16, and TF32."""

import contextlib
import logging

import torch

log = logging.getLogger("vmamba")


class Precision:
    """``amp``: auto, bf16, fp16 or fp32. Weights and optimizer state stay float32 in all of them.

    auto is bf16 on a GPU that has it (no scaler, float32's range), fp16 with a scaler on an older one, and fp32
    on a CPU, where 16 bits gain nothing.
    """

    def __init__(self, cfg, device: torch.device) -> None:
        self.device = device
        self.name = self._resolve(str(cfg.amp))
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.name == "fp16")
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high" if cfg.tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = cfg.tf32
            torch.backends.cudnn.benchmark = cfg.cudnn_benchmark

    def _resolve(self, amp: str) -> str:
        if amp != "auto":
            return amp
        if self.device.type == "cpu":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"

    def autocast(self):
        """The context a forward runs under."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.name == "bf16" else torch.float16)
