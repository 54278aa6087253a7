"""Detection and segmentation on a GPU: as on the CPU in float32, in 16 bits, by each scan, compiled."""

import pytest
import torch
from dense_trees import DET, METRICS, SEG, run, task_of, words

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PLAIN = ["model.drop_path=0", "precision=fp32", "precision.tf32=false", "recipe.batch_size=4", "limit.train_steps=1"]
TASKS = ["det", "seg"]


@pytest.mark.parametrize("task", TASKS)
def test_a_step_and_an_evaluation_are_those_of_the_cpu(task, coco, ade, tmp_path):
    results = [
        run(words(task, coco, ade, *PLAIN, f"device={device}"), tmp_path / device)["final"]
        for device in ("cpu", "cuda")
    ]
    assert METRICS[task] <= results[1].keys()
    for name in (name for name in results[0] if "loss" in name or name in METRICS[task]):
        assert results[1][name] == pytest.approx(results[0][name], rel=1e-2, abs=1e-3), name
    assert len([*(tmp_path / "cuda" / "pictures").iterdir()]) == 1


@pytest.mark.parametrize("scan", ["oflex", "triton", "auto"])
@pytest.mark.parametrize("task", TASKS)
def test_bfloat16_by_every_scan(task, scan, coco, ade, tmp_path):
    told = words(task, coco, ade, "device=cuda", f"scan={scan}", "precision=bf16", "recipe.ema.enabled=true")
    result = run([*told, "limit.train_steps=3"], tmp_path / "run")
    assert result["steps"] == 3 and 0 < result["final"]["train/loss"] < 50
    assert METRICS[task] <= result["final"].keys()


@pytest.mark.parametrize("task", TASKS)
def test_a_compiled_backbone(task, coco, ade, tmp_path):
    """Images of two shapes in training, a third batch size in evaluation."""
    told = words(task, coco, ade, "device=cuda", "compile=true", "precision=bf16", "limit.train_steps=3")
    result = run([*told, "recipe.seg.crop=64" if task == "seg" else "recipe.det.flip=0.5"], tmp_path / "run")
    assert result["steps"] == 3 and METRICS[task] <= result["final"].keys()


def test_the_decoder_is_channels_last(ade):
    """Its 3 x 3 convolutions; the backbone chooses for itself."""
    model = task_of([*SEG, f"data.root={ade}", "device=cuda"]).build_model().cuda()
    weights = [p for n, p in model.decode_head.named_parameters() if p.dim() == 4 and p.shape[2] == 3]
    assert weights and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_several_scales_and_flips_as_on_the_cpu(ade, tmp_path):
    told = [*SEG, f"data.root={ade}", "task.pictures=0", "precision=fp32", "precision.tf32=false"]
    run([*told, "limit.train_steps=2"], tmp_path / "run")
    evaluated = [*told, "mode=eval", "tta=true", f"ckpt={tmp_path / 'run'}"]
    cpu, gpu = (run([*evaluated, f"device={d}"], tmp_path / d)["final"] for d in ("cpu", "cuda"))
    assert all(gpu[name] == pytest.approx(cpu[name], abs=0.2) for name in METRICS["seg"])


@torch.no_grad()
def test_boxes_and_masks_are_those_of_the_cpu(coco):
    """Every proposal is taken for an object of one class, so that there is something to compare."""
    found = {}
    for device in ("cpu", "cuda"):
        task = task_of([*DET, f"data.root={coco}", "mode=train", f"device={device}", "precision.tf32=false"])
        torch.manual_seed(0)
        model = task.build_model().to(device).eval()
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        model.roi_head.bbox_head.fc_cls.bias[0] = 9.0
        batch = next(iter(task.val_loader))
        found[device] = [sample.pred_instances.cpu() for sample in task.predict(model, batch)]
    from torchvision.ops import box_iou

    for cpu, gpu in zip(found["cpu"], found["cuda"], strict=True):
        best, at = box_iou(cpu.bboxes, gpu.bboxes).max(1)
        same = best > 0.99
        assert len(cpu) > 5 and len(cpu) == pytest.approx(len(gpu), abs=2) and same.float().mean() > 0.9
        assert (cpu.masks[same] == gpu.masks[at[same]]).float().mean() > 0.99
