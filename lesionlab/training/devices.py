"""Where a run computes: Fabric for device, precision and processes, and torch's global switches."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.multiprocessing.spawn import ProcessRaisedException

Precision = Literal["32-true", "bf16-mixed"]

# Fabric writes on standard error which precision it was asked for
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


class TrainingError(RuntimeError):
    """A run cannot go on; what it has saved so far is whole."""


def open_fabric(device: str, devices: int, precision: Precision) -> Fabric:
    """Fabric for one process, or for `devices` (GPUs, or processes on the CPU) with DDP.

    The arguments are those of `loop.fit`. One that is out of range, or a device that the machine
    does not have, is a `ValueError`.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r}: expected '32-true' or 'bf16-mixed'")
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise ValueError(f"devices={devices!r}: expected a whole number, 1 or more")
    found = resolve(device)
    needed = devices if found.index is None else found.index + 1
    if found.type == "cuda" and needed > (there := torch.cuda.device_count()):
        raise ValueError(f"device={device!r}, devices={devices}: torch sees {there} CUDA devices")
    if found.index is not None and devices > 1:
        raise ValueError(f"device={device!r}, devices={devices}: leave the number out for several")
    # spawned, as threads of torch do not survive a fork; a variant may leave parameters unused
    several = DDPStrategy(start_method="spawn", find_unused_parameters=True)
    return Fabric(
        accelerator=found.type,
        devices=devices if found.index is None else [found.index],
        strategy=several if devices > 1 else "auto",
        precision=precision,
        # a run inside a Slurm job is a run of its own, not one of the job's tasks
        plugins=[LightningEnvironment()],
    )


def resolve(device: str) -> torch.device:
    """The device that a word stands for; `ValueError` for another word, or without CUDA here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda") or (found.type == "cpu" and found.index):
        raise ValueError(f"device={device!r}: expected 'auto', 'cpu', 'cuda' or 'cuda:0'")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: torch sees no CUDA device here; try device='cpu'")
    return torch.device("cpu") if found.type == "cpu" else found


def quickest(device: str = "auto") -> Precision:
    """The precision that trains quickest here: bfloat16 where the hardware multiplies in it.

    A CPU without AMX does bfloat16 by way of single precision, and takes longer. A device that is
    not there is a `ValueError`.
    """
    if resolve(device).type == "cuda":
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch 2.4
        quick = bool(known.get("amx_bf16"))
    return "bf16-mixed" if quick else "32-true"


def describe(device: torch.device, devices: int = 1) -> str:
    """A device in words for a result: the kind of GPU, or the number of threads."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {torch.get_num_threads()} threads"
    return name if devices == 1 else f"{devices} × {name}"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """What Fabric puts around a forward pass, for one without Fabric."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")


def launch(fabric: Fabric, function: Callable[[Fabric], None]) -> None:
    """Run a function in every process of `fabric`; with several, `function` has to pickle.

    Raises:
        TrainingError: A process of several failed; the message is its own.
    """
    before = os.environ.get("MASTER_PORT")
    try:
        fabric.launch(function)
    except ProcessRaisedException as error:
        # the text is a whole traceback, its last line the error
        last = str(error).strip().splitlines()[-1]
        raise TrainingError(last.removeprefix(f"{__name__}.TrainingError: ")) from error
    finally:
        # or the next run would meet at a port that may be taken by then
        os.environ.pop("MASTER_PORT", None)
        if before is not None:
            os.environ["MASTER_PORT"] = before


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
