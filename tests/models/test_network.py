"""The network's own promises: any size, both layouts and every forward type alike, precision, recomputation."""

import pytest
import torch
from torch import nn

from vmamba.models import VMamba, ss2d
from vmamba.models.variants import how

SMALL = {"depths": [1, 1], "dims": [8, 16], "num_classes": 5, "img_size": 32}
FORWARD_TYPES = ["v0", "v0seq", "v01", "v02", "v03", "v04", "v05", "v1", "v2", "v3", "v4"]
SWITCHES = {
    "plain": {},
    "version 0": {
        "gate": "act",
        "conv_bias": True,
        "mlp": "none",
        "patch_embed": "v1",
        "downsample": "v1",
        "d_state": 4,
    },
    "cnorm, out_act": {"out_norm": "cnorm", "out_act": True, "gate": "linear"},
    "dwconv3": {"out_norm": "dwconv3", "conv": 5},
    "softmax": {"out_norm": "softmax", "downsample": "v2", "ssm_act": "relu"},
    "sigmoid, gmlp": {"out_norm": "sigmoid", "mlp": "gmlp", "mlp_act": "silu", "conv": 0},
    "unidi": {"routes": "unidi", "dt_rank": 3},
    "bidi": {"routes": "bidi", "ssm_ratio": 1.5},
    "cascade2d": {"routes": "cascade2d", "gate": "act"},
    "positions": {"pos_embed": True, "patch_norm": False},
    "no scan": {"ssm_ratio": 0},
}


def small(**kwargs) -> VMamba:
    torch.manual_seed(0)
    return VMamba(**SMALL | kwargs)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("switch", SWITCHES)
def test_both_layouts_compute_the_same(switch):
    last = small(norm="ln", **SWITCHES[switch]).eval()
    first = small(norm="ln2d", **SWITCHES[switch]).eval()
    first.load_state_dict(last.state_dict())
    a, b = images(2, 3, 37, 50).requires_grad_(), images(2, 3, 37, 50).requires_grad_()
    torch.testing.assert_close(first(a), last(b), atol=2e-5, rtol=1e-4)
    first(a).sum().backward()
    last(b).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("routes", ["cross2d", "unidi", "bidi", "cascade2d"])
def test_every_forward_type_computes_the_same(routes):
    x, expected = images(2, 3, 21, 33), None
    for name in FORWARD_TYPES:
        if how(name)["sequential"] and routes == "cascade2d":
            continue
        logits = small(norm="ln", routes=routes, d_state=2, **how(name)).eval()(x)
        expected = logits if expected is None else expected
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (7, 9), (33, 50), (64, 17)])
@pytest.mark.parametrize("downsample", ["v1", "v2", "v3"])
def test_any_size_and_any_channels(size, downsample):
    model = small(in_chans=5, downsample=downsample, pos_embed=True)
    logits = model(images(2, 5, *size))
    logits.sum().backward()
    assert logits.shape == (2, 5) and logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_no_downsampling_keeps_the_map():
    model = small(dims=[8, 8], downsample="none")
    assert [f.shape[2:] for f in model.forward_intermediates(images(1, 3, 32, 40))[1]] == [(8, 10), (8, 10)]
    assert [info["reduction"] for info in model.feature_info] == [4, 4]


@pytest.mark.parametrize("norm", ["ln", "ln2d", "bn"])
def test_recomputation_changes_nothing(norm):
    plain, saving = small(norm=norm).train(), small(norm=norm, grad_checkpointing=True).train()
    for model in (plain, saving):
        model(images(2, 3, 32, 32)).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, name=name: f"{name}: {m}")


def test_drop_path_rises_over_the_blocks_and_stops_in_evaluation():
    model = small(depths=[2, 3], drop_path=0.4)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    x = images(8, 3, 32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.fixture
def scans(monkeypatch) -> list[tuple]:
    """(dtype of u, dt, B, C), dtype of A, and dtype of the result, of every scan called."""
    calls, scan = [], ss2d.selective_scan

    def spy(u, dt, A, B, C, *rest, **kwargs):
        out = scan(u, dt, A, B, C, *rest, **kwargs)
        calls.append(({t.dtype for t in (u, dt, B, C)}, A.dtype, out.dtype))
        return out

    monkeypatch.setattr(ss2d, "selective_scan", spy)
    return calls


@pytest.mark.parametrize("routes", ["cross2d", "cascade2d"])
@pytest.mark.parametrize("name", ["v01", "v2", "v3", "v04", "v05"])
def test_scan_dtypes_under_autocast(name, routes, scans):
    model = small(routes=routes, **how(name))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images(2, 3, 32, 32))
    logits.float().sum().backward()
    reads = torch.float32 if how(name)["scan_in"] == "float32" else torch.bfloat16
    writes = torch.float32 if how(name)["scan_out"] == "float32" else reads
    assert scans and all(call == ({reads}, torch.float32, writes) for call in scans)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("norm", ["ln", "ln2d"])
@pytest.mark.parametrize("gate", ["none", "act"])
def test_a_16_bit_module(norm, gate, scans):
    model = small(norm=norm, gate=gate, **how("v05")).eval()
    expected = model(images(2, 3, 32, 32))
    scans.clear()
    logits = model.bfloat16()(images(2, 3, 32, 32).bfloat16())
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0.1)
    assert all(call == ({torch.bfloat16}, torch.float32, torch.float32) for call in scans)


@pytest.mark.parametrize("norm", ["ln", "ln2d"])
def test_projections_may_be_exchanged(norm):
    """For adapters and quantised ones, which need not have a weight of a floating dtype, or any."""
    model, x = small(norm=norm).eval(), images(2, 3, 32, 32)
    expected = model(x)
    for op in (m for m in model.modules() if isinstance(m, ss2d.SS2D)):
        op.in_proj, op.out_proj = nn.Sequential(op.in_proj), nn.Sequential(op.out_proj)
    assert torch.equal(model(x), expected)


def test_float64_stays_float64():
    model = small(**how("v0"), norm="ln").double().eval()
    assert model(images(1, 3, 16, 16).double()).dtype == torch.float64


def test_a_named_backend_reaches_the_scan():
    x = images(2, 3, 32, 32)
    torch.testing.assert_close(small(backend="naive")(x), small(backend="auto")(x), atol=1e-5, rtol=1e-4)
    with pytest.raises(RuntimeError, match="oflex"):
        small(backend="oflex")(x)


@pytest.mark.parametrize("fields", [{"norm": "ln", **how("v0")}, {"norm": "ln2d"}, {"routes": "cascade2d"}])
def test_one_graph_for_the_compiler(fields):
    model, x = small(**fields), images(2, 3, 32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
