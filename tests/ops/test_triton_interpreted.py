"""The Triton tests on a machine without a GPU: in Triton's interpreter, chosen when triton is first imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here: the tests run compiled, in this process")
@pytest.mark.parametrize("file", ["triton_scan", "triton_cross", "layer_norm", "mlp", "conv_norm_gelu"])
def test_under_the_interpreter(file):
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / f"test_{file}.py")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


def test_importing_needs_no_cuda():
    """In a process that sees no GPU; the refusal is one line."""
    code = (
        "import torch, vmamba_ops.selective_scan.triton, vmamba_ops.cross_scan.triton\n"
        "from vmamba_ops import cross_scan\n"
        "try: cross_scan(torch.zeros(1, 2, 3, 4), backend='triton')\n"
        "except RuntimeError as error: print(error)"
    )
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "backend 'triton' cannot run here: it runs on cuda, not on cpu; use backend=auto" in run.stdout
    assert run.stdout.count("\n") == 1
