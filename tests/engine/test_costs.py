"""What a run costs besides time: FLOPs as the field counts them, and memory under a name that says which."""

import json

import pytest
import torch
from tiny_task import config, train

from vmamba.config.compose import compose
from vmamba.engine import costs
from vmamba.engine.distributed import Env
from vmamba.engine.fit import load_task

CPU = Env(torch.device("cpu"))


def task_and_model(*words):
    cfg, _ = compose(list(words))
    kind = load_task(cfg.task.entry)
    task = kind.__new__(kind)  # without its data
    task.cfg, task.env = cfg, CPU
    return task, task.build_model()


@pytest.mark.parametrize(
    ("words", "gflops"),
    [
        (["model=tiny", "data=imagenet", "data.root=x"], 4.90561),  # as upstream's counter gave them
        (["model=tiny", "data=imagenet", "data.root=x", "scan=naive"], 4.90561),
        (["model=tiny", "task=det", "data=coco", "data.root=x"], 271.16),
        (["model=tiny", "task=seg", "data=ade20k", "data.root=x"], 948.78),
    ],
)
def test_flops_are_the_published_ones_and_counting_leaves_no_trace(words, gflops):
    task, model = task_and_model(*words)
    state = torch.get_rng_state()
    before = [vars(module).get("backend") for module in model.modules()]
    assert costs.flops(task, model) == pytest.approx(gflops * 1e9, rel=1e-3)
    assert torch.equal(state, torch.get_rng_state()) and all(module.training for module in model.modules())
    assert before == [vars(module).get("backend") for module in model.modules()]


def test_a_network_that_cannot_be_counted_is_left_out_with_a_line(caplog):
    task, _ = task_and_model("model=nano")
    with caplog.at_level("INFO", logger="vmamba"):
        assert costs.flops(task, torch.nn.Linear(3, 3)) is None
    assert "FLOPs not counted" in caplog.text
    assert costs.flops(object(), torch.nn.Linear(3, 3)) is None
    assert "gflops" not in costs.measured(CPU.device, 2**30, None)


def test_result_says_what_a_run_held_and_cost(tmp_path):
    result = train(config(), tmp_path)
    assert 0.1 < result["rss_peak_gib"] < 64 and "gpu_peak_gib" not in result
    assert result["gflops"] > 0
    written = json.loads(next(tmp_path.rglob("result.json")).read_text())
    assert written["gflops"] == result["gflops"] and written["rss_peak_gib"] == result["rss_peak_gib"]


def test_the_peak_of_an_earlier_run_in_the_process_is_forgotten():
    big = torch.ones(2**28)  # 1 GiB
    high = costs.peak(CPU.device)
    del big
    costs.forget_peak(CPU.device)
    assert costs.peak(CPU.device) < high - 2**29
