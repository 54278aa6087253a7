"""Processes: who this one is, and the few collectives a run needs. Alone, every function is the identity."""

import gc
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vmamba.config.errors import UserError


@dataclass(frozen=True)
class Env:
    """Where this process runs. ``rank`` counts all processes, ``local_rank`` those of this machine."""

    device: torch.device
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start(cfg) -> Env:
    """Reads torchrun's environment, joins the process group if there is one to join, and picks the device.

    gloo on the CPU, nccl on GPUs; ``cfg.device`` is auto, cpu or cuda. Raises UserError when a GPU is asked for
    and there is none (or fewer than processes on this machine).
    """
    rank, local_rank = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(str(cfg.device), local_rank)
    if world_size > 1 and not dist.is_initialized():
        cuda = device.type == "cuda"
        dist.init_process_group(
            "nccl" if cuda else "gloo", timeout=timedelta(minutes=30), device_id=device if cuda else None
        )
    return Env(device, rank, local_rank, world_size)


def pick_device(choice: str, local_rank: int = 0) -> torch.device:
    """``auto`` is the GPU of this local rank where there is one, else the CPU."""
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("device=cuda: torch sees no CUDA device here; take device=auto or device=cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this machine has no GPU of its own (torch sees {torch.cuda.device_count()}): "
            "start as many processes as there are GPUs, or take device=cpu"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def stop() -> None:
    """Leaves the process group, if there is one."""
    if dist.is_initialized():
        gc.collect()  # a DDP module in a cycle would keep the group's threads alive into the interpreter's end
        dist.destroy_process_group()


def active() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def barrier() -> None:
    if active():
        dist.barrier()


def broadcast(value: Any) -> Any:
    """Rank 0's picklable ``value``, on every rank."""
    if not active():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """The picklable values of all ranks, by rank, on every rank."""
    if not active():
        return [value]
    box = [None] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box


def all_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over ranks, in place."""
    if active():
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def all_max(values: list[int], device: torch.device) -> list[int]:
    """The largest over ranks, entry by entry: how ranks agree on flags. Waits for the device."""
    if not active():
        return values
    tensor = torch.tensor(values, device=device, dtype=torch.int64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()
