"""Large results on the CPU: their memory comes from the system in 2 MiB pages where it has them.

A tensor of some MiB is new memory at every call, and the system hands it over at the first touch of each page. At 4 KiB
a page that takes about as long as the scan itself.
"""

import ctypes
import functools
import mmap
import sys

import torch
from torch import Tensor

_HUGE = 2 << 20


@functools.cache
def _madvise():
    """The C library's ``madvise`` or None: it is advice, so nothing is lost where there is none."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None), "madvise", None)
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """``torch.empty(shape, dtype=dtype)``, in huge pages as far as whole ones lie in it."""
    tensor = torch.empty(shape, dtype=dtype)
    first = -(-tensor.data_ptr() // _HUGE) * _HUGE
    size = (tensor.data_ptr() + tensor.nbytes) // _HUGE * _HUGE - first
    if size > 0 and (madvise := _madvise()):
        madvise(first, size, mmap.MADV_HUGEPAGE)
    return tensor
