"""Lei 2020, all maps of a network at once: see `lesionlab.papers.lei2020.analyses`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lesionlab.attention import ActivationMaps, activation_maps
from lesionlab.attributes import RATING_NAMES
from lesionlab.crops.sampling import Samples
from lesionlab.papers.lei2020 import Lei2020


@dataclass(frozen=True, eq=False)
class Maps:
    """What a network says of some lesions, and its maps for "malignant".

    Attributes:
        lesion_ids: The lesions.
        maps: Name, such as `"HESAM, exact"`, to (lesion, y, x) of the images' size. In three axes
            it is the middle slice of the map.
        malignancy: (lesion,) what is predicted: a probability, or a rating.
        logit: (lesion,) what the maps are about.
        bias: (lesion,) the part of it that is the same for all lesions.
        high_level: (lesion,) the part of it that no map shows (eq. 12); 0 without. Like `bias`
            None where the head is not linear.
        high_level_share: (lesion,) as `attention.ActivationMaps.high_level_share`.
    """

    lesion_ids: tuple[str, ...]
    maps: Mapping[str, torch.Tensor]
    malignancy: torch.Tensor
    logit: torch.Tensor
    bias: torch.Tensor | None
    high_level: torch.Tensor | None
    high_level_share: torch.Tensor | None

    def of(self, lesion_ids: Sequence[str]) -> dict[str, torch.Tensor]:
        """The maps of some of the lesions, in the order asked for."""
        at = [self.lesion_ids.index(name) for name in lesion_ids]
        return {name: maps[at] for name, maps in self.maps.items()}


def look(
    experiment: Lei2020,
    model: nn.Module,
    samples: Samples,
    *,
    target: int = 1,
    batch_size: int = 32,
) -> Maps:
    """Run a network over lesions and make all the maps that it has.

    Args:
        experiment: Whose network it is.
        model: On the CPU.
        samples: As it was trained on.
        target: Class whose maps are made, 1 is malignant; the nine ratings have no classes, and
            the maps are those of the malignancy rating.
        batch_size: Lesions at once.

    Raises:
        ValueError: No lesions, or as `attention.activation_maps`.
    """
    if not samples.lesion_ids:
        raise ValueError("samples: expected at least one lesion, got none")
    wanted = experiment.maps()
    printed = [method for method, exact in wanted.values() if not exact]
    exactly = [method for method, exact in wanted.values() if exact]
    ratings = experiment.design.ratings
    head, of = (RATING_NAMES.index("malignancy"), None) if ratings else (0, target)
    score = malignancy(experiment, model)
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}
    seen: list[ActivationMaps] = []
    predicted: list[torch.Tensor] = []
    for batch in samples.split(batch_size):
        images = batch.images
        found = activation_maps(model, images, printed, head=head, target=of)
        exact = activation_maps(
            model, images, exactly, head=head, target=of, weights="exact"
        ) if exactly else {}  # fmt: skip
        for name, (method, is_exact) in wanted.items():
            maps = (exact if is_exact else found)[method].maps
            parts[name].append(maps[:, maps.shape[1] // 2] if maps.ndim == 4 else maps)
        seen.append(next(iter((exact or found).values())))
        predicted.append(score(images))
    return Maps(
        lesion_ids=samples.lesion_ids,
        maps={name: torch.cat(maps) for name, maps in parts.items()},
        malignancy=torch.cat(predicted),
        logit=torch.cat([one.scores for one in seen]),
        bias=_joined([one.bias for one in seen]),
        high_level=_joined([one.high_level for one in seen]),
        high_level_share=_joined([one.high_level_share for one in seen]),
    )


def _joined(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None


def malignancy(experiment: Lei2020, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """From images to what a network predicts of malignancy, (lesion,); in evaluation mode."""
    column = RATING_NAMES.index("malignancy") if experiment.design.ratings else 0

    def score(images: torch.Tensor) -> torch.Tensor:
        was = model.training
        model.eval()
        try:
            with torch.no_grad():
                return experiment.predict(model(images))[:, column]
        finally:
            model.train(was)

    return score
