"""When an op may go around torch's dispatcher, whose call costs tens of microseconds."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_PLAIN = (Tensor, torch.nn.Parameter)


def plain(*tensors: Tensor | None) -> bool:
    """True if nobody is watching: no tracing or compiling, no dispatch mode (fake, FLOP counting), no subclass."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return False
    return all(t is None or type(t) in _PLAIN for t in tensors)
