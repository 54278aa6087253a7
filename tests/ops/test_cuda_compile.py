"""CUDA C++ without a GPU: every variant of the scan compiles, the cache, the build command, refusals, shapes."""

import ctypes
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.util import find_spec
from itertools import product

import pytest
import torch

from vmamba_ops import build, dispatch, nvrtc, selective_scan
from vmamba_ops.selective_scan import cuda, plan

pytestmark = pytest.mark.skipif(bool(nvrtc.missing()), reason=nvrtc.missing())
SMALL = 'extern "C" __global__ void set(int* to) { *to = VALUE; }'
# length, states, input, output, softplus, nrow: every macro of the kernels takes every value it can
VARIANTS = [
    (3136, 1, "float16", "float32", True, 0),
    (784, 1, "bfloat16", "bfloat16", True, 2),
    (196, 1, "float16", "float16", True, 0),
    (49, 1, "float32", "float32", False, 4),
    (257, 1, "bfloat16", "float32", True, 0),
    (100, 4, "float32", "float32", True, 0),
    (784, 16, "float16", "float32", True, 0),
    (63, 17, "bfloat16", "float32", False, 1),
]
ARCHITECTURES = ("sm_80", "sm_90")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def _cache(folder, monkeypatch):
    monkeypatch.setenv("VMAMBA_OPS_CACHE", str(folder))


def _plan(direction, length, states, dtype, out, softplus, nrow):
    return plan.plan(direction, length, min(states, 16), dtype, out, softplus, nrow, True, states > 16)


@pytest.fixture(scope="module")
def binaries(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VMAMBA_OPS_CACHE", str(folder))
        work = list(product(VARIANTS, ("forward", "backward"), ARCHITECTURES))

        def compile(item):
            variant, direction, arch = item
            return nvrtc.compile(
                plan.source(_plan(direction, *variant).kernel), "scan", _plan(direction, *variant).macros(), arch
            )

        with ThreadPoolExecutor(2) as pool:
            return dict(zip(work, pool.map(compile, work), strict=True))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_compiles(binaries, variant, direction, arch):
    binary = binaries[variant, direction, arch]
    assert binary.cubin.startswith(b"\x7fELF")
    usage = {usage.name: usage for usage in binary.usage}
    chosen = _plan(direction, *variant)
    entry = chosen.entry
    assert set(usage) == ({entry, "scan_sums"} if chosen.kernel == "backward" else {entry})
    assert 16 < usage[entry].registers <= 255
    if variant[-1] == 0:
        allowed = 0 if chosen.one else 64
        assert usage[entry].spills <= allowed, "the default kernels keep to registers"


def test_shared_memory_fits_every_gpu():
    sizes = product(
        ("forward", "backward"), (49, 196, 257, 784, 3136), (1, 3, 16), ("float32", "float16"), (0, 1, 2, 4)
    )
    for direction, length, states, dtype, nrow in sizes:
        chosen = plan.plan(direction, length, states, dtype, "float32", True, nrow)
        for per_group, units in ((1, 1), (96, 4), (768, 512)):
            rows = chosen.rows(per_group, units, states)
            assert rows % chosen.group == 0 and chosen.shared(rows, states)[1] <= 99 * 1024


def test_cache_hit_and_miss():
    first = nvrtc.compile(SMALL, "small", {"VALUE": 1}, "sm_80")
    again = nvrtc.compile(SMALL, "small", {"VALUE": 1}, "sm_80")
    assert not first.cached and again.cached and again.cubin == first.cubin and again.usage == first.usage
    assert again.usage[0].name == "set"
    others = [(SMALL + " ", {"VALUE": 1}, "sm_80"), (SMALL, {"VALUE": 2}, "sm_80"), (SMALL, {"VALUE": 1}, "sm_90")]
    assert not any(nvrtc.compile(source, "small", macros, arch).cached for source, macros, arch in others)
    assert not nvrtc.compile(SMALL, "small", {"VALUE": 1}, "sm_80", again=True).cached


def test_two_processes_at_once(folder):
    program = (
        f"from vmamba_ops import nvrtc; print(len(nvrtc.compile({SMALL!r}, 'twice', {{'VALUE': 7}}, 'sm_80').cubin))"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sizes = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0] and sizes[0] == sizes[1]
    assert sorted(file.suffix for file in folder.glob("twice*")) == [".cubin", ".txt"]


def test_no_folder_to_write(monkeypatch, caplog):
    monkeypatch.setenv("VMAMBA_OPS_CACHE", "/dev/null/cache")
    assert nvrtc.compile(SMALL, "small", {"VALUE": 3}, "sm_80").cubin
    assert "VMAMBA_OPS_CACHE" in caplog.text


def test_errors():
    with pytest.raises(ValueError, match=r"does not compile for 'sm_10'; choose .*sm_80"):
        nvrtc.compile(SMALL, "small", {"VALUE": 1}, "sm_10")
    with pytest.raises(RuntimeError, match=r"small.cu does not compile for sm_80 with -DVALUE=nothing"):
        nvrtc.compile(SMALL, "small", {"VALUE": "nothing"}, "sm_80")


def test_without_nvrtc(monkeypatch):
    nvrtc._library.cache_clear(), nvrtc.missing.cache_clear()
    monkeypatch.setattr(nvrtc, "_found", tuple)
    monkeypatch.setattr(nvrtc, "_MAJORS", ("0",))
    try:
        why = nvrtc.missing()
        assert "install a CUDA build of torch" in why and "\n" not in why
        assert dispatch.available("cuda")["oflex"] == why
    finally:
        nvrtc._library.cache_clear(), nvrtc.missing.cache_clear()


def test_build_command(capsys):
    arguments = ["--arch", "sm_80", "--length", "49", "--dtype", "float16"]
    assert build.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(" registers " in line and line.startswith("sm_80") for line in lines[:-1])
    assert build.main(arguments) == 0
    assert "4 kernels, 0 compiled now" in capsys.readouterr().out
    assert build.main(["--arch", "sm_1"]) == 2
    assert "does not compile for 'sm_1'; choose" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build.main(["--d-state", "300"])
    assert "300: choose 1 to 256" in capsys.readouterr().err
    assert build.lengths(224) == [3136, 784, 196, 49] and build.lengths(100) == [625, 169, 49, 16]


def _meta(batch=2, groups=2, per_group=3, states=2, length=100, dtype=torch.float16, scalars=True):
    dim = groups * per_group
    wide, shared = torch.empty(batch, dim, length), torch.empty(batch, groups, states, length)
    tensors = [
        wide,
        wide,
        torch.empty(dim, states),
        shared,
        shared,
        *([torch.empty(dim)] * 2 if scalars else [None] * 2),
    ]
    typed = [t if t is None or i in (2, 5, 6) else t.to(dtype) for i, t in enumerate(tensors)]
    return [t if t is None else t.to("meta").requires_grad_() for t in typed]


@pytest.mark.parametrize("scalars", [True, False])
@pytest.mark.parametrize("states", [1, 40])
def test_fake_kernels(states, scalars):
    inputs = _meta(states=states, scalars=scalars)
    out, last = cuda.selective_scan(*inputs, True, torch.float32)
    assert out.shape == (2, 6, 100) and out.dtype == last.dtype == torch.float32 and last.shape == (2, 6, states)
    given = [t for t in inputs if t is not None]
    for gradient, tensor in zip(torch.autograd.grad((out.sum(), last.sum()), given), given, strict=True):
        assert gradient.shape == tensor.shape and gradient.dtype == tensor.dtype and gradient.is_meta
    assert cuda.core(*inputs, True, torch.float16)[0].dtype == torch.float16


def test_refusals():
    inputs = [t if t is None else torch.zeros_like(t, device="cpu") for t in _meta()]
    for backend in ("core", "oflex", "mamba_ssm"):
        with pytest.raises(RuntimeError, match=f"'{backend}' cannot run here: it runs on cuda, not on cpu"):
            selective_scan(*inputs, backend=backend)
    with pytest.raises(ValueError, match="nrow is 3; it takes 1, 2, 4, or 0"):
        cuda.selective_scan(*_meta(), True, torch.float32, nrow=3)


@pytest.mark.skipif(find_spec("mamba_ssm") is not None, reason="mamba_ssm is installed")
def test_mamba_ssm_is_absent():
    from vmamba_ops.selective_scan.mamba import selective_scan as scan

    why = dispatch.available("cuda")["mamba_ssm"]
    assert "pip install mamba_ssm" in why and "compiler" in why
    with pytest.raises(RuntimeError, match=r"mamba_ssm.*pip install mamba-ssm") as caught:
        scan(*_meta(), True, torch.float32)
    assert "\n" not in str(caught.value)


class _Driver:
    """Takes every call as a CUDA driver would, and keeps what a launch is given."""

    def __getattr__(self, name):
        return lambda *_: 0

    def cuLaunchKernelEx(self, config, function, arguments, extra):
        self.config = struct.unpack("<7I4xQQI4x2q", ctypes.string_at(config, 72))
        (self.pointer,) = (ctypes.c_void_p * 1).from_address(arguments)
        self.fields_at = config + 56
        return 0


@pytest.mark.parametrize("current", [0, 1])
def test_start_takes_the_current_stream_of_the_kernels_device(current, monkeypatch):
    driver, switched = _Driver(), []
    monkeypatch.setattr(nvrtc, "_driver", lambda: driver)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: current, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 70 + device, raising=False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(switched.append(device)))
    kernel = nvrtc.Kernel(SMALL, "small", {"VALUE": 1}, "sm_90", "set", 1)
    kernel.start((5, 2), 64, 4096, (11, -12))
    assert driver.config == (5, 2, 1, 64, 1, 1, 4096, 71, 0, 0, 11, -12)  # blocks, threads, bytes, stream, the struct
    assert driver.pointer == driver.fields_at and switched == ([] if current == 1 else [1])
