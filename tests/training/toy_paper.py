"""A paper that is not in the library: its own table, several classes, masks, and two stages.

Written into a folder as a distribution with an entry point (`toy_distribution` in conftest.py), it
is found by the registry, in this process as in the workers of a sweep.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from lesionlab import cohorts
from lesionlab.crops import Crop
from lesionlab.crops.datasets import Basis
from lesionlab.crops.sampling import Samples
from lesionlab.training.paper import Experiment, Lesions, Paper, Preset
from lesionlab.training.recipes import Recipe
from lesionlab.training.targets import (
    Target,
    by_target,
    dice_loss,
    misfit,
    overlap,
    probabilities,
)

SLOWLY = "LESIONLAB_TEST_SECONDS"
"""Seconds that every batch takes longer, so that there is time to kill a worker."""

SIZE = 8
KIND = Target("kind", "multiclass", ("not looked at", "dark", "grey", "bright"), ignored=0)
CLASSES = (KIND, Target("brightness"))
MASKS = (*CLASSES, Target("mask", "segmentation"))


def table(seed: int, n: int = 40) -> pd.DataFrame:
    """Two lesions a patient; some have no kind, some no brightness, none lacks both."""
    drawn = np.random.default_rng(seed)
    kind = np.arange(n) % 3 + 1.0
    rows = pd.DataFrame(
        {
            "patient": [f"p{i // 2:03d}" for i in range(n)],
            "kind": np.where(np.arange(n) % 10 == 9, 0.0, kind),
            "brightness": np.where(np.arange(n) % 7 == 6, np.nan, kind + drawn.normal(0, 0.1, n)),
            "level": kind,
        },
        index=pd.Index([f"toy{i:03d}" for i in range(n)], name="lesion_id"),
    )
    return rows.drop("toy003").assign(**{"label": kind[np.arange(n) != 3]})


def crop(lesion_id: str, level: float) -> Crop:
    """A square in noise, as bright as its kind says."""
    drawn = np.random.default_rng(int(lesion_id[3:]))
    mask = np.zeros((1, 1, SIZE, SIZE), bool)
    mask[..., 2:6, 2:6] = True
    hu = drawn.normal(0, 20, mask.shape[1:]) + 100 * level * mask[0]
    return Crop(
        lesion_id=lesion_id,
        hu=hu.astype(np.int16),
        masks=mask,
        spacing=(1.0, 1.0, 1.0),
        slice_index=np.arange(1),
        corner=(0, 0),
        calibrated=np.ones(1, bool),
        tier="phantom",
    )


@dataclasses.dataclass(frozen=True)
class Squares:
    """Crops that are drawn when they are asked for; one of them is lost."""

    rows: pd.DataFrame
    exclusions = {"toy005": "its picture is lost"}  # noqa: RUF012

    def __contains__(self, lesion_id: object) -> bool:
        return lesion_id not in self.exclusions

    def crops(self, ids: Sequence[str]) -> Iterator[Crop]:
        return (crop(i, self.rows.loc[i, "level"]) for i in ids)


def lesions(seed: int, progress: bool) -> Lesions:
    rows = table(seed)
    return Lesions(rows, lambda ids: Squares(rows), lambda: [Basis("squares", "phantom")])


def prepare(crops: Iterable[Crop], variant: str) -> Samples:
    """Pictures of about -1 to 1, and their masks."""
    some = list(crops)
    n = len(some)
    return Samples(
        images=torch.from_numpy(np.stack([c.hu for c in some])).float() / 300,
        nodule=torch.arange(n),
        lesion_ids=tuple(c.lesion_id for c in some),
        padded=torch.zeros(n),
        missing=torch.zeros(n, dtype=torch.int64),
        calibrated=torch.ones(n, dtype=torch.bool),
        masks=torch.from_numpy(np.stack([c.masks[0] for c in some])).float(),
    )


class Net(nn.Module):
    """Convolutions, a mask, and from what the mask shows a head for each target."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(1, 4, 3, padding=1)
        self.mask = nn.Conv2d(4, 1, 1)
        self.scores = nn.Linear(4, 4)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images).relu()

    def head(self, maps: torch.Tensor) -> Any:
        return self.scores((maps * self.mask(maps).sigmoid()).sum((2, 3)) / 4)

    def forward(self, images: torch.Tensor) -> Any:
        maps = self.trunk(images)
        return self.head(maps), self.mask(maps)


@dataclasses.dataclass(frozen=True)
class Toy(Experiment):
    """Learns the mask in one stage, and the kind of the lesion in another."""

    variant: str = "cascade"
    part: str = ""
    name = "toy"
    metric = "accuracy"

    @property
    def targets(self) -> Any:
        return MASKS if self.variant == "cascade" else CLASSES

    def model(self, seed: int) -> nn.Module:
        return Net()

    def stage(self, name: str) -> Experiment:
        return dataclasses.replace(self, part=name)

    def forward(self, model: nn.Module, samples: Samples) -> Any:
        return *model(samples.images), samples.masks

    def loss(self, outputs: Any, labels: torch.Tensor) -> Any:
        time.sleep(float(os.environ.get(SLOWLY, "0")))
        if self.variant == "broken":
            raise RuntimeError("no loss,\nnone at all")
        scores, mask, truth = outputs
        if self.part == "masks":
            return dice_loss(mask, truth).mean(), {}
        parts = zip(CLASSES, by_target(CLASSES, scores), labels.unbind(1), strict=False)
        losses = {target.name: misfit(target, out, known).mean() for target, out, known in parts}
        return torch.stack(list(losses.values())).sum(), losses

    def predict(self, outputs: Any) -> torch.Tensor:
        scores, mask, truth = outputs
        found = [probabilities(CLASSES, scores)]
        if self.variant == "cascade":
            found.append(overlap(mask, truth))
        return torch.cat(found, dim=1)


def labels(rows: pd.DataFrame, variant: str) -> torch.Tensor:
    """The code of the kind, the brightness, and that there is a mask."""
    found = rows[["kind", "brightness"]].assign(mask=1.0).to_numpy(dtype=np.float32, copy=True)
    return torch.from_numpy(found if variant == "cascade" else found[:, :2])


MASK_STAGE = Recipe(epochs=4, batch_size=8, lr=0.05, stage="masks", select_by="dice")
CLASS_STAGE = Recipe(
    epochs=40,
    batch_size=8,
    lr=0.1,
    stage="classes",
    frozen=("backbone", "mask"),
    select_by="loss",
)
SHORT = Recipe(epochs=3, batch_size=5, lr=0.01)

PAPER = Paper(
    name="toy",
    title="Toy et al. 2026",
    variants=dict.fromkeys(("cascade", "slow", "other", "broken")),
    presets={
        "smoke": Preset(recipe=SHORT, n_folds=2),
        "book": Preset(recipe=(MASK_STAGE, CLASS_STAGE)),
        "split": Preset(recipe=SHORT, holdout=(0.6, 0.2, 0.2), streamed=True),
    },
    experiment=Toy,
    prepare=prepare,
    labels=labels,
    cohort=lambda rows, _: cohorts.build(rows, [], name="toy"),
    data={"squares": lesions},
    tables={"1": {"Slow": "slow", "Broken": "broken"}},
)
