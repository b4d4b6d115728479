"""Some of the lesions: their labels and their samples, in memory or prepared batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lesionlab.crops.sampling import Samples
from lesionlab.training.targets import Targets, labelled


@dataclass(frozen=True)
class Stream:
    """Lesions whose samples are prepared batch by batch, in place of `Samples`; nothing is kept.

    Liu 2020 has 9,520 slices of 256². For checkpoints, `key` says what decides over the samples:
    the store's checksum and the preparation.
    """

    lesion_ids: tuple[str, ...]
    prepare: Callable[[Sequence[str]], Samples]
    key: str
    device: torch.device | str = "cpu"

    def select(self, lesions: Sequence[int] | torch.Tensor) -> Samples:
        """The samples of some lesions, by position, in the order asked for."""
        positions = torch.as_tensor(lesions, dtype=torch.int64).tolist()
        return self.prepare([self.lesion_ids[i] for i in positions]).to(self.device)

    def split(self, size: int) -> Iterator[Samples]:
        """Batches of `size` lesions, in order; the last one may be smaller."""
        for low in range(0, len(self.lesion_ids), size):
            yield self.select(range(low, min(low + size, len(self.lesion_ids))))

    def to(self, device: torch.device | str) -> Stream:
        """The same lesions, with their batches on another device."""
        return replace(self, device=device)

    def report(self) -> dict[str, Any]:
        """How many lesions there are; nothing is known of samples that are not prepared yet."""
        return {"lesions": len(self.lesion_ids)}


Part = tuple[Samples | Stream, torch.Tensor]
"""Some lesions' samples with their labels, (lesion, target)."""


def checked(name: str, part: Part, targets: Targets) -> Part:
    """Refuse lesions, by the name of their part, that nothing can be learned from.

    Gives the part with its labels in single precision on the CPU.
    """
    samples, labels = part[0], part[1].detach().float().cpu()
    n, names = len(samples.lesion_ids), [target.name for target in targets]
    if not n:
        raise ValueError(f"{name}: expected at least one lesion, got none")
    if isinstance(samples, Samples):
        if not bool((samples.lengths > 0).all()):
            worst = samples.lesion_ids[int(samples.lengths.argmin())]
            raise ValueError(f"{name}: lesion {worst!r} has no slice")
        if not bool((finite := samples.images.isfinite()).all()):
            row = int((~finite.flatten(1).all(dim=1)).nonzero()[0, 0])
            lesion = samples.lesion_ids[int(samples.nodule[row])]
            raise ValueError(f"{name}: images of lesion {lesion!r} have values that are not finite")
    if labels.shape != (n, len(names)):
        raise ValueError(
            f"{name}: labels of shape {tuple(labels.shape)}, expected ({n}, {len(names)}), "
            f"a row for each lesion and a column for each of {names}"
        )
    if bool(labels.isinf().any()):
        row, column = labels.isinf().nonzero()[0].tolist()
        raise ValueError(f"{name}: {names[column]} of lesion {samples.lesion_ids[row]!r} is inf")
    if not bool((some := labelled(targets, labels)).all()):
        row = int((~some).nonzero()[0, 0])
        raise ValueError(f"{name}: lesion {samples.lesion_ids[row]!r} has no label at all")
    return samples, labels


def checksum(parts: Iterable[Part]) -> str:
    """SHA-256 of the lesions, samples and labels, and of their order."""
    digest = hashlib.sha256()
    for samples, labels in parts:
        digest.update("\n".join(samples.lesion_ids).encode())
        tensors = [labels]
        if isinstance(samples, Stream):
            digest.update(samples.key.encode())
        else:
            found = (samples.nodule, samples.images, samples.masks)
            tensors = [*(values for values in found if values is not None), labels]
        for values in tensors:
            digest.update(f"{tuple(values.shape)} {values.dtype}".encode())
            digest.update(values.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
