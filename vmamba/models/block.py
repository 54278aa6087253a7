"""A residual block, and a stage of them with the downsampling that follows."""

from functools import partial

from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vmamba.models.layers import LayerNorm, Mlp, Stream, channel_first, dropped, hooked, make_norm, normed
from vmamba.models.ss2d import SS2D
from vmamba_ops import add_norm_mlp
from vmamba_ops.mlp import fits_whole


class Block(nn.Module):
    """x + SS2D(norm(x)), then x + MLP(norm2(x)); each branch only if ``scan`` / ``mlp`` ask for it.

    Layout of input and output: that of ``norm``. ``scan``: the fields of ``SS2D`` but ``first``.
    """

    def __init__(
        self, channels: int, *, norm: str, mlp: str, mlp_ratio: float, mlp_act: str, drop_path: float, scan: dict
    ) -> None:
        super().__init__()
        first = channel_first(norm)
        self.has_scan, self.has_mlp = scan["ssm_ratio"] > 0, mlp != "none"
        if self.has_scan:
            self.norm = make_norm(norm, channels)
            self.op = SS2D(channels, first=first, **scan)
        if self.has_mlp:
            self.norm2 = make_norm(norm, channels)
            self.mlp = Mlp(channels, int(mlp_ratio * channels), mlp_act, gated=mlp == "gmlp", first=first)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.carry(Stream(x)).added()

    def carry(self, stream: Stream) -> Stream:
        """The same, with the last addition left to the next norm."""
        if self.has_scan:
            x, y = normed(self.norm, stream)
            stream = dropped(self.drop_path, x, self.op(y))
        if self.has_mlp:
            if self._whole(stream.x):
                norm, own = self.norm2, self.mlp.own()
                return Stream(add_norm_mlp(stream.x, stream.branch, norm.weight, norm.bias, *own, norm.eps))
            x, y = normed(self.norm2, stream)
            stream = dropped(self.drop_path, x, self.mlp(y))
        return stream

    def _whole(self, x: Tensor) -> bool:
        """Whether the second half of the block is one operator here, which goes around its modules."""
        idle = not self.training or isinstance(self.drop_path, nn.Identity)
        known = type(self.norm2) is LayerNorm and self.mlp.ordinary() and not hooked(self.norm2, self.mlp)
        return idle and known and fits_whole(x, self.mlp.fc1.weight)


class Stage(nn.Module):
    """The blocks of one width; ``downsample`` leads to the next and is called apart, so features can be taken."""

    def __init__(self, blocks: list[Block], downsample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """The features of this stage, before its downsampling."""
        recompute = self.grad_checkpointing and self.training
        stream = Stream(x)
        for block in self.blocks:
            step = block.carry if type(block) is Block and not hooked(block) else partial(_called, block)
            stream = checkpoint(step, stream, use_reentrant=False) if recompute else step(stream)
        return stream.added()


def _called(block: nn.Module, stream: Stream) -> Stream:
    """A block that is watched, or has been exchanged: as a module."""
    return Stream(block(stream.added()))
