"""FLOPs of the scan: the two rules, and what a ``FlopCounterMode`` sees."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vmamba_ops import selective_scan
from vmamba_ops.flops import counter, scan_flops


def test_rules():
    assert scan_flops(2, 49, 8, 16) == 9 * 2 * 49 * 8 * 16 + 2 * 49 * 8
    assert scan_flops(2, 49, 8, 16, with_D=False, rule="old") == 3.5 * 2 * 49 * 8 * 16
    with pytest.raises(ValueError, match="unknown rule 'newest'; choose new, old"):
        scan_flops(1, 1, 1, 1, rule="newest")


def _scan(device, backend, with_D):
    u, delta = torch.randn(2, 8, 16, device=device), torch.randn(2, 8, 16, device=device)
    A, B, C = (torch.randn(shape, device=device) for shape in ((8, 3), (2, 4, 3, 16), (2, 4, 3, 16)))
    D = torch.randn(8, device=device) if with_D else None
    return selective_scan(u.requires_grad_(), delta, A, B, C, D, None, True, backend=backend)


@pytest.mark.parametrize("with_D", [True, False])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_counter(backend, with_D):
    """Fake tensors on a GPU that need not be there: the operator is counted, not run."""
    expected = scan_flops(2, 16, 8, 3, with_D)
    with FakeTensorMode(), counter(display=False) as mode:
        out = _scan("cpu" if backend == "cpu" else "cuda", backend, with_D)
        assert mode.get_total_flops() == expected
        if backend == "cpu":
            out.sum().backward()
            assert mode.get_total_flops() == 3 * expected
