"""Every model x forward_type x norm x scan x task composes and validates, or is refused with its reason."""

import itertools
import random

import pytest
from omegaconf import OmegaConf

from vmamba.config import rules, schema
from vmamba.config.compose import choices, compose
from vmamba.config.errors import UserError
from vmamba.config.paths import conf_dir

GROUPS = ["model", "forward_type", "norm", "scan", "task"]
WITH_NAME = {"timm": ["model.name=resnet18"]}


def released(model: str) -> schema.Run:
    return compose([f"model={model}", *WITH_NAME.get(model, [])])[0]


def node(group: str, choice: str):
    kind = schema.Run.__dataclass_fields__[group].type
    file = OmegaConf.load(conf_dir() / group / f"{choice}.yaml")
    file.pop("defaults", None)
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), file))


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple, list[str]]:
    """(model, forward_type, norm, scan, task, GPU here) -> the rules it breaks."""
    runs = {model: released(model) for model in choices("model")}
    nodes = {g: {c: node(g, c) for c in choices(g)} for g in GROUPS[1:]}
    found = {}
    for point in itertools.product(*(choices(g) for g in GROUPS)):
        run = runs[point[0]]
        for group, choice in zip(GROUPS[1:], point[1:], strict=True):
            setattr(run, group, nodes[group][choice])
        for cuda in (False, True):
            found[(*point, cuda)] = list(rules.broken(run, cuda=cuda))
    return found


def test_every_point_is_valid_or_refused_with_a_reason(outcomes):
    valid = [p for p, lines in outcomes.items() if not lines]
    refused = {p: lines for p, lines in outcomes.items() if lines}
    print(f"{len(outcomes)} points, {len(valid)} valid, {len(refused)} refused")
    assert valid and refused
    assert {p[0] for p in valid} == set(choices("model"))
    assert {p[1] for p in valid} == set(choices("forward_type"))
    assert {p[2] for p in valid} == set(choices("norm"))
    for lines in refused.values():
        for line in lines:
            assert "\n" not in line and len(line) < 300
            assert "take " in line or "add " in line


def test_the_released_combination_of_every_model_is_valid():
    for model in choices("model"):
        assert released(model).model.name


def test_channel_last_only_types_are_refused_channel_first(outcomes):
    lines = outcomes[("tiny", "v0", "ln2d", "auto", "cls", False)]
    assert len(lines) == 1 and "channel-last" in lines[0] and "norm=ln" in lines[0]
    assert not outcomes[("tiny", "v0", "ln", "auto", "cls", False)]


def test_a_backend_that_breaks_the_forward_types_promise_is_refused(outcomes):
    lines = outcomes[("tiny", "v05", "ln2d", "core", "cls", True)]
    assert len(lines) == 1 and "promises float32" in lines[0] and "scan=oflex" in lines[0]
    assert not outcomes[("tiny", "v2", "ln2d", "core", "cls", True)]


def test_composition_agrees_with_the_walk(outcomes):
    """A sample of the points, through Hydra itself and from the command line's words."""
    rng = random.Random(0)
    points = [p for p in outcomes if p[5] is False]
    for point in rng.sample(points, 60):
        words = [f"{g}={c}" for g, c in zip(GROUPS, point[:5], strict=True)] + WITH_NAME.get(point[0], [])
        if outcomes[point]:
            with pytest.raises(UserError) as refused:
                compose(words, cuda=False)
            assert str(refused.value) == outcomes[point][0]
        else:
            run, _ = compose(words, cuda=False)
            assert (run.forward_type.name, str(run.norm.name), str(run.scan.backend)) == point[1:4]
