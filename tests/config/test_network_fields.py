"""Arguments that do not fit are refused in one readable line."""

import pytest

from vmamba.config.errors import UserError
from vmamba.models import Backbone, VMamba

GOOD = {"depths": [1, 1], "dims": [8, 16]}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gate": "linaer"}, "Did you mean 'linear'"),
        ({"norm": "batch"}, "ln, ln2d, bn"),
        ({"routes": "cross3d"}, "cross2d"),
        ({"backend": "cuda"}, "mamba_ssm"),
        ({"conv": 4}, "even kernel"),
        ({"conv": -1}, "conv=-1"),
        ({"d_state": 0}, "d_state=0"),
        ({"dt_rank": 0}, "dt_rank=0"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"dims": [8, 16, 32]}, "2 stages"),
        ({"depths": [], "dims": []}, "depths=[]"),
        ({"depths": [1, 0]}, "depths=[1, 0]"),
        ({"dims": 8}, "dims=8"),
        ({"downsample": "none"}, "equal dims"),
        ({"ssm_ratio": 0, "mlp": "none"}, "nothing in it"),
        ({"ssm_ratio": 0.1}, "no inner channel"),
        ({"mlp_ratio": 0.01}, "no hidden channel"),
        ({"mlp_ratio": "four"}, "must be a number"),
        ({"patch_size": 5}, "patch_embed=v1"),
        ({"dims": [9, 16]}, "even"),
        ({"routes": "cascade2d", "sequential": True}, "v05"),
        ({"pos_embed": True, "img_size": 2, "patch_embed": "v1"}, "img_size=2"),
    ],
)
def test_refused(fields, said):
    with pytest.raises(UserError) as refused:
        VMamba(**GOOD | fields)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_out_indices():
    with pytest.raises(UserError, match=r"out_indices=\[2\]"):
        Backbone(**GOOD, out_indices=[2])
