"""Launching a Triton kernel whose arguments, but for the tensors, are the same from call to call.

Triton inspects every argument of every launch: about 20 microseconds for the scan's forty. A ``Launch`` lets it do so
once for each device and alignment of the tensors, and afterwards calls what was compiled.
"""

from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import wrap_triton

DIRECT = triton.knobs.runtime.interpret  # the interpreter's kernels are no JITFunctions: no wrapping, nothing compiled


@cache
def processors(device: int | None) -> int:
    """Multiprocessors of a GPU; of the interpreter, whose tensors have no device's number, two."""
    return 2 if device is None else torch.cuda.get_device_properties(device).multi_processor_count


class Launch:
    """A kernel, its grid, and all of its arguments that are no tensors (in the kernel, those come first).

    Args:
        kernel: the ``triton.jit`` function: tensors, then ``scalars``, then ``constants`` (constexpr).
        grid: one or two numbers of programs.
        registers: the most a thread may use; None leaves it to the compiler. ``torch.compile`` has no such option.
    """

    def __init__(
        self, kernel: Any, grid: tuple, scalars: tuple, constants: dict[str, Any], warps: int, registers: int | None
    ):
        self.kernel, self.grid, self.scalars, self.constants = kernel, (*grid, 1, 1)[:3], scalars, constants
        self.warps, self.registers = warps, registers
        self._ready: dict[tuple[int, int], Any] = {}
        self._rest = () if DIRECT else (*scalars, *(constants[n] for n in kernel.arg_names if n in constants))

    def __call__(self, *tensors: Tensor, wrap: bool = False) -> None:
        """Start it on the tensors' device; dtypes must be those of the first call. ``wrap``: visibly to a compiler."""
        if DIRECT:
            self.kernel[self.grid](*tensors, *self.scalars, **self.constants, num_warps=self.warps)
            return
        if wrap:
            wrap_triton(self.kernel)[self.grid](*tensors, *self.scalars, **self.constants, num_warps=self.warps)
            return
        aligned = 0
        for tensor in tensors:
            aligned = aligned * 2 + (not tensor.data_ptr() & 15)
        device = tensors[0].device.index
        if device == torch.cuda.current_device():
            self._start(tensors, (device, aligned))
            return
        with torch.cuda.device(device):
            self._start(tensors, (device, aligned))

    def _start(self, tensors: tuple[Tensor, ...], key: tuple[int, int]) -> None:
        run = self._ready.get(key)
        if run is not None:
            run(*tensors, *self._rest)
            return
        options = {"num_warps": self.warps, "maxnreg": self.registers}
        compiled = self.kernel[self.grid](*tensors, *self.scalars, **self.constants, **options)
        self._ready[key] = compiled[self.grid]
