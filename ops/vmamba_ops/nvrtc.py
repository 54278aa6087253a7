"""CUDA C++ compiled at first use with the NVRTC library that torch's CUDA wheels bring, launched through the driver.

No nvcc, no C++ compiler, no header, nothing tied to torch's ABI: both libraries are called by ctypes. Compiling needs
no GPU and no driver. Machine code is kept on disk under a name made of source, macros, architecture and NVRTC version,
in ``$VMAMBA_OPS_CACHE`` or else ``$XDG_CACHE_HOME/vmamba_ops`` (``~/.cache/vmamba_ops``); files appear whole by rename,
so any number of processes may start at once. Importing this module imports no torch and never fails.
"""

import ctypes
import hashlib
import logging
import os
import re
import struct
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

log = logging.getLogger("vmamba_ops")
_OPTIONS = ("--std=c++17", "--ptxas-options=-v", "--diag-suppress=177")
_MAJORS = ("13", "12")
_INVALID_IMAGE, _NO_CONTEXT, _DYNAMIC_SHARED = 200, 201, 8  # CUresult twice, CUfunction_attribute
_CONFIG_BYTES = 56  # of CUlaunchConfig


@dataclass(frozen=True)
class Usage:
    """What the assembler says of one kernel: registers a thread, bytes of stack frame and of spill stores a thread."""

    name: str
    registers: int
    stack: int
    spills: int


@dataclass(frozen=True)
class Binary:
    """Machine code for one architecture; ``cached`` tells whether it came from the disk."""

    cubin: bytes
    usage: tuple[Usage, ...]
    cached: bool


def cache_folder() -> Path:
    """Where machine code is kept."""
    if named := os.environ.get("VMAMBA_OPS_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vmamba_ops"


def _found() -> tuple[str, ...]:
    """NVRTC files in the wheels of NVIDIA on the import path, newest first."""
    folders = [Path(entry) / "nvidia" for entry in sys.path if entry]
    return tuple(
        str(file)
        for major in _MAJORS
        for folder in folders
        for file in sorted(folder.glob(f"*/lib/libnvrtc.so.{major}"))
    )


@cache
def _library() -> ctypes.CDLL:
    for path in (*_found(), *(f"libnvrtc.so.{major}" for major in _MAJORS)):
        try:
            for builtins in Path(path).parent.glob("libnvrtc-builtins.so.*") if "/" in path else ():
                ctypes.CDLL(str(builtins))  # NVRTC opens it by name: it must be loaded already
            return ctypes.CDLL(path)
        except OSError as error:
            log.debug("%s: %s", path, error)
    raise RuntimeError(
        "NVRTC, the CUDA run-time compiler, was not found: install a CUDA build of torch (its wheels bring "
        "libnvrtc.so.13), or use backend=auto"
    )


@cache
def missing() -> str:
    """ "" if CUDA C++ can be compiled here, else why not and the remedy."""
    try:
        _library()
    except RuntimeError as error:
        return str(error)
    return ""


@cache
def version() -> str:
    """NVRTC's version, "13.0"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


@cache
def architectures() -> tuple[str, ...]:
    """The architectures that this NVRTC compiles for, "sm_80" and on."""
    library, count = _library(), ctypes.c_int()
    library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    library.nvrtcGetSupportedArchs(numbers)
    return tuple(f"sm_{number}" for number in numbers)


@cache
def _options() -> tuple[str, ...]:
    """NVRTC 13 has a cache of its own, whose code comes without the assembler's report: two that start at once meet."""
    return (*_OPTIONS, "--no-cache") if int(version().split(".")[0]) >= 13 else _OPTIONS


def _text(library: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def _compile(source: str, name: str, macros: Sequence[str], arch: str) -> tuple[bytes, str]:
    library, program = _library(), ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None)
    options = [option.encode() for option in (f"--gpu-architecture={arch}", *_options(), *macros)]
    failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    report = _text(library, "ProgramLog", program).rstrip(b"\0").decode()
    cubin = b"" if failed else _text(library, "CUBIN", program)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise RuntimeError(f"{name}.cu does not compile for {arch} with {' '.join(macros)}:\n{report}")
    return cubin, report


def _usage(report: str) -> tuple[Usage, ...]:
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers"
    )
    return tuple(
        Usage(name, int(registers), int(stack), int(spills))
        for name, stack, spills, registers in re.findall(pattern, report, re.DOTALL)
    )


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def compile(source: str, name: str, macros: Mapping[str, object], arch: str, *, again: bool = False) -> Binary:
    """Machine code of ``source``, from the disk or compiled (about a second) and written there.

    Args:
        source: CUDA C++ text; entries are ``extern "C"``.
        name: what it is called in messages and file names.
        macros: name -> value, given as ``-Dname=value``.
        arch: one of ``architectures()``.
        again: compile even if the disk has it.
    Raises:
        ValueError: NVRTC does not know ``arch``. RuntimeError: no NVRTC here, or the source does not compile.
    """
    if arch not in architectures():
        raise ValueError(f"NVRTC {version()} does not compile for {arch!r}; choose {', '.join(architectures())}")
    defined = sorted(f"-D{key}={value}" for key, value in macros.items())
    identity = "\0".join((source, arch, version(), *_options(), *defined))
    path = cache_folder() / f"{name}-{arch}-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.cubin"
    if not again:
        with suppress(OSError):  # the report is written first, so that whoever finds the code finds it too
            return Binary(path.read_bytes(), _usage(path.with_suffix(".txt").read_text()), True)
    cubin, report = _compile(source, name, defined, arch)
    try:
        _write(path.with_suffix(".txt"), report.encode())
        _write(path, cubin)
    except OSError as error:
        log.warning("%s: compiled code is not kept (%s); set VMAMBA_OPS_CACHE to a folder", path.parent, error)
    return Binary(cubin, _usage(report), False)


@cache
def _driver() -> ctypes.CDLL:
    driver = ctypes.CDLL("libcuda.so.1")
    driver.cuLaunchKernelEx.argtypes = [ctypes.c_void_p] * 4
    return driver


def _check(result: int, what: str) -> None:
    if result:
        name = ctypes.c_char_p()
        _driver().cuGetErrorName(result, ctypes.byref(name))
        raise RuntimeError(f"{what} failed with {(name.value or b'an unknown error').decode()} ({result})")


def _enter(device: int) -> None:
    """Make the device's primary context, torch's, current in this thread."""
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    driver = _driver()
    _check(driver.cuDeviceGet(ctypes.byref(handle), device), f"cuda:{device}")
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle), f"cuda:{device}")
    _check(driver.cuCtxSetCurrent(context), f"cuda:{device}")


class Kernel:
    """An entry of compiled code on one of torch's devices; its one argument is a struct of 8-byte fields.

    ``start`` and ``launch`` are made to be cheap (a few microseconds): they take plain integers and do no checks.
    """

    def __init__(self, source: str, name: str, macros: Mapping[str, object], arch: str, entry: str, device: int):
        self.name, self.device = f"{name}: {entry}", device
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        _enter(device)
        driver, binary = _driver(), compile(source, name, macros, arch)
        result = driver.cuModuleLoadData(ctypes.byref(self._module), binary.cubin)
        if result == _INVALID_IMAGE and binary.cached:  # a damaged file
            binary = compile(source, name, macros, arch, again=True)
            result = driver.cuModuleLoadData(ctypes.byref(self._module), binary.cubin)
        _check(result, self.name)
        _check(driver.cuModuleGetFunction(ctypes.byref(self._function), self._module, entry.encode()), self.name)
        self._shared = 48 * 1024
        self._launch, self._thread = driver.cuLaunchKernelEx, threading.local()
        import torch  # whose streams these are; not at the top, so that compiling needs no torch

        self._current, self._stream = torch._C._cuda_getDevice, torch._C._cuda_getCurrentRawStream
        self._elsewhere = torch.cuda.device

    def _prepare(self, fields: int) -> tuple:
        """This thread's memory for a launch: CUlaunchConfig, then the struct; how to fill it; where its parts are."""
        layout = struct.Struct(f"<7I4xQQI4x{fields}q")
        memory = ctypes.create_string_buffer(layout.size)
        start = ctypes.addressof(memory)
        arguments = (ctypes.c_void_p * 1)(start + _CONFIG_BYTES)
        self._thread.prepared = layout.pack_into, memory, start, ctypes.addressof(arguments), arguments
        return self._thread.prepared

    def start(self, grid: tuple[int, int], threads: int, shared: int, fields: Sequence[int]) -> None:
        """``launch`` on torch's current stream of the kernel's device, which need not be the current device."""
        stream = self._stream(self.device)
        if self.device == self._current():
            self.launch(grid, threads, shared, stream, fields)
            return
        with self._elsewhere(self.device):
            self.launch(grid, threads, shared, stream, fields)

    def launch(self, grid: tuple[int, int], threads: int, shared: int, stream: int, fields: Sequence[int]) -> None:
        """Start ``grid`` blocks of ``threads`` with ``shared`` bytes on ``stream``; ``fields`` fill the struct."""
        if shared > self._shared:
            _check(_driver().cuFuncSetAttribute(self._function, _DYNAMIC_SHARED, shared), self.name)
            self._shared = shared
        fill, memory, start, arguments, _ = getattr(self._thread, "prepared", None) or self._prepare(len(fields))
        fill(memory, 0, *grid, 1, threads, 1, 1, shared, stream, 0, 0, *fields)
        result = self._launch(start, self._function, arguments, None)
        if result == _NO_CONTEXT:
            _enter(self.device)
            result = self._launch(start, self._function, arguments, None)
        if result:
            _check(result, self.name)
