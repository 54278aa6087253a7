"""Upstream's constructor arguments and forward_type strings."""

import pytest

from vmamba.config.errors import UserError
from vmamba.models import from_upstream
from vmamba.models.upstream import forward_type
from vmamba.models.variants import how

TINY = {"depths": [1, 1], "dims": 8, "num_classes": 3}


@pytest.mark.parametrize(
    ("text", "base", "fields"),
    [
        ("v0", "v0", {"gate": "act"}),
        ("v0seq", "v0seq", {"gate": "act"}),
        ("v3noz", "v3", {"gate": "none"}),
        ("v05_noz", "v05", {"gate": "none"}),
        ("v2nozact", "v2", {"gate": "linear"}),
        ("v05_nozact_noz", "v05", {"gate": "none"}),
        ("v05_noz_nozact", "v05", {"gate": "none"}),
        ("v05_oact", "v05", {"gate": "act", "out_act": True}),
        ("v3nonenoz", "v3", {"gate": "none", "out_norm": "none"}),
        ("v2softmaxnozact", "v2", {"gate": "linear", "out_norm": "softmax"}),
        ("v2dwconv3", "v2", {"gate": "act", "out_norm": "dwconv3"}),
        ("v05_oncnorm_noz", "v05", {"gate": "none", "out_norm": "cnorm"}),
        ("v05_onsigmoid_nozact_oact", "v05", {"gate": "linear", "out_norm": "sigmoid", "out_act": True}),
        ("v01nozno32", "v01", {"gate": "none", "scan_in": "input"}),
        ("v31dnoz", "v3", {"gate": "none", "routes": "unidi"}),
        ("v32d", "v3", {"gate": "act", "routes": "bidi"}),
        ("v051d_noz", "v05", {"gate": "none", "routes": "unidi"}),
        ("v052dc_noz", "v05", {"gate": "none", "routes": "cascade2d"}),
        ("v4", "v4", {"gate": "act"}),
    ],
)
def test_forward_type(text, base, fields):
    routes = {} if text.startswith("v0") and base in ("v0", "v0seq") else {"routes": "cross2d"}
    assert forward_type(text) == how(base) | routes | fields


@pytest.mark.parametrize(
    ("constructor", "source", "said"),
    [
        ({"forward_type": "xv1a_ca_act"}, "may26", "xv"),
        ({"forward_type": "xv3aactmul"}, "mar24", "xv"),
        ({"forward_type": "m0_noz"}, "head", "m0"),
        ({"forward_type": "v052d3_noz"}, "single", "v052d3"),
        ({"forward_type": "v2", "ssm_rank_ratio": 1.0}, "feb22", "rank ratio"),
        ({"forward_type": "v9_noz"}, "head", "v9_noz"),
        ({"forward_type": "v05_nozz"}, "head", "unknown suffix"),
        ({"forward_type": "v0", "norm_layer": "ln2d"}, "head", "channel-last only"),
        ({"ssm_dstate": 1}, "head", "Did you mean 'ssm_d_state'"),
        ({"ssm_d_state": 1}, "jan19", "d_state"),
        ({"mlp_drop_rate": 0.1}, "head", "mlp_drop_rate"),
        ({}, "april", "Choose from"),
    ],
)
def test_refused_by_name(constructor, source, said):
    with pytest.raises(UserError) as refused:
        from_upstream(TINY | constructor, source=source)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_an_unknown_class():
    with pytest.raises(UserError, match="Backbone_VSSM"):
        from_upstream(TINY, cls="Backbone_VSM")


def test_rank_ratio_has_no_effect_from_march_on():
    model = from_upstream(TINY | {"forward_type": "v2", "ssm_rank_ratio": 1.0}, source="mar24")
    assert model.layers[0].blocks[0].op.inner == 16


def test_what_is_left_out_takes_upstreams_default():
    model = from_upstream(TINY)
    op = model.layers[0].blocks[0].op
    assert (op.d_state, op.inner, op.gate, op.conv2d.bias is None) == (16, 16, "act", False)
    assert model.layers[1].blocks[0].drop_path.drop_prob == pytest.approx(0.1)
    assert model.norm_kind == "ln"


def test_version_0_ignores_what_it_ignored():
    model = from_upstream(TINY | {"forward_type": "v0", "ssm_act_layer": "gelu", "ssm_conv": -1, "ssm_init": "v2"})
    op = model.layers[0].blocks[0].op
    assert op.conv2d.bias is not None and type(op.act).__name__ == "SiLU" and op.A_logs[:, 1].min() > 0


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_positions_are_as_many_as_whole_patches_fit(version):
    model = from_upstream(TINY | {"posembed": True, "imgsize": 50, "patchembed_version": version})
    assert model.pos_embed.shape == (1, 8, 12, 12)
