"""The dense-prediction backbone as it was published: one norm a stage taken, and no classifier."""

from collections.abc import Sequence

from torch import Tensor, nn

from vmamba.config.errors import UserError
from vmamba.models.layers import make_norm
from vmamba.models.network import VMamba


class Backbone(VMamba):
    """``VMamba`` without classifier; images (B, in_chans, H, W) -> a list of outnorm{i}(stage i), each (B, C, H, W).

    State-dict names are those of the detection and segmentation checkpoints (less their ``backbone.`` prefix).
    """

    def __init__(self, *args, out_indices: Sequence[int] = (0, 1, 2, 3), norm: str = "ln2d", **kwargs) -> None:
        super().__init__(*args, norm=norm, **{**kwargs, "num_classes": 0})
        stages = range(len(self.layers))
        if not out_indices or not set(out_indices) <= set(stages):
            raise UserError(f"out_indices={list(out_indices)}: choose from the stages {list(stages)}")
        self.out_indices = tuple(out_indices)
        self.classifier.norm = nn.Identity()
        for i in self.out_indices:
            self.add_module(f"outnorm{i}", make_norm(self.norm_kind, self.feature_info[i]["num_chs"], wide=True))

    def feature_norm(self, stage: int, x: Tensor) -> Tensor:
        """The stage's own output norm."""
        return getattr(self, f"outnorm{stage}")(x) if stage in self.out_indices else x

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.forward_intermediates(
            x, indices=self.out_indices, norm=True, stop_early=True, intermediates_only=True
        )
