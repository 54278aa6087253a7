"""What holds for every test: the same random numbers every time; Ctrl-C, also where a shell runs them behind."""

import signal

import pytest
import torch

signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
