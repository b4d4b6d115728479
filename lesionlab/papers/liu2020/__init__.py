"""Liu et al. 2020: MTMR-Net, malignancy with eight attribute scores and a ranking.

    samples = prepare(crops)                        # III.A: slices of 256 × 256, packed
    experiment = Liu2020("resnet50")                # the model, its loss, its metric
    fit(experiment, (samples, Liu2020.labels(table)), recipe=PRINTED, …)

`samples` prepares crops, `backbones` has the networks, `imagenet` their weights, `model` the heads
and the ranking loss; here are the models that the paper compares, their loss and recipes;
`analyses` and `tables` are section III.C and D. What the paper leaves open, or prints otherwise:

- The rates are printed the other way round: 3e-3 for the pretrained part. Here that is the heads'.
- A step takes 32 different nodules, one slice of each, drawn anew; they are the pairs, in their
  order. Each nodule counts the same, whatever its number of slices, as in the scores. An epoch is
  each nodule once, the rarer class repeated until both are as many: its repeats differ by slice,
  crop and flips. The paper's 150 epochs of 9,520 slices are 1,004 of 1,422 nodules.
- "Periodically annealed": three times in a run. Its 5 folds of 250 nodules are not all of its 1,422
  nodules; which epoch it tests is not said: here the one of the
  smallest loss on validation lesions.
- The ranking compares the probability of malignant, the mean of a nodule's slices, with the mean of
  the readers' malignancy; so the probability has an error in rating steps, too, as one more target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch.nn import functional

from lesionlab import _files, cohorts, published
from lesionlab.attributes import Attribute, rating
from lesionlab.crops import augmentation
from lesionlab.crops.sampling import Samples
from lesionlab.papers import _shared
from lesionlab.papers.liu2020 import backbones, imagenet
from lesionlab.papers.liu2020.model import Design as Design
from lesionlab.papers.liu2020.model import Network as Network
from lesionlab.papers.liu2020.model import Outputs as Outputs
from lesionlab.papers.liu2020.model import ranking as ranking
from lesionlab.papers.liu2020.model import with_backbone as with_backbone
from lesionlab.papers.liu2020.samples import ATTRIBUTES as ATTRIBUTES
from lesionlab.papers.liu2020.samples import Augmentation as Augmentation
from lesionlab.papers.liu2020.samples import apply as apply
from lesionlab.papers.liu2020.samples import balanced as balanced
from lesionlab.papers.liu2020.samples import centre_crop as centre_crop
from lesionlab.papers.liu2020.samples import draw as draw
from lesionlab.papers.liu2020.samples import prepare as prepare
from lesionlab.papers.liu2020.samples import to_rgb as to_rgb
from lesionlab.training.paper import Paper, Preset
from lesionlab.training.recipes import Recipe, Schedule
from lesionlab.training.studies import Trained, library_data
from lesionlab.training.targets import Target

RATING = "malignancy_rating"
"""The readers' mean malignancy, beside the class that follows from it."""

_BACKBONES: Mapping[str, Design] = {
    "resnet50": Design(),
    "resnet152": Design(backbone="resnet152"),
    "lite0": Design(backbone="lite0"),
    "features": Design(backbone="lite0", frozen=True),
}
_CHANGES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "": ("MTMR-Net", {}),
    "_reg": ("MTMR-Net (w L_reg)", {"ranking": 0.0}),
    "_rank": ("MTMR-Net (w L_rank)", {"regression": 0.0}),
    "_ce": ("Cross-entropy alone", {"regression": 0.0, "ranking": 0.0}),
    "_parallel": ("Parallel heads", {"cause": False}),
    "_printed": ("Ranking as printed", {"ranked": "printed"}),
    "_classes": ("Pairs of two classes", {"pairs": "classes"}),
    "_no_l2": ("Without L2", {"l2": 0.0}),
    "_dropout": ("Dropout", {"dropout": 0.5}),
}
_STARTS: Mapping[str, tuple[str, bool]] = {"": ("", True), "_random": (", random weights", False)}

VARIANTS: Mapping[str, Design] = {
    backbone + change + start: replace(design, pretrained=pretrained, **parts)
    for backbone, design in _BACKBONES.items()
    for start, (_, pretrained) in _STARTS.items()
    for change, (_, parts) in _CHANGES.items()
} | {"resnet50_random_small": Design(pretrained=False, size=112)}
"""By name: a backbone, what is changed, and `_random` where it does not begin with ImageNet's
weights. `features` are heads alone on the kept features of Lite0; `_small` is half the image, for
a ResNet that has to learn on a CPU."""

NAMES: Mapping[str, str] = {
    backbone + change + start: f"{row}{words}, {backbone}"
    for backbone in _BACKBONES
    for start, (words, _) in _STARTS.items()
    for change, (row, _) in _CHANGES.items()
} | {"resnet50_random_small": "MTMR-Net, random weights, resnet50 at 112 pixels"}
"""By variant, for `lesionlab.tables.show`: the row, the start, the backbone."""

TABLES: Mapping[str, Mapping[str, str]] = {
    "II": {_CHANGES[change][0]: f"resnet50{change}" for change in ("_reg", "_rank", "")},
    "III": {"MTMR-Net": "resnet50"},
    # ours: all four losses on kept features; what else there is to switch
    "losses": {_CHANGES[c][0]: f"features{c}" for c in ("_ce", "_reg", "_rank", "")},
    "switches": {row: f"features{change}" for change, (row, _) in _CHANGES.items()},
}
"""By table and row of the paper, as in `lesionlab.published`: the variant."""

GAMMA = 0.1
_PER_NODULE = published.fact("liu2020", "n_slices") / published.fact("liu2020", "n_nodules")

PRINTED = Recipe(
    epochs=round(150 * _PER_NODULE),
    batch_size=32,
    lr=3e-5,
    lr_by_prefix={"heads": 3e-3},
    schedule=Schedule("step", round(50 * _PER_NODULE), 0.1),
    select_by="loss",  # the AUC would not ask for the scores
)
"""Section III.B, Adam; see the head of this module. Eq. 6 is in the loss, not in the recipe."""

_SHORT = PRINTED.lasting(30)

PRESETS: Mapping[str, Preset] = {
    "smoke": Preset(recipe=replace(PRINTED.lasting(1), batch_size=8), n_lesions=60),
    "book": Preset(recipe=_SHORT, n_lesions=180),
    "laptop": Preset(recipe=_SHORT),
    "late": Preset(recipe=replace(PRINTED.lasting(6), frozen=("backbone.early",)), streamed=True),
    "whole": Preset(recipe=PRINTED.lasting(6), streamed=True),
    "gpu": Preset(recipe=PRINTED.lasting(100), n_folds=5, streamed=True),
    "paper": Preset(recipe=PRINTED, n_folds=5, streamed=True),
}
"""How to train and on how many nodules. `book` and `laptop` are for `features`; `late` fine-tunes
the last stages of a backbone, `whole` all of it, each in six epochs."""


@dataclass(frozen=True)
class Liu2020(_shared.Designed):
    """One of the paper's models, for the training loop.

    Labels are 0 benign and 1 malignant, and means of the readers in rating steps; the model and its
    loss work with each scale brought to 0 to 1 (III.A.3). Where the scores are not learned they are
    no targets.
    """

    variant: str = "resnet50"
    name = "liu2020"
    metric = "auc"
    designs = VARIANTS

    @property
    def targets(self) -> tuple[Target, ...]:  # type: ignore[override]
        """The class; the eight scores, if they are learned; and malignancy as a rating."""
        scores = ATTRIBUTES if self.design.regression else ()
        binary = Target("malignancy", "binary", ("benign", "malignant"))
        return (binary, *map(Target, scores), Target(RATING))

    def rated(self, target: Target) -> Attribute:
        """Whose steps a target is in; malignancy is there twice."""
        return rating("malignancy") if target.name == RATING else super().rated(target)

    def settings(self) -> dict[str, Any]:
        """The fields, the parts of the model, and which weights it begins with."""
        design = self.design
        path = imagenet.locate(design.backbone) if design.pretrained else None
        start = "random" if path is None else _files.sha256(path)
        return super().settings() | {"start": start}

    @classmethod
    def labels(cls, table: pd.DataFrame, variant: str = "") -> torch.Tensor:
        """(nodule, target) float32, what a variant learns; NaN where a label is missing."""
        return super().labels(table.assign(**{RATING: table["malignancy"]}), variant)

    @property
    def stacked(self) -> bool:  # type: ignore[override]
        """Whether it is given slices, and not their features."""
        return not self.design.frozen

    def maps(self) -> dict[str, tuple[str, bool]]:
        """Grad-CAM, if there is a backbone."""
        return {} if self.design.frozen else dict(super().maps())

    def head(self, target: Target) -> dict[str, Any]:
        """By name; malignancy as a rating is the probability of its class."""
        return (
            {"head": "malignancy", "target": 1} if target.name == RATING else {"head": target.name}
        )

    def seeing(self, fold: Trained) -> Trained:
        """Heads of kept features on the backbone that these are of; of its samples, none."""
        if not self.design.frozen:
            return fold
        heads: Any = fold.model()
        whole = with_backbone(heads, self.design).state_dict()
        experiment = replace(self, variant=self.variant.replace("features", "lite0"))
        return replace(fold, experiment=experiment, weights=whole, samples=fold.samples.select([]))

    def what_if(self, model: Any, samples: Samples) -> tuple[pd.DataFrame, list[float]] | None:
        """The eight scores of a nodule in rating steps, and the log odds of each of its slices."""
        if not self.design.regression:
            return None
        with torch.no_grad():
            outputs = self.forward(model, samples)
            slopes = model.heads.slopes().numpy()
        logits = outputs.logits["malignancy"].double()
        known = [rating(name) for name in ATTRIBUTES]
        ends = {"low": [a.minimum for a in known], "high": [a.maximum for a in known]}
        scores = pd.DataFrame(ends, index=pd.Index(ATTRIBUTES, name="attribute"))
        span = scores["high"] - scores["low"]
        said = outputs.means(outputs.scores)[0].double().numpy()
        scores = scores.assign(predicted=scores["low"] + span * said, slope=slopes / span)
        return scores, (logits[:, 1] - logits[:, 0]).tolist()

    def model(self, seed: int) -> Network:
        """A new model, by torch's global generator."""
        return Network(self.design)

    def order(self, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Balanced classes (III.A.3) in random order; of pairs of two classes, one of each."""
        rows = balanced(labels[:, 0], generator)
        if self.design.pairs == "any":
            return rows
        malignant = labels[rows, 0] == 1
        return torch.stack([rows[~malignant], rows[malignant]], dim=1).flatten()

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        """One slice of each nodule, drawn, at a random place and flipped (III.A.3)."""
        n, lengths = len(samples.lesion_ids), samples.lengths
        share = torch.rand(n, generator=augmentation.on_cpu(generator)).to(lengths.device)
        within = torch.minimum((share * lengths).long(), lengths - 1)
        images = samples.images[lengths.cumsum(0) - lengths + within]
        if images.ndim == 4:
            images = apply(images, draw(n, generator, size=self.design.size, of=images.shape[-1]))
        return replace(samples, images=images, nodule=torch.arange(n, device=images.device))

    def inputs(self, samples: Samples) -> tuple[Any, ...]:
        """The middle of each slice as a photograph, or its features; whose it is; how many."""
        images = samples.images
        if images.ndim == 4:
            middle = centre_crop(images, size=self.design.size)
            images = backbones.normalised(middle, self.design.backbone)
        return images, samples.nodule, len(samples.lesion_ids)

    def loss(
        self, outputs: Outputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """`L_cls + λ L_reg + β L_rank + η R` (eq. 5), and each of the four by itself."""
        design = self.design
        low, span = self.scale(labels)
        truth = (labels - low) / span
        known = truth[:, 0].isfinite()
        label = truth[:, 0].where(known, 0.0).long()[outputs.nodule]
        logits = outputs.logits["malignancy"].float()
        entropy = functional.cross_entropy(logits, label, reduction="none")
        parts = {"cls": outputs.means(entropy).where(known, 0.0).mean()}  # eq. 1
        total = parts["cls"]  # eq. 5
        if design.regression:  # slice by slice, and a mean over each nodule's
            errors = _shared.squared_errors(outputs.scores, truth[outputs.nodule, 1:-1])  # eq. 2
            parts["reg"] = outputs.means(errors.sum(1)).mean()  # eq. 2
            total = total + design.regression * parts["reg"]  # eq. 5
        if design.ranking:
            wanted = truth[:, -1] if design.pairs == "any" else truth[:, 0]
            parts["rank"] = ranking(outputs.probability, wanted, gamma=GAMMA, ranked=design.ranked)
            total = total + design.ranking * parts["rank"]  # eq. 5
        if design.l2 and outputs.squares is not None:
            parts["l2"] = outputs.squares
            total = total + design.l2 * parts["l2"]  # eq. 5
        return total, parts

    def predict(self, outputs: Outputs) -> torch.Tensor:
        """(nodule, target) means over the slices: a probability, and rating steps."""
        p = outputs.probability[:, None]
        scores = [outputs.means(outputs.scores.float())] * bool(self.design.regression)
        low, span = self.scale(p)
        return torch.cat([p, *scores, p], dim=1) * span + low


def _prepare(crops: Any, variant: str) -> Samples:
    design = VARIANTS[variant]
    if design.frozen:
        return imagenet.features(crops, pretrained=design.pretrained)
    return prepare(crops, size=design.size * 8 // 7)


PAPER = Paper(
    name="liu2020",
    title="Liu et al. 2020",
    variants=VARIANTS,
    presets=PRESETS,
    experiment=Liu2020,
    prepare=_prepare,
    labels=Liu2020.labels,
    cohort=lambda nodules, _: cohorts.liu2020(nodules),
    data=library_data("phantom", "slices", "dicom"),
    tables=TABLES,
    analyse="lesionlab.papers.liu2020.analyses:summary",
)
