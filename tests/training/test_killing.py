"""A run that is killed again and again ends with the weights of one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lesionlab.training import checkpoints


def start(folder: Path, kind: str, times: int = 0) -> subprocess.Popen[bytes]:
    program = Path(__file__).with_name("killing.py")
    return subprocess.Popen([sys.executable, str(program), str(folder), kind, str(times)])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills with a signal")
def test_kills_change_nothing(toys: ModuleType, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    drawn = random.Random(os.getpid())  # noqa: S311 - another time in each run
    epochs = [0]
    for kind in ["half", "replaced"] * 2:
        with start(killed, kind, drawn.randint(1, 2)) as process:
            assert process.wait(300) == -signal.SIGKILL
        epochs.append(len(toys.history(killed)))
    # at any time, once it trains
    with start(killed, "never") as process:
        while len(toys.history(killed)) == epochs[-1] and process.poll() is None:
            time.sleep(0.01)
        time.sleep(drawn.uniform(0, 0.1))
        process.kill()
    epochs.append(len(toys.history(killed)))
    for folder in (killed, whole):
        with start(folder, "never") as process:
            assert process.wait(300) == 0
    one, two = (checkpoints.load_weights(folder) for folder in (whole, killed))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    timed = {"seconds", "lesions_per_second"}
    rows = [
        [{k: v for k, v in row.items() if k not in timed} for row in toys.history(folder)]
        for folder in (whole, killed)
    ]
    assert rows[0] == rows[1]
    # never back, and not always from the start
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > 3, epochs
    # nothing is left of what was half written
    assert [path.name for path in killed.iterdir()] == [checkpoints.NAME]
