"""A run on disk: one safetensors file, with everything that is no tensor as JSON in its header.

Nothing is a pickle. The file takes the place of the one before it in one step, so that a run that
is killed leaves a whole one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors

from lesionlab import __version__, _files
from lesionlab.results import jsonable

FORMAT = 3
NAME = "checkpoint.safetensors"
EARLIER = "state.json"
"""What formats 1 and 2 had beside their tensors."""

Tensors = dict[str, torch.Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or belongs to another run."""


def versions() -> dict[str, str]:
    """The versions that decide over the bits of a result."""
    return {"lesionlab": __version__, "torch": torch.__version__.split("+")[0]}


def on_cpu(state: Mapping[str, torch.Tensor]) -> Tensors:
    """A copy of a model's state that nothing else shares."""
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}


def save(folder: Path, state: Mapping[str, Any], groups: Mapping[str, Tensors]) -> None:
    """Write a run's checkpoint in place of the one before it.

    The state has, under `identity`, what a run that goes on must agree with. Of the groups,
    `selected` are the weights of the run.
    """
    write(folder / NAME, state, groups)
    for left in folder.glob(f".{NAME}.*.tmp"):  # half written, when a run was killed
        left.unlink(missing_ok=True)


def write(path: Path, state: Mapping[str, Any], groups: Mapping[str, Tensors]) -> None:
    """Write a state, which is what JSON can hold, and tensors, grouped by what they are for.

    The file that was there before stays whole if this one cannot be written.
    """
    tensors = {f"{group}/{k}": v for group, some in groups.items() for k, v in some.items()}
    text = json.dumps(jsonable({"format": FORMAT, **state}), allow_nan=False)
    metadata = {"format": "pt", "state": text, "sha256": checksum(text, tensors)}
    # not save_file: a full disk is then an error of safetensors' own, without its number
    content = save_tensors(tensors, metadata)
    try:
        with _files.replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        words = f"{error.strerror or error}; what was saved before is whole"
        raise OSError(error.errno, words, str(path.parent)) from error


def load(
    folder: Path, identity: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensors]] | None:
    """State and tensors as `save` was given them; None where there is no checkpoint yet.

    It is a `CheckpointError` if they are damaged, or of a run that differs from `identity`.
    """
    if not _exists(folder):
        return None
    state, groups = read(folder / NAME)
    check_same(folder / NAME, state["identity"], identity)
    return state, groups


def load_weights(folder: str | Path) -> Tensors:
    """The selected weights of a run, for `Module.load_state_dict`.

    Args:
        folder: The run's; of a run in several stages, the last stage counts.

    Raises:
        FileNotFoundError: The folder has no checkpoint.
        CheckpointError: It is damaged, of an earlier version, or no epoch is selected yet.
    """
    folder = Path(folder)
    stages = sorted(folder.glob("stage-*"))
    folder = stages[-1] if stages else folder
    if not _exists(folder):
        raise FileNotFoundError(f"{folder} has no checkpoint ({NAME})")
    groups = read(folder / NAME)[1]
    if "selected" not in groups:
        raise CheckpointError(f"{folder / NAME}: the run has selected no weights yet")
    return groups["selected"]


def clear(folder: Path) -> None:
    """Remove a run's checkpoint, also that of an earlier version; other files stay."""
    for pattern in (NAME, EARLIER, "training-*.safetensors", "selected-*.safetensors"):
        for path in folder.glob(pattern):
            path.unlink()


def check_same(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse the file of a run that differs from the one in hand, by a `CheckpointError`."""
    if found := differences(there, jsonable(here)):
        raise CheckpointError(
            f"{path} is of another run: {'; '.join(found)}. Use another folder, or train anew with "
            "resume=False (--restart)"
        )


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


def _exists(folder: Path) -> bool:
    if (folder / NAME).exists():
        return True
    if (folder / EARLIER).exists():
        raise CheckpointError(
            f"{folder / EARLIER} was written by an earlier version of lesionlab. Train into "
            "another folder, or anew with resume=False"
        )
    return False


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensors]]:
    """State and tensors as `write` was given them; a `CheckpointError` if they are damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            # cloned: what is read is a view of the file, which must not be written to
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        state: dict[str, Any] = json.loads(metadata["state"])
        if metadata["sha256"] != checksum(metadata["state"], tensors):
            raise ValueError("its checksum is not the one that it was written with")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {state['format']}, expected {FORMAT}: another version wrote it. "
            "Train into another folder, or anew with resume=False"
        )
    groups: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = tensor
    return state, groups


def checksum(text: str, tensors: Tensors) -> str:
    """SHA-256 of a text and of tensors with their names."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
