"""A test of a map that needs no readers: random weights must change it.

It is the "model parameter randomization test" of Adebayo et al. 2018: a map that stays when
what the model has learned is gone does not show what it has learned. An edge detector fails it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import nn

Explain = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""From a model and images to maps, (lesion, …); `lambda m, x: activation_map(m, x, …).maps`."""


def randomisation_test(
    model: nn.Module,
    images: torch.Tensor,
    explain: Explain,
    *,
    cascade: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare a model's maps with those of copies that lose what they learned, layer by layer.

    A parameter becomes random by shuffling its values, which keeps their distribution: activations
    stay of the same order of size in layers of any kind. Statistics of normalisation layers stay.
    The model itself is not changed.

    Layers are shuffled from the last to the first that the model lists. Maps are compared after
    each of them or, without `cascade`, once after all.

    Returns:
        `similarity` by layer, the index, and lesion. In each row one layer more is shuffled.
    """
    reference = explain(model, images)
    randomised = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    layers = [(name or "(model)", module) for name, module in randomised.named_modules()]
    layers = [part for part in layers if [*part[1].parameters(recurse=False)]]
    found = {}
    for name, module in reversed(layers):
        for parameter in module.parameters(recurse=False):
            order = torch.randperm(parameter.numel(), generator=generator)
            with torch.no_grad():
                flat = parameter.detach().flatten()[order.to(parameter.device)]
                parameter.copy_(flat.view_as(parameter))
        if cascade or module is layers[0][1]:
            found[name] = similarity(reference, explain(randomised, images))
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("layer")


def similarity(first: torch.Tensor, second: torch.Tensor) -> NDArray[np.float64]:
    """Spearman's correlation over the places of each lesion's two maps, (lesion, …), to (lesion,).

    It is NaN where a map is constant or has a NaN.
    """
    if first.shape != second.shape:
        raise ValueError(f"maps of one shape expected, got {first.shape} and {second.shape}")
    values = (maps.detach().cpu().double().flatten(1).numpy() for maps in (first, second))
    a, b = (rankdata(v, axis=1) for v in values)
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    with np.errstate(invalid="ignore"):
        rho: NDArray[np.float64] = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return rho
