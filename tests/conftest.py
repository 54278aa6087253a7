"""What holds for every test: one thread, the same random numbers every time, Ctrl-C as if a person had typed them."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests start processes that train side by side

import pytest
import torch

signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
