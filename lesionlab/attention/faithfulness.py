"""Do the places that a map marks matter to the score? Take them away, or show them alone.

Deletion and insertion curves (Petsiuk et al. 2018, "RISE", section 4.2). None of the five papers
measures this; Lei et al. 2020 compare their maps with radiologists' words, for 20 nodules (4.6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Score = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores while places are taken away, or given back, in a map's order."""

    shares: torch.Tensor  # (step,) of the places that were changed, 0 to 1
    scores: torch.Tensor  # (step, lesion)

    @property
    def auc(self) -> torch.Tensor:
        """(lesion,) the area under the curve, by trapezoids: the mean score on the way.

        The lower for deletion, and the higher for insertion, the more the places matter, all in
        the unit of the score. It says little by itself: compare with a random order.
        """
        return torch.trapezoid(self.scores, self.shares, dim=0)


def deletion_curve(
    score: Score,
    images: torch.Tensor,
    maps: torch.Tensor | None,
    *,
    fill: float | torch.Tensor = 0.0,
    steps: int = 20,
    seed: int = 0,
) -> Curve:
    """Scores while an image's places are replaced, those with the greatest map values first.

    All channels of a place go together. The order among equal values is random, so that a constant
    map gives a random order and not one from the top left corner.

    Args:
        score: From images to a number for each lesion.
        images: (lesion, channel, y, x) or (lesion, channel, z, y, x).
        maps: (lesion, y, x) or (lesion, z, y, x), of the image's size; None for a random order,
            which is what other maps are to be compared with.
        fill: What comes in place of an image: a number (air, or the mean of the training images),
            or images of the same shape.
        steps: How many changes; the curve has one point more, for the image as it is.
        seed: For the order among equal values.
    """
    blank, shape = _blank(images, fill), (len(images), *images.shape[2:])
    places = math.prod(shape[1:])
    if not 1 <= steps <= places:
        raise ValueError(f"steps={steps!r}: expected 1 to {places}, the places of an image")
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand((len(images), places), generator=generator).argsort(1).to(images.device)
    if maps is not None:
        if tuple(maps.shape) != shape or not bool(maps.isfinite().all()):
            raise ValueError(
                f"maps: expected finite ones of shape {shape}, got {tuple(maps.shape)}"
            )
        values = maps.to(images.device).flatten(1)
        # stable: equal values stay in the random order
        by_value = values.gather(1, order).argsort(dim=1, descending=True, stable=True)
        order = order.gather(1, by_value)
    rank = order.argsort(1).view(len(images), 1, *images.shape[2:])
    changed = torch.linspace(0, places, steps + 1, dtype=torch.float64).round().long()
    scores = []
    with torch.no_grad():
        for n in changed.tolist():
            found = score(torch.where(rank < n, blank, images))
            if found.ndim != 1:
                raise ValueError(f"score: expected one number a lesion, got {tuple(found.shape)}")
            scores.append(found.detach())
    return Curve((changed / places).to(scores[0]), torch.stack(scores))


def insertion_curve(
    score: Score,
    images: torch.Tensor,
    maps: torch.Tensor | None,
    *,
    fill: float | torch.Tensor = 0.0,
    **options: Any,
) -> Curve:
    """Scores while an image's places are put into `fill`; arguments as in `deletion_curve`."""
    return deletion_curve(score, _blank(images, fill), maps, fill=images, **options)


def _blank(images: torch.Tensor, fill: float | torch.Tensor) -> torch.Tensor:
    """Images of `fill` alone."""
    shape = tuple(images.shape)
    blank = torch.as_tensor(fill, dtype=images.dtype, device=images.device)
    if images.ndim not in (4, 5) or (blank.ndim and blank.shape != shape):
        raise ValueError(
            "images, fill: expected (lesion, channel, y, x) or (lesion, channel, z, y, x), and a "
            f"number or the same shape, got {shape} and {tuple(blank.shape)}"
        )
    return blank.expand(shape)
