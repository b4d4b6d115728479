"""A run on disk: tensors as safetensors, everything else as one JSON file, never a pickle.

The folder of a run holds `state.json` and the tensor files that it names. Tensors are written
first, under a new name; the run has moved on when `state.json` is replaced, in one step; only then
do the older tensors go. So whenever a run is killed, `state.json` and its tensors belong together.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from lesionlab import __version__, _files
from lesionlab.results import jsonable

FORMAT = 1
STATE = "state.json"
Tensors = dict[str, torch.Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or of another run."""


@dataclass
class Progress:
    """How far a run is, and how it went.

    Attributes:
        epoch: Epochs that are complete.
        step: Steps done in the next one.
        sums: Of the loss and its parts over the lesions of those steps.
        lesions: In those steps.
        seconds: Training time of those steps.
        history: One row per complete epoch.
        best_epoch: The epoch that is kept so far, from 1; 0 if none.
        best: Its metric.
        finished: Whether the run is over.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    lesions: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: float | None = None
    finished: bool = False


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back.

    Attributes:
        progress: How far the run was.
        selected: Weights of the epoch kept so far; None where none is.
        model: The model's weights and buffers; empty when the run is finished.
        optimizer: Its state, as `Optimizer.state_dict()["state"]`.
    """

    progress: Progress
    selected: Tensors | None
    model: Tensors
    optimizer: dict[int, dict[str, Any]]


def versions() -> dict[str, str]:
    """Of what decides over the bits of a result."""
    return {"lesionlab": __version__, "torch": torch.__version__.split("+")[0]}


def on_cpu(state: Mapping[str, torch.Tensor]) -> Tensors:
    """A copy of a model's state that nothing else shares."""
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}


def save(
    folder: Path,
    identity: Mapping[str, Any],
    progress: Progress,
    *,
    selected: Tensors | None,
    model: Tensors,
    optimizer: Mapping[int, Mapping[str, Any]],
) -> None:
    """Write a checkpoint in place of the one before it.

    Args:
        folder: Of the run; made when it is missing.
        identity: What a run that goes on from here must agree with.
        progress: How far the run is.
        selected: Weights of the epoch kept so far.
        model: The model's state; left out when the run is finished, with the optimiser's.
        optimizer: As in `Saved`.

    Raises:
        OSError: The checkpoint could not be written; the one before it is whole.
    """
    tensors, scalars = flatten(optimizer)
    parts = {} if progress.finished else {f"model/{k}": v for k, v in model.items()} | tensors
    try:
        before = _state(folder) if (folder / STATE).exists() else {"files": {}}
        files = {"selected": _keep_or_write(folder, progress, selected, before["files"])}
        files["training"] = _write(folder, f"training-{progress.epoch}-{progress.step}", parts)
        state = {
            "format": FORMAT,
            "identity": identity,
            "progress": asdict(progress),
            "optimizer": None if progress.finished else scalars,
            "files": files,
        }
        _files.write_json(folder / STATE, jsonable(state))
    except OSError as error:
        words = f"{error.strerror or error}; what was saved before is whole"
        raise OSError(error.errno, words, str(folder)) from error
    _sweep(folder, {entry["name"] for entry in files.values() if entry})


def load(folder: Path, identity: Mapping[str, Any]) -> Saved | None:
    """Read the checkpoint of a run back; None where there is none yet.

    Raises:
        CheckpointError: It is damaged, or of a run that differs from `identity` in something.
    """
    if not (folder / STATE).exists():
        return None
    state = _state(folder)
    path = folder / STATE
    if found := differences(state["identity"], jsonable(identity)):
        raise CheckpointError(
            f"{path} is of another run: {'; '.join(found)}. Train into another folder, "
            "or anew with resume=False"
        )
    progress = Progress(**state["progress"])
    tensors = _read(folder, state["files"]["training"]) or {}
    return Saved(
        progress,
        _read(folder, state["files"]["selected"]),
        {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")},
        unflatten(tensors, state["optimizer"] or {}),
    )


def load_weights(folder: str | Path) -> Tensors:
    """The selected weights of a run, for `Module.load_state_dict`.

    Raises:
        FileNotFoundError: The folder has no checkpoint.
        CheckpointError: It is damaged, or no epoch is complete yet.
    """
    folder = Path(folder)
    if not (folder / STATE).exists():
        raise FileNotFoundError(f"{folder} has no checkpoint ({STATE})")
    weights = _read(folder, _state(folder)["files"]["selected"])
    if weights is None:
        raise CheckpointError(f"{folder / STATE}: the run has selected no weights yet")
    return weights


def clear(folder: Path) -> None:
    """Remove a run's checkpoint; other files stay."""
    (folder / STATE).unlink(missing_ok=True)
    _sweep(folder, set())


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """In words, where two JSON values differ: `recipe.lr: 0.1 there, 0.2 here`.

    >>> differences({"seed": 0, "recipe": {"lr": 1}}, {"seed": 0, "recipe": {"lr": 2}})
    ['recipe.lr: 1 there, 2 here']
    """
    if isinstance(there, dict) and isinstance(here, dict):
        found = []
        for key in sorted({*there, *here}):
            path = f"{name}.{key}" if name else key
            found += differences(there.get(key, "none"), here.get(key, "none"), path)
        return found
    return [] if there == here else [f"{name}: {there} there, {here} here"]


def flatten(
    state: Mapping[int, Mapping[str, Any]],
) -> tuple[Tensors, dict[str, dict[str, Any]]]:
    """Part an optimiser's state into tensors by name and the rest, which JSON can hold."""
    tensors: Tensors = {}
    rest: dict[str, dict[str, Any]] = {}
    for index, entries in state.items():
        rest[str(index)] = {k: v for k, v in entries.items() if not isinstance(v, torch.Tensor)}
        found = {k: v for k, v in entries.items() if isinstance(v, torch.Tensor)}
        tensors |= {f"optimizer/{index}/{k}": v for k, v in on_cpu(found).items()}
    return tensors, rest


def unflatten(
    tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    """The inverse of `flatten`."""
    state: dict[int, dict[str, Any]] = {int(index): dict(v) for index, v in rest.items()}
    for name, tensor in tensors.items():
        kind, _, place = name.partition("/")
        if kind == "optimizer":
            index, _, key = place.partition("/")
            state[int(index)][key] = tensor
    return state


def _state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    try:
        state = _files.read_json(path)
    except ValueError as error:
        raise CheckpointError(f"{error}: the checkpoint is damaged") from error
    if isinstance(state, dict) and state.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"{path} has format {state['format']}, expected {FORMAT}: another version wrote it"
        )
    _expect(path, state, {"format", "identity", "progress", "optimizer", "files"})
    _expect(path, state["progress"], {item.name for item in fields(Progress)})
    _expect(path, state["files"], {"selected", "training"})
    return cast(dict[str, Any], state)


def _expect(path: Path, found: Any, keys: set[str]) -> None:
    if not isinstance(found, dict) or found.keys() != keys:
        raise CheckpointError(f"{path} is damaged: expected {', '.join(sorted(keys))}")


def _keep_or_write(
    folder: Path, progress: Progress, selected: Tensors | None, before: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The file of the selected weights: the one that is there, where the epoch is the same."""
    start = f"selected-{progress.best_epoch}"
    entry: dict[str, Any] | None = before.get("selected")
    if entry and entry["name"].rpartition("-")[0] == start:
        return entry
    return _write(folder, start, selected or {})


def _write(folder: Path, start: str, tensors: Tensors) -> dict[str, Any] | None:
    """Write tensors under a name that is new, so that no file named by `state.json` changes."""
    if not tensors:
        return None
    path = folder / f"{start}-{secrets.token_hex(4)}.safetensors"
    # not save_file: a full disk is then an error of safetensors' own, without its number
    content = save_tensors(tensors, metadata={"format": "pt"})
    with _files.replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    digest = hashlib.sha256(content).hexdigest()
    return {"name": path.name, "bytes": len(content), "sha256": digest}


def _read(folder: Path, entry: Mapping[str, Any] | None) -> Tensors | None:
    if entry is None:
        return None
    path = folder / entry["name"]
    try:
        content = path.read_bytes()
        if len(content) != entry["bytes"]:
            raise CheckpointError(
                f"{path} is truncated: {len(content)} bytes of {entry['bytes']}"
                if len(content) < entry["bytes"]
                else f"{path} has {len(content)} bytes, expected {entry['bytes']}"
            )
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise CheckpointError(f"{path} is damaged: its checksum is not that in {STATE}")
        # cloned: the tensors read are views of `content`, which must not be written to
        return {k: v.clone() for k, v in load_tensors(content).items()}
    except (FileNotFoundError, SafetensorError) as error:
        raise CheckpointError(f"{path}, which {STATE} names, cannot be read: {error}") from error


def _sweep(folder: Path, keep: set[str]) -> None:
    """Remove the tensors of earlier checkpoints, and what a kill left half written."""
    for pattern in ("training-*.safetensors", "selected-*.safetensors"):
        for path in [*folder.glob(pattern), *folder.glob(f".{pattern}.*.tmp")]:
            if path.name not in keep:
                path.unlink(missing_ok=True)
    for path in folder.glob(f".{STATE}.*.tmp"):
        path.unlink(missing_ok=True)
