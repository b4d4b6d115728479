"""What is refused before anything is computed, and a checksum of what is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from lesionlab.crops.sampling import Samples
from lesionlab.training.experiments import Experiment

Part = tuple[Samples, torch.Tensor]
"""Some lesions' samples with their targets, (lesion, target)."""


def check_part(name: str, part: Part, experiment: Experiment) -> None:
    """Refuse lesions that nothing can be learned from.

    Raises:
        ValueError: No lesions, a lesion without a slice, values that are not finite, or targets
            that do not go with the lesions or the experiment.
    """
    samples, targets = part
    n, names = len(samples.lesion_ids), list(experiment.tasks)
    if not n:
        raise ValueError(f"{name}: expected at least one lesion, got none")
    if not bool((samples.lengths > 0).all()):
        worst = samples.lesion_ids[int(samples.lengths.argmin())]
        raise ValueError(f"{name}: lesion {worst!r} has no slice")
    for what, values in (("images", samples.images), ("masks", samples.masks)):
        if values is not None and not bool((finite := values.isfinite()).all()):
            row = int((~finite.flatten(1).all(dim=1)).nonzero()[0, 0])
            lesion = samples.lesion_ids[int(samples.nodule[row])]
            raise ValueError(f"{name}: {what} of lesion {lesion!r} have values that are not finite")
    if targets.shape != (n, len(names)):
        raise ValueError(
            f"{name}: targets of shape {tuple(targets.shape)}, expected ({n}, {len(names)}), "
            f"a row for each lesion and a column for each of {names}"
        )
    if not bool((finite := targets.isfinite()).all()):
        row, column = (~finite).nonzero()[0].tolist()
        value, lesion = float(targets[row, column]), samples.lesion_ids[row]
        raise ValueError(f"{name}: {names[column]} of lesion {lesion!r} is {value}")


def check_apart(training: Samples, validation: Samples) -> None:
    """Refuse a lesion that is in both.

    Raises:
        ValueError: There is one.
    """
    if both := sorted(set(training.lesion_ids) & set(validation.lesion_ids)):
        raise ValueError(f"validation: lesion {both[0]!r} is in the training part, too")


def check_classes(name: str, targets: torch.Tensor, experiment: Experiment) -> None:
    """Refuse a part in which a class of a classification has no lesion.

    Raises:
        ValueError: There is such a class, or a label other than 0 and 1.
    """
    for column, (target, task) in enumerate(experiment.tasks.items()):
        if task != "classification":
            continue
        found = set(targets[:, column].tolist())
        if not found <= {0.0, 1.0}:
            raise ValueError(f"{target}: expected labels 0 and 1, got {sorted(found)[:5]}")
        if missing := {0.0, 1.0} - found:
            raise ValueError(
                f"{name}: none of its {len(targets)} lesions has {target} {missing.pop():g}; "
                "use fewer folds, or stratify them by it"
            )


def checksum(parts: Iterable[Part]) -> str:
    """SHA-256 of the lesions, samples and targets, and of their order."""
    digest = hashlib.sha256()
    for samples, targets in parts:
        digest.update("\n".join(samples.lesion_ids).encode())
        for values in (samples.nodule, samples.images, samples.masks, targets):
            if values is not None:
                digest.update(f"{tuple(values.shape)} {values.dtype}".encode())
                digest.update(values.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
