"""Checkpoints: what goes in comes out, and what is damaged or of another run is refused."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lesionlab.training import checkpoints
from lesionlab.training.checkpoints import NAME, CheckpointError
from lesionlab.training.loop import TrainingError


def stopped(toys: ModuleType, folder: Path, **changes: Any) -> bytes:
    """Train until a loss that is NaN in the second epoch; gives the checkpoint that is left."""
    toys.calls.clear()
    with pytest.raises(TrainingError, match="loss is nan at epoch 2, step 4"):
        go_on(toys, folder, **changes)
    return (folder / NAME).read_bytes()


def go_on(toys: ModuleType, folder: Path, **changes: Any) -> Any:
    return toys.train(folder, **{"experiment": toys.Exploding()} | changes)


# what goes in comes out


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    model = {"w": torch.randn(3, 1), "n": torch.tensor(2**40), "on": torch.tensor([True])}
    # tied, and strided
    selected = checkpoints.on_cpu({"a": shared, "b": shared, "c": shared.T, "d": shared[:, 1]})
    groups = {"selected": selected, "model": model, "optimizer 4": {"step": torch.tensor(3.0)}}
    state = {"identity": {"seed": 1, "of": (1, 2)}, "history": [{"loss": 0.1 + 0.2, "x": 1e-300}]}
    checkpoints.save(tmp_path, state, groups)
    found = checkpoints.load(tmp_path, {"of": (1, 2), "seed": 1})
    assert found is not None
    assert found[0]["history"] == state["history"]
    assert found[1].keys() == groups.keys()
    for name, some in groups.items():
        back = found[1][name]
        assert back.keys() == some.keys()
        assert all(torch.equal(back[k], some[k]) and back[k].dtype == some[k].dtype for k in some)
    assert torch.equal(checkpoints.load_weights(tmp_path)["c"], shared.T)


def test_a_folder_holds_the_newest_checkpoint_and_other_peoples_files(toys, tmp_path, monkeypatch):
    for name in ("load", "save"):  # there is no pickle
        monkeypatch.setattr(torch, name, None)
    for name in ("notes.txt", "weights.safetensors", f".{NAME}.ab.tmp"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    go_on(toys, tmp_path, experiment=toys.Toy())
    assert sorted(p.name for p in tmp_path.iterdir()) == [NAME, "notes.txt", "weights.safetensors"]
    # a finished run needs no state of the optimiser
    with safe_open(tmp_path / NAME, "pt") as file:
        assert {key.partition("/")[0] for key in file.keys()} == {"selected"}  # noqa: SIM118


# what is refused


def flip(folder: Path, at: int) -> None:
    content = bytearray((folder / NAME).read_bytes())
    content[at] ^= 1
    (folder / NAME).write_bytes(content)


def of_another_format(folder: Path) -> None:
    text = '{"format": 9}'
    digest = checkpoints.checksum(text, {})
    save_file({}, folder / NAME, {"state": text, "sha256": digest})


def of_an_earlier_version(folder: Path) -> None:
    (folder / NAME).unlink()
    (folder / "state.json").write_text('{"format": 2}')


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: os.truncate(f / NAME, (f / NAME).stat().st_size - 7), "is damaged: "),
        (lambda f: flip(f, -1), "is damaged: its checksum is not the one that it was written with"),
        (lambda f: flip(f, 200), "is damaged: "),
        (lambda f: (f / NAME).write_text("{"), "is damaged: "),
        (lambda f: save_file({}, f / NAME), "is damaged: "),
        (of_another_format, "has format 9, expected 3: another version wrote it"),
        (of_an_earlier_version, "state.json was written by an earlier version of lesionlab. Train"),
    ],
)
def test_a_damaged_checkpoint_is_refused(toys, tmp_path, spoil, words):
    stopped(toys, tmp_path)
    spoil(tmp_path)
    for read in (lambda: go_on(toys, tmp_path), lambda: checkpoints.load_weights(tmp_path)):
        with pytest.raises(CheckpointError, match=words):
            read()
    go_on(toys, tmp_path, resume=False)


def test_a_checkpoint_of_another_run_is_refused(toys, tmp_path, monkeypatch):
    there = stopped(toys, tmp_path)
    other = dataclasses.replace(toys.RECIPE, lr=0.02, epochs=9)
    spoiled = toys.lesions(24)
    spoiled[0].images[3] += 1e-3
    cases: list[tuple[dict[str, Any], str]] = [
        ({"experiment": toys.Exploding(variant="none")}, "variant: attention there, none here"),
        ({"experiment": toys.Exploding(dropout=0.5)}, "settings.dropout: 0.2 there, 0.5 here"),
        ({"recipe": other}, r"recipe.epochs: 4 there, 9 here; recipe.lr: 0.01 there, 0.02 here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"part": spoiled}, "data: [0-9a-f]{64} there, [0-9a-f]{64} here"),
        ({"validation": toys.lesions(9, seed=2, start=500)}, "data: "),
        ({"precision": "bf16-mixed"}, "precision: 32-true there, bf16-mixed here"),
    ]
    for changes, words in cases:
        with pytest.raises(CheckpointError, match=rf"{NAME} is of another run: .*{words}"):
            go_on(toys, tmp_path, **changes)
    monkeypatch.setattr(checkpoints, "__version__", "9.9")
    with pytest.raises(CheckpointError, match=r"versions.lesionlab: .* there, 9.9 here\. Use"):
        go_on(toys, tmp_path)
    assert (tmp_path / NAME).read_bytes() == there


def test_a_checkpoint_of_changed_code_is_refused(toys, tmp_path):
    class Wider(toys.Exploding):  # type: ignore[misc, name-defined]
        def model(self, seed: int) -> nn.Module:
            return nn.Linear(2, 1)

    stopped(toys, tmp_path)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        go_on(toys, tmp_path, experiment=Wider())


def test_weights_are_there_when_selected(toys, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"has no checkpoint \({NAME}\)"):
        checkpoints.load_weights(tmp_path)
    stopped(toys, tmp_path, recipe=toys.LAST)
    with pytest.raises(CheckpointError, match="has selected no weights yet"):
        checkpoints.load_weights(tmp_path)


# full disks


def test_a_full_disk_leaves_the_checkpoint_before(toys, tmp_path, monkeypatch):
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = stopped(toys, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device; what was saved") as found:
            go_on(toys, tmp_path)
    assert found.value.errno == errno.ENOSPC
    # the system itself refuses in the middle of the file
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, limits[1]))
        with pytest.raises(OSError, match="File too large; what was saved before is whole"):
            go_on(toys, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
    go_on(toys, tmp_path)
    # a folder that is a file
    with pytest.raises(OSError, match="what was saved before is whole"):
        go_on(toys, tmp_path / NAME)


# kills

KILLED = """if True:
    import os, signal, sys
    from pathlib import Path
    import torch
    import toy_paper as toys

    kind, left, replace = sys.argv[2], [int(sys.argv[3])], os.replace

    def die(file=None):  # in place of os.fsync
        left[0] -= 1
        if left[0] == 0:
            if file is not None:  # the file is half written
                os.ftruncate(file, os.fstat(file).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def replaced(source, target):
        replace(source, target)
        die()

    if kind == "writing":
        os.fsync = die
    else:
        os.replace = replaced
    torch.set_num_threads(1)
    toys.train(Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills with a signal")
def test_a_run_that_was_killed_ends_as_one_that_was_left_alone(toys, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    epochs = []
    for kind, times in (("writing", "3"), ("replaced", "1")):
        program = [sys.executable, "-c", KILLED, str(killed), kind, times]
        done = subprocess.run(program, cwd=Path(__file__).parent)
        assert done.returncode == -signal.SIGKILL
        epochs.append(len(toys.history(killed)))
    assert epochs == [2, 3]
    one, two = toys.train(whole), toys.train(killed)
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)
    timed = ["seconds", "lesions_per_second"]
    assert one.history.drop(columns=timed).equals(two.history.drop(columns=timed))
    # nothing is left of what was half written
    assert [path.name for path in killed.iterdir()] == [NAME]
