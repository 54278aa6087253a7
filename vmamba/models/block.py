"""A residual block, and a stage of them with the downsampling that follows."""

from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vmamba.models.layers import LayerNorm, Mlp, channel_first, hooked, make_norm, normed
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
        branch = None
        if self.has_scan:
            x, y = normed(self.norm, x, branch)
            branch = self.drop_path(self.op(y))
        if self.has_mlp:
            if self._whole(x):
                norm = self.norm2
                return add_norm_mlp(x, branch, norm.weight, norm.bias, *self.mlp.own(), norm.eps)
            x, y = normed(self.norm2, x, branch)
            branch = self.drop_path(self.mlp(y))
        return x + branch

    def _whole(self, x: Tensor) -> bool:
        """Whether the second half of the block is one operator here, which goes around its modules."""
        idle = not self.training or isinstance(self.drop_path, nn.Identity)
        known = type(self.norm2) is LayerNorm and self.mlp.ordinary() and not hooked(self.mlp)
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
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x
