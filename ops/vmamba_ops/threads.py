"""Run a kernel that releases the GIL over a range of independent units, on as many threads as torch uses."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import torch

_SMALL = 50_000  # elementary steps (about 0.1 ms of work) below which waking another thread costs more than it saves
_lock = Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def _forget() -> None:
    """A forked child has the pools' bookkeeping but not their threads."""
    global _lock
    _lock = Lock()
    _pools.clear()


os.register_at_fork(after_in_child=_forget)


def _pool(workers: int) -> ThreadPoolExecutor:
    with _lock:
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, thread_name_prefix="vmamba_ops")
        return _pools[workers]


def run(kernel: Callable[[int, int], None], units: int, work: int) -> None:
    """Call ``kernel(first, stop)`` so that all of 0 .. units - 1 are done once; returns when they are.

    Args:
        kernel: does units first .. stop - 1; which thread does which unit must not matter to it.
        units: how many there are.
        work: elementary steps in all, to tell whether threads pay.
    """
    threads = 1 if work < _SMALL else min(torch.get_num_threads(), units)
    if threads == 1:
        kernel(0, units)
        return
    bounds = [units * i // threads for i in range(threads + 1)]
    pool = _pool(threads - 1)
    rest = [pool.submit(kernel, bounds[i], bounds[i + 1]) for i in range(1, threads)]
    kernel(bounds[0], bounds[1])
    for future in rest:
        future.result()
