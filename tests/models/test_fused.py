"""Networks on the fused scan: the layout inside, what stays as it was, refusals, logits."""

import pytest
import torch

from vmamba.config.compose import compose
from vmamba.config.errors import UserError
from vmamba.models import Backbone, VMamba, create_model
from vmamba.models.ss2d import SS2D, backend_here
from vmamba.models.variants import how

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


def test_auto_does_not_take_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    network = VMamba(**SMALL)
    assert network.first and not any(m.fused for m in network.modules() if isinstance(m, SS2D))


def test_the_backend_is_told_as_it_is():
    fields = {"d_state": 1, "backend": "auto"}
    assert backend_here(fields, "cpu") in ("cpu", "naive")
    with pytest.raises(RuntimeError, match="'fused' cannot run here"):
        backend_here(fields | {"backend": "fused"}, "cpu")


def test_refusals():
    with pytest.raises(UserError, match=r"backend=fused with 24 inner channels.*a multiple of 16 channels, got 24"):
        VMamba(**SMALL | {"backend": "fused", "dims": [16, 24], "ssm_ratio": 1.0})
    with pytest.raises(UserError, match="it takes routes cross2d, got bidi"):
        VMamba(**SMALL | {"backend": "fused", "routes": "bidi"})
    for overrides, said in (
        (["scan=fused", "model.routes=bidi"], "scan=fused with model.dims=.*routes cross2d, got bidi; take scan=auto"),
        (["scan=fused", "model.d_state=2"], "scan=fused takes d_state up to 1"),
        (["compile=true", "compile_mode=reduce-overhead", "recipe.accumulate=2"], "take compile_mode=default"),
    ):
        with pytest.raises(UserError, match=said):
            compose(overrides)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("norm", ["ln", "ln2d"])
def test_logits_on_a_gpu(norm):
    torch.manual_seed(0)
    networks = {b: create_model("vmamba_tiny_s1l8", norm=norm, backend=b).cuda().eval() for b in ("fused", "oflex")}
    networks["fused"].load_state_dict(networks["oflex"].state_dict())
    x = _images(2, 3, 224, 224).cuda()
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad():
        exact = networks["oflex"](x)
        assert ((networks["fused"](x) - exact).norm() / exact.norm()).item() < 1e-4
        with torch.autocast("cuda", torch.bfloat16):
            errors = [((n(x) - exact).norm() / exact.norm()).item() for n in networks.values()]
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32
    assert errors[0] < 1.5 * errors[1] + 1e-3


@pytest.mark.gpu
@on_gpu
def test_training_compiled_on_a_gpu():
    torch.manual_seed(0)
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
