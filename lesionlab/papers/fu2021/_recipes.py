"""Fu 2021, how its models are trained (3.2): see `lesionlab.papers.fu2021`, which offers it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from lesionlab.training.plans import Preset
from lesionlab.training.recipes import Recipe
from lesionlab.training.schedules import WarmRestarts

PAPER = Recipe(epochs=150, batch_size=1, lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4)
"""Section 3.2, Adam. The paper keeps the model of the lowest error and does not say on which
nodules; the authors' published `test.py` takes the epoch that is best on the test fold. Here it is
chosen on validation lesions, and `replace(PAPER, select_on="test")` is the authors' way."""


def packed(batch_size: int = 8, *, epochs: int = 150) -> Recipe:
    """The paper's recipe with more nodules to a step, for speed.

    The learning rate grows with the square root of the batch, a rule of thumb for Adam. 8 nodules
    are about the quickest on a CPU; a GPU wants 64 and more. The rate falls along a cosine, which
    makes up for part of the epochs that a short run goes without.
    """
    lr, schedule = PAPER.lr * math.sqrt(batch_size), WarmRestarts(first=epochs)
    return replace(PAPER, batch_size=batch_size, epochs=epochs, lr=lr, schedule=schedule)


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "smoke": Preset(recipe=packed(4, epochs=2), n_lesions=60),
        # Without bias_factor, so short a run calls calcified nodules the least calcified of all;
        # without enriched, it learns nothing of spicules.
        "book": Preset(
            recipe=replace(packed(8, epochs=16), bias_factor=30.0), n_lesions=600, enriched=True
        ),
        "laptop": Preset(recipe=packed(8, epochs=20)),
        "gpu": Preset(recipe=packed(64), n_folds=5),
        "paper": Preset(recipe=PAPER, n_folds=5),
    }
)
"""How to train and on how many nodules; `laptop` is all of them in a quarter of an hour a fold."""
