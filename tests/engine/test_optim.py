import math

import pytest
import torch
from tiny_task import config
from torch import nn

from vmamba.config.errors import UserError
from vmamba.config.schema import Limit, Recipe
from vmamba.engine import optim
from vmamba.engine.plan import Plan


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.A_logs = nn.Parameter(torch.zeros(4, 2))
        self.Ds = nn.Parameter(torch.zeros(4))
        self.dt_projs_bias = nn.Parameter(torch.zeros(4, 2))
        self.pos_embed = nn.Parameter(torch.zeros(1, 2, 3))

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed"}


def test_weight_decay_exclusions_of_the_published_recipe():
    model = Named()
    opt = optim.optimizer(model, Recipe(), 512, torch.device("cpu"))
    decayed = {id(p) for group in opt.param_groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert names == {"linear.weight", "A_logs", "dt_projs_bias"}
    assert sum(len(group["params"]) for group in opt.param_groups) == len(list(model.parameters()))


def rates(recipe, total_batch, total, warmup) -> list[float]:
    opt = optim.optimizer(nn.Linear(2, 2), recipe, total_batch, torch.device("cpu"))
    schedule = optim.schedule(opt, recipe, total_batch, total, warmup)
    found = []
    for update in range(total):
        found.append(opt.param_groups[0]["lr"])
        schedule.step_update(update + 1)
    return found


def test_published_schedule():
    total, warmup = 3000, 200
    found = rates(Recipe(), 1024, total, warmup)
    peak, low, first = 1e-3, 1e-5, 1e-6
    for n in (0, 1, 100, 199):
        assert found[n] == pytest.approx(first + n * (peak - first) / warmup)
    for n in (200, 1000, 2999):
        cosine = 0.5 * (1 + math.cos(math.pi * (n - warmup) / (total - warmup)))
        assert found[n] == pytest.approx(low + (peak - low) * cosine)


def test_rates_as_given():
    assert max(rates(Recipe(lr_batch=0, lr=2e-3), 64, 50, 5)) == pytest.approx(2e-3)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "adam"])
def test_timm_optimizers(name):
    assert optim.optimizer(nn.Linear(2, 2), Recipe(optimizer=name), 512, torch.device("cpu")).param_groups


def test_unknown_optimizer():
    with pytest.raises(UserError, match=r"recipe.optimizer=adamx: not an optimizer of timm. Did you mean .*adamw"):
        optim.check(Recipe(optimizer="adamx"))


def due(plan, what) -> list[int]:
    return [step for step in range(plan.stop + 1) if getattr(plan, what)(step)]


def test_plan_by_epochs():
    plan = Plan.make(config(recipe__epochs=3, recipe__accumulate=3, recipe__warmup=0.5, recipe__eval_every=2), 10)
    assert (plan.per_epoch, plan.total, plan.stop, plan.warmup, plan.epochs) == (3, 9, 9, 2, 3)
    assert due(plan, "evaluates") == [6, 9] and due(plan, "saves") == [3, 6, 9]


def test_plan_by_iterations():
    cfg = config(recipe__loop="iters", recipe__iters=25, recipe__eval_every=10, checkpoint__every_steps=4)
    plan = Plan.make(cfg, 10)
    assert (plan.total, plan.stop, plan.epochs) == (25, 25, None)
    assert due(plan, "evaluates") == [10, 20, 25] and due(plan, "saves") == [4, 8, 10, 12, 16, 20, 24, 25]


def test_plan_cut_short_keeps_the_schedule():
    plan = Plan.make(config(limit=Limit(train_steps=2)), 10)
    assert (plan.total, plan.stop) == (20, 2) and due(plan, "evaluates") == [2] == due(plan, "saves")


def test_accumulation_longer_than_an_epoch():
    with pytest.raises(UserError, match=r"an epoch has 3 batches, one update takes recipe.accumulate=4"):
        Plan.make(config(recipe__accumulate=4), 3)
