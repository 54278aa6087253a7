"""Networks on the fused scan: the layout inside, what stays as it was, refusals, logits."""

import pytest
import torch

from vmamba.config.compose import compose
from vmamba.config.errors import UserError
from vmamba.models import Backbone, VMamba, create_model
from vmamba.models.ss2d import SS2D, backend_here
from vmamba.models.variants import how
from vmamba_ops.dispatch import resolve

SMALL = {"depths": [1, 1], "dims": [16, 32], "num_classes": 5, "img_size": 32, "norm": "ln2d", **how("v05")}
VARIANTS = {
    "plain": {},
    "version 1 around": {"patch_embed": "v1", "downsample": "v1", "gate": "act", "conv_bias": True},
    "positions, 5 x 5": {"pos_embed": True, "conv": 5, "out_act": True, "drop_path": 0.2},
    "gelu, cnorm": {"ssm_act": "gelu", "out_norm": "cnorm", "mlp": "gmlp"},
}
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _pair(cls=VMamba, **fields):
    """The same network on the fused scan, whose operators then run as a CPU can, and as it was."""
    torch.manual_seed(0)
    plain, fused = (cls(**SMALL | fields | {"backend": backend}).eval() for backend in ("naive", "fused"))
    fused.load_state_dict(plain.state_dict(), strict=True)
    return fused, plain


@pytest.fixture
def on_cpu(monkeypatch):
    """``backend=fused`` computes by the composed form, as there is no GPU."""
    from vmamba.models import ss2d as module

    whole = module.ss2d
    monkeypatch.setattr(module, "ss2d", lambda *a, backend, **k: whole(*a, backend="composed", **k))


@pytest.mark.parametrize("variant", VARIANTS)
def test_channels_last_inside_and_the_same_outside(variant, on_cpu):
    fused, plain = _pair(**VARIANTS[variant])
    x = _images(2, 3, 37, 50)
    assert not fused.first and plain.first and fused.output_fmt == plain.output_fmt == "NCHW"
    torch.testing.assert_close(fused(x), plain(x), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(fused.forward_features(x), plain.forward_features(x), atol=2e-5, rtol=1e-4)

    for pooled in (True, False):
        heads = [m.forward_head(m.forward_features(x), pre_logits=pooled) for m in (fused, plain)]
        torch.testing.assert_close(*heads, atol=2e-5, rtol=1e-4)
    (last, features), (last_, features_) = (m.forward_intermediates(x) for m in (fused, plain))
    torch.testing.assert_close([last, *features], [last_, *features_], atol=2e-5, rtol=1e-4)


def test_backbone(on_cpu):
    fused, plain = _pair(Backbone, out_indices=(0, 1))
    torch.testing.assert_close(fused(_images(1, 3, 40, 33)), plain(_images(1, 3, 40, 33)), atol=2e-5, rtol=1e-4)


def test_gradients(on_cpu):
    fused, plain = (network.train() for network in _pair())
    for network in (fused, plain):
        network(_images(2, 3, 32, 32)).sin().sum().backward()
    for (name, a), b in zip(fused.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_one_graph_for_the_compiler(on_cpu):
    fused, _ = _pair(drop_path=0.1)
    compiled = torch.compile(fused, fullgraph=True, backend="eager")
    for network, x in ((fused.eval(), _images(2, 3, 32, 32)), (fused.train(), _images(2, 3, 48, 40))):
        assert torch.isfinite(compiled(x)).all() and network is fused


AUTO = {  # fields -> whether a GPU makes an ln2d network channels-last inside, whether it may take the fused scan
    "v05": ({}, True, True),
    "16 states": ({"d_state": 16}, True, False),
    "unidi": ({"routes": "unidi"}, True, False),
    "24 channels": ({"ssm_ratio": 1.5, "dims": [16, 32]}, True, None),
    "cascade": ({"routes": "cascade2d"}, False, False),
    "v04": (how("v04"), False, False),
    "v3": (how("v3"), False, False),
    "oflex": ({"backend": "oflex"}, True, False),
    "naive": ({"backend": "naive"}, False, False),
    "bn": ({"norm": "bn"}, False, True),
}


@pytest.mark.parametrize("case", AUTO)
def test_what_auto_takes(case, monkeypatch):
    fields, last, fused = AUTO[case]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    network = VMamba(**SMALL | {"backend": "auto"} | fields)
    assert network.first is not last
    took = [m.fused for m in network.modules() if isinstance(m, SS2D)]
    assert took == ([False, True] if fused is None else [fused, fused])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert VMamba(**SMALL | {"backend": "auto"} | fields).first or fields.get("backend") == "oflex"


def test_auto_computes_the_same_where_there_is_no_gpu(monkeypatch):
    _, plain = _pair()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    auto = VMamba(**SMALL | {"backend": "auto"}).eval()
    auto.load_state_dict(plain.state_dict(), strict=True)
    assert not auto.first
    torch.testing.assert_close(auto(_images(2, 3, 37, 50)), plain(_images(2, 3, 37, 50)), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("routes", ["cross2d", "bidi"])
def test_projecting_before_the_cross_scan_is_projecting_after_it(routes):
    torch.manual_seed(0)
    network = VMamba(**SMALL | {"norm": "ln", "routes": routes, "d_state": 2, "depths": [1], "dims": [16]})
    op = network.layers[0].blocks[0].op
    x = _images(2, 5, 7, op.inner).requires_grad_()
    before, after = op._projected_first(x), op._cross(x.permute(0, 3, 1, 2))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-4)
    inputs = [x, op.x_proj_weight, op.dt_projs_weight, op.dt_projs_bias, op.A_logs, op.Ds]
    for a, b in zip(*(torch.autograd.grad(y.sin().sum(), inputs) for y in (before, after)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_the_backend_is_told_as_it_is(monkeypatch):
    fields = {"d_state": 1, "backend": "auto", "ssm_ratio": 1.0, "dims": [16, 32], "routes": "cross2d", **how("v05")}
    assert backend_here(fields, "cpu") in ("cpu", "naive")
    with pytest.raises(RuntimeError, match="'fused' cannot run here"):
        backend_here(fields | {"backend": "fused"}, "cpu")
    monkeypatch.setattr("vmamba_ops.nvrtc.missing", lambda: "")
    resolve.cache_clear()
    assert backend_here(fields, "cuda") == backend_here(fields | {"backend": "fused"}, "cuda") == "fused"
    for other in ({"dims": [16, 24]}, {"d_state": 2}, how("v04"), {"routes": "bidi"}):
        assert backend_here(fields | other, "cuda") == "oflex"
    resolve.cache_clear()


def test_refusals():
    with pytest.raises(UserError, match=r"backend=fused with 24 inner channels.*a multiple of 16 channels, got 24"):
        VMamba(**SMALL | {"backend": "fused", "dims": [16, 24], "ssm_ratio": 1.0})
    with pytest.raises(UserError, match="it takes routes cross2d, got bidi"):
        VMamba(**SMALL | {"backend": "fused", "routes": "bidi"})
    for overrides, said in (
        (["scan=fused", "model.routes=bidi"], "scan=fused with model.dims=.*routes cross2d, got bidi; take scan=auto"),
        (["scan=fused", "model.d_state=2"], "scan=fused takes d_state up to 1"),
        (["compile=true", "compile_mode=reduce-overhead", "recipe.accumulate=2"], "take compile_mode=auto"),
    ):
        with pytest.raises(UserError, match=said):
            compose(overrides)


@pytest.fixture
def no_tf32():
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("norm", ["ln", "ln2d"])
def test_logits_on_a_gpu(norm, no_tf32):
    torch.manual_seed(0)
    networks = {b: create_model("vmamba_tiny_s1l8", norm=norm, backend=b).cuda().eval() for b in ("fused", "oflex")}
    networks["fused"].load_state_dict(networks["oflex"].state_dict())
    x = _images(2, 3, 224, 224).cuda()
    with torch.no_grad():
        exact = networks["oflex"](x)
        assert ((networks["fused"](x) - exact).norm() / exact.norm()).item() < 1e-4
        with torch.autocast("cuda", torch.bfloat16):
            errors = [((n(x) - exact).norm() / exact.norm()).item() for n in networks.values()]
    assert errors[0] < 1.5 * errors[1] + 1e-3


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("backend", ["auto", "oflex"])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_on_a_gpu(backend, recompute, no_tf32):
    torch.manual_seed(0)
    plain = VMamba(**SMALL | {"backend": "naive"}).cuda()
    network = VMamba(**SMALL | {"backend": backend, "grad_checkpointing": recompute}).cuda()
    network.load_state_dict(plain.state_dict())
    assert plain.first and not network.first
    for each in (plain, network):
        each.train()(_images(3, 3, 40, 56).cuda()).sin().sum().backward()
    for (name, a), b in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert ((a.grad - b.grad).norm() / b.grad.norm()).item() < 1e-4, name


@pytest.mark.gpu
@on_gpu
def test_types_under_autocast():
    """The residual stream and what leaves the network are float32, what the branches read is not."""
    network, seen = VMamba(**SMALL | {"backend": "auto"}).cuda(), {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, given, out, name=name: seen.update({name: (given[0].dtype, out.dtype)}))
    with torch.autocast("cuda", torch.bfloat16):
        network(_images(2, 3, 32, 32).cuda())
    full, half = torch.float32, torch.bfloat16
    assert seen["layers.0.blocks.0"] == seen["layers.1.blocks.0"] == (full, full)
    assert seen["layers.0.blocks.0.op"] == seen["layers.0.blocks.0.mlp"] == (half, half)
    assert seen["layers.0.blocks.0.op.out_norm"] == (half, half) and seen["classifier.norm"] == (full, full)


@pytest.mark.gpu
@on_gpu
def test_training_compiled_on_a_gpu():
    torch.compiler.reset()  # of a bare torch.compile, torch 2.11's inductor fails for images of many sizes
    network = VMamba(**SMALL | {"backend": "fused", "drop_path": 0.1}).cuda().train()
    compiled = torch.compile(network, fullgraph=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, fused=True)
    x, labels, losses = _images(8, 3, 32, 32).cuda(), torch.arange(8).cuda() % 5, []
    for _ in range(20):
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(compiled(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
