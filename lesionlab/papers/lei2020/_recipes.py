"""Lei 2020, how its models are trained (4.1): see `lesionlab.papers.lei2020`, which offers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from lesionlab.training.paper import Preset
from lesionlab.training.recipes import Recipe, Schedule

PRINTED = Recipe(
    epochs=100,
    batch_size=32,
    lr=5e-4,
    optimizer="sgd",
    momentum=0.9,
    weight_decay=1e-4,
    schedule=Schedule("step", 30, 0.1),
)
"""Section 4.1. Momentum and the number of epochs are ours, the paper prints neither; nor does it
say which epoch it tests: here the best on validation lesions."""


def packed(batch_size: int = 32, *, epochs: int = 100, lr: float = PRINTED.lr) -> Recipe:
    """The paper's recipe over fewer epochs, or with more nodules to a step.

    The rate is `lr` for 32 nodules, and grows with the batch (Goyal et al. 2017, for SGD). It is
    divided by ten after 30, 60 and 90 of 100 epochs, and at the same shares of a shorter run. A
    `Plan` with `epochs` of its own does not move these steps: ten epochs of `laptop`, which divides
    after every six, have one.
    """
    schedule = replace(PRINTED.schedule, epochs=max(1, round(0.3 * epochs)))
    rate = lr * batch_size / PRINTED.batch_size
    return replace(PRINTED, batch_size=batch_size, epochs=epochs, lr=rate, schedule=schedule)


# A short run does not get anywhere at the paper's rate. The short presets have ten times the rate
# for 32 nodules; with their 16 nodules to a step that is 0.0025, five times the printed 0.0005.
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "smoke": Preset(recipe=packed(16, epochs=2, lr=5e-3), n_lesions=60),
        "book": Preset(recipe=packed(16, epochs=10, lr=5e-3), n_lesions=600),
        "laptop": Preset(recipe=packed(16, epochs=20, lr=5e-3)),
        "gpu": Preset(recipe=packed(128), n_folds=5),
        "paper": Preset(recipe=PRINTED, n_folds=5),
    }
)
"""How to train and on how many nodules."""
