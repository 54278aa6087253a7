"""Randomness by position: what is drawn depends on (seed, epoch, where), never on what was drawn before.

That is what makes a resumed run equal to the uninterrupted one, whatever the number of loader workers.
"""

import os
import random

import numpy as np
import torch

MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """A well-spread 63-bit seed from whole numbers (the finalizer of splitmix64, chained)."""
    state = 0
    for number in numbers:
        state = (state + (number & MASK) + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state >> 1


def seed_sample(seed: int) -> None:
    """Seeds python, numpy and torch's CPU generator: what augmentation draws from."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def seed_all(*numbers: int) -> None:
    """Seeds every generator, the GPU's too, from ``mix(*numbers)``."""
    seed = mix(*numbers)
    seed_sample(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(seed)


def set_deterministic(on: bool) -> None:
    """Deterministic algorithms where torch has them; an operation without one warns and names itself."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(on, warn_only=True)


def rng_state() -> dict:
    """The generators' states as tensors and plain tuples, loadable with weights-only."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict) -> None:
    """The inverse of ``rng_state``; a GPU's state is skipped where there is no GPU."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
