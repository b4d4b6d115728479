"""Activation maps: CAM, Grad-CAM, SAM, and the three with high-level features.

Equations are those of Lei et al. 2020. g_k is feature map k, γ_k^c its weight in the classifier
for output c, β_k the weights of its own fully connected layer over pooled regions, p a position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from lesionlab import _names
from lesionlab.attention._models import (
    HeadChoice,
    Name,
    Seen,
    Select,
    Split,
    choose,
    look,
    untouched,
)

Weights = Literal["paper", "exact"]

METHODS = ("cam", "grad-cam", "sam", "hesam", "he-cam", "he-grad-cam")
"""The methods of Lei et al. 2020, sections 4.3 and 4.4; "he" is for high-level features."""

TOLERANCE = 1e-4
"""How far from linear a head may be, as a share of its largest score, to count as linear."""

FAR = 16.0
"""By how much features grow to see whether the head is linear: units with ReLU have to switch."""


@dataclass(frozen=True, eq=False)
class ActivationMaps:
    """Maps, and the scores that they are about; first an axis for heads if several were asked for.

    Attributes:
        maps: (row, …) of the image's size, or of the feature map's. A row is a lesion, or a slice
            where the model takes packed slices. Not normalised.
        scores: (lesion,) the model's scores.
        bias: (lesion,) what of a score comes from the biases. None with `layer`, and where the head
            is not linear in the feature map.
        high_level: (lesion,) what of a score comes from the high-level features (eq. 12),
            `Σ_k γ_k d_k`, which no map shows; 0 without them, None where `bias` is.
        method: One of `METHODS`.
        heads: Whose maps they are.
    """

    maps: torch.Tensor
    scores: torch.Tensor
    bias: torch.Tensor | None
    high_level: torch.Tensor | None
    method: str
    heads: tuple[Name, ...]

    @property
    def high_level_share(self) -> torch.Tensor | None:
        """(lesion,) 0 to 1: the high-level features' part of a score, and not the map's.

        `|h| / (|h| + |m|)`, h being `high_level` and m the sum of the exact map; magnitudes, as
        the two may cancel. 0 where both are 0.
        """
        if self.high_level is None or self.bias is None:
            return None
        high = self.high_level.abs()
        both = high + (self.scores - self.bias - self.high_level).abs()
        return torch.where(both > 0, high / both.clamp(min=torch.finfo(both.dtype).tiny), 0.0)


def activation_map(
    model: nn.Module, images: torch.Tensor, method: str = "sam", **options: Any
) -> ActivationMaps:
    """Where a model looks for one of its scores, or each; arguments as in `activation_maps`.

    - `"cam"`: `M_c(p) = Σ_k γ_k^c g_k(p)` (eq. 2; Zhou et al. 2016). Needs a head that is one
      value for each feature map and then a linear classifier.
    - `"grad-cam"`: `ReLU(Σ_k α_k^c g_k(p))`, α the mean over all positions of the gradient of the
      score by g_k (eq. 3, 4; Selvaraju et al. 2017). For any head.
    - `"sam"`: `M'_c(p) = Σ_k γ_k^c g_k(p)` (eq. 7). Needs a head with local weights β. It is
      eq. 2 again: the networks differ in how γ is learned, so that on one network with local
      weights CAM and the printed SAM are the same map.
    - `"hesam"`: the same with the γ of a head that adds high-level features (eq. 11). Those add
      `Σ_k γ_k d_k` to the score (eq. 12), an amount that changes with the lesion and has no place
      in the image: `ActivationMaps.high_level`.
    - `"he-cam"`, `"he-grad-cam"`: CAM and Grad-CAM of a network with high-level features (4.4). d
      counts as given: no gradient goes through it.

    Eq. 7 leaves β out. `weights="exact"` has it: `Σ_k γ_k^c B_k(p) g_k(p)`, with B_k the weights
    β_k brought back through the average pooling. Its sum over p, `bias` and `high_level` make up
    the score. On a head with a global average it is CAM divided by the number of positions.

    The model runs in evaluation mode, the part before the feature map once and without a graph;
    its modes, gradients and statistics are the same afterwards, and no hook stays. A lesion's map
    must not depend on the other lesions of the batch.

    What is a head: of an output (lesion, output), each column, or all columns as the classes of
    one head if `target` is given; of (lesion, head, class), each slice of the second axis; of a
    mapping or a list of (lesion, class), each member. Of an object, its `logits` or `predictions`.
    """
    return activation_maps(model, images, (method,), **options)[method]


def activation_maps(
    model: nn.Module,
    images: torch.Tensor,
    methods: Sequence[str],
    *,
    head: HeadChoice = 0,
    target: int | None = None,
    layer: str | None = None,
    weights: Weights = "paper",
    relu: bool | None = None,
    upsample: bool = True,
    inputs: Sequence[Any] = (),
    select: Select | None = None,
) -> dict[str, ActivationMaps]:
    """Maps by several methods, under their names, from one pass; see `activation_map`.

    Args:
        model: One with `trunk` and `head` (`attention.Split`), or for Grad-CAM any with `layer`.
        images: (lesion, channel, y, x) or (lesion, channel, z, y, x), in the model's type and on
            its device. Slices as channels make one map of (y, x).
        methods: Some of `METHODS`.
        head: Number or name; several, or None for all, make an axis of heads in front.
        target: Class of the head; None if it has one score.
        layer: Name, as in `model.named_modules()`, of the layer whose output is the feature map.
            It must run once.
        weights: `"paper"`, or `"exact"` for all but the methods by gradient.
        relu: Whether negative values become 0; None for eq. 4's, which is the methods by gradient.
        upsample: Bring maps to the image's size, bilinear or trilinear.
        inputs: What the model takes after the images, such as the index of each slice's nodule.
        select: From the model's output to scores.
    """
    for name in methods:
        _names.one_of("method", name, METHODS)
    others = [name for name in methods if name != "grad-cam"]
    if others and (layer is not None or not isinstance(model, Split)):
        raise ValueError(
            f"method={others[0]!r}, layer={layer!r}: needs a model with `trunk` and `head` "
            "(`attention.Split`), and no layer; 'grad-cam' alone can do with the name of a layer"
        )
    _names.one_of("weights", weights, get_args(Weights))
    if weights == "exact" and methods and all(map(_by_gradient, methods)):
        raise ValueError(f"weights='exact': method={methods[0]!r} has no exact form")
    with untouched(model):
        work = _Work(model, look(model, images, layer, inputs), (select, head, target))
        maps = {}
        for name in methods:
            made = work.maps(name, weights)
            if _by_gradient(name) if relu is None else relu:
                made = made.relu()  # eq. 4
            size = images.shape[-(made.ndim - 2) :]
            if upsample and made.shape[2:] != size:
                mode = "bilinear" if len(size) == 2 else "trilinear"
                made = functional.interpolate(made, size=size, mode=mode, align_corners=False)
            maps[name] = made
        bias, high_level = work.parts()
        first = 0 if work.chosen.single else slice(None)
        parts = {"scores": work.scores, "bias": bias, "high_level": high_level}
        of_all: Any = {k: None if v is None else v[first] for k, v in parts.items()}
        return {
            name: ActivationMaps(maps[name][first], method=name, heads=work.chosen.heads, **of_all)
            for name in methods
        }


def _by_gradient(method: str) -> bool:
    return method.endswith("grad-cam")


class _Work:
    """One pass of a model, what was asked of it, and what several methods and heads share."""

    def __init__(
        self, model: Any, seen: Seen, options: tuple[Select | None, HeadChoice, int | None]
    ) -> None:
        self._model, self._seen, self._options = model, seen, options
        with torch.enable_grad():  # for an output that has a graph
            self.chosen = choose(seen.output, *options)
        self.scores = self.chosen.scores.detach().T  # (head, lesion)
        self._features = seen.features.detach()

    def maps(self, method: str, weights: Weights) -> torch.Tensor:
        """(head, row, …) before ReLU, of the feature map's size."""
        self._check_high_level(method)
        if _by_gradient(method):
            return self._grad_cam()
        head = self._model.head
        local = isinstance(getattr(head, "local", None), nn.Module)
        if method.endswith("sam") and not local:
            raise ValueError(
                f"method={method!r}: needs a head with local weights, `model.head.local` (eq. 6), "
                f"which {type(self._model).__name__} has not"
            )
        if local and isinstance(gamma := getattr(head, "map_weights", None), torch.Tensor):
            rows = gamma.detach()[self.chosen.columns]  # eq. 7 and 11
        else:
            rows = self._means_only(method)  # eq. 2
        if weights == "exact":
            return torch.stack([(self._features * s).sum(1) for s in self._needed(method)])
        return _weighted(rows, self._features)

    def parts(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """(head, lesion) what scores have from biases, and from high-level features."""
        if (linear := self._linear) is None:
            return None, None
        high = self._high_level()
        return linear[1] - high, high

    def _grad_cam(self) -> torch.Tensor:
        """`Σ_k α_k g_k(p)`, α the mean over all positions of the gradient (eq. 3, 4)."""
        if (linear := self._linear) is not None:
            return _weighted(linear[0].flatten(2).mean(2), self._features)
        slopes = self._slopes(len(self._features))
        alphas = (slope.flatten(2).mean(2) for slope in slopes)  # eq. 3
        maps = [torch.einsum("nc,nc...->n...", alpha, self._features) for alpha in alphas]
        return torch.stack(maps)

    def _slopes(self, n: int) -> Iterator[torch.Tensor]:
        """By head, the gradient of its scores by the feature maps of the first n rows."""
        leaf, scores = self._seen.features, self.chosen.scores
        with torch.enable_grad():
            if self._seen.again is not None:  # else the graph of the output begins at the leaf
                leaf = self._features[:n].clone().requires_grad_()
                scores = self._scores(leaf)
            totals = scores.sum(0).unbind()  # a row counts in the scores of its own lesion only
        for total in totals:  # one head after the other: the head is small
            found = None
            if total.requires_grad:
                (found,) = torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True)
            if found is None:
                raise ValueError(
                    "layer, head: the score has no gradient by the feature map; it does not depend "
                    "on it, or the model disables gradients"
                )
            yield found

    @cached_property
    def _linear(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Slopes (head, channel, …) and rests (head, lesion) of `score = Σ slope · feature + rest`.

        None where the head is not like that. The gradient for the first lesion is put to the test:
        it must explain how the scores of all lesions change when their features change sign and
        grow. A sigmoid, a maximum, or a ReLU between two layers fails that.
        """
        features = self._features
        if self._seen.again is None or len(features) != self.scores.shape[1]:
            return None  # not known by `layer`; if packed, a row has no score of its own
        n = 1 if self._seen.alone else len(features)
        slopes = torch.stack([slope[0] for slope in self._slopes(n)])
        explained = slopes.flatten(1) @ features.flatten(1).T
        far = self._scores(-FAR * features).T
        change = (1 + FAR) * explained
        gap = (far - (self.scores - change)).abs().max()
        if not gap <= TOLERANCE * torch.stack([self.scores, change, far]).abs().max():
            return None
        return slopes, self.scores - explained

    def _needed(self, method: str) -> torch.Tensor:
        if (linear := self._linear) is None:
            raise ValueError(
                f"method={method!r}: needs scores that are linear in the feature map, with "
                "averages and linear layers only after it; 'grad-cam' needs no such head"
            )
        return linear[0]

    def _means_only(self, method: str) -> torch.Tensor:
        """(head, channel) γ of a head that is a global average and a linear classifier."""
        slopes = self._needed(method).flatten(2)
        middle = slopes.mean(2, keepdim=True)
        if not (slopes - middle).abs().max() <= TOLERANCE * slopes.abs().max():
            raise ValueError(
                f"method={method!r}: needs a head of a global average and a linear classifier "
                "(eq. 1), or one with local weights; here a feature counts more in some places"
            )
        return slopes.sum(2)

    def _high_level(self) -> torch.Tensor:
        """(head, lesion) what high-level features add to the scores (eq. 12)."""
        if not self._seen.high_level:
            return torch.zeros_like(self.scores)
        return self.scores - self._scores(self._features, high_level=False).T

    def _check_high_level(self, method: str) -> None:
        """A name says whether high-level features count, so that no figure is mislabelled."""
        if method == "grad-cam":
            return
        if (has := bool(self._high_level().any())) != method.startswith("he"):
            raise ValueError(
                f"method={method!r}: {type(self._model).__name__} adds {'' if has else 'no '}"
                "high-level features to its scores, as 'he-cam', 'he-grad-cam' and 'hesam' are for"
            )

    def _scores(self, features: torch.Tensor, *, high_level: bool = True) -> torch.Tensor:
        """(lesion, head) the scores for other feature maps."""
        return choose(self._seen.again(features, high_level), *self._options).scores


def _weighted(rows: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """`Σ_k w_k g_k(p)`: (head, channel) and (lesion, channel, …) to (head, lesion, …)."""
    found = rows @ features.flatten(2)  # (lesion, head, place)
    return found.transpose(0, 1).reshape(len(rows), len(features), *features.shape[2:])
