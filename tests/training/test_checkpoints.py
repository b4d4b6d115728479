"""Checkpoints: what goes in comes out, and what is damaged or of another run is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from lesionlab.training import checkpoints
from lesionlab.training.checkpoints import CheckpointError, Progress
from lesionlab.training.loop import TrainingError, fit

QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}


def stopped(toys: ModuleType, folder: Path, **changes: Any) -> None:
    """Train until a loss that is NaN in the second epoch, and leave a checkpoint."""
    toys.calls.clear()
    with pytest.raises(TrainingError, match="loss is nan at epoch 2, step 4"):
        go_on(toys, folder, **changes)


def go_on(toys: ModuleType, folder: Path, **changes: Any) -> Any:
    part = changes.pop("part", toys.lesions(24))
    options = {"recipe": toys.RECIPE, "validation": toys.lesions(9, seed=1, start=500)}
    experiment = changes.pop("experiment", toys.Exploding())
    return fit(experiment, part, folder=folder, **options | QUIET | changes)


def tensors(folder: Path, kind: str = "training") -> Path:
    (path,) = folder.glob(f"{kind}-*.safetensors")
    return path


# what goes in comes out


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    progress = Progress(
        1, 2, {"loss": 0.1 + 0.2}, 7, 1 / 3, 0.01, [{"epoch": 1.0, "loss": 1e-300}], 1, 0.5
    )
    model = {"w": torch.randn(3, 1), "n": torch.tensor(2**40), "on": torch.tensor([True])}
    optimizer = {0: {"step": torch.tensor(3.0), "flag": True}, 4: {"buffer": None}}
    saved = {"selected": {"w": model["w"] + 1}, "model": model, "optimizer": optimizer}
    checkpoints.save(tmp_path, {"seed": 1, "of": (1, 2)}, progress, **saved)  # type: ignore[arg-type]
    found = checkpoints.load(tmp_path, {"of": (1, 2), "seed": 1})
    assert found is not None
    assert found.progress == progress
    assert found.optimizer == {0: {"step": torch.tensor(3.0), "flag": True}, 4: {"buffer": None}}
    assert found.selected is not None
    for one, two in ((found.model, model), (found.selected, saved["selected"])):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) and one[k].dtype == two[k].dtype for k in one)


def test_tied_and_strided_weights_are_saved(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    state = checkpoints.on_cpu({"a": shared, "b": shared, "c": shared.T, "d": shared[:, 1]})
    checkpoints.save(tmp_path, {}, Progress(), selected=state, model=state, optimizer={})
    found = checkpoints.load_weights(tmp_path)
    assert all(torch.equal(found[k], state[k]) for k in state)


def test_a_folder_holds_the_newest_checkpoint_and_other_peoples_files(
    toys: ModuleType, tmp_path: Path
) -> None:
    for name in ("notes.txt", "weights.safetensors", ".training-1-0.safetensors.ab.tmp"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    go_on(toys, tmp_path, experiment=toys.Toy(), every_steps=1)
    names = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir())
    # a finished run needs no state of the optimiser
    assert names == ["notes.txt", "selected", "state.json", "weights.safetensors"]


def test_there_is_no_pickle(toys: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, None)
    stopped(toys, tmp_path)
    go_on(toys, tmp_path)


# what is refused


def truncate(folder: Path) -> None:
    path = tensors(folder)
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(folder: Path) -> None:
    content = bytearray(tensors(folder).read_bytes())
    content[-1] ^= 1
    tensors(folder).write_bytes(content)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / checkpoints.STATE
    state = json.loads(path.read_text(encoding="utf-8"))
    change(state)
    path.write_text(json.dumps(state), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncate, r"training-\w+\.safetensors has \d+ bytes, expected \d+: it is trunc"),
        (flip_a_bit, r"training-\w+\.safetensors is damaged: its checksum is not that in"),
        (lambda f: tensors(f).unlink(), r"training-\w+\.safetensors, which state.json names"),
        (lambda f: tensors(f, "selected").unlink(), "selected-1-.*cannot be read"),
        (lambda f: (f / "state.json").write_text('{"for'), "state.json is not a JSON.*is damaged"),
        (lambda f: (f / "state.json").write_text("[]"), "state.json is damaged: expected files, "),
        (lambda f: edit(f, lambda s: s.update(format=9)), "has format 9, expected 2: another ver"),
        (
            lambda f: edit(f, lambda s: s["identity"]["versions"].update(lesionlab="0.0.1")),
            r"state.json is of another run: versions.lesionlab: 0.0.1 there, .* here\. Train",
        ),
        (lambda f: edit(f, lambda s: s["progress"].pop("epoch")), "damaged"),
        (lambda f: edit(f, lambda s: s["progress"].update(more=1)), "damaged"),
        (lambda f: edit(f, lambda s: s["files"].pop("training")), "damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    toys: ModuleType, tmp_path: Path, spoil: Callable[[Path], Any], words: str
) -> None:
    stopped(toys, tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        go_on(toys, tmp_path)
    go_on(toys, tmp_path, resume=False)


def test_a_checkpoint_of_another_run_is_refused(toys: ModuleType, tmp_path: Path) -> None:
    stopped(toys, tmp_path)
    there = (tmp_path / "state.json").read_bytes()
    other = dataclasses.replace(toys.RECIPE, lr=0.02, epochs=9)
    spoiled = toys.lesions(24)
    spoiled[0].images[3] += 1e-3
    cases: list[tuple[dict[str, Any], str]] = [
        ({"experiment": toys.Exploding(variant="none")}, "variant: attention there, none here"),
        ({"experiment": toys.Exploding(absolute=1.0)}, "settings.absolute: 0.1 there, 1.0 here"),
        ({"recipe": other}, r"recipe.epochs: 4 there, 9 here; recipe.lr: 0.01 there, 0.02 here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"part": spoiled}, "data: [0-9a-f]{64} there, [0-9a-f]{64} here"),
        ({"validation": toys.lesions(9, seed=2, start=500)}, "data: "),
        ({"precision": "bf16-mixed"}, "precision: 32-true there, bf16-mixed here"),
    ]
    for changes, words in cases:
        with pytest.raises(CheckpointError, match=rf"state\.json is of another run: .*{words}"):
            go_on(toys, tmp_path, **changes)
    assert (tmp_path / "state.json").read_bytes() == there


def test_a_checkpoint_of_changed_code_is_refused(toys: ModuleType, tmp_path: Path) -> None:
    class Wider(toys.Exploding):  # type: ignore[misc, name-defined]
        def model(self, seed: int) -> nn.Module:
            return nn.Linear(2, 1)

    stopped(toys, tmp_path)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        go_on(toys, tmp_path, experiment=Wider())


def test_weights_are_there_when_selected(toys: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint \(state\.json\)"):
        checkpoints.load_weights(tmp_path)
    stopped(toys, tmp_path, recipe=toys.LAST)
    with pytest.raises(CheckpointError, match="has selected no weights yet"):
        checkpoints.load_weights(tmp_path)


# full disks


def full_at_sync(monkeypatch: Any) -> None:
    def sync(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", sync)


def test_a_full_disk_leaves_the_checkpoint_before(
    toys: ModuleType, tmp_path: Path, monkeypatch: Any
) -> None:
    stopped(toys, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        full_at_sync(patch)
        with pytest.raises(
            OSError, match="No space left on device; what was saved before"
        ) as found:
            go_on(toys, tmp_path)
    assert found.value.errno == errno.ENOSPC
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    go_on(toys, tmp_path)


def test_a_file_that_cannot_grow_leaves_the_checkpoint_before(
    toys: ModuleType, tmp_path: Path
) -> None:
    # the system itself refuses in the middle of the file, as a full disk does
    stopped(toys, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, limits[1]))
        with pytest.raises(OSError, match="File too large; what was saved before is whole"):
            go_on(toys, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file_is_refused(toys: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("", encoding="utf-8")
    toys.calls.clear()
    with pytest.raises(OSError, match="what was saved before is whole"):
        go_on(toys, tmp_path / "run")
