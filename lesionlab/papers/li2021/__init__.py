"""Li et al. 2021: nine categorical attributes of a lung lesion, from one shared network.

    samples = prepare(crops, mode="2d")                # 5.1: the lesion's square, 64 × 64
    experiment = Li2021("self_2d")                     # the model, its loss, its metric
    fit(experiment, (samples, Li2021.labels(table)), recipe=PRINTED, …)

`samples` prepares crops, `model` is the network of figures 3 and 4, `lesionlab.li_of_lidc` says
which six of the nine heads LIDC-IDRI has; here are the models that the paper compares, their
loss and recipes; `tables` are Tables 1 to 4, and what sections 6.1 and 6.2 say of them.

What the paper leaves open, or prints otherwise:

- "Weighted cross entropy": the weight of a class is the inverse of its lesions in the training
  part, with a mean of 1 over the classes, so that a class of a few lesions never outweighs a head.
- Momentum is 0.9 here and 0.09 in the paper; restarts after 10 epochs, then 20, 40, … are ours.
- The paper splits its lesions 8:2 once, and takes the epoch of the smallest loss on the very
  lesions that it reports. Here 8:2 is one of five folds by patient (`by="nodule"` is the other
  way), and the epoch is chosen on a tenth of the rest. The preset `paper_literal` does as printed.
- A lesion in several lobes (code 0) counts for eight heads, and not for the location.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from lesionlab import cohorts, published
from lesionlab import li_of_lidc as lidc
from lesionlab.attributes import LI_CATEGORIES, Attribute, category
from lesionlab.cohorts import Cohort, Filter
from lesionlab.crops import datasets
from lesionlab.crops.sampling import Samples
from lesionlab.li_of_lidc import Thresholds as Thresholds
from lesionlab.papers import _shared
from lesionlab.papers.li2021.model import ChannelAttention as ChannelAttention
from lesionlab.papers.li2021.model import Design as Design
from lesionlab.papers.li2021.model import Network as Network
from lesionlab.papers.li2021.model import Outputs as Outputs
from lesionlab.papers.li2021.model import SoftAttention as SoftAttention
from lesionlab.papers.li2021.samples import Augmentation as Augmentation
from lesionlab.papers.li2021.samples import InputMode as InputMode
from lesionlab.papers.li2021.samples import apply as apply
from lesionlab.papers.li2021.samples import draw as draw
from lesionlab.papers.li2021.samples import prepare as prepare
from lesionlab.training.paper import Paper, Preset
from lesionlab.training.recipes import Recipe, Schedule
from lesionlab.training.studies import N_FOLDS, library_data
from lesionlab.training.targets import Target, Targets, misfit, probabilities

ATTRIBUTES = tuple(a.name for a in LI_CATEGORIES)
"""All nine, in the order of section 4.1."""

_MODES: Mapping[str, Mapping[str, Any]] = {
    "2d": {"mode": "2d"},
    "2.5d": {"mode": "2.5d", "n_slices": 5},
    "2.5d11": {"mode": "2.5d", "n_slices": 11},
    "3d": {"mode": "3d"},
    "3d32": {"mode": "3d", "size": 32},  # ours: an eighth of the voxels, for a CPU
    "2d_narrow": {"mode": "2d", "narrow": 4},  # ours: a quarter of the channels, for small files
    "2.5d_narrow": {"mode": "2.5d", "n_slices": 5, "narrow": 4},
    "3d32_narrow": {"mode": "3d", "size": 32, "narrow": 4},
}
_ATTENTIONS = {"self": "Self-att", "soft": "Soft-att", "basic": "Basic model"}

VARIANTS: Mapping[str, Design] = {
    f"{attention}_{mode}": Design(attention=attention, **parts)  # type: ignore[arg-type]
    for mode, parts in _MODES.items()
    for attention in _ATTENTIONS
}


def _words(mode: str) -> str:
    """`3d32_narrow` as “3D 32, narrow”."""
    return mode.replace("d", "D ", 1).strip().replace(" _", ", ").replace("_", ", ")


NAMES: Mapping[str, str] = {
    f"{attention}_{mode}": f"{row}, {_words(mode)}"
    for mode in _MODES
    for attention, row in _ATTENTIONS.items()
}
"""By variant, for `lesionlab.tables.show`: the paper's name for its row, and the input mode."""

TABLES: Mapping[str, Mapping[str, str]] = {
    "3": {"3D": "basic_3d", "2.5D": "basic_2.5d", "2D": "basic_2d"},
    "4": {row: f"{attention}_2d" for attention, row in reversed(_ATTENTIONS.items())},
}
"""By table and model of the paper, as in `lesionlab.published`: the variant."""

PRINTED = Recipe(
    epochs=200,
    batch_size=64,
    lr=0.01,
    optimizer="sgd",
    momentum=0.9,
    weight_decay=1e-4,
    schedule=Schedule("warm_restarts", 10, grow=2),
    select_by="loss",
)
"""Section 6, but for momentum and for whose loss selects; see the head of this module."""

# So few lesions need small batches, or there are few steps. Cycles end with the run.
_SHORT = replace(PRINTED, batch_size=16)

PRESETS: Mapping[str, Preset] = {
    "smoke": Preset(recipe=_SHORT.lasting(2), n_lesions=60),
    "book": Preset(
        recipe=replace(_SHORT, epochs=4, schedule=Schedule("warm_restarts", 4)), n_lesions=400
    ),
    "laptop": Preset(recipe=replace(_SHORT, epochs=30)),  # cycles of 10 and 20 epochs
    "gpu": Preset(recipe=PRINTED, n_folds=5),
    "paper": Preset(recipe=PRINTED),
    "paper_literal": Preset(recipe=replace(PRINTED, momentum=0.09, select_on="test")),
}
"""How to train and on how many lesions; `laptop` is all of them."""


def target(attribute: Attribute) -> Target:
    """What a head learns: the codes of a category, but for those that are no class (location 0)."""
    words = {0: "Not applicable", **attribute.unknown, **attribute.words}
    names = tuple(words[code] for code in range(attribute.maximum + 1))
    return Target(attribute.name, "multiclass", names, ignored=0, complete=False)


def class_weights(targets: Targets, labels: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    """By target, a weight for each class: 1 / its lesions, with a mean of 1 over the classes.

    `labels`, (lesion, target), are those of a training part; a class that it lacks has the weight 0
    and does not count for the mean.
    """
    found = []
    for one, label in zip(targets, labels.unbind(1), strict=True):
        n = torch.stack([(label == code).sum() for code in one.codes]).double()
        inverse = torch.where(n > 0, 1 / n, 0.0)  # eq. w_c of 6
        found.append(tuple((inverse / inverse[n > 0].mean()).tolist()))  # eq. w_c of 6
    return tuple(found)


@dataclass(frozen=True)
class Li2021(_shared.Designed):
    """One of the paper's models, for the training loop.

    `attributes` are the heads, and `thresholds` what the labels of LIDC's lesions rest on. `on` a
    data set of LIDC-IDRI, it has the six heads whose labels are there. `weights`, one for each
    class of each head, are taken from the training part (`balanced`); all are 1 without.
    """

    variant: str = "self_2d"
    attributes: tuple[str, ...] = ATTRIBUTES
    thresholds: Thresholds | None = None
    weights: tuple[tuple[float, ...], ...] | None = None
    name = "li2021"
    metric = "accuracy"
    designs = VARIANTS

    @property
    def targets(self) -> tuple[Target, ...]:  # type: ignore[override]
        """One for each head."""
        return tuple(target(category(name)) for name in self.attributes)

    def settings(self) -> dict[str, Any]:
        """What tells this experiment from others; the weights follow from the lesions."""
        found = super().settings()
        del found["weights"]
        return found

    def on(self, data: str) -> Li2021:
        """With the heads that the data set has labels for."""
        if data in datasets.DATASETS and datasets.DATASETS[data].of_lidc:
            return replace(self, attributes=lidc.ATTRIBUTES, thresholds=Thresholds())
        return self

    def balanced(self, labels: torch.Tensor) -> Li2021:
        """With the training part's weights of the classes."""
        return replace(self, weights=class_weights(self.targets, labels))

    def maps(self) -> dict[str, tuple[str, bool]]:
        """Grad-CAM, and the masks of soft attention."""
        gates = {"Attention gate": ("gates", False)} if self.design.attention == "soft" else {}
        return {"Grad-CAM": ("grad-cam", False)} | gates

    @classmethod
    def labels(cls, table: pd.DataFrame, variant: str = "") -> torch.Tensor:
        """(lesion, attribute) float32, the codes of the categories that the table has."""
        names = [name for name in ATTRIBUTES if name in table]
        codes = table[names].to_numpy(dtype=np.float32, na_value=np.nan, copy=True)
        return torch.from_numpy(codes)

    def model(self, seed: int) -> Network:
        """A new model, by torch's global generator."""
        return Network(self.design, {t.name: len(t.codes) for t in self.targets})

    def loss(
        self, outputs: Outputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weighted cross-entropy, mean of lesions, summed over the heads; and that of each head."""
        parts = {}
        for head, one in enumerate(self.targets):
            label = labels[:, head]
            entropy = misfit(one, outputs.logits[one.name].float(), label)  # 0 where not known
            if self.weights is not None:
                weights = entropy.new_tensor(self.weights[head])
                entropy = weights[one.positions(label)] * entropy  # eq. L_t of 6
            parts[one.name] = entropy.mean()  # eq. L_t of 6
        return torch.stack(list(parts.values())).sum(), parts  # eq. L of 6

    def predict(self, outputs: Outputs) -> torch.Tensor:
        """(lesion, class of all heads) probabilities."""
        return probabilities(self.targets, torch.cat(list(outputs.logits.values()), dim=1))

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        """30 % of the lesions flipped or turned (6)."""
        return apply(samples, draw(len(samples.lesion_ids), generator))


def cohort(lesions: pd.DataFrame) -> Cohort:
    """Section 6: lesions on slices of 1 to 2 mm; `label`, for the folds, is their type.

    Nodules of LIDC-IDRI are those of `lidc.cohort`.
    """
    if "lesion_type" not in lesions:
        return lidc.cohort(lesions)
    thin = Filter("slice thickness 1 to 2 mm", lambda t: t["slice_thickness"].between(1, 2))
    printed = {k: published.fact("li2021", f"n_{k}_experiments") for k in ("lesions", "volumes")}
    counts = {"nodules": int(printed["lesions"]), "patients": int(printed["volumes"])}
    found = cohorts.build(lesions, [thin], name="Li 2021", published=counts)
    # a type of fewer patients than there are folds cannot be in each: it goes with the commonest
    kind = found.table["lesion_type"]
    patients = found.table.groupby(kind)["patient"].nunique()
    often = kind.isin(patients.index[patients >= N_FOLDS])
    return replace(found, table=found.table.assign(label=kind.where(often, patients.idxmax())))


def _prepare(crops: Any, variant: str) -> Samples:
    of = VARIANTS[variant]
    return prepare(crops, mode=of.mode, n_slices=of.n_slices, size=of.size)


PAPER = Paper(
    name="li2021",
    title="Li et al. 2021",
    variants=VARIANTS,
    presets=PRESETS,
    experiment=Li2021,
    prepare=_prepare,
    labels=Li2021.labels,
    cohort=lambda lesions, _: cohort(lesions),
    data=library_data("phantom-li2021", "anno", "phantom", "slices", "volumes", "dicom"),
    tables=TABLES,
    analyse="lesionlab.papers.li2021.tables:summary",
)
