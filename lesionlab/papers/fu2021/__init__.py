"""Fu et al. 2021: nine ratings of a lung nodule, with attention over slices and attributes.

    samples = prepare(crops)                        # 3.1: slices of 64 × 64, packed
    experiment = Fu2021("full")                     # the model, its loss, its metric
    fit(experiment, Normalisation.of(samples)(samples), targets(table), recipe=PAPER, …)

Equations and sections are those of the paper. The sample preparation, the list of models and the
plain layers are in the files `_fu2021_…` beside this one. What the paper leaves open:

- Counts and widths of the convolutions are not in the text. They are here as in the code that the
  authors published, https://github.com/xhelenfu/Lung-Nodule-Attributes-CT-Network; as there, the
  last layers of both heads have no bias, which makes 3,428,458 parameters, and the modulated
  vectors have no ReLU.
- Biases start at zero as printed; in the authors' code they start at random.
- "During inference, the ASCMM is not used": only its auxiliary head can be left out, as its
  vectors are what the cross-attribute attention mixes. The head's scores are always returned.
- Eq. 5 has no softmax, so its weights may be negative and have no fixed sum (`shares`).
- Without slice attention, a nodule's slices are averaged. "CAAM" alone in Table 1 has the
  modulation's layer, or all nine vectors would be the same, and no auxiliary loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lesionlab import cohorts
from lesionlab.attributes import rating
from lesionlab.cohorts import Cohort, malignancy_label
from lesionlab.crops.sampling import Samples
from lesionlab.packing import segment_softmax, segment_sum
from lesionlab.papers.fu2021._layers import (
    FEATURES,
    HIDDEN,
    Backbone,
    Branches,
    SliceMean,
    check_slices,
    check_volumes,
    glorot,
    unit,
)
from lesionlab.papers.fu2021._recipes import PAPER, PRESETS, packed
from lesionlab.papers.fu2021._samples import (
    ATTRIBUTES,
    Augmentation,
    Normalisation,
    apply,
    draw,
    prepare,
    volumes,
)
from lesionlab.papers.fu2021._variants import NAMES, TABLES, VARIANTS, Design
from lesionlab.training.experiments import Experiment, Task
from lesionlab.training.metrics import auc
from lesionlab.training.plans import Study

if TYPE_CHECKING:
    import pandas as pd

    from lesionlab.training.studies import Trained

__all__ = [
    "ATTRIBUTES",
    "NAMES",
    "PAPER",
    "PRESETS",
    "STUDY",
    "TABLES",
    "VARIANTS",
    "Augmentation",
    "Design",
    "Fu2021",
    "Network",
    "Normalisation",
    "Outputs",
    "VolumeNetwork",
    "apply",
    "draw",
    "packed",
    "prepare",
    "shares",
    "targets",
    "volumes",
]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says of a batch, and what it looked at.

    Attributes:
        predictions: (nodule, attribute), 0 to 1.
        auxiliary: (nodule, attribute), 0 to 1, of the auxiliary heads; None without.
        slice_weights: (slice,), α of eq. 2, of sum 1 in each nodule: all equal without slice
            attention, None for the 3D network.
        attribute_weights: (nodule, attribute t, attribute k), q of eq. 5 as it is, the weight of k
            for t; None without cross-attribute attention.
    """

    predictions: torch.Tensor
    auxiliary: torch.Tensor | None = None
    slice_weights: torch.Tensor | None = None
    attribute_weights: torch.Tensor | None = None


def shares(attribute_weights: torch.Tensor) -> torch.Tensor:
    """Attribute weights for display: magnitudes, of sum 1 in each row (figure 6 is "normalised").

    >>> shares(torch.tensor([[3.0, -1.0]]))
    tensor([[0.7500, 0.2500]])
    """
    magnitude = attribute_weights.abs()
    return magnitude / magnitude.sum(-1, keepdim=True)


class SliceAttention(nn.Module):
    """A weight for each slice of a nodule, and the mean of the slices so weighted (eq. 1–3).

    The softmax makes the weights of a nodule sum to 1, and `b1` without effect, as it adds the
    same to all slices. This is the paper's SAM; Lei 2020's is `SoftActivationMap`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.w0 = nn.Linear(FEATURES, HIDDEN)
        self.w1 = nn.Linear(HIDDEN, 1)
        glorot(self.w0, self.w1)

    def forward(
        self, features: torch.Tensor, nodule: torch.Tensor, n: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From (slice, 256) to the contents (nodule, 256) and the weights (slice,)."""
        scores = self.w1(self.w0(features).relu()).squeeze(1)  # (slice,), eq. 1
        weights = segment_softmax(scores, nodule, n)  # (slice,), eq. 2
        return segment_sum(weights[:, None] * features, nodule, n), weights  # eq. 3


class AttributeModulation(nn.Module):
    """A vector of each attribute's own, and a score of it to learn that by (ASCMM, 2.2.2)."""

    def __init__(self, attributes: int, *, auxiliary: bool) -> None:
        super().__init__()
        self.specialise = Branches(attributes, FEATURES, FEATURES)
        self.score = Branches(attributes, FEATURES, 1, bias=False) if auxiliary else None

    def forward(self, content: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """From (nodule, 256) to vectors (nodule, attribute, 256) and scores (nodule, attribute)."""
        vectors = self.specialise(content[:, None])
        return vectors, None if self.score is None else unit(self.score(vectors))


class CrossAttributeAttention(nn.Module):
    """Each attribute's weights for the vectors of all, and their weighted sum (CAAM, eq. 5–6)."""

    def __init__(self, attributes: int) -> None:
        super().__init__()
        self.w0 = Branches(attributes, FEATURES, HIDDEN)
        self.w1 = Branches(attributes, HIDDEN, 1)

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From (nodule, k, 256) to mixtures (nodule, t, 256) and weights (nodule, t, k)."""
        hidden = self.w0(vectors[:, :, None]).relu()  # (nodule, k, t, 128)
        weights = self.w1(hidden).squeeze(-1).transpose(1, 2)  # (nodule, t, k), eq. 5
        return weights @ vectors, weights  # eq. 6


class Heads(nn.Module):
    """Two fully connected layers for each of some attributes, and a sigmoid (2.3)."""

    def __init__(self, attributes: int) -> None:
        super().__init__()
        self.first = Branches(attributes, FEATURES, FEATURES)
        self.last = Branches(attributes, FEATURES, 1, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """From (nodule, attribute or 1, 256) to scores (nodule, attribute), 0 to 1."""
        return unit(self.last(self.first(vectors).relu()))


class Network(nn.Module):
    """The model of figure 2, or what an ablation leaves of it.

    Args:
        design: Which parts it has.
    """

    def __init__(self, design: Design = VARIANTS["full"]) -> None:
        super().__init__()
        n = len(design.attributes)
        self.backbone = Backbone()
        self.slices = SliceAttention() if design.slice_attention else SliceMean()
        self.modulation: AttributeModulation | None = None
        self.attention: CrossAttributeAttention | None = None
        if design.cross_attribute:
            self.modulation = AttributeModulation(n, auxiliary=design.auxiliary is not None)
            self.attention = CrossAttributeAttention(n)
        self.heads = Heads(n)

    def forward(self, images: torch.Tensor, nodule: torch.Tensor, n: int | None = None) -> Outputs:
        """Score a packed batch of nodules.

        Args:
            images: (slice, 1, y, x), normalised; all slices of all nodules.
            nodule: (slice,) int64, whose each is.
            n: How many nodules; one more than the highest of `nodule` if None.

        Raises:
            ValueError: Something has another shape.
        """
        n = check_slices(images, nodule, n)
        return self.head(self.trunk(images), nodule, n)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """The feature maps, (slice, 256, y, x)."""
        return self.backbone.maps(images)

    def head(self, maps: torch.Tensor, nodule: torch.Tensor, n: int | None = None) -> Outputs:
        """What comes after the feature maps."""
        n = int(nodule.max()) + 1 if n is None else n
        features = maps.flatten(2).mean(2)  # (slice, 256)
        content, slice_weights = self.slices(features, nodule, n)  # (nodule, 256), (slice,)
        if self.modulation is None or self.attention is None:
            return Outputs(self.heads(content[:, None]), slice_weights=slice_weights)
        vectors, auxiliary = self.modulation(content)  # (nodule, attribute, 256)
        mixtures, attribute_weights = self.attention(vectors)  # (nodule, attribute, 256)
        return Outputs(self.heads(mixtures), auxiliary, slice_weights, attribute_weights)


class VolumeNetwork(nn.Module):
    """The 3D network of Table 2: the same layers in one more axis, and no attention (3.3).

    Args:
        design: What it scores.
    """

    def __init__(self, design: Design = VARIANTS["volume"]) -> None:
        super().__init__()
        self.backbone = Backbone(axes=3)
        self.heads = Heads(len(design.attributes))

    def forward(self, images: torch.Tensor) -> Outputs:
        """Score nodules, (nodule, 1, z, y, x) as `volumes` makes them.

        Raises:
            ValueError: They have another shape.
        """
        check_volumes(images)
        return self.head(self.trunk(images))

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """The feature maps, (nodule, 256, z, y, x)."""
        return self.backbone.maps(images)

    def head(self, maps: torch.Tensor) -> Outputs:
        """What comes after the feature maps."""
        return Outputs(self.heads(maps.flatten(2).mean(2)[:, None]))


@dataclass(frozen=True)
class Fu2021(Experiment):
    """One of the paper's models, for the training loop.

    Targets are in rating steps (`targets`); the model and its loss work with each rating's scale
    brought to 0 to 1 (3.1). The metric is the error that the paper selects by: the mean over all
    lesions and ratings (eq. 9). Malignancy as a class (Table 5) is learned by cross-entropy, and
    selected by AUC; the paper says of it only that the model was modified.

    Args:
        variant: One of `VARIANTS`.
        depth: Slices of a volume, for the variant `volume`.

    Raises:
        ValueError: There is no such variant.
    """

    variant: str = "full"
    depth: int = 64
    name = "fu2021"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant={self.variant!r}: expected one of {', '.join(VARIANTS)}")
        tasks: dict[str, Task] = dict.fromkeys(self.design.attributes, "regression")
        if self.design.classes:
            tasks["malignancy"] = "classification"
            object.__setattr__(self, "metric_name", "auc")
            object.__setattr__(self, "lower_is_better", False)
        object.__setattr__(self, "tasks", tasks)

    @property
    def design(self) -> Design:
        """Which parts the model has."""
        return VARIANTS[self.variant]

    def model(self, seed: int) -> nn.Module:
        """A new model, by torch's global generator."""
        return (VolumeNetwork if self.design.volumetric else Network)(self.design)

    def inputs(self, samples: Samples) -> tuple[Any, ...]:
        """Slices with the nodule of each and how many nodules, or volumes."""
        if self.design.volumetric:
            return (volumes(samples, depth=self.depth),)
        return samples.images, samples.nodule, len(samples.lesion_ids)

    def loss(
        self, outputs: Outputs, targets: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """`λ L_ASCMM + L_P` (eq. 8), and the two by themselves."""
        low, span = self._scale(targets)
        truth = (targets - low) / span
        prediction = self._misfit(outputs.predictions, truth)  # eq. 7
        if outputs.auxiliary is None or self.design.auxiliary is None:
            return prediction, {"prediction": prediction}
        auxiliary = self._misfit(outputs.auxiliary, truth)  # eq. 4
        total = self.design.auxiliary * auxiliary + prediction  # eq. 8
        return total, {"prediction": prediction, "auxiliary": auxiliary}

    def predict(self, outputs: Outputs) -> torch.Tensor:
        """(nodule, attribute) in rating steps; the probability of malignant where it is a class."""
        return self.to_ratings(outputs.predictions)

    def to_ratings(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of 0 to 1, final or auxiliary, on each attribute's own scale."""
        low, span = self._scale(scores)
        return scores * span + low

    def metric(self, predictions: torch.Tensor, targets: torch.Tensor) -> float:
        """The mean absolute error over lesions and ratings (eq. 9), or the AUC of malignancy."""
        if self.design.classes:
            return auc(predictions[:, -1], targets[:, -1] == 1)
        return float((predictions - targets).abs().mean())

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        """Flips, turns and reversals (3.2)."""
        return apply(samples, draw(len(samples.lesion_ids), generator))

    def normalisation(self, training: Samples) -> Normalisation:
        """The training part's mean and standard deviation (3.2)."""
        return Normalisation.of(training)

    def settings(self) -> dict[str, Any]:
        """The fields, and the parts of the model."""
        return super().settings() | {"design": asdict(self.design)}

    def _scale(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(attribute,) the lowest value of each target and the width of its scale."""
        ends = [
            (0, 1) if task == "classification" else (rating(name).minimum, rating(name).maximum)
            for name, task in self.tasks.items()
        ]
        low, high = torch.tensor(ends, dtype=torch.float32, device=like.device).unbind(1)
        return low, high - low

    def _misfit(self, scores: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Squared errors, or cross-entropy for a class; summed over attributes, mean of nodules."""
        errors = (scores - truth).square()
        if self.design.classes:
            probability, label = scores[:, -1:].clamp(1e-7, 1 - 1e-7), truth[:, -1:]
            entropy = -(label * probability.log() + (1 - label) * (1 - probability).log())
            errors = torch.cat([errors[:, :-1], entropy], dim=1)
        return errors.sum(1).mean()


def targets(table: pd.DataFrame, variant: str = "full") -> torch.Tensor:
    """What a variant learns: the readers' mean ratings in rating steps, or 0 and 1 for a class.

    Args:
        table: One row per lesion, as `lesionlab.sources.lidc.nodules` or a cohort's.
        variant: One of `VARIANTS`. For `malignancy_class`, lesions with a mean malignancy of 3 are
            neither, and must have been dropped (`lesionlab.cohorts.malignancy_decided`).

    Returns:
        (lesion, target) float32; NaN where a rating is, or where a lesion is neither class.
    """
    columns = [
        malignancy_label(table) if task == "classification" else table[name]
        for name, task in Fu2021(variant).tasks.items()
    ]
    values = [column.to_numpy(dtype=np.float32, na_value=np.nan) for column in columns]
    return torch.from_numpy(np.stack(values, axis=1))


def _cohort(nodules: pd.DataFrame, variant: str) -> Cohort:
    found = cohorts.fu2021(nodules)
    if not VARIANTS[variant].classes:
        return found
    decided = found.table.assign(label=malignancy_label(found.table)).dropna(subset="label")
    return replace(found, table=decided)


def _analyse(folds: Iterator[Trained], predictions: pd.DataFrame) -> dict[str, Any]:
    from lesionlab.papers.fu2021 import analyses  # which stands on this file

    return analyses.summary(folds, predictions)


STUDY = Study(
    name="fu2021",
    variants=tuple(VARIANTS),
    presets=PRESETS,
    cohort=_cohort,
    prepare=lambda crops, _: prepare(crops),
    targets=targets,
    make=lambda variant: lambda _samples, _targets: Fu2021(variant),
    analyse=_analyse,
)
"""For `lesionlab.training.studies`."""
