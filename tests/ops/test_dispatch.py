"""Dispatch: what is available, what auto takes, what is refused, and that it is said once."""

import logging
import subprocess
import sys

import pytest

from vmamba_ops import dispatch
from vmamba_ops.limits import LIMITS, TABLES


@pytest.fixture(autouse=True)
def fresh():
    dispatch.resolve.cache_clear()
    dispatch._said.clear()
    dispatch._installed.cache_clear()
    yield
    dispatch.resolve.cache_clear()
    dispatch._installed.cache_clear()


def _run(code):
    subprocess.run([sys.executable, "-c", code], check=True)


def test_limits_and_dispatch_without_torch():
    _run("import sys, vmamba_ops.limits, vmamba_ops.dispatch; assert 'torch' not in sys.modules")


def test_function_and_folder_share_a_name():
    _run(
        "import vmamba_ops.selective_scan.naive; from vmamba_ops import selective_scan; assert callable(selective_scan)"
    )


def test_available():
    for op, table in TABLES.items():
        for device in ("cpu", "cuda"):
            reasons = dispatch.available(device, op)
            assert list(reasons) == list(table)
            assert reasons["naive"] == "" and all("\n" not in why for why in reasons.values())
    assert dispatch.available("cpu")["cpu"] == ""
    assert "not on cuda" in dispatch.available("cuda")["cpu"]


def test_auto_takes_the_best_and_says_so_once(caplog):
    with caplog.at_level(logging.INFO, "vmamba_ops"):
        for states in (1, 16, 300):
            assert dispatch.resolve("selective_scan", "auto", "cpu", states) == "cpu"
        ranks = {name: LIMITS[name].rank for name, why in dispatch.available("cuda").items() if not why}
        best = min((name for name, rank in ranks.items() if rank is not None), key=ranks.get)
        assert dispatch.resolve("selective_scan", "auto", "cuda") == best
        assert dispatch.resolve("cross_scan", "auto", "cuda", dtype="float64") == "triton"
    assert [(record.levelname, record.getMessage().split(": ")[0]) for record in caplog.records] == [
        ("INFO", "selective_scan on cpu"),
        ("WARNING" if best == "naive" else "INFO", "selective_scan on cuda"),
        ("INFO", "cross_scan on cuda"),
    ]


@pytest.mark.parametrize("backend", [name for name, limit in LIMITS.items() if limit.missing])
def test_absent_backends_are_refused_with_the_remedy(backend):
    with pytest.raises(RuntimeError, match=f"'{backend}' cannot run here: .*use backend=auto .*usable: naive"):
        dispatch.resolve("selective_scan", backend, "cuda")


def test_without_numba(monkeypatch):
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert dispatch.resolve("selective_scan", "auto", "cpu") == "naive"
    with pytest.raises(RuntimeError, match="needs numba: pip install numba"):
        dispatch.resolve("selective_scan", "cpu", "cpu")


def test_unknown_dtype():
    with pytest.raises(RuntimeError, match="it takes float32, bfloat16, float16, float64, got float8_e4m3fn"):
        dispatch.resolve("selective_scan", "cpu", "cpu", dtype="float8_e4m3fn")
    with pytest.raises(RuntimeError, match="no backend takes dtype float8_e4m3fn on cpu"):
        dispatch.resolve("selective_scan", "auto", "cpu", dtype="float8_e4m3fn")
