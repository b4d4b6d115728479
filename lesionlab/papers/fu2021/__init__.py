"""Fu et al. 2021: nine ratings of a lung nodule, with attention over slices and attributes.

    samples = prepare(crops)                        # 3.1: slices of 64 × 64, packed
    experiment = Fu2021("full")                     # the model, its loss, its metric
    normalised = Normalisation.of(samples)(samples)
    fit(experiment, (normalised, Fu2021.labels(table)), recipe=PRINTED, …)

`samples` prepares crops, `model` is the network of figure 2; here are the models that the paper
compares, their loss and recipes; `attention`, `analyses` and `tables` are section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from lesionlab import cohorts
from lesionlab.attributes import rating
from lesionlab.cohorts import Cohort, malignancy_label
from lesionlab.crops.sampling import Samples
from lesionlab.papers import _shared
from lesionlab.papers.fu2021.model import FULL, VOLUMETRIC, SliceAttention
from lesionlab.papers.fu2021.model import Design as Design
from lesionlab.papers.fu2021.model import Network as Network
from lesionlab.papers.fu2021.model import Outputs as Outputs
from lesionlab.papers.fu2021.samples import ATTRIBUTES as ATTRIBUTES
from lesionlab.papers.fu2021.samples import SIZE
from lesionlab.papers.fu2021.samples import Augmentation as Augmentation
from lesionlab.papers.fu2021.samples import Normalisation as Normalisation
from lesionlab.papers.fu2021.samples import apply as apply
from lesionlab.papers.fu2021.samples import draw as draw
from lesionlab.papers.fu2021.samples import prepare as prepare
from lesionlab.papers.fu2021.samples import volumes as volumes
from lesionlab.training.paper import Live, Paper, Preset
from lesionlab.training.recipes import Recipe, Schedule
from lesionlab.training.studies import library_data
from lesionlab.training.targets import Target

_PLAIN = replace(VOLUMETRIC, volumetric=False)
_SLICES = replace(_PLAIN, slice_attention=True)

# the paper's tables with variants: table, row, variant, its parts
_ROWS: list[tuple[str, str, str, Design]] = [
    ("1", "No Attention", "no_attention", _PLAIN),
    ("1", "SAM", "slice_attention", _SLICES),
    ("1", "CAAM", "cross_attribute", replace(_PLAIN, cross_attribute=True)),
    ("1", "CAAM+ASCMM", "cross_attribute_auxiliary", Design(slice_attention=False)),
    ("1", "SAM+CAAM+ASCMM", "full", FULL),
    ("2", "2D Slice-based", "no_attention", _PLAIN),
    ("2", "2D Slice-based + SAM", "slice_attention", _SLICES),
    ("2", "3D Volume-based", "volume", VOLUMETRIC),
    *(
        ("S1", row, "full" if row == "0.1" else f"lambda_{row}", Design(auxiliary=float(row)))
        for row in ("0.01", "0.1", "0.5", "1", "10")
    ),
]

VARIANTS: Mapping[str, Design] = {
    "full": FULL,
    **{variant: design for _, _, variant, design in _ROWS},
    # Table 5
    "malignancy_class": Design(classes=True),
    # Table S2
    **{f"only_{name}": Design(attributes=(name,)) for name in ATTRIBUTES},
}

TABLES: Mapping[str, Mapping[str, str]] = {
    table: {row: variant for number, row, variant, _ in _ROWS if number == table}
    for table in ("1", "2", "S1")
}
"""By table and row of the paper, as in `lesionlab.published`: the variant."""

NAMES: Mapping[str, str] = {
    # some are in several tables
    **{variant: f"λ = {row}" if t == "S1" else row for t, row, variant, _ in reversed(_ROWS)},
    **{f"only_{name}": f"{rating(name).title} alone" for name in ATTRIBUTES},
}
"""By variant, for `lesionlab.tables.show`: the paper's name for its row, in Table 1 if there."""

PRINTED = Recipe(epochs=150, batch_size=1, lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4)
"""Section 3.2, Adam. The paper keeps the model of the lowest error and does not say on which
nodules; the authors' published `test.py` takes the epoch that is best on the test fold. Here it is
chosen on validation lesions, and `replace(PRINTED, select_on="test")` is the authors' way."""


def packed(batch_size: int = 8, *, epochs: int = 150) -> Recipe:
    """The printed recipe with more nodules to a step, for speed.

    The learning rate grows with the square root of the batch, a rule of thumb for Adam. 8 nodules
    are about the quickest on a CPU; a GPU wants 64 and more. The rate falls along a cosine, which
    makes up for part of the epochs that a short run goes without.
    """
    lr, schedule = PRINTED.lr * math.sqrt(batch_size), Schedule("warm_restarts", epochs)
    return replace(PRINTED, batch_size=batch_size, epochs=epochs, lr=lr, schedule=schedule)


PRESETS: Mapping[str, Preset] = {
    "smoke": Preset(recipe=packed(4, epochs=2), n_lesions=60),
    "book": Preset(recipe=packed(8, epochs=4), n_lesions=240),
    "laptop": Preset(recipe=packed(8, epochs=20)),
    "gpu": Preset(recipe=packed(64), n_folds=5),
    "paper": Preset(recipe=PRINTED, n_folds=5),
}
"""How to train and on how many nodules. `book` shows the first minute of a training; `laptop` takes
all nodules, 15 to 60 minutes for a fold on two cores."""


@dataclass(frozen=True)
class Fu2021(_shared.Designed):
    """One of the paper's models, for the training loop.

    Labels are in rating steps; the model and its loss work with each rating's scale brought to 0 to
    1 (3.1). Malignancy as a class (Table 5) is learned by cross-entropy, and selected by AUC; the
    paper says of it only that the model was modified. `depth` is the number of slices of a volume,
    for the variant `volume`.
    """

    variant: str = "full"
    depth: int = 64
    name = "fu2021"
    designs = VARIANTS

    @property
    def targets(self) -> tuple[Target, ...]:  # type: ignore[override]
        """The ratings that are scored; malignancy as a class where the variant says so."""
        malignancy = Target("malignancy", "binary", ("benign", "malignant"))
        return tuple(
            malignancy if name == "malignancy" and self.design.classes else Target(name)
            for name in self.design.attributes
        )

    @property
    def metric(self) -> str:  # type: ignore[override]
        """The mean absolute error over lesions and ratings (eq. 9), or the AUC of malignancy."""
        return "auc" if self.design.classes else "mae"

    def model(self, seed: int) -> nn.Module:
        """A new model, by torch's global generator."""
        return Network(self.design)

    def inputs(self, samples: Samples) -> tuple[Any, ...]:
        """Slices with the nodule of each and how many nodules, or volumes."""
        if self.design.volumetric:
            return (volumes(samples, depth=self.depth),)
        return samples.images, samples.nodule, len(samples.lesion_ids)

    def loss(
        self, outputs: Outputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """`λ L_ASCMM + L_P` (eq. 8), and the two by themselves."""
        low, span = self.scale(labels)
        truth = (labels - low) / span
        prediction = self._misfit(outputs.predictions, truth)
        if outputs.auxiliary is None or self.design.auxiliary is None:
            return prediction, {"prediction": prediction}
        auxiliary = self._misfit(outputs.auxiliary, truth)
        total = self.design.auxiliary * auxiliary + prediction  # eq. 8
        return total, {"prediction": prediction, "auxiliary": auxiliary}

    def _misfit(self, scores: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Squared errors, or cross-entropy for a class; summed over attributes, mean of nodules."""
        errors = _shared.squared_errors(scores, truth)
        if self.design.classes:  # malignancy, the last one
            label, logit = truth[:, -1], scores[:, -1].logit(eps=1e-7)
            known = label.isfinite()
            entropy = functional.binary_cross_entropy_with_logits(
                logit, label.where(known, 0.0), reduction="none"
            )
            errors = torch.cat([errors[:, :-1], (entropy * known)[:, None]], dim=1)
        return errors.sum(1).mean()  # eq. 4 of the auxiliary scores, eq. 7 of the final ones

    def predict(self, outputs: Outputs) -> torch.Tensor:
        """(nodule, attribute) in rating steps; for a class, the probability of malignant."""
        return self.to_ratings(outputs.predictions)

    def to_ratings(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of 0 to 1, final or auxiliary, on each attribute's own scale."""
        low, span = self.scale(scores)
        return scores * span + low

    def live(self, model: nn.Module) -> Live | None:
        """The model with all three modules; the others have none."""
        from lesionlab.papers.fu2021.attention import LiveHead

        network = cast(Network, model)
        if network.attention is None or not isinstance(network.slices, SliceAttention):
            return None
        return Live(
            trunk=network.backbone.maps,
            head=LiveHead(network, SIZE, self.to_ratings),
            outputs=("scores", "maps", "slice_weights", "mixing"),
            size=(SIZE, SIZE),
        )

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        """Flips, turns and reversals (3.2)."""
        return apply(samples, draw(len(samples.lesion_ids), generator))

    normaliser = Normalisation

    def normalisation(self, training: Samples) -> Normalisation:
        """The training part's mean and standard deviation (3.2)."""
        return Normalisation.of(training)


def _cohort(nodules: pd.DataFrame, variant: str) -> Cohort:
    found = cohorts.fu2021(nodules)
    if not VARIANTS[variant].classes:
        return found
    decided = found.table.assign(label=malignancy_label(found.table)).dropna(subset="label")
    return replace(found, table=decided)


PAPER = Paper(
    name="fu2021",
    title="Fu et al. 2021",
    variants=VARIANTS,
    presets=PRESETS,
    experiment=Fu2021,
    prepare=lambda crops, _: prepare(crops),
    labels=Fu2021.labels,
    cohort=_cohort,
    data=library_data("phantom", "slices", "dicom"),
    tables=TABLES,
    analyse="lesionlab.papers.fu2021.analyses:summary",
)
