"""A CUDA kernel of vmamba_ops as a CPU's library, in which every thread is a fiber (warps.cpp)."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

import vmamba_ops

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
_FLAGS = ("-O1", "-std=c++20", "-shared", "-fPIC", "-fno-gnu-unique", "-w")
_INSTRUCTIONS = (Path(vmamba_ops.__file__).parent / "ptx.cu").read_text()


class Kernel:
    """The kernel ``entry`` of a source text, compiled in ``folder`` with its macros."""

    def __init__(self, folder: Path, text: str, entry: str, macros: dict[str, int]) -> None:
        name = folder / f"{entry}-{abs(hash((text, *macros.items())))}"
        text = text.removeprefix(_INSTRUCTIONS).replace('extern "C" __global__', "static")
        text = text.replace("extern __shared__ float shared[]", "float* shared = (float*)shared_memory")
        text = text.replace("extern __shared__", "char* memory = shared_memory; //")
        name.with_suffix(".inc").write_text(text)
        defined = [f"-D{key}={value}" for key, value in macros.items()]
        defined += [f'-DSOURCE="{name}.inc"', f"-DKERNEL={entry}"]
        source = str(Path(__file__).parent / "warps.cpp")
        subprocess.run(["g++", *_FLAGS, *defined, source, "-o", f"{name}.so"], check=True)
        self._library = ctypes.CDLL(f"{name}.so")

    def __call__(self, fields: list[int], grid: tuple[int, int], shared: int) -> None:
        """Runs every block; ``fields`` of 8 bytes are the kernel's argument."""
        self._library.run((ctypes.c_longlong * len(fields))(*fields), *grid, shared)


def pointer(tensor) -> int:
    """Its address, or 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
