"""The stand-in for mmcv's compiled operators against their definitions, on a CPU and on a GPU."""

import sys

import pytest
import torch

from vmamba.config.errors import UserError
from vmamba_tasks.openmm import ext

ext.install()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return request.param


def greedy(boxes: torch.Tensor, scores: torch.Tensor, limit: float, offset: int) -> list[int]:
    """NMS by its definition."""
    kept: list[int] = []
    sides = (boxes[:, 2:] - boxes[:, :2] + offset).clamp(min=0)
    for i in scores.argsort(descending=True, stable=True).tolist():
        low = torch.maximum(boxes[i, :2], boxes[kept, :2])
        high = torch.minimum(boxes[i, 2:], boxes[kept, 2:])
        common = (high - low + offset).clamp(min=0).prod(1)
        if not (common / (sides[i].prod() + sides[kept].prod(1) - common) > limit).any():
            kept.append(i)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nms_is_the_definition(offset, dtype, device):
    from mmcv.ops import nms

    torch.manual_seed(0)
    corners = torch.rand(200, 2) * 50
    boxes = torch.cat([corners, corners + 5 + torch.rand(200, 2) * 30], 1).to(dtype)
    scores = torch.randperm(200).float() / 200
    on = boxes.to(device), scores.to(device)
    _, kept = nms(*on, 0.5, offset=offset)
    assert kept.tolist() == greedy(boxes.float(), scores, 0.5, offset)
    assert nms(on[0][:0], on[1][:0], 0.5)[1].tolist() == []


def test_roi_align_averages_bilinear_samples_and_has_its_gradient(device):
    from mmcv.ops import RoIAlign

    torch.manual_seed(0)
    maps = torch.rand(2, 3, 9, 11, dtype=torch.float64).to(device).requires_grad_()
    rois = torch.tensor([[0, 1.0, 2.0, 7.0, 8.0], [1, 0.0, 0.0, 10.0, 6.0]], dtype=torch.float64, device=device)
    layer = RoIAlign(2, spatial_scale=0.5, sampling_ratio=2, aligned=True)
    pooled = layer(maps, rois)
    steps = (torch.arange(4, dtype=torch.float64, device=device) + 0.5) / 4
    for roi, got in zip(rois, pooled, strict=True):
        x1, y1, x2, y2 = roi[1:] * 0.5 - 0.5
        ys, xs = torch.meshgrid(y1 + steps * (y2 - y1), x1 + steps * (x2 - x1), indexing="ij")
        ys, xs = ys.clamp(min=0), xs.clamp(min=0)
        grid = torch.stack([2 * xs / 10 - 1, 2 * ys / 8 - 1], -1)[None]
        samples = torch.nn.functional.grid_sample(maps[int(roi[0])][None], grid, align_corners=True)[0]
        expected = samples.reshape(3, 2, 2, 2, 2).mean((2, 4))
        torch.testing.assert_close(got, expected)
    assert torch.autograd.gradcheck(lambda m: layer(m, rois), maps, nondet_tol=1e-12)  # CUDA adds in any order
    low = layer(maps.detach().bfloat16(), rois.bfloat16())
    torch.testing.assert_close(low.double(), pooled, atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees_with_the_cpu_at_real_size():
    from mmcv.ops import batched_nms, roi_align

    torch.manual_seed(0)
    corners = torch.rand(4000, 2) * torch.tensor([1200.0, 700.0])
    boxes, scores = torch.cat([corners, corners + 8 + 200 * torch.rand(4000, 2)], 1), torch.randperm(4000) / 4000
    given = boxes, scores, torch.randint(0, 80, (4000,))
    found = [batched_nms(*(t.to(d) for t in given), {"type": "nms", "iou_threshold": 0.5})[1] for d in ("cpu", "cuda")]
    assert found[0].tolist() == found[1].tolist() and len(found[0]) > 1000
    maps, rois = torch.randn(2, 256, 100, 160), torch.cat([torch.randint(0, 2, (500, 1)), boxes[:500]], 1)
    weights, results = torch.randn(500, 256, 7, 7), []
    for device in ("cpu", "cuda"):
        leaf = maps.detach().to(device, copy=True).requires_grad_()
        pooled = roi_align(leaf, rois.to(device), (7, 7), 0.125, 0, "avg", True)
        (pooled * weights.to(device)).sum().backward()
        results.append((pooled.detach().cpu(), leaf.grad.cpu()))
    for cpu, gpu in zip(*results, strict=True):
        torch.testing.assert_close(gpu, cpu, atol=1e-4, rtol=1e-4)


def focal(logits: torch.Tensor, target: torch.Tensor, gamma: float, alpha: float) -> torch.Tensor:
    """The focal loss by its definition, logit by logit."""
    found = torch.empty_like(logits)
    for i, row in enumerate(logits):
        for c, logit in enumerate(row):
            p = 1 / (1 + torch.exp(-logit))
            right, share = (p, alpha) if target[i] == c else (1 - p, 1 - alpha)
            found[i, c] = -share * (1 - right) ** gamma * torch.log(right)
    return found


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_focal_loss_is_the_definition(reduction, gamma, alpha, device):
    from mmcv.ops import sigmoid_focal_loss

    torch.manual_seed(0)
    logits = (3 * torch.randn(7, 4, dtype=torch.float64)).requires_grad_()
    target = torch.tensor([0, 3, 4, 1, 4, 2, 0])  # 4 is background: none of the four classes
    expected, on = focal(logits, target, gamma, alpha), (logits.to(device), target.to(device))
    got = sigmoid_focal_loss(*on, gamma, alpha, None, reduction).cpu()
    expected = {"none": expected, "mean": expected.sum() / 7, "sum": expected.sum()}[reduction]
    torch.testing.assert_close(got, expected)
    direction = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(x, logits, direction, retain_graph=True)[0] for x in (got, expected))
    torch.testing.assert_close(ours, theirs)
    low = sigmoid_focal_loss(on[0].detach().bfloat16(), on[1], gamma, alpha, None, reduction)
    torch.testing.assert_close(low.double().cpu(), expected.detach(), atol=5e-2, rtol=5e-2)


def test_an_operator_that_is_not_there_says_so_when_it_is_called():
    from mmcv.ops import RoIAlign, sigmoid_focal_loss, softmax_focal_loss

    target = torch.zeros(2, dtype=torch.long)
    with pytest.raises(UserError, match=r"softmax_focal_loss_forward.*nms, roi_align.*build mmcv==2\.1\.0") as caught:
        softmax_focal_loss(torch.rand(2, 3), target, 2.0, 0.25, None, "mean")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="class weights"):
        sigmoid_focal_loss(torch.rand(2, 3), target, 2.0, 0.25, torch.ones(3), "mean")
    with pytest.raises(UserError, match="pool_mode=max"):
        RoIAlign(2, pool_mode="max")(torch.rand(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 3, 3]]))


def test_compiled_operators_win(tmp_path):
    """A real module on mmcv's path is found before ours, which is asked last."""
    ext.install()
    ext.install()
    assert sum(type(finder).__name__ == "_Finder" for finder in sys.meta_path) == 1

    def origin() -> str:
        specs = (finder.find_spec("mmcv._ext", [str(tmp_path)]) for finder in sys.meta_path)
        return next(spec.origin for spec in specs if spec)

    assert origin() == "torchvision" and not ext.compiled()
    (tmp_path / "_ext.py").touch()
    assert origin() == str(tmp_path / "_ext.py")
