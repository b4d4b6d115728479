"""The checks of `lesionlab.doctor` that ask the machine: device, memory, disk, kernel, browser."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lesionlab.doctor import Finding
from lesionlab.doctor._checks import existing_parent, install

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
"""As `tests/browser/conftest.py` looks for them."""

MEMORY_FOR_BUILD = 1.5e9
DISK_FOR_BUILD = 3e9  # a full store of phantoms, and as much again beside it

# --- Device, memory, disk -----------------------------------------------------------------------

_ASK_TORCH = """
import json, torch
cuda = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "version": torch.__version__, "threads": torch.get_num_threads(),
    "cuda": [[p.name, p.total_memory] for p in cuda], "built_with_cuda": torch.version.cuda,
    "mps": bool(torch.backends.mps.is_available()),
}))
"""

_torch: subprocess.Popen[str] | None = None


@contextlib.contextmanager
def looking_for_devices() -> Iterator[None]:
    """Ask torch in a process of its own meanwhile: a broken driver can end that one only."""
    global _torch
    if find_spec("torch") is None:
        yield
        return
    pipe = subprocess.PIPE
    # the question is a constant of this module
    command = [sys.executable, "-c", _ASK_TORCH]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as _torch:  # noqa: S603
        try:
            yield
        finally:
            _torch.kill()
            _torch = None


def device() -> Iterator[Finding]:
    """What torch can compute on."""
    section = "Device"
    if _torch is None:
        yield Finding(
            section, "torch", "missing", "not installed; models cannot be trained",
            install("models"),
        )  # fmt: skip
        return
    fix = "Run in the checkout: pip install --force-reinstall -e '.[models]'"
    try:
        out, errors = _torch.communicate(timeout=60)
        told: dict[str, Any] = json.loads(out)
    except subprocess.TimeoutExpired:
        yield Finding(section, "torch", "problem", "did not load within a minute", fix)
        return
    except ValueError:
        last = (errors.strip().splitlines() or [f"ended with status {_torch.returncode}"])[-1]
        yield Finding(section, "torch", "problem", f"cannot be loaded: {last}", fix)
        return
    yield Finding(section, "CPU", "ok", f"torch {told['version']}, {told['threads']} threads")
    for name, memory in told["cuda"]:
        yield Finding(section, "CUDA", "ok", f"{name}, {memory / 2**30:.0f} GiB")
    if told["mps"]:
        yield Finding(section, "MPS", "ok", "an Apple GPU")
    if not told["cuda"] and not told["mps"]:
        yield _no_gpu(section, told["built_with_cuda"])


def _no_gpu(section: str, built_with_cuda: str | None) -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding(section, "GPU", "missing", "none; the presets smoke and book need none")
    if built_with_cuda is None:
        return Finding(
            section, "GPU", "missing", "there is an NVIDIA driver, but this torch is without CUDA",
            "Install torch as pytorch.org says for your CUDA version.",
        )  # fmt: skip
    found = f"there is an NVIDIA driver, but torch for CUDA {built_with_cuda} finds no device"
    return Finding(section, "GPU", "problem", found, "Compare its version with: nvidia-smi")


def room() -> Iterator[Finding]:
    """Memory and disk that are free."""
    from lesionlab.sources.lidc._tables import cache_folder

    section = "Memory and disk"
    free = free_memory()
    if free is None:
        yield Finding(section, "memory", "missing", "this system does not tell what is free")
    elif free < MEMORY_FOR_BUILD:
        found = f"{free / 1e9:.1f} GB free; building a store can need 1.5 GB"
        yield Finding(
            section,
            "memory",
            "problem",
            found,
            "Build with one process: lesionlab data build phantom --processes 1",
        )
    else:
        yield Finding(section, "memory", "ok", f"{free / 1e9:.1f} GB free")
    place = existing_parent(cache_folder())
    disk = shutil.disk_usage(place).free
    if disk < DISK_FOR_BUILD:
        found = f"{disk / 1e9:.1f} GB free at {place}; a full store needs up to 3 GB"
        fix = "Free some, or run: export LESIONLAB_CACHE=/a/folder/on/another/disk"
        yield Finding(section, "disk", "problem", found, fix)
    else:
        yield Finding(section, "disk", "ok", f"{disk / 1e9:.1f} GB free at {place}")


def free_memory() -> float | None:
    """Bytes that can be had, also under the limit of a container; None where nobody tells."""
    limits: list[float] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        limits += [float(s.split()[1]) * 1024 for s in lines if s.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        used = float((group / "memory.current").read_text(encoding="utf-8"))
        limits.append(float((group / "memory.max").read_text(encoding="utf-8")) - used)
    if not limits and hasattr(os, "sysconf"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return min(limits) if limits else None


# --- Browser and notebooks ----------------------------------------------------------------------


def notebooks() -> Iterator[Finding]:
    """What executes chapters, and the browser of the browser tests."""
    section = "Browser and notebooks"
    absent = [name for name in ("ipykernel", "papermill") if find_spec(name) is None]
    if absent:
        found = f"not installed: {', '.join(absent)}; chapters cannot be executed"
        yield Finding(section, "Jupyter kernel", "missing", found, install("book"))
    else:
        yield _kernel(section)
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if find_spec("playwright") is None:
        found = "playwright is not installed; browser tests are left out"
        yield Finding(section, "browser", "missing", found, install("test"))
    elif program is None:
        yield Finding(
            section, "browser", "missing", "no Chromium; browser tests are left out",
            "Run: apt-get install chromium (Debian, Ubuntu), or: brew install chromium",
        )  # fmt: skip
    else:
        yield Finding(section, "browser", "ok", program)


def _kernel(section: str) -> Finding:
    """`lesionlab notebooks run` takes the running Python, JupyterLab the kernel called python3."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    what = "Jupyter kernel"
    fix = f"Run: {sys.executable} -m ipykernel install --sys-prefix"
    try:
        argv = KernelSpecManager().get_kernel_spec("python3").argv
    except NoSuchKernel:
        found = "JupyterLab has no kernel called python3"
        return Finding(section, what, "problem", found, fix)
    started = shutil.which(argv[0]) or argv[0] if argv else ""
    # ipykernel's own spec says "python" or the very Python it belongs to
    own = argv[:1] == ["python"] or os.path.dirname(started) == os.path.dirname(sys.executable)
    if not own:
        return Finding(section, what, "problem", f"python3 starts {started}, another Python", fix)
    return Finding(section, what, "ok", f"ipykernel {metadata.version('ipykernel')}, this Python")
