"""Trains the toy in a folder and kills itself: `killing.py FOLDER half|replaced|never TIMES`.

At `half`, one of the next files written is cut in half before the kill; at `replaced`, the last
thing done is that a file takes the place of another.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import training_toys as toys  # beside this file, which is where a program looks

from lesionlab.training.loop import fit

left = [int(sys.argv[3])]
replace = os.replace


def die_the_last_time() -> None:
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def half_written(file: int) -> None:
    """In place of `os.fsync`."""
    if left[0] == 1:
        os.ftruncate(file, os.fstat(file).st_size // 2)
    die_the_last_time()


def just_replaced(source: Any, target: Any) -> None:
    """In place of `os.replace`."""
    replace(source, target)
    die_the_last_time()


if sys.argv[2] == "half":
    os.fsync = half_written  # type: ignore[assignment]
elif sys.argv[2] == "replaced":
    os.replace = just_replaced
torch.set_num_threads(1)
fit(
    toys.Toy(),
    toys.lesions(24),
    validation=toys.lesions(9, seed=1, start=500),
    recipe=dataclasses.replace(toys.RECIPE, epochs=24),
    folder=Path(sys.argv[1]),
    device="cpu",
    progress=False,
)
