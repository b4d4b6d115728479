"""A test of a map that needs no readers: random weights must change it.

It is the "model parameter randomization test" of Adebayo et al. 2018: a map that stays when
what the model has learned is gone does not show what it has learned. An edge detector fails it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import nn

Explain = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""From a model and images to maps, (lesion, …); `lambda m, x: activation_map(m, x, …).maps`."""


@dataclass(frozen=True, eq=False)
class Randomisation:
    """How alike the maps of a model are to those with random weights.

    Attributes:
        layers: Whose weights are random, one more at each step, from the output back.
        similarity: (step, lesion) Spearman's correlation of the two maps' values over the places;
            NaN where one of the maps is constant.
    """

    layers: tuple[str, ...]
    similarity: NDArray[np.float64]


def randomisation_test(
    model: nn.Module,
    images: torch.Tensor,
    explain: Explain,
    *,
    cascade: bool = True,
    seed: int = 0,
) -> Randomisation:
    """Compare a model's maps with those of copies that lose what they learned, layer by layer.

    A parameter becomes random by shuffling its values, which keeps their distribution: activations
    stay of the same order of size in layers of any kind. Statistics of normalisation layers stay.
    The model itself is not changed.

    Args:
        model: The model; layers count in the order in which it lists them.
        images: (lesion, channel, …).
        explain: Makes the maps.
        cascade: One layer more at each step, from the last to the first; or all at once.
        seed: Seed of the shuffling.
    """
    reference = explain(model, images)
    randomised = copy.deepcopy(model)
    layers = [
        (name or "(model)", [*module.parameters(recurse=False)])
        for name, module in randomised.named_modules()
    ]
    layers = [(name, parameters) for name, parameters in reversed(layers) if parameters]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for step, (_, parameters) in enumerate(layers):
        for parameter in parameters:
            order = torch.randperm(parameter.numel(), generator=generator)
            with torch.no_grad():
                flat = parameter.detach().flatten()[order.to(parameter.device)]
                parameter.copy_(flat.view_as(parameter))
        if cascade or step == len(layers) - 1:
            found.append(similarity(reference, explain(randomised, images)))
    names = tuple(name for name, _ in layers)
    return Randomisation(names if cascade else (" + ".join(names),), np.stack(found))


def similarity(first: torch.Tensor, second: torch.Tensor) -> NDArray[np.float64]:
    """Spearman's correlation over the places of each lesion's two maps, (lesion, …), to (lesion,).

    It is NaN where a map is constant or not finite.
    """
    if first.shape != second.shape:
        raise ValueError(f"maps of one shape expected, got {first.shape} and {second.shape}")
    a, b = (_ranks(maps) for maps in (first, second))
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.where(size > 0, (a * b).sum(1) / np.where(size > 0, size, 1), np.nan)


def _ranks(maps: torch.Tensor) -> NDArray[np.float64]:
    """(lesion, place) ranks about their mean; of a map that is not finite, NaN."""
    values = maps.detach().cpu().double().flatten(1).numpy()
    ranks: NDArray[np.float64] = rankdata(values, axis=1)
    ranks[~np.isfinite(values).all(axis=1)] = np.nan
    centred: NDArray[np.float64] = ranks - ranks.mean(axis=1, keepdims=True)
    return centred
