"""A paper that is not in the library: squares in noise, as bright as their rating or kind says.

It serves all tests of training. The fixture `toy` registers it as a distribution with an entry
point: then it is found in this process as in the workers of a sweep. It has its own table, classes,
masks, and two stages.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import nn

from lesionlab import cohorts
from lesionlab.crops import Crop
from lesionlab.crops.datasets import Basis
from lesionlab.crops.sampling import Samples
from lesionlab.packing import segment_softmax, segment_sum
from lesionlab.training import checkpoints
from lesionlab.training.loop import Fitted, fit
from lesionlab.training.paper import Experiment, Lesions, Paper, Preset
from lesionlab.training.recipes import Recipe
from lesionlab.training.targets import (
    Target,
    by_target,
    columns,
    dice_loss,
    misfit,
    overlap,
    probabilities,
)

SLOWLY = "LESIONLAB_TEST_SECONDS"
"""Seconds that every batch takes longer, so that there is time to kill a worker."""

KIND = Target("kind", "multiclass", ("not looked at", "dark", "grey", "bright"), ignored=0)
CLASSES = (KIND, Target("brightness"))
RATING = (Target("malignancy"),)
RECIPE = Recipe(epochs=4, batch_size=5, lr=0.01, weight_decay=1e-4)
LAST = replace(RECIPE, select_on="last")

# --- lesions ------------------------------------------------------------------------------------


def crop(lesion_id: str, level: float, n_slices: int = 1) -> Crop:
    """A square in noise, the same for the same name."""
    drawn = np.random.default_rng(int(lesion_id[-3:]))
    mask = np.zeros((1, n_slices, 8, 8), bool)
    mask[..., 2:6, 2:6] = True
    return Crop(
        lesion_id=lesion_id,
        hu=(drawn.normal(0, 20, mask.shape[1:]) + 100 * level * mask[0]).astype(np.int16),
        masks=mask,
        spacing=(1.0, 1.0, 1.0),
        slice_index=np.arange(n_slices),
        corner=(0, 0),
        steps=np.full(n_slices, 6 if lesion_id == "toy007" else 0),
        tier="slices",
    )


def prepare(crops: Iterable[Crop], variant: str = "") -> Samples:
    """Slices of about 0 to 5, packed, and their masks."""
    some = list(crops)
    n = len(some)
    return Samples(
        images=torch.from_numpy(np.concatenate([c.hu for c in some])).float()[:, None] / 100,
        nodule=torch.arange(n).repeat_interleave(torch.tensor([len(c.hu) for c in some])),
        lesion_ids=tuple(c.lesion_id for c in some),
        padded=torch.zeros(n),
        missing=torch.zeros(n, dtype=torch.int64),
        hu_error=torch.zeros(n),
        masks=torch.from_numpy(np.concatenate([c.masks[0] for c in some])).float()[:, None],
    )


def lesions(n: int = 24, *, seed: int = 0, start: int = 0) -> tuple[Samples, torch.Tensor]:
    """Lesions of 1 to 4 slices, and a rating of each, 1 to 5."""
    drawn = np.random.default_rng(seed)
    lengths, ratings = [1, *drawn.integers(1, 5, n - 1)], drawn.integers(1, 6, n)
    names = [f"l{start + i:03d}" for i in range(n)]
    samples = prepare(map(crop, names, ratings, lengths))
    return samples, torch.from_numpy(ratings).float()[:, None]


def table(samples: Samples, ratings: torch.Tensor) -> pd.DataFrame:
    """Two lesions a patient; the diameter knows nothing of the rating."""
    n = len(samples.lesion_ids)
    return pd.DataFrame(
        {
            "patient": [f"p{i // 2:03d}" for i in range(n)],
            "diameter": [5.0 + i * 7 % 11 for i in range(n)],
            "malignancy": ratings[:, 0].double().numpy(),
        },
        index=pd.Index(samples.lesion_ids, name="lesion_id"),
    )


# --- models -------------------------------------------------------------------------------------


class Net(nn.Module):
    """Convolution, a mask, the mean of what it shows, attention over slices, a linear head."""

    def __init__(self, n_outputs: int, dropout: float) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(1, 8, 3, padding=1)
        self.mask = nn.Conv2d(8, 1, 1)
        self.score = nn.Linear(8, 1, bias=False)  # which a softmax does not feel
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, n_outputs)

    def forward(self, images: torch.Tensor, nodule: torch.Tensor, n: int) -> Any:
        maps = self.backbone(images).relu()
        mask = self.mask(maps)
        features = (maps * mask.sigmoid()).mean((2, 3))
        weights = segment_softmax(self.score(features).squeeze(1).float(), nodule, n)
        vectors = segment_sum(features * weights[:, None], nodule, n)
        return self.head(self.dropout(vectors)), mask


@dataclass(frozen=True)
class Measured:
    """Mean of the training images."""

    mean: float

    def __call__(self, samples: Samples) -> Samples:
        return replace(samples, images=samples.images - self.mean)


@dataclass(frozen=True)
class Toy(Experiment):
    """Learns any targets; a mask in a stage `masks` of its own."""

    variant: str = "attention"
    targets: tuple[Target, ...] = RATING
    dropout: float = 0.2
    part: str = ""
    name = "toy"
    normaliser = Measured

    @property
    def said(self) -> tuple[Target, ...]:
        """The targets that the head gives."""
        return tuple(target for target in self.targets if target.kind != "segmentation")

    def model(self, seed: int) -> nn.Module:
        return Net(len(columns(self.said)), self.dropout)

    def stage(self, name: str) -> Experiment:
        return replace(self, part=name)

    def forward(self, model: nn.Module, samples: Samples) -> Any:
        out = model(samples.images, samples.nodule, len(samples.lesion_ids))
        return *out, samples.masks

    def loss(self, outputs: Any, labels: torch.Tensor) -> Any:
        time.sleep(float(os.environ.get(SLOWLY, "0")))
        if self.variant == "broken":
            raise RuntimeError("no loss,\nnone at all")
        scores, mask, truth = outputs
        if self.part == "masks":
            return dice_loss(mask, truth).mean(), {}
        parts = zip(self.said, by_target(self.said, scores), labels.unbind(1), strict=False)
        losses = {target.name: misfit(target, out, known).mean() for target, out, known in parts}
        return torch.stack(list(losses.values())).sum(), losses

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        noise = torch.randn(samples.images.shape, generator=generator)
        return replace(samples, images=samples.images + 0.05 * noise.to(samples.images.device))

    def predict(self, outputs: Any) -> torch.Tensor:
        scores, mask, truth = outputs
        found = [probabilities(self.said, scores)]
        if self.said != self.targets:
            found.append(overlap(mask, truth))
        return torch.cat(found, dim=1)

    def normalisation(self, training: Any) -> Callable[[Samples], Samples]:
        batches = [training] if isinstance(training, Samples) else training.split(8)
        return Measured(float(torch.cat([batch.images for batch in batches]).double().mean()))


class Exploding(Toy):
    """The toy to a checkpoint; the batch before which `calls` has `at` entries is NaN."""

    at = 8

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        factor = float("nan") if len(calls) == self.at else 1.0
        calls.append(0)
        samples = super().augment(samples, generator)
        return replace(samples, images=samples.images * factor)


class Told(Toy):
    """Its metric is `value`, or the next of them."""

    value: Any = float("nan")

    def measure(self, metric: str, predictions: torch.Tensor, labels: torch.Tensor) -> float:
        return next(self.value) if isinstance(self.value, Iterator) else self.value


calls: list[int] = []


def train(folder: Path | None = None, **changes: Any) -> Fitted:
    """The toy, or another experiment, with a validation part."""
    given = {"experiment": Toy(), "part": lesions(), "recipe": RECIPE, "device": "cpu"} | changes
    given = {"validation": lesions(9, seed=1, start=500), "progress": False} | given
    return fit(given.pop("experiment"), given.pop("part"), folder=folder, **given)


def history(folder: Path) -> list[dict[str, float]]:
    """The epochs in a checkpoint; none where there is no checkpoint, or it is being replaced."""
    try:
        with safe_open(folder / checkpoints.NAME, "pt") as file:
            return list(json.loads(file.metadata()["state"])["history"])
    except (FileNotFoundError, RuntimeError):  # it is opened twice, for its size and its content
        return []


# --- the paper ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Squares:
    """Crops that are drawn when they are asked for; one of them is lost."""

    rows: pd.DataFrame
    exclusions = {"toy005": "its picture is lost"}  # noqa: RUF012

    def __contains__(self, lesion_id: object) -> bool:
        return lesion_id not in self.exclusions

    def crops(self, ids: Sequence[str]) -> Iterator[Crop]:
        return (crop(i, self.rows.loc[i, "level"]) for i in ids)


def squares(seed: int, progress: bool, n: int = 40) -> Lesions:
    """Two lesions a patient; some have no kind, some no brightness, none lacks both."""
    drawn = np.random.default_rng(seed)
    kind = np.arange(n) % 3 + 1.0
    rows = pd.DataFrame(
        {
            "patient": [f"p{i // 2:03d}" for i in range(n)],
            "kind": np.where(np.arange(n) % 10 == 9, 0.0, kind),
            "brightness": np.where(np.arange(n) % 7 == 6, np.nan, kind + drawn.normal(0, 0.1, n)),
            "level": kind,
            "label": kind,
        },
        index=pd.Index([f"toy{i:03d}" for i in range(n)], name="lesion_id"),
    ).drop("toy003")
    return Lesions(rows, lambda ids: Squares(rows), lambda: [Basis("squares", "phantom")])


@dataclass(frozen=True)
class Cascade(Toy):
    """Learns the mask in one stage, and the kind of the lesion in another."""

    metric = "accuracy"


def experiment(variant: str) -> Experiment:
    mask = (Target("mask", "segmentation"),) * (variant == "cascade")
    return Cascade(variant, (*CLASSES, *mask), dropout=0.0)


def labels(rows: pd.DataFrame, variant: str) -> torch.Tensor:
    """The code of the kind, the brightness, and that there is a mask."""
    found = rows[["kind", "brightness"]].assign(mask=1.0).to_numpy(dtype=np.float32, copy=True)
    return torch.from_numpy(found if variant == "cascade" else found[:, :2])


MASKS = Recipe(epochs=4, batch_size=8, lr=0.05, stage="masks", select_by="dice")
FROZEN = ("backbone", "mask")
HEADS = Recipe(epochs=40, batch_size=8, lr=0.1, stage="classes", frozen=FROZEN, select_by="loss")
SHORT = Recipe(epochs=3, batch_size=5, lr=0.01)

PAPER = Paper(
    name="toy",
    title="Toy et al. 2026",
    variants=dict.fromkeys(("cascade", "slow", "other", "broken")),
    presets={
        "smoke": Preset(recipe=SHORT, n_folds=2),
        "book": Preset(recipe=(MASKS, HEADS)),
        "split": Preset(recipe=SHORT, holdout=(0.6, 0.2, 0.2), streamed=True),
    },
    experiment=experiment,
    prepare=prepare,
    labels=labels,
    cohort=lambda rows, _: cohorts.build(rows, [], name="toy"),
    data={"squares": squares},
    tables={"1": {"Slow": "slow", "Broken": "broken"}},
)
