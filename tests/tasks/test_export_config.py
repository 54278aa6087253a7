"""``vmamba.export_config``: the file that it writes is run by mmengine's own Runner."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("mmdet", reason="needs the extra det")
pytest.importorskip("mmseg", reason="needs the extra seg")

from vmamba.export_config import main, write
from vmamba_tasks import scenes
from vmamba_tasks.scenes.compose import COUNTS

NANO = ["model=nano", "model.depths=[1,1,1,1]", "model.dims=[8,16,16,16]", "recipe.batch_size=2"]
TWO_STEPS = ["recipe.loop=iters", "recipe.iters=2", "recipe.eval_every=2", "recipe.warmup=1"]
SMALL = {
    "det": ["recipe.det.channels=16", "recipe.det.hidden=16", "recipe.det.proposals=20", "recipe.det.mask_convs=1"],
    "seg": ["recipe.seg.channels=16", "recipe.seg.aux_channels=8"],
}
STOCK = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner
for name in ("det", "seg"):
    cfg = Config.fromfile(f"{name}.py")
    cfg.work_dir, cfg.launcher, cfg.experiment_name = f"work/{name}", "none", name
    cfg.env_cfg.dist_cfg.backend = "gloo"
    runner = Runner.from_cfg(cfg)
    runner.train()
    cfg.resume, cfg.experiment_name = True, f"{name} again"
    again = Runner.from_cfg(cfg)
    again.load_or_resume()
    print(name, "steps", runner.iter, again.iter, "vmamba.job" in sys.modules)
"""


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A handful of scenes."""
    monkeypatch.setitem(COUNTS, "train", 4)
    monkeypatch.setitem(COUNTS, "val", 2)
    return scenes.make(tmp_path / "scenes")


def test_the_stock_runner_trains_and_resumes_both_tasks(few, tmp_path):
    """In one process, as imports take longest."""
    for task in ("det", "seg"):
        words = [f"task={task}", f"data.root={few}", "log_every=1", *NANO, *SMALL[task], *TWO_STEPS]
        assert main([*words, "--out", str(tmp_path / f"{task}.py")]) == 0
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STOCK], capture_output=True, text=True, cwd=tmp_path, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"det steps 2 2 False", "seg steps 2 2 False"} <= set(done.stdout.splitlines())
    for task, metric in (("det", "coco/bbox_mAP"), ("seg", "mIoU")):
        assert (tmp_path / "work" / task / "iter_2.pth").is_file()
        assert metric in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["task=det", "data=coco", "recipe=mask_rcnn_1x"], {"length": 12, "lr": 1e-4, "warm": 1000}),
        (["task=seg", "data=ade20k", "recipe=upernet_160k"], {"length": 160000, "lr": 6e-5, "warm": 1500}),
    ],
    ids=["det", "seg"],
)
def test_published_recipes_are_written_as_they_are(words, expected, tmp_path, monkeypatch):
    from mmengine.config import Config

    monkeypatch.chdir(tmp_path)
    path = write([*words, "model=tiny", "data.root=here"], tmp_path / "out.py")
    cfg = Config.fromfile(path, import_custom_modules=False)
    optimizer, (warm, main_part) = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert optimizer.type == "AdamW" and optimizer.lr == pytest.approx(expected["lr"])
    assert set(cfg.optim_wrapper.paramwise_cfg.custom_keys) >= {"norm", "absolute_pos_embed"}
    assert (warm.type, warm.end, warm.by_epoch) == ("LinearLR", expected["warm"], False)
    assert cfg.train_dataloader.dataset.data_root == str(tmp_path / "here")
    assert cfg.train_dataloader.batch_size == 2 and cfg.model.backbone.depths == [2, 2, 8, 2]
    if words[0] == "task=det":
        assert cfg.train_cfg.max_epochs == expected["length"] and main_part.milestones == [8, 11]
        assert cfg.train_dataloader.batch_sampler.type == "AspectRatioBatchSampler"
    else:
        assert cfg.train_cfg.max_iters == expected["length"] and (main_part.type, main_part.begin) == ("PolyLR", 1500)
        assert cfg.tta_model.type == "SegTTAModel" and cfg.tta_pipeline[-1].type == "TestTimeAug"
    assert path.read_text().startswith("# python -m vmamba.export_config " + words[0])


@pytest.mark.parametrize(
    "words",
    [
        ["task=det"],  # data=scenes: a warm-up of half an epoch
        ["task=det", "recipe.accumulate=3"],
        ["task=det", "recipe.warmup_steps=0"],
        ["task=seg", "recipe=upernet_160k", "recipe.iters=400", "recipe.warmup_steps=100"],
        ["task=seg", "recipe=upernet_160k", "recipe.iters=400", "recipe.warmup_steps=100", "recipe.accumulate=4"],
        ["task=seg", "recipe.loop=iters", "recipe.iters=400", "recipe.warmup=90", "recipe.accumulate=2"],
        ["task=seg", "recipe.loop=iters", "recipe.iters=40", "recipe.schedule=step", "recipe.milestones=[20,30]",
         "recipe.warmup=0", "recipe.accumulate=2"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_runner_trains_as_long_and_at_the_same_rates(words, few, tmp_path):
    """To 4 %, as timm warms up for an update more, and in micro-steps a ramp is a little shorter."""
    import torch
    from mmengine.config import Config
    from mmengine.runner import Runner

    from vmamba.config.compose import compose
    from vmamba.engine import optim
    from vmamba.engine.plan import Plan

    words, batches = [*words, f"data.root={few}", *NANO], 60  # in an epoch
    cfg, found = compose(words)[0], Config.fromfile(write(words, tmp_path / "out.py"), import_custom_modules=False)
    recipe, plan = cfg.recipe, Plan.make(cfg, batches)
    ours, theirs = (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr) for _ in range(2))
    schedule = optim.schedule(ours, recipe, recipe.batch_size, plan.total, plan.warmup, plan.unit)
    length = found.train_cfg.get("max_iters") or found.train_cfg.max_epochs * batches
    assert length == plan.total * recipe.accumulate

    stub = SimpleNamespace(train_dataloader=range(batches), _train_loop=None)
    schedulers = Runner._build_param_scheduler(stub, found.param_scheduler, theirs)
    rates = []
    for iteration in range(length):
        rates.append(theirs.param_groups[0]["lr"])
        for scheduler in schedulers:
            if not scheduler.by_epoch or (iteration + 1) % batches == 0:
                scheduler.step()
    for update in range(plan.total):
        schedule.step_update(update)
        rate = rates[update * recipe.accumulate]
        assert rate == pytest.approx(ours.param_groups[0]["lr"], abs=0.04 * recipe.lr), update


def test_sgd_keeps_its_momentum(few, tmp_path):
    from mmengine.config import Config
    from torch import nn

    from vmamba.config.compose import compose
    from vmamba.engine import optim

    words = ["task=seg", f"data.root={few}", *NANO, "recipe.optimizer=sgd"]
    found = Config.fromfile(write(words, tmp_path / "out.py"), import_custom_modules=False).optim_wrapper.optimizer
    own = optim.optimizer(nn.Linear(1, 1), compose(words)[0].recipe, 2, "cpu").defaults
    assert (found.momentum, found.nesterov) == (own["momentum"], own["nesterov"])


def test_a_start_from_a_classifier_is_converted(tmp_path, few):
    import torch
    from mmengine.config import Config

    from vmamba.config.compose import compose
    from vmamba.models import build

    cfg, _ = compose(NANO)
    groups = (cfg.model, cfg.forward_type, cfg.norm, cfg.scan)
    classifier = build(*groups, num_classes=10, in_chans=3, img_size=32)
    torch.save({"model": classifier.state_dict()}, tmp_path / "cls.pth")
    words = ["task=seg", f"data.root={few}", *NANO, *SMALL["seg"], f"init.ckpt={tmp_path / 'cls.pth'}"]
    path = write(words, tmp_path / "seg.py")
    start = torch.load(Config.fromfile(path, import_custom_modules=False).load_from)["state_dict"]
    name = "layers.0.blocks.0.op.in_proj.weight"
    assert torch.equal(start[f"backbone.{name}"], classifier.state_dict()[name])
    assert not any(key.startswith("decode_head") for key in start)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["task=cls"], "task=cls is not OpenMMLab's: export task=det or task=seg"),
        (["task=det", "data=coco"], "data.root is missing"),
        (["task=seg", "recipe.optimizer=lion"], "recipe.optimizer=lion: exported are adamw, adam, sgd"),
        (["task=seg", "--out", "seg.yaml"], "--out seg.yaml: an OpenMMLab config is a Python file; take seg.py"),
        (["task=seg", "--out", "/proc/none/seg.py"], "--out /proc/none/seg.py: /proc/none cannot be made"),
        (["task=seg", "modle=tiny"], "modle"),
    ],
)
def test_mistakes_are_one_line(words, line, capsys, tmp_path, few, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "task=seg" in words:
        words = [*words, f"data.root={few}"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*.py"))
