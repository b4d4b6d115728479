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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from lesionlab import __version__, _files
from lesionlab.results import jsonable

FORMAT = 2
STATE = "state.json"
Tensors = dict[str, torch.Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or belongs to another run."""


@dataclass
class Progress:
    """How far a run is, and how it went.

    Attributes:
        epoch: Epochs that are complete.
        step: Steps done in the next one.
        sums: The loss and its parts, summed over the lesions of those steps.
        lesions: Lesions in those steps.
        seconds: Training time of those steps.
        lr: Learning rate of the first of those steps.
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
    lr: float = 0.0
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
        optimizer: The optimiser's state, as in `Optimizer.state_dict()["state"]`.
    """

    progress: Progress
    selected: Tensors | None
    model: Tensors
    optimizer: dict[int, dict[str, Any]]


def versions() -> dict[str, str]:
    """The versions that decide over the bits of a result."""
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
        folder: The run's folder; made when it is missing.
        identity: What a run that goes on from here must agree with.
        progress: How far the run is.
        selected: Weights of the epoch kept so far.
        model: The model's state; left out when the run is finished, with the optimiser's.
        optimizer: As in `Saved`.

    Raises:
        OSError: The checkpoint could not be written; the one before it is whole.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer.items():
        found = {k: v for k, v in entries.items() if isinstance(v, torch.Tensor)}
        tensors |= {f"optimizer/{index}/{k}": v for k, v in on_cpu(found).items()}
        scalars[str(index)] = {k: v for k, v in entries.items() if k not in found}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = _state(folder)["files"] if (folder / STATE).exists() else {}
        kept = before.get("selected")
        start = f"selected-{progress.best_epoch}"
        if not kept or kept["name"].rpartition("-")[0] != start:  # another epoch than on disk
            kept = _write(folder, start, selected or {})
        training = None if progress.finished else _write(folder, "training", tensors)
        files = {"selected": kept, "training": training}
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
    if found := differences(state["identity"], jsonable(identity)):
        raise CheckpointError(
            f"{folder / STATE} is of another run: {'; '.join(found)}. Train into another folder, "
            "or anew with resume=False"
        )
    optimizer = {int(index): dict(rest) for index, rest in (state["optimizer"] or {}).items()}
    model: Tensors = {}
    for name, tensor in (_read(folder, state["files"]["training"]) or {}).items():
        kind, _, rest = name.partition("/")
        if kind == "model":
            model[rest] = tensor
        else:
            index, _, key = rest.partition("/")
            optimizer[int(index)][key] = tensor
    selected = _read(folder, state["files"]["selected"])
    return Saved(Progress(**state["progress"]), selected, model, optimizer)


def load_weights(folder: str | Path) -> Tensors:
    """The selected weights of a run, for `Module.load_state_dict`.

    Args:
        folder: The run's; of a run in several stages, the last stage counts.

    Raises:
        FileNotFoundError: The folder has no checkpoint.
        CheckpointError: It is damaged, or no epoch is complete yet.
    """
    folder = Path(folder)
    stages = sorted(folder.glob("stage-*"))
    folder = stages[-1] if stages else folder
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


def _state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    try:
        state = _files.read_json(path)
    except ValueError as error:
        raise CheckpointError(f"{error}: the checkpoint is damaged") from error
    if isinstance(state, dict) and state.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"{path} has format {state['format']}, expected {FORMAT}: another version wrote it. "
            "Train into another folder, or anew with resume=False"
        )
    _expect(path, state, {"format", "identity", "progress", "optimizer", "files"})
    _expect(path, state["progress"], set(Progress.__dataclass_fields__))
    _expect(path, state["files"], {"selected", "training"})
    return cast(dict[str, Any], state)


def _expect(path: Path, found: Any, keys: set[str]) -> None:
    if not isinstance(found, dict) or found.keys() != keys:
        raise CheckpointError(f"{path} is damaged: expected {', '.join(sorted(keys))}")


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
    path = folder / Path(entry["name"]).name  # a name with a path in it leads nowhere else
    try:
        content = path.read_bytes()
        if len(content) != entry["bytes"]:
            raise CheckpointError(
                f"{path} has {len(content)} bytes, expected {entry['bytes']}: it is truncated"
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
