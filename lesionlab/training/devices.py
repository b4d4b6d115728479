"""Where a run computes: Fabric for device and precision, and torch's global switches."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn

from lesionlab import _names

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["32-true", "bf16-mixed"]

# Fabric writes on standard error which precision it was asked for
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


def open_fabric(device: str, precision: Precision) -> Fabric:
    """Fabric on one device; `ValueError` for a device that is not there or another precision."""
    # which takes as long to import as torch, and only a training needs it
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    _names.one_of("precision", precision, get_args(Precision))
    found = resolve(device)
    return Fabric(
        accelerator=found.type,
        devices=1 if found.index is None else [found.index],
        precision=precision,
        # a run inside a Slurm job is a run of its own, not one of the job's tasks
        plugins=[LightningEnvironment()],
    )


def resolve(device: str) -> torch.device:
    """The device that a word stands for; `ValueError` for another word, or if it is not here."""
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.startswith("cuda") and not here:
        raise ValueError(f"device={device!r}: torch sees no CUDA device here; try device='cpu'")
    known = ["auto", "cpu"] + ["cuda"] * (here > 0) + [f"cuda:{i}" for i in range(here)]
    _names.one_of("device", device, known)
    if device == "auto":
        return torch.device("cuda" if here else "cpu")
    return torch.device(device)


def quickest(device: str = "auto") -> Precision:
    """The precision that trains quickest here; a CPU's number of threads is set with it.

    A CPU is tried once, for about a second. In bfloat16 some take half the time, others twenty
    times as long. Two threads are slower than one where another process needs the second core. The
    number of threads never grows, and stays as it is where `OMP_NUM_THREADS` says one. A device
    that is not there is a `ValueError`.
    """
    if resolve(device).type == "cuda":
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if quick else "32-true"
    precision, threads = _tried()
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    return precision


@functools.cache
def _tried() -> tuple[Precision, int]:
    """The precision and the threads with which a convolution takes the least time.

    All threads in single precision are taken unless another choice is clearly quicker, so that each
    try says the same.
    """
    most = torch.get_num_threads()
    threads = [most] if "OMP_NUM_THREADS" in os.environ else sorted({most, -(-most // 2), 1})
    with torch.random.fork_rng(devices=[]):
        layer, images = nn.Conv2d(32, 32, 3, padding=1), torch.randn(16, 32, 32, 32)
    best = {(precision, n): math.inf for n in threads for precision in get_args(Precision)}
    for _ in range(6):  # the first one is slow in all
        for (precision, n), least in best.items():
            if least < 3 * min(best.values()) or math.isinf(least):
                torch.set_num_threads(n)
                best[precision, n] = min(least, _seconds(layer, images, precision))
    torch.set_num_threads(most)
    usual = {"32-true": 1.0, "bf16-mixed": 1.2}
    return min(best, key=lambda it: best[it] * usual[it[0]] * (1.0 if it[1] == most else 1.1))


def _seconds(layer: nn.Module, images: torch.Tensor, precision: Precision) -> float:
    start = time.perf_counter()
    with autocast(images.device, precision):
        out = layer(images)
    out.float().square().mean().backward()
    return time.perf_counter() - start


def describe(device: torch.device) -> str:
    """A device in words for a result: the kind of GPU, or the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """What Fabric puts around a forward pass, for one without Fabric."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Compute deterministically, and give torch's generators and switches back as they were.

    Where CUDA has no deterministic operation, torch warns and names it. On the CPU all that is used
    here are deterministic.
    """
    name = "CUBLAS_WORKSPACE_CONFIG"
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, workspace = torch.backends.cudnn.benchmark, os.environ.get(name)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            os.environ.setdefault(name, ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.benchmark = False
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            torch.backends.cudnn.benchmark = benchmark
            if workspace is None:
                os.environ.pop(name, None)
