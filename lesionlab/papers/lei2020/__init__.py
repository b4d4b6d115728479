"""Lei et al. 2020: soft activation maps for benign and malignant nodules.

    samples = prepare(crops, channels=11)               # 4.1, Table 1: D11C
    experiment = Lei2020("hesam")                       # the model, its loss, its metric
    fit(experiment, samples, labels(table), recipe=PRESETS["paper"].recipe, …)

    found = network.trunk(images)                       # feature maps g, and high-level maps
    network.head(found)                                 # logits, as network(images).logits

Equations and sections are those of the paper. Samples, layers, heads, the networks of others, the
list of models and recipes are in the files `_lei2020_…` beside this one; the formulas of the maps
are in the docstrings of the heads. What the paper leaves open:

- The widths 32-64-128-256 of the U-Net, its padding and the residual blocks' strides follow from
  the sizes that it prints: 256 × 4 × 4, 64 maps out, 256 × 16 × 16. "The last Conv layer" is read
  as the output of the last residual block, after its ReLU.
- Eq. 13 has its two symbols the wrong way round, and no minus: cross-entropy as usual.
- HESAM's part of a logit that no map shows is in `Outputs.high_level`.
- "Baseline" of Table 2 is not described. It is here the same network with a linear classifier of
  all values of its maps (`baseline`); "U+SAM (Baseline)" of Table 4 is `unet_sam`.
- PN-SAMP is described as what it has in common with this paper: a U-Net, whose pooled deepest and
  last maps are concatenated and classified. It is trained here with the same loss on the same
  slices, as section 4.1 has it for "all experiments", not in 3D with segmentation and attributes
  as published (Wu et al. 2018).
- No augmentation ("without conventional data augmentation"), and no normalisation but that of
  `prepare`.

Nine heads on one trunk (`…_ratings`) and networks in three axes (`…_3d`) are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lesionlab import cohorts
from lesionlab.attributes import RATING_NAMES, rating
from lesionlab.cohorts import malignancy_label
from lesionlab.crops.sampling import Samples
from lesionlab.papers.lei2020._comparators import GatedHead, PerceptronHead, compared, own_head
from lesionlab.papers.lei2020._heads import (
    ActivationHead,
    FlatHead,
    FullyConnectedHead,
    Head,
    HighLevel,
    HighLevelHead,
    SoftActivationHead,
)
from lesionlab.papers.lei2020._layers import Trunk, UNet
from lesionlab.papers.lei2020._recipes import PRESETS, PRINTED, packed
from lesionlab.papers.lei2020._samples import (
    CHANNELS,
    WINDOW,
    duplicate_slice,
    prepare,
    prepare_scales,
)
from lesionlab.papers.lei2020._variants import N_CHANNELS, NAMES, TABLES, VARIANTS, Design
from lesionlab.training.paper import Experiment, Paper, Preset
from lesionlab.training.recipes import Recipe, Schedule
from lesionlab.training.studies import library_data
from lesionlab.training.targets import Target

if TYPE_CHECKING:
    import pandas as pd

    from lesionlab.crops import Crop
    from lesionlab.training.studies import Trained

__all__ = [
    "CHANNELS",
    "NAMES",
    "N_CHANNELS",
    "PAPER",
    "PRESETS",
    "PRINTED",
    "TABLES",
    "VARIANTS",
    "WINDOW",
    "ActivationHead",
    "Design",
    "FlatHead",
    "FullyConnectedHead",
    "Head",
    "HighLevel",
    "HighLevelHead",
    "Lei2020",
    "Network",
    "Outputs",
    "SoftActivationHead",
    "Trunk",
    "duplicate_slice",
    "labels",
    "packed",
    "prepare",
    "prepare_scales",
]


AnyHead = Head | PerceptronHead | GatedHead


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says of a batch, and the maps that it says it by.

    Attributes:
        logits: (lesion, output), S of eq. 8 and 12: benign and malignant, or one for each rating.
        features: (lesion, feature, y, x) final maps g, 256 × 16 × 16 in the paper's models;
            (lesion, feature, z, y, x) in three axes.
        high_level: (lesion, output) the part of the logits that comes from high-level features,
            `Σ_k γ_k^c d_k` of eq. 12; None where there are none.
    """

    logits: torch.Tensor
    features: torch.Tensor
    high_level: torch.Tensor | None = None


class Network(nn.Module):
    """The model of figure 3, or another one of `VARIANTS`: a trunk, and a head on its maps.

    Attributes:
        trunk: From images to a `Trunk`, feature maps and, from a U-Net, high-level maps.
        head: From a `Trunk` to logits. `ActivationHead` is CAM, `SoftActivationHead` SAM, and
            `HighLevelHead`, one of these too, HESAM.

    Args:
        design: Which parts it has.
        channels: Of the images; as the design's image set if None. In three axes they are the
            slices along z.
        outputs: Logits: 2 for the softmax over benign and malignant, 9 for the ratings. As the
            design says, if None.
        size: Side of the images, pixels; a head with weights for places is made for one.

    Raises:
        ValueError: The images are too small for the head, or a number is out of range.
    """

    def __init__(
        self,
        design: Design = VARIANTS["hesam"],
        *,
        channels: int | None = None,
        outputs: int | None = None,
        size: int = 32,
    ) -> None:
        super().__init__()
        n = N_CHANNELS[design.images] if channels is None else channels
        if outputs is None:
            outputs = len(RATING_NAMES) if design.ratings else 2
        for name, value in (("channels", n), ("outputs", outputs), ("size", size)):
            if value < 1:
                raise ValueError(f"{name}={value!r}: expected 1 or more")
        if design.trunk == "unet":
            self.trunk: nn.Module = UNet(
                n,
                outputs=design.outputs,
                width=design.width,
                residual=design.residual,
                axes=design.axes,
            )
            side = size // 2 if design.residual else size
            shape = (side, side) if design.axes == 2 else (n, side, side)
            self.head: AnyHead = _head(design, design.features, shape, outputs)
        else:
            trunk = compared(design.trunk, n, large_maps=design.head != "own")
            self.trunk = trunk
            if design.head == "own":
                self.head = own_head(design.trunk, trunk.features, outputs)
            else:
                side = size // trunk.stride
                self.head = _head(design, trunk.features, (side, side), outputs)

    def forward(self, images: torch.Tensor) -> Outputs:
        """Score lesions.

        Args:
            images: (lesion, slice, y, x), as `prepare` makes them; in three axes the same.

        Raises:
            ValueError: They have another shape or type.
        """
        found = self.trunk(images)
        return Outputs(self.head(found), found.features, self.head.offset(found))


def _head(design: Design, features: int, size: tuple[int, ...], outputs: int) -> Head:
    if design.head == "flat":
        return FlatHead(features, size, outputs)
    if design.head == "fully_connected":
        return FullyConnectedHead(features, size, outputs)
    high_level = None
    if design.high_level is not None:
        high_level = HighLevel(design.high_level, roll=design.roll)
    if design.head == "cam":
        return ActivationHead(
            features,
            outputs,
            high_level=high_level,
            fusion=design.fusion,
            deepest=design.deepest,
        )
    if high_level is None:
        return SoftActivationHead(features, size, outputs, pool=design.pool)
    return HighLevelHead(
        features,
        size,
        outputs,
        pool=design.pool,
        high_level=high_level,
        fusion=design.fusion,
        deepest=design.deepest,
    )


@dataclass(frozen=True)
class Lei2020(Experiment):
    """One of the paper's models, for the training loop.

    Malignancy is learned by cross-entropy and selected by AUC. Neither samples nor their
    normalisation change in training. The variants `…_ratings` learn the nine ratings by squared
    error, each on its scale brought to 0 to 1, and are selected by the mean absolute error.

    Args:
        variant: One of `VARIANTS`.
        size: Side of the images, pixels.

    Raises:
        ValueError: There is no such variant.
    """

    variant: str = "hesam"
    size: int = 32
    name = "lei2020"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant={self.variant!r}: expected one of {', '.join(VARIANTS)}")

    @property
    def targets(self) -> tuple[Target, ...]:  # type: ignore[override]
        """Benign or malignant, or the nine ratings."""
        if self.design.ratings:
            return tuple(map(Target, RATING_NAMES))
        return (Target("malignancy", "binary", ("benign", "malignant")),)

    @property
    def metric(self) -> str:  # type: ignore[override]
        """The AUC of malignancy, or the mean absolute error over lesions and ratings."""
        return "mae" if self.design.ratings else "auc"

    @property
    def stacked(self) -> bool:  # type: ignore[override]
        """Whether the channels are neighbouring slices; those of D3C are scales."""
        return self.design.images != "D3C"

    @property
    def design(self) -> Design:
        """Which parts the model has."""
        return VARIANTS[self.variant]

    def maps(self) -> dict[str, tuple[str, bool]]:
        """The maps that the variant has, see `Design.maps`."""
        return self.design.maps()

    def model(self, seed: int) -> Network:
        """A new model, by torch's global generator."""
        return Network(self.design, size=self.size)

    def loss(
        self, outputs: Outputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropy (eq. 13), or squared errors summed over the ratings; mean of lesions."""
        if self.design.ratings:
            unit = self._unit(outputs)
            scaled = [rating(k).to_unit(v) for k, v in zip(RATING_NAMES, labels.T, strict=True)]
            truth = torch.stack(scaled, dim=1)
            errors = (unit - truth.where(truth.isfinite(), unit.detach())).square()
            return errors.sum(1).mean(), {}
        return functional.cross_entropy(outputs.logits.float(), labels[:, 0].long()), {}

    def predict(self, outputs: Outputs) -> torch.Tensor:
        """(lesion, 1) probability of malignant, or (lesion, rating) in rating steps."""
        if self.design.ratings:
            unit = self._unit(outputs)
            ratings = [rating(k).from_unit(v) for k, v in zip(RATING_NAMES, unit.T, strict=True)]
            return torch.stack(ratings, dim=1)
        return outputs.logits.float().softmax(1)[:, 1:]

    def settings(self) -> dict[str, Any]:
        """The fields, and the parts of the model."""
        return super().settings() | {"design": asdict(self.design)}

    @staticmethod
    def _unit(outputs: Outputs) -> torch.Tensor:
        """(lesion, rating), 0 to 1; never in half precision."""
        return outputs.logits.float().sigmoid()


def labels(table: pd.DataFrame, variant: str = "hesam") -> torch.Tensor:
    """What a variant learns: 0 benign and 1 malignant (4.1), or the ratings in rating steps.

    Args:
        table: One row per lesion, as `lesionlab.sources.lidc.nodules` or a cohort's.
        variant: One of `VARIANTS`.

    Returns:
        (lesion, target) float32; NaN for a mean malignancy of 3, which is neither class and which
        `lesionlab.cohorts.lei2020` has left out, or where a rating is.
    """
    columns = [
        malignancy_label(table) if target.kind == "binary" else table[target.name]
        for target in Lei2020(variant).targets
    ]
    values = [column.to_numpy(dtype=np.float32, na_value=np.nan) for column in columns]
    return torch.from_numpy(np.stack(values, axis=1))


def _prepare(crops: Iterator[Crop], variant: str) -> Samples:
    images = VARIANTS[variant].images
    return prepare_scales(crops) if images == "D3C" else prepare(crops, channels=CHANNELS[images])


def _analyse(folds: Iterator[Trained], predictions: pd.DataFrame) -> dict[str, Any]:
    from lesionlab.papers.lei2020 import analyses  # which stands on this file

    return analyses.summary(folds, predictions)


PAPER = Paper(
    name="lei2020",
    title="Lei et al. 2020",
    variants=VARIANTS,
    presets=PRESETS,
    experiment=Lei2020,
    prepare=_prepare,
    labels=labels,
    cohort=lambda nodules, _: cohorts.lei2020(nodules),
    data=library_data("phantom", "slices", "dicom"),
    tables=TABLES,
    analyse=_analyse,
)
