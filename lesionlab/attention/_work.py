"""How the feature maps of one pass become a map: what several methods and heads share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import nn

from lesionlab.attention._scores import Chosen, HeadChoice, Select, Target, choose
from lesionlab.attention._split import Seen

Weights = Literal["paper", "exact"]


@dataclass(frozen=True)
class Method:
    """What a method weights the feature maps with, and which head that needs."""

    by_gradient: bool
    local: bool
    high_level: bool


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "cam": Method(by_gradient=False, local=False, high_level=False),
        "grad-cam": Method(by_gradient=True, local=False, high_level=False),
        "sam": Method(by_gradient=False, local=True, high_level=False),
        "hesam": Method(by_gradient=False, local=True, high_level=True),
        "he-cam": Method(by_gradient=False, local=False, high_level=True),
        "he-grad-cam": Method(by_gradient=True, local=False, high_level=True),
    }
)
"""By name, as in Lei et al. 2020, sections 4.3 and 4.4."""

OTHERS = {"cam": "he-cam", "sam": "hesam", "he-cam": "cam", "hesam": "sam"}
OTHERS["he-grad-cam"] = "grad-cam"
"""The method's name on a network with, or without, high-level features."""

TOLERANCE = 1e-4
"""How far from linear a head may be, as a share of its largest score, to count as linear."""

FAR = 16.0
"""By how much features grow to see whether the head is linear: units with ReLU have to switch."""


class Work:
    """One pass of a model, and what was asked of it.

    Attributes:
        chosen: The scores that maps are about.
    """

    def __init__(
        self, model: nn.Module, seen: Seen, select: Select | None, head: HeadChoice, target: Target
    ) -> None:
        self._model, self._seen = model, seen
        self._options = (select, head, target)
        with torch.enable_grad():  # for what has a graph
            self.chosen = choose(seen.output, select, head, target)
        self._features = seen.features.detach()
        self._columns, self._place = torch.unique(self.chosen.columns, return_inverse=True)
        self._head = getattr(model, "head", None) if seen.split else None
        self._tried = False
        self._found: tuple[torch.Tensor, torch.Tensor] | None = None

    def maps(self, method: str, weights: Weights) -> torch.Tensor:
        """(head, row, …) before ReLU, of the feature map's size.

        Raises:
            ValueError: The model has not the head that the method needs.
        """
        need = METHODS[method]
        self._check_high_level(method)
        if need.by_gradient:
            return self._by_gradient()
        local = isinstance(getattr(self._head, "local", None), nn.Module)
        if need.local and not local:
            raise ValueError(
                f"method={method!r}: needs a head with local weights, `model.head.local` (eq. 6), "
                f"which {type(self._model).__name__} has not"
            )
        gamma = getattr(self._head, "map_weights", None)
        if local and isinstance(gamma, torch.Tensor):
            rows = gamma.detach()[self._columns]  # eq. 7 and 11
        else:
            rows = self._means_only(method)  # eq. 2
        if weights == "exact":
            slopes = self._needed(method)
            return self._each_lesion(torch.stack([(self._features * s).sum(1) for s in slopes]))
        return self._each_lesion(_weighted(rows, self._features))

    def parts(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(head, lesion) what scores have from biases, and from high-level features.

        None where the head is not linear, or where that was not looked at, as it would take
        another pass of the whole model.
        """
        if (linear := self._linear(costly=False)) is None:
            return None
        high = self._high_level()
        return self._each_lesion(linear[1] - high), self._each_lesion(high)

    def _by_gradient(self) -> torch.Tensor:
        """`Σ_k α_k g_k(p)` (eq. 3, and 4 before its ReLU)."""
        if (linear := self._linear(costly=False)) is not None:
            return self._each_lesion(_weighted(_position_means(linear[0]), self._features))
        leaf, chosen = self._seen.features, self.chosen
        with torch.enable_grad():
            if self._seen.split:  # only now is a graph needed
                leaf = self._features.clone().requires_grad_()
                chosen = choose(self._seen.again(leaf, True), *self._options)
            totals = chosen.values.sum(1).unbind()
        found = []
        for total in totals:  # one head after the other: the rest of the model is small
            alpha = _position_means(_slope(total, leaf))
            found.append(torch.einsum("nc,nc...->n...", alpha, self._features))
        return torch.stack(found)

    def _linear(self, *, costly: bool = True) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The head as `score = Σ slope · feature + rest`, if that is what it is.

        Slopes are (column, channel, …), rests (column, lesion), of the columns in use.
        """
        if not self._tried and (costly or self._seen.split):
            self._tried = True
            self._found = self._probe()
        return self._found

    def _probe(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Put the gradient for the first lesion to the test.

        It must explain how the scores of all lesions change when their features change sign and
        grow. A sigmoid, a maximum, or a ReLU between two layers fails that.
        """
        features = self._features
        if len(features) != len(self.chosen.scores):
            return None  # packed: a row has no score of its own
        leaf, scores = self._seen.features, self.chosen.scores
        with torch.enable_grad():
            if self._seen.split:
                leaf = features[:1].clone().requires_grad_()
                scores = self._scores(leaf)
            first = scores[0, self._columns]
            slopes = torch.stack([_slope(score, leaf)[0] for score in first.unbind()])
        scores = self.chosen.scores.detach()[:, self._columns].T
        explained = slopes.flatten(1) @ features.flatten(1).T
        far = self._scores(-FAR * features)[:, self._columns].T
        change = (1 + FAR) * explained
        gap = (far - (scores - change)).abs().max()
        if not gap <= TOLERANCE * torch.stack([scores, change, far]).abs().max():
            return None
        return slopes, scores - explained

    def _needed(self, method: str) -> torch.Tensor:
        if (linear := self._linear()) is None:
            raise ValueError(
                f"method={method!r}: needs scores that are linear in the feature map, with "
                "averages and linear layers only after it; 'grad-cam' needs no such head"
            )
        return linear[0]

    def _means_only(self, method: str) -> torch.Tensor:
        """(column, channel) γ of a head that is a global average and a linear classifier."""
        slopes = self._needed(method).flatten(2)
        middle = slopes.mean(2, keepdim=True)
        if not (slopes - middle).abs().max() <= TOLERANCE * slopes.abs().max():
            raise ValueError(
                f"method={method!r}: needs a head of a global average and a linear classifier "
                "(eq. 1), or one with local weights; here a feature counts more in some places"
            )
        return slopes.sum(2)

    def _high_level(self) -> torch.Tensor:
        """(column, lesion) what high-level features add to the scores (eq. 12)."""
        scores = self.chosen.scores.detach()
        if self._seen.high_level:
            scores = scores - self._scores(self._features, high_level=False)
        else:
            scores = torch.zeros_like(scores)
        return scores[:, self._columns].T

    def _check_high_level(self, method: str) -> None:
        """A name says whether high-level features count, so that no figure is mislabelled."""
        if method == "grad-cam" or (not self._seen.split and method == "cam"):
            return
        has = self._seen.high_level and bool(self._high_level().any())
        if has != METHODS[method].high_level:
            raise ValueError(
                f"method={method!r}: {type(self._model).__name__} adds "
                f"{'' if has else 'no '}high-level features to its scores, "
                f"which is method={OTHERS[method]!r}"
            )

    def _scores(self, features: torch.Tensor, *, high_level: bool = True) -> torch.Tensor:
        """(lesion, column) the scores for other feature maps."""
        select, head, target = self._options
        if isinstance(target, torch.Tensor):
            target = target[: len(features)]
        found: Chosen = choose(self._seen.again(features, high_level), select, head, target)
        return found.scores

    def _each_lesion(self, found: torch.Tensor) -> torch.Tensor:
        """From (column, lesion, …) to (head, lesion, …): each lesion its own column."""
        return found[self._place, torch.arange(found.shape[1], device=found.device)]


def _slope(score: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """The gradient of a score by the feature map, and by nothing before it."""
    found: torch.Tensor | None = None
    if score.requires_grad:
        (found,) = torch.autograd.grad(score, leaf, retain_graph=True, allow_unused=True)
    if found is None:
        raise ValueError(
            "layer, head: the score has no gradient by the feature map; it does not depend on it, "
            "or the model disables gradients"
        )
    return found


def _position_means(slopes: torch.Tensor) -> torch.Tensor:
    """α of eq. 3: the mean over all positions."""
    return slopes.flatten(2).mean(2)


def _weighted(rows: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """`Σ_k w_k g_k(p)`: (column, channel) and (lesion, channel, …) to (column, lesion, …)."""
    found = rows @ features.flatten(2)  # (lesion, column, place)
    return found.transpose(0, 1).reshape(len(rows), len(features), *features.shape[2:])
