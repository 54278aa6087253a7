"""What holds for every test: one thread, the same random numbers, Ctrl-C as if typed, who may run beside whom."""

import functools
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests start processes that train side by side

import pytest
import torch

signal.signal(signal.SIGINT, signal.default_int_handler)


SERVICES = ("mark.slurm", "mark.browser", "mark.postgres")  # of tests that install packages and start servers


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Under ``-n``: the tests of a file in one process, all files that install something in one, one after the other.

    Not by xdist's own groups, whose marks pytest 9.2 no longer takes (xdist 3.8 writes them into an attribute of old).
    """
    from xdist.scheduler import LoadScopeScheduling

    @functools.cache
    def group(name: str) -> str:
        text = (config.rootpath / name).read_text(encoding="utf-8")
        return "services" if any(mark in text for mark in SERVICES) else name

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0])

    config.option.loadscopereorder = False  # not by number: the services take longest, and tests/browser is early
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
