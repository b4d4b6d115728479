"""Lei 2020, from feature maps to scores (eq. 1, 5–12): see `lesionlab.papers.lei2020`.

Symbols of the paper: g_k feature map k, A^k the same after pooling, β_kl the weights of its fully
connected layer h_k (eq. 9 prints β_l; each map has its own), H_k its value, d_k the value of the
high-level map k, γ_k^c the classifier's weight of map k for output c, S_c the logit. Biases, which
the equations leave out, are b_k of h_k and b^c of the classifier. P is the number of pixels of a
map, p one of them.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import nn
from torch.nn import functional

from lesionlab.papers.lei2020._layers import Trunk
from lesionlab.papers.lei2020._variants import Fusion, Pooling

KERNEL, STRIDE = 5, 2
"""Of the pooling in the soft activation head, without padding (figure 3)."""


def pooled_size(size: tuple[int, ...]) -> tuple[int, ...]:
    """What the pooling makes of a map of that size: (side - 5) // 2 + 1.

    >>> pooled_size((16, 16))
    (6, 6)

    Raises:
        ValueError: It is smaller than the window.
    """
    if min(size) < KERNEL:
        raise ValueError(
            f"size={size}: the soft activation head pools over {KERNEL} places along each axis "
            "of a feature map"
        )
    return tuple((side - KERNEL) // STRIDE + 1 for side in size)


class HighLevel(nn.Module):
    """The vector d of eq. 12, one value for each of the U-Net's deepest maps (3.2).

    Args:
        pooling: Over all pixels of a map: `"max"` (GMP, the paper's choice) or `"average"`.
        roll: By how many places the vector is rolled (4.5.1).
    """

    def __init__(self, pooling: Pooling = "max", *, roll: int = 0) -> None:
        super().__init__()
        self.pooling, self.roll = pooling, roll

    def forward(self, trunk: Trunk) -> torch.Tensor:
        """(lesion, feature).

        Raises:
            ValueError: The trunk has no high-level maps.
        """
        if trunk.high_level is None:
            raise ValueError("trunk: expected high_level maps, got None")
        maps = trunk.high_level.flatten(2)
        values = maps.amax(2) if self.pooling == "max" else maps.mean(2)
        return values.roll(self.roll, 1) if self.roll else values


class Head(nn.Module):
    """A value H_k for each feature map, d_k added where there is any, and a linear classifier.

    `S_c = b^c + Σ_k γ_k^c (H_k + d_k)` (eq. 8 and 12).

    Attributes:
        classifier: γ is its `weight`, (output, feature), and b^c its `bias`, (output,).
        high_level: Makes d; None without.
        fusion: `"sum"` as in eq. 12, or `"concatenate"` (4.5.2): then `classifier.weight` has the
            columns of d after those of H.

    Args:
        features: Values H.
        outputs: Logits.
        high_level: What makes d.
        fusion: How it joins.
        deepest: Values d, for `"concatenate"`.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        high_level: HighLevel | None = None,
        fusion: Fusion = "sum",
        deepest: int = 0,
    ) -> None:
        super().__init__()
        self.features, self.fusion = features, fusion
        extra = deepest if high_level is not None and fusion == "concatenate" else 0
        self.classifier = nn.Linear(features + extra, outputs)
        self.high_level = high_level

    @abstractmethod
    def values(self, features: torch.Tensor) -> torch.Tensor:
        """H, (lesion, feature), of maps (lesion, feature, y, x) or (lesion, feature, z, y, x)."""

    @property
    def map_weights(self) -> torch.Tensor:
        """γ, (output, feature): what eq. 2, 7 and 11 weight the maps with."""
        return self.classifier.weight[:, : self.features]

    def forward(self, trunk: Trunk) -> torch.Tensor:
        """(lesion, output) logits."""
        values = self.values(trunk.features)
        if self.high_level is not None:
            d = self.high_level(trunk)
            values = values + d if self.fusion == "sum" else torch.cat([values, d], dim=1)
        logits: torch.Tensor = self.classifier(values)
        return logits

    def offset(self, trunk: Trunk) -> torch.Tensor | None:
        """`Σ_k γ_k^c d_k`, (lesion, output): the part of each logit that no map shows.

        None without high-level features.
        """
        if self.high_level is None:
            return None
        weights = self.map_weights
        if self.fusion == "concatenate":
            weights = self.classifier.weight[:, self.features :]
        return functional.linear(self.high_level(trunk), weights)


class ActivationHead(Head):
    """Class activation mapping: the mean of each feature map, and a linear classifier (eq. 1, 2).

    `H_k = Σ_p g_k(p) / P`. Eq. 1 writes the sum; global average pooling, as its source and the
    text have it, is the mean. The map of eq. 2, `Σ_k γ_k^c g_k(p)`, divided by P, sums over p to
    the logit without b^c (and without `offset`): here the printed map and the exact one are the
    same but for that factor.
    """

    def values(self, features: torch.Tensor) -> torch.Tensor:
        """H, the means."""
        return features.flatten(2).mean(2)


class LocalLayers(nn.Module):
    """A fully connected layer with one output for each feature map, h_k of eq. 6.

    Attributes:
        weight: (feature, place) β.
        bias: (feature,) b_k.
    """

    def __init__(self, features: int, places: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, places))
        self.bias = nn.Parameter(torch.empty(features))
        bound = places**-0.5  # as torch's linear layers, by the inputs of each
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """From (lesion, feature, place) to (lesion, feature)."""
        return (pooled * self.weight).sum(2) + self.bias


class SoftActivationHead(Head):
    """Soft activation mapping (eq. 5–10): each feature map has a layer of its own for its regions.

    `A^k = pool(g_k)`, `H_k = b_k + Σ_l β_kl A_l^k`, `S_c = b^c + Σ_k γ_k^c H_k`.

    The map of eq. 7, `M'_c(p) = Σ_k γ_k^c g_k(p)`, leaves β out. The exact one takes β back
    through the average pooling, whose window W_l has 25 pixels (125 in three axes):

        E_c(p) = Σ_k γ_k^c g_k(p) Σ_{l: p ∈ W_l} β_kl / 25
        S_c    = Σ_p E_c(p) + Σ_k γ_k^c b_k + b^c  (+ `offset`)

    The inner sum is a transposed convolution of β, on its grid `pooled`, with a 5 × 5 window of
    1/25 and stride 2, padded with zeros to the size of the map: the six windows over 16 pixels
    end at the 15th, so the last row and the last column have no part in the logit. With max
    pooling there is no such map that is the same for all images.

    Attributes:
        pool: Window 5, stride 2, no padding, average or maximum.
        pooled: The grid of `local.weight`'s places, in the order of the axes: (6, 6).
        local: h_k for all k: `weight` β, (feature, place), and `bias` b_k, (feature,).
        classifier: γ is its `weight`, (output, feature), and b^c its `bias`, (output,).

    Args:
        features: Feature maps.
        size: Of each: (y, x) or (z, y, x).
        outputs: Logits.
        pool: `"average"`, or `"max"` for Table 3.
        high_level: What makes d.
        fusion: How it joins.
        deepest: Values d, for `"concatenate"`.

    Raises:
        ValueError: The maps are smaller than the window.
    """

    def __init__(
        self,
        features: int,
        size: tuple[int, ...],
        outputs: int,
        *,
        pool: Pooling = "average",
        high_level: HighLevel | None = None,
        fusion: Fusion = "sum",
        deepest: int = 0,
    ) -> None:
        super().__init__(features, outputs, high_level=high_level, fusion=fusion, deepest=deepest)
        self.pool = pooling(pool, axes=len(size))
        self.pooled = pooled_size(size)
        self.local = LocalLayers(features, math.prod(self.pooled))

    def values(self, features: torch.Tensor) -> torch.Tensor:
        """H of eq. 6; `ValueError` if the maps are not of the size that β was made for."""
        minor = self.pool(features)  # (lesion, feature, 6, 6), A of eq. 5
        check_grid(minor, self.pooled)
        found: torch.Tensor = self.local(minor.flatten(2))
        return found


class HighLevelHead(SoftActivationHead):
    """Soft activation mapping with high-level features, HESAM (eq. 11, 12).

    `S_c^h = b^c + Σ_k (H_k + d_k) γ_k^ch`, d the maxima of the U-Net's deepest maps. The maps are
    those of `SoftActivationHead` with this head's γ; d changes with the image, has no place in
    it, and is in neither of them: `offset` is its part of the logit.
    """

    def __init__(
        self,
        features: int,
        size: tuple[int, ...],
        outputs: int,
        *,
        high_level: HighLevel,
        pool: Pooling = "average",
        fusion: Fusion = "sum",
        deepest: int = 0,
    ) -> None:
        super().__init__(
            features,
            size,
            outputs,
            pool=pool,
            high_level=high_level,
            fusion=fusion,
            deepest=deepest,
        )


class FullyConnectedHead(Head):
    """One fully connected layer for all pooled maps together (3.1, Appendix C).

    It has as many outputs as there are maps, and 36 times 256 inputs: 2,359,552 parameters with
    biases, where the 256 layers of `SoftActivationHead` have 9,472. The paper's counts are in a
    figure that the text does not repeat. It has no activation map, as every output mixes all maps.

    Attributes:
        mix: The layer.
    """

    def __init__(self, features: int, size: tuple[int, ...], outputs: int) -> None:
        super().__init__(features, outputs)
        self.pool = pooling("average", axes=len(size))
        self.pooled = pooled_size(size)
        self.mix = nn.Linear(features * math.prod(self.pooled), features)

    def values(self, features: torch.Tensor) -> torch.Tensor:
        """Its outputs, in place of H."""
        minor = self.pool(features)
        check_grid(minor, self.pooled)
        found: torch.Tensor = self.mix(minor.flatten(1))
        return found


class FlatHead(Head):
    """A linear classifier of every value of every map, without pooling: our "Baseline" of Table 2.

    The paper does not say what that row is. It stands with the three heads on the same network,
    below the one that takes means (CAM): so here it is that network without any pooling at its end.
    """

    def __init__(self, features: int, size: tuple[int, ...], outputs: int) -> None:
        super().__init__(features * math.prod(size), outputs)
        self.size = size

    def values(self, features: torch.Tensor) -> torch.Tensor:
        """All values, (lesion, feature × y × x)."""
        check_grid(features, self.size)
        return features.flatten(1)


def pooling(kind: Pooling, *, axes: int = 2) -> nn.Module:
    """Average or maximum over windows of 5, every 2 places (figure 3)."""
    if kind == "average":
        return (nn.AvgPool2d if axes == 2 else nn.AvgPool3d)(KERNEL, STRIDE)
    return (nn.MaxPool2d if axes == 2 else nn.MaxPool3d)(KERNEL, STRIDE)


def check_grid(maps: torch.Tensor, size: tuple[int, ...]) -> None:
    """Refuse maps that the head was not made for.

    Raises:
        ValueError: They have another size.
    """
    if tuple(maps.shape[2:]) != size:
        raise ValueError(
            f"features: expected maps that the head sees as {size}, got {tuple(maps.shape[2:])}; "
            "the head was made for images of another size"
        )
