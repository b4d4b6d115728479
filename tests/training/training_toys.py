"""A small model with slice attention on packed batches of bright squares; picklable by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from torch import nn

from lesionlab.crops.sampling import Samples
from lesionlab.packing import segment_softmax, segment_sum
from lesionlab.training import checkpoints
from lesionlab.training.loop import Fitted, fit
from lesionlab.training.paper import Experiment
from lesionlab.training.recipes import Recipe
from lesionlab.training.targets import Target

RECIPE = Recipe(epochs=4, batch_size=5, lr=0.01, weight_decay=1e-4)
LAST = replace(RECIPE, select_on="last")


def lesions(n: int = 24, *, seed: int = 0, start: int = 0) -> tuple[Samples, torch.Tensor]:
    """Lesions of 1 to 4 slices, 6 × 6; their rating, 1 to 5, is their brightness, with noise."""
    drawn = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 5, (n,), generator=drawn)
    lengths[0] = 1
    rating = torch.randint(1, 6, (n, 1), generator=drawn).float()
    nodule = torch.repeat_interleave(torch.arange(n), lengths)
    noise = torch.randn(len(nodule), 1, 6, 6, generator=drawn)
    samples = Samples(
        images=rating[nodule][..., None, None] + 0.3 * noise,
        nodule=nodule,
        lesion_ids=tuple(f"l{start + i:03d}" for i in range(n)),
        padded=torch.zeros(n),
        missing=torch.zeros(n, dtype=torch.int64),
        calibrated=torch.ones(n, dtype=torch.bool),
    )
    return samples, rating


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


def train(folder: Path | None = None, **changes: Any) -> Fitted:
    """The toy, or another experiment, with a validation part."""
    given = {"experiment": Toy(), "part": lesions(), "recipe": RECIPE, "device": "cpu"} | changes
    given = {"validation": lesions(9, seed=1, start=500), "progress": False} | given
    return fit(given.pop("experiment"), given.pop("part"), folder=folder, **given)


def history(folder: Path) -> list[dict[str, float]]:
    """The epochs in a checkpoint; none where there is no checkpoint."""
    if not (folder / checkpoints.NAME).exists():
        return []
    with safe_open(folder / checkpoints.NAME, "pt") as file:
        return list(json.loads(file.metadata()["state"])["history"])


class Net(nn.Module):
    """Convolution, mean over the plane, attention over slices, dropout, one number per target."""

    def __init__(self, n_targets: int, dropout: float) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(1, 8, 3)
        self.score = nn.Linear(8, 1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, n_targets)

    def forward(self, images: torch.Tensor, nodule: torch.Tensor, n: int) -> Any:
        features = self.backbone(images).relu().mean((2, 3))
        weights = segment_softmax(self.score(features).squeeze(1).float(), nodule, n)
        return {
            "rating": self.head(self.dropout(segment_sum(features * weights[:, None], nodule, n)))
        }


@dataclass(frozen=True)
class Measured:
    """Mean of the training images."""

    mean: float

    def __call__(self, samples: Samples) -> Samples:
        return replace(samples, images=samples.images - self.mean)


@dataclass(frozen=True)
class Toy(Experiment):
    """Learns a rating from brightness, by squared error and, in part, by absolute error."""

    variant: str = "attention"
    absolute: float = 0.1
    dropout: float = 0.2
    name = "toy"
    targets: tuple[Target, ...] = (Target("malignancy"),)

    def model(self, seed: int) -> nn.Module:
        return Net(len(self.targets), self.dropout)

    def forward(self, model: nn.Module, samples: Samples) -> Any:
        return model(samples.images, samples.nodule, len(samples.lesion_ids))

    def loss(self, outputs: Any, labels: torch.Tensor) -> Any:
        gap = outputs["rating"] - labels
        parts = {"squared": gap.square().mean(), "absolute": gap.abs().mean()}
        return parts["squared"] + self.absolute * parts["absolute"], parts

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        noise = torch.randn(samples.images.shape, generator=generator)
        return replace(samples, images=samples.images + 0.05 * noise.to(samples.images.device))

    def predict(self, outputs: Any) -> torch.Tensor:
        return outputs["rating"]

    def normalisation(self, training: Samples) -> Callable[[Samples], Samples]:
        return Measured(float(training.images.double().mean()))


@dataclass(frozen=True)
class Malignant(Toy):
    """Tells ratings above 3 from the others, and gives the rating, too."""

    targets: tuple[Target, ...] = (Target("texture"), Target("malignancy", "binary"))

    def predict(self, outputs: Any) -> torch.Tensor:
        rating, logit = outputs["rating"].unbind(1)
        return torch.stack([rating, logit.sigmoid()], dim=1)


@dataclass(frozen=True)
class Exploding(Toy):
    """The loss of one training batch is NaN: the one before which `calls` has `at` entries."""

    at: int = 8

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        factor = float("nan") if len(calls) == self.at else 1.0
        calls.append(0)
        return replace(samples, images=samples.images * factor)


calls: list[int] = []
