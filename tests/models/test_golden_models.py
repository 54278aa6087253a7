"""Logits, stage outputs and input gradients of the published code, small and full-size, from its own parameters."""

import json

import published
import pytest
import torch
from safetensors.torch import load_file

from vmamba.models import Backbone, checkpoint_filter_fn, from_upstream

SMALL = sorted(path.stem for path in (published.GOLDEN / "models").glob("*.json"))
FULL = {
    name: about
    for name, about in json.loads((published.GOLDEN / "fullsize" / "logits.json").read_text())["models"].items()
    if name != "mamba2_T"
}

QUICK = ("v0_T", "v2v_T_s1l8")


def close(got: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(got, expected, **published.TOLERANCE, msg=lambda m: f"{what}: {m}")


@pytest.mark.parametrize("name", SMALL)
def test_small(name):
    about = json.loads((published.GOLDEN / "models" / f"{name}.json").read_text())
    golden = load_file(published.GOLDEN / "models" / f"{name}.safetensors")
    saved = {key.removeprefix("sd/"): value for key, value in golden.items() if key.startswith("sd/")}
    weights = saved or published.parameters(about["state_dict"], about["seed"])
    model = from_upstream(about["constructor"], source=about["source"], cls=about["cls"]).eval()
    model.load_state_dict(checkpoint_filter_fn(weights, model), strict=True)
    x = published.randn(about["input_shape"], about["seed"] + 1).requires_grad_()

    with torch.no_grad():
        _, stages = model.forward_intermediates(x, norm=False, output_fmt="NCHW")
    for i, stage in enumerate(stages):
        close(stage, golden[f"io/stage{i}"], f"stage {i}")
    if isinstance(model, Backbone):
        for i, out in zip(model.out_indices, model(x), strict=True):
            close(out, golden[f"io/out{i}"], f"out {i}")
        return
    logits = model(x)
    close(logits, golden["io/logits"], "logits")
    (logits * published.randn(logits.shape, about["seed"] + 2)).sum().backward()
    close(x.grad, golden["io/input_grad"], "input gradient")
    norms = {key: p.grad.norm() for key, p in model.named_parameters()}
    if norms.keys() == about["param_grad_l2"].keys():  # the generations whose names are today's
        for key, expected in about["param_grad_l2"].items():
            assert norms[key] == pytest.approx(expected, rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FULL])
def test_full_size(name):
    about, golden = FULL[name], load_file(published.GOLDEN / "fullsize" / "logits.safetensors")
    model = from_upstream(about["constructor"], source=about["source"]).eval()
    model.load_state_dict(published.parameters(published.manifest(name), about["seed"]), strict=True)
    x = published.randn(about["input_shape"], about["seed"] + 1)
    with torch.no_grad():
        features, stages = model.forward_intermediates(x)
        close(model.forward_head(features), golden[f"{name}/logits"], "logits")
    for i, stage in enumerate(stages):
        close(stage.mean((2, 3)), golden[f"{name}/stage{i}_mean"], f"stage {i} mean")
        close(stage.pow(2).mean((2, 3)).sqrt(), golden[f"{name}/stage{i}_rms"], f"stage {i} rms")
