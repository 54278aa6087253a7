"""A network made ready for its FLOPs to be counted, and then as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from vmamba.models.ss2d import SS2D
from vmamba_ops.dispatch import unsaid


@contextmanager
def countable(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and the scan by the operators that the counter knows, whichever backend the run is to take.

    FLOPs are the function's, not the backend's: the plain loop over the positions would be counted operation by
    operation, and slowly. ``model`` is on the CPU.
    """
    training = {module: module.training for module in model.modules()}
    scans = {module: (module.backend, module.fused) for module in model.modules() if isinstance(module, SS2D)}
    model.eval()
    for scan in scans:
        scan.backend, scan.fused = "auto", False
    try:
        with unsaid():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for scan, (backend, fused) in scans.items():
            scan.backend, scan.fused = backend, fused
