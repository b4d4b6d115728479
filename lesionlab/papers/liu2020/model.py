"""Liu 2020, MTMR-Net (II, Fig. 3, Table I): a backbone, eight scores, and a class that follows.

What the paper leaves open, or prints otherwise:

- Table I has `fc 2048x8` after 256 attribute features: 256 to 8 here. It has one output for the
  class, which the cross-entropy of eq. 1 takes as two: two logits here.
- Between the two layers of the regression stands a ReLU. Without it the 256 features would be
  linear in the 2048 ones, and a linear classifier of both could say no more than one of the 2048.
- Eq. 3 and 4 as printed compare the *predicted* scores by their sign alone, which is flat, and
  multiply by the true difference: the loss has no gradient. `ranking` has both ways.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from lesionlab.packing import segment_sum
from lesionlab.papers.liu2020 import backbones, imagenet
from lesionlab.papers.liu2020.samples import ATTRIBUTES

Ranking = Literal["meant", "printed"]
HIDDEN = 256


@dataclass(frozen=True, kw_only=True)
class Design:
    """What tells one model from another.

    Attributes:
        backbone: See `backbones`.
        pretrained: Begins with weights from ImageNet, if they are installed.
        frozen: Heads alone, on the kept features of the backbone (`imagenet.features`).
        cause: The classifier has the attribute features too (Fig. 2a, 3); parallel heads if not.
        regression, ranking, l2: The weights λ, β and η of eq. 5; 0 leaves a term out.
        ranked: As meant, or as printed.
        pairs: Of any two nodules, or each of a benign and a malignant one.
        dropout: Share of the features that the classifier does without while it learns.
        size: Side of the images, in pixels; each is cut out of one 8/7 times as large (III.A.3).
    """

    backbone: backbones.Kind = "resnet50"
    pretrained: bool = True
    frozen: bool = False
    cause: bool = True
    regression: float = 1.0
    ranking: float = 0.5
    l2: float = 1e-3
    ranked: Ranking = "meant"
    pairs: Literal["any", "classes"] = "any"
    dropout: float = 0.0
    size: int = 224


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says of packed slices.

    Attributes:
        logits: By head, (slice, output): `malignancy` (benign, malignant), and each attribute.
        attributes: (slice, 256) attribute features.
        nodule: (slice,) whose slice each is.
        n: How many nodules there are.
        squares: `R` of eq. 6, where a gradient is wanted.
    """

    logits: dict[str, torch.Tensor]
    attributes: torch.Tensor
    nodule: torch.Tensor
    n: int
    squares: torch.Tensor | None = None

    @property
    def scores(self) -> torch.Tensor:
        """(slice, attribute) on scales of 0 to 1."""
        return torch.cat([self.logits[name] for name in ATTRIBUTES], dim=1)

    def means(self, values: torch.Tensor) -> torch.Tensor:
        """(nodule, …) the mean of each nodule's slices (III.A.3)."""
        sums = segment_sum(values, self.nodule, self.n)
        lengths = torch.bincount(self.nodule, minlength=self.n).to(values)
        return sums / lengths.reshape(-1, *[1] * (values.ndim - 1))

    @property
    def probability(self) -> torch.Tensor:
        """(nodule,) of malignant, the mean of its slices."""
        return self.means(self.logits["malignancy"].float().softmax(1)[:, 1])


class Heads(nn.Module):
    """The regression module and the classification module (II.A, Table I)."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        features = backbones.FEATURES[design.backbone]
        self.cause = design.cause
        self.attributes = nn.Linear(features, HIDDEN)
        self.scores = nn.Linear(HIDDEN, len(ATTRIBUTES))
        self.dropout = nn.Dropout(design.dropout)
        self.classifier = nn.Linear(features + HIDDEN * design.cause, 2)
        for layer in (self.attributes, self.scores, self.classifier):
            nn.init.xavier_uniform_(layer.weight)  # III.B.1
            nn.init.zeros_(layer.bias)

    def forward(self, features: torch.Tensor, nodule: torch.Tensor, n: int) -> Outputs:
        """From image features (slice, feature)."""
        attributes = self.attributes(features).relu()
        scores = dict(zip(ATTRIBUTES, torch.split(self.scores(attributes), 1, dim=1), strict=True))
        seen = torch.cat([features, attributes], dim=1) if self.cause else features
        logits = {"malignancy": self.classifier(self.dropout(seen)), **scores}
        return Outputs(logits, attributes, nodule, n)

    def slopes(self) -> torch.Tensor:
        """(attribute,) by how much `intervene` raises the log odds of malignant for each score.

        Per whole scale of the score, 0 to 1; 0 with parallel heads.
        """
        if not self.cause:
            return torch.zeros(len(ATTRIBUTES))
        odds = self.classifier.weight[1, -HIDDEN:] - self.classifier.weight[0, -HIDDEN:]
        slopes: torch.Tensor = odds @ torch.linalg.pinv(self.scores.weight)
        return slopes

    def intervene(self, outputs: Outputs, wanted: torch.Tensor) -> Outputs:
        """What the model would say if its scores were other ones.

        The classifier does not see the scores, but the 256 features that they are linear in. Those
        are moved by the smallest change that gives the wanted scores; the image features stay. With
        parallel heads no call can change.

        Args:
            outputs: Of slices.
            wanted: (nodule, attribute) on scales of 0 to 1; NaN where a score is to stay.
        """
        scores = outputs.scores
        asked = wanted[outputs.nodule]
        change = torch.where(asked.isfinite(), asked - outputs.means(scores)[outputs.nodule], 0.0)
        moved = change @ torch.linalg.pinv(self.scores.weight).T  # (slice, 256)
        logits = outputs.logits["malignancy"]
        if self.cause:
            logits = logits + moved @ self.classifier.weight[:, -HIDDEN:].T
        named = dict(zip(ATTRIBUTES, torch.split(scores + change, 1, dim=1), strict=True))
        attributes = outputs.attributes + moved
        return replace(outputs, logits={"malignancy": logits, **named}, attributes=attributes)


class Network(nn.Module):
    """MTMR-Net on packed slices: one branch of the Siamese pair, as both have the same weights.

    Frozen ones take features in place of images, and have no map to look at.
    """

    def __init__(self, design: Design) -> None:
        super().__init__()
        kind, weights = design.backbone, None
        if not design.frozen:
            weights = imagenet.weights_of(kind) if design.pretrained else None
        self.backbone = nn.Identity() if design.frozen else backbones.Backbone(kind, weights)
        self.heads = Heads(design)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """The backbone's maps of normalised images (slice, 3, y, x), or the features as given."""
        maps: torch.Tensor = self.backbone(images)
        return maps

    def head(self, maps: torch.Tensor, nodule: torch.Tensor, n: int) -> Outputs:
        """What comes after the maps; `nodule` says whose slice each is, of `n` nodules."""
        features = maps.mean((2, 3)) if maps.ndim == 4 else maps
        outputs: Outputs = self.heads(features, nodule, n)
        if torch.is_grad_enabled():
            learned = [
                p.square().sum() for p in self.parameters() if p.requires_grad and p.ndim > 1
            ]  # eq. 6
            outputs = replace(outputs, squares=torch.stack(learned).sum())  # eq. 6
        return outputs

    def forward(self, images: torch.Tensor, nodule: torch.Tensor, n: int) -> Outputs:
        """Score packed slices."""
        return self.head(self.trunk(images), nodule, n)


def with_backbone(model: Network, design: Design) -> Network:
    """Heads that were trained on kept features, on the backbone that these are of, with its maps.

    `design` is that of the heads; Lite0 with random weights is the one of `imagenet.features`.
    """
    whole = Network(replace(design, frozen=True))
    whole.load_state_dict(model.state_dict())
    whole.backbone = imagenet.frozen(pretrained=design.pretrained)
    return whole.eval()


def ranking(
    scores: torch.Tensor, truth: torch.Tensor, *, gamma: float = 0.1, ranked: Ranking = "meant"
) -> torch.Tensor:
    """The margin ranking loss of pairs (II.B), `1 / 2N Σ max(0, …)` over N pairs.

    Rows 0 and 1 are a pair, 2 and 3, and so on; a last row without a partner does not count. As
    meant: `max(0, γ − sign(t_i − t_j) (p_i − p_j))`, and 0 where t_i = t_j, which leaves nothing to
    rank. As printed (eq. 3, 4): `max(0, γ − δ (t_i − t_j))` with δ = 1 where p_i ≥ p_j, else −1;
    its gradient is exactly zero.

    Args:
        scores: (nodule,) predicted malignancy p, 0 to 1.
        truth: (nodule,) the readers' malignancy t, 0 to 1.
        gamma: The margin γ.
        ranked: `"meant"` or `"printed"`.
    """
    n = len(scores) // 2
    (p_i, p_j), (t_i, t_j) = (v[: 2 * n].reshape(n, 2).unbind(1) for v in (scores, truth))
    difference = (t_i - t_j).nan_to_num(0.0)
    if ranked == "printed":
        delta = torch.where(p_i >= p_j, 1.0, -1.0)  # eq. 4
        losses = (gamma - delta * difference).clamp(min=0)  # eq. 3
        losses = losses + 0 * (p_i + p_j)  # so that there is a gradient to look at
    else:
        losses = (gamma - difference.sign() * (p_i - p_j)).clamp(min=0)  # eq. meant of 3
        losses = torch.where(difference == 0, 0.0, losses)
    return losses.sum() / max(2 * n, 1)
