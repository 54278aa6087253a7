"""What holds for every test: one thread, the same random numbers, Ctrl-C as if typed, who may run beside whom."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests start processes that train side by side

import pytest
import torch

signal.signal(signal.SIGINT, signal.default_int_handler)


SERVICES = ("slurm", "browser", "postgres")  # marks of tests that install packages and start servers


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Under ``-n``: the tests of a file in one process, all that install something in one, one after the other."""
    for item in items:
        alone = any(map(item.get_closest_marker, SERVICES))
        item.add_marker(pytest.mark.xdist_group("services" if alone else str(item.path)))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
