"""The benchmarks run, in their small form, and say what they measured."""

import csv
import os
import signal
from contextlib import suppress

import pytest
import torch

from vmamba.bench import report, speed_history, throughput
from vmamba.bench.__main__ import main
from vmamba.bench.engine import covered
from vmamba.bench.jobs import Job
from vmamba.bench.profile import by_kind
from vmamba.bench.speed_history import MODEL, build, steps


@pytest.mark.parametrize(
    ("what", "least"),
    [
        ("ops", 4),
        ("fused", 10),
        ("speed_history", 17),
        ("host", 7),
        pytest.param("cold", 3, marks=pytest.mark.slow),
        ("parity", 6),
    ],
)
def test_small_form(what, least, tmp_path, capsys):
    assert main([what, "--small", "--device", "cpu", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob(f"{what}_cpu-*.csv")
    rows = list(csv.DictReader(path.open()))
    assert len(rows) >= least and {"card", "torch", "small"} <= set(rows[0])
    assert str(path) in capsys.readouterr().out
    if what == "ops":
        assert all(float(row["fwd_bwd_ms"]) > float(row["bytes_fwd_bwd_ms"]) > 0 for row in rows)
        assert all(float(row["eager_fwd_bwd_ms"]) > 0 and not row["arithmetic_fwd_ms"] for row in rows)
    elif what == "fused":
        assert all(float(row["fwd_bwd_ms"]) > float(row["bytes_fwd_bwd_ms"]) > 0 for row in rows)
        ops = {"ss2d", "dwconv_silu", "add_layer_norm", "mlp", "conv_norm_gelu"}
        assert {row["op"] for row in rows} == ops and all(row["amp"] == "fp32" for row in rows)
    elif what == "host":
        assert all(float(row["fwd_bwd_us"]) > float(row["no_grad_us"]) > 0 for row in rows)
    elif what == "cold":
        assert all(float(row["first_call_s"]) > 0 < float(row["from_disk_s"]) for row in rows)
    elif what == "parity":
        limits = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
        assert all(0 < float(row[name]) < limits[row["in"]] for row in rows for name in ("out", "du", "dA", "dbias"))
    else:
        measured = [row for row in rows if row["s_per_iter"]]
        assert all(float(row["s_per_iter"]) > 0 for row in measured) and "ours: v05, ln2d, scan=auto" in {
            row["step"] for row in measured
        }
        assert all(row["note"].startswith("absent: ") for row in rows if not row["s_per_iter"])


def test_every_step_computes_the_same_function():
    x, outputs = torch.randn(1, 3, 32, 32), []
    for step in (step for step in steps() if step.model == MODEL):
        model = build(step, torch.device("cpu")).eval()
        torch.manual_seed(0)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.1)
        for module in model.modules():
            if hasattr(module, "backend"):
                module.backend = "auto"  # the backends themselves are tests/ops' matter
        with torch.no_grad():
            outputs.append(model(x))
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], atol=1e-5, rtol=1e-4)


def test_the_large_form_is_refused_on_a_cpu(tmp_path, capsys):
    assert main(["ops", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "--small" in capsys.readouterr().err


def test_numbers_go_to_mlflow(tmp_path):
    import mlflow

    rows, uri = [{"op": "scan", "fwd_ms": 1.5, "note": None}], f"sqlite:///{tmp_path}/mlflow.db"
    path = report.save("ops", "card", rows, tmp_path, {"batch": 2})
    report.to_mlflow("ops", rows, {"batch": 2}, [path], uri)
    (run,) = mlflow.MlflowClient(uri).search_runs(["1"])
    assert run.data.metrics == {"scan/fwd_ms": 1.5} and run.data.params == {"batch": "2"}


def test_models_small_form(tmp_path, capsys):
    assert main(["models", "--small", "--device", "cpu", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("models_cpu-*.csv")
    rows = list(csv.DictReader(path.open()))
    assert [row["phase"] for row in rows] == ["eval", "train"] and not any(row["note"] for row in rows)
    assert all(float(row["images_per_s"]) > 0 < float(row["GFLOPs"]) for row in rows)
    assert {"amp", "tf32", "layout", "compile", "scan", "batch", "size", "card"} <= set(rows[0])
    capsys.readouterr()
    assert main(["models", "--small", "--device", "cpu", "--modes", "fast"]) == 2
    assert "--modes fast: unknown. Choose from: eager, default, reduce-overhead." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--forward_type", "v9"], "forward_type=v9: unknown. Choose from: v0, v01, v02, v03, v04, v05"),
        (["--scan", "fastest"], "backend=fastest: unknown. Choose from: auto, naive"),
        (["--batch", "0"], "argument --batch: 0: it must be a whole number from 1 on"),
        (["--out", "/proc/none"], "--out /proc/none cannot be made (No such file or directory): give another folder"),
        (["--mlflow", "file:/tmp"], "tracking uri 'file:/tmp': MLflow takes http(s)://host:port"),
    ],
)
@pytest.mark.parametrize("what", ["models", "profile"])
def test_mistakes_are_one_line_before_anything_is_measured(what, words, said, tmp_path, capsys):
    with suppress(SystemExit):
        assert main([what, "--small", "--device", "cpu", "--out", str(tmp_path), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not list(tmp_path.iterdir())


def test_another_forward_type_and_size_are_in_the_rows(tmp_path):
    words = ["--forward_type", "v0", "--size", "64", "--batch", "1"]
    assert main(["models", "--small", "--device", "cpu", "--out", str(tmp_path), *words]) == 0
    rows = report.read(next(tmp_path.glob("models_cpu-*.csv")))
    assert [(row["forward_type"], row["size"], row["batch"]) for row in rows] == [("v0", 64, 1)] * 2


def test_scaling_small_form_adds_to_the_days_table_and_draws_it(tmp_path):
    for batch in ("8", "32", "32"):  # what was measured again is there once
        words = ["scaling", "--small", "--device", "cpu", "--out", str(tmp_path), "--add", "--batch", batch]
        assert main(words) == 0
    rows = report.read(next(tmp_path.glob("scaling_cpu-*.csv")))
    assert [row["size"] for row in rows] == [32, 32, 64, 64] * 2
    for row in rows:
        assert row["batch"] * row["size"] ** 2 in (8 * 32**2, 32 * 32**2)
        assert row["Mpixels_per_s"] == pytest.approx(row["images_per_s"] * row["size"] ** 2 / 1e6)
    assert next(tmp_path.glob("scaling_cpu-*.png")).stat().st_size > 10_000


def test_a_row_measured_again_with_other_launches_is_there_once(tmp_path):
    for launches in (843, 850):  # as on a GPU, where they are counted
        rows = [{"task": "det", "model": "tiny", "batch": 1, "ms": 46.9, "launches": launches}]
        path = report.save("dense", "H100", rows, tmp_path, {"amp": "bf16"}, add=True)
    (row,) = report.read(path)
    assert row["launches"] == 850


def test_engine_small_form(tmp_path):
    assert main(["engine", "--small", "--device", "cpu", "--out", str(tmp_path)]) == 0
    (row,) = report.read(next(tmp_path.glob("engine_cpu-*.csv")))
    assert row["images_per_s"] == pytest.approx(2e3 / row["ms"]) and row["idle_%"] is None
    assert row["model"] == "vmamba_nano" and row["data"] == "synthetic"


def test_profile_small_form(tmp_path):
    assert main(["profile", "--small", "--device", "cpu", "--out", str(tmp_path)]) == 0
    rows = report.read(next(tmp_path.glob("profile_cpu-*.csv")))
    for phase in ("eval", "train"):
        own = [row for row in rows if row["phase"] == phase]
        assert {"scan", "convolution", "normalization", "matrix product"} <= {row["kind"] for row in own}
        assert sum(row["share_%"] for row in own) == pytest.approx(100)
        assert [row["ms"] for row in own] == sorted((row["ms"] for row in own), reverse=True)
    assert next(tmp_path.glob("profile_cpu-*.png")).stat().st_size > 10_000


def test_kernels_by_kind():
    names = {  # as profiles on a GPU have them
        "scan": ["ss2d_backward", "scan_forward", "selective_scan_cuda_kernel<float>"],
        "fused MLP": ["mlp_backward"],
        "normalization": ["triton_per_fused_add_native_layer_norm_12", "layer_norm_forward"],
        "compiled, pointwise": ["triton_poi_fused_add_gelu_3"],
        "compiled, reductions": ["triton_red_fused_sum_4"],
        "convolution": ["sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc"],
        "matrix product": ["nvjet_tst_128x192_64x5_1x2_h_bz_TNT", "cutlass_80_tensorop_bf16_s16816gemm_relu"],
        "optimizer": ["void at::native::multi_tensor_apply_kernel<at::native::FusedAdamMathFunctor<float, 4>>"],
        "copies and layout": ["Memcpy DtoD (Device -> Device)", "void cudnn::engines_precompiled::nchwToNhwcKernel"],
        "reductions": ["void at::native::reduce_kernel<512, 1>"],
        "pointwise": ["void at::native::vectorized_elementwise_kernel<4>"],
        "other": ["surprise"],
    }
    rows = by_kind([(name, 2.0) for several in names.values() for name in several for _ in range(3)], 3)
    found = {row["kind"]: (row["ms"], row["kernels"]) for row in rows}
    assert found == {kind: (2.0 * len(several), len(several)) for kind, several in names.items()}
    assert rows[0]["kind"] == "scan" and rows[0]["largest"] == "ss2d_backward"


def test_time_in_which_something_ran():
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2), (3, 4)]) == (5, 6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_rows_measured_before_a_signal_are_kept(number, tmp_path, capsys, monkeypatch):
    def rows():
        yield {"step": "first", "s_per_iter": 1.0}
        os.kill(os.getpid(), number)
        yield {"step": "second", "s_per_iter": 2.0}

    monkeypatch.setattr(speed_history, "run", lambda device, small: (rows(), {"batch": 2}))
    assert main(["speed_history", "--small", "--device", "cpu", "--out", str(tmp_path)]) == 130
    assert [row["step"] for row in report.read(next(tmp_path.glob("*.csv")))] == ["first"]
    assert "stopped after 1 rows" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_rows_of_a_group_that_was_interrupted_are_kept(monkeypatch):
    jobs = [Job(name, "eager", "fp32", 1, 32, 1, "cuda", "auto", "") for name in ("vmamba_nano", "convnext_tiny")]

    def together(group):
        yield group[0], [{"model": "vmamba_nano", "phase": "eval", "images_per_s": 1.0, "note": ""}]
        raise KeyboardInterrupt

    monkeypatch.setattr(throughput, "_together", together)
    rows, stopped = report.collect(throughput.measured(jobs, 2))
    assert stopped and [row["model"] for row in rows] == ["vmamba_nano"]
