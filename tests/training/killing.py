"""Trains a toy in processes that are killed, again and again; prints what became of it as JSON.

Run as a program with a folder and a seed. Only its children compute: a process may be forked as
long as torch has no threads.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import training_toys as toys  # beside this file, which is where a program looks
from safetensors import safe_open

from lesionlab.training import checkpoints
from lesionlab.training.loop import fit


def train(folder: Path) -> None:
    torch.set_num_threads(1)
    fit(
        toys.Toy(),
        toys.lesions(24),
        validation=toys.lesions(9, seed=1, start=500),
        recipe=dataclasses.replace(toys.RECIPE, epochs=24),
        folder=folder,
        device="cpu",
        progress=False,
    )


def history(folder: Path) -> list[dict[str, float]]:
    """The epochs in a checkpoint, without how long they took."""
    if not (folder / checkpoints.NAME).exists():
        return []
    with safe_open(folder / checkpoints.NAME, "pt") as file:
        rows: list[dict[str, float]] = json.loads(file.metadata()["state"])["history"]
    for row in rows:
        del row["seconds"], row["lesions_per_second"]
    return rows


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(times: int) -> Callable[[int], None]:
    """In place of `os.fsync`: the file of one of the next writes is cut in half, then the kill."""
    left = [times]

    def sync(file: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.ftruncate(file, os.fstat(file).st_size // 2)
            die()

    return sync


def just_replaced(times: int) -> Callable[[Any, Any], None]:
    """In place of `os.replace`: one of the next is the last thing done."""
    left, replace = [times], os.replace

    def last(source: Any, target: Any) -> None:
        replace(source, target)
        left[0] -= 1
        if left[0] == 0:
            die()

    return last


def in_a_child(work: Callable[[], None], seconds: float | None = None) -> bool:
    """Work in a child, which may be killed after some seconds; whether it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def main(folder: Path, seed: int) -> None:
    drawn = random.Random(seed)  # noqa: S311 - not for secrets
    whole, killed = folder / "whole", folder / "killed"
    assert in_a_child(lambda: train(whole))
    found: dict[str, Any] = {"kills": [], "epochs": []}

    def attempt(kind: str) -> bool:
        if kind == "half":
            os.fsync = half_written(drawn.randint(1, 2))  # type: ignore[assignment]
        elif kind == "replaced":
            os.replace = just_replaced(drawn.randint(1, 2))  # type: ignore[assignment]
        return in_a_child(lambda: train(killed), drawn.uniform(0, 0.2) if kind == "time" else None)

    fsync, replace = os.fsync, os.replace
    # of 24 epochs, the first eight kills leave at least half, however quick the machine
    for kind in [*["half", "replaced"] * 4, *["time"] * 4, "none"]:
        done = attempt(kind)
        os.fsync, os.replace = fsync, replace
        found["kills"].append(None if done else kind)
        found["epochs"].append(len(history(killed)))
    one, two = (checkpoints.load_weights(place) for place in (whole, killed))
    found["same"] = one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    found["same_history"] = history(whole) == history(killed)
    found["files"] = sorted(path.name for path in killed.iterdir())
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
