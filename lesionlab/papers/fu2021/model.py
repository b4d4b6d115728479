"""Fu et al. 2021: the network, equation by equation, and what its ablations leave of it.

Equations and sections are those of the paper. What the paper leaves open:

- Counts and widths of the convolutions are not in the text. They are here as in the code that the
  authors published, https://github.com/xhelenfu/Lung-Nodule-Attributes-CT-Network; as in that code,
  the last layers of both heads have no bias, which makes 3,428,458 parameters, and the modulated
  vectors have no ReLU.
- Biases start at zero as printed; in the authors' code they start at random.
- "During inference, the ASCMM is not used": only its auxiliary head can be left out, as its
  vectors are what the cross-attribute attention mixes. The head's scores are always returned.
- Eq. 5 has no softmax, so its weights may be negative and have no fixed sum.
- Without slice attention, a nodule's slices are averaged. "CAAM" alone in Table 1 has the
  modulation's layer, or all nine vectors would be the same, and no auxiliary loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from lesionlab.packing import segment_softmax, segment_sum
from lesionlab.papers.fu2021.samples import ATTRIBUTES

WIDTHS = (32, 64, 128, 256)
CONVOLUTIONS = (2, 2, 3, 3)
FEATURES = WIDTHS[-1]
HIDDEN = 128
"""Width of the hidden layer of both attention modules (eq. 1 and 5)."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """Which parts a model has."""

    slice_attention: bool = True  # weights for the slices of a nodule (SAM); or a plain mean
    cross_attribute: bool = True  # every score from a mixture of all attributes' vectors (CAAM)
    auxiliary: float | None = 0.1  # λ of eq. 8, None for no auxiliary head (ASCMM)
    volumetric: bool = False  # one 3D network in place of all of these (3.3)
    classes: bool = False  # malignancy is benign or malignant, not a rating (4.2)
    attributes: tuple[str, ...] = ATTRIBUTES


FULL = Design()
VOLUMETRIC = Design(slice_attention=False, cross_attribute=False, auxiliary=None, volumetric=True)
"""The 3D network of Table 2."""


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


class Backbone(nn.Module):
    """Convolutions with ReLU in four blocks, pooled between them and over the image (2.1).

    `axes` is 2 for slices, 3 for volumes.
    """

    def __init__(self, axes: int = 2) -> None:
        super().__init__()
        self.axes = axes
        layer = nn.Conv2d if axes == 2 else nn.Conv3d
        self.pool = nn.MaxPool2d(2) if axes == 2 else nn.MaxPool3d(2)
        self.blocks = nn.ModuleList()
        channels = 1
        for width, n in zip(WIDTHS, CONVOLUTIONS, strict=True):
            inputs = [channels, *[width] * (n - 1)]
            self.blocks.append(nn.ModuleList(layer(c, width, 3, padding=1) for c in inputs))
            channels = width
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:  # He et al. 2015, normal as in their code; the paper does not say which
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """The last feature map, (row, 256, y, x) or (row, 256, z, y, x), before its mean."""
        if images.ndim != self.axes + 2 or images.shape[1] != 1 or min(images.shape[2:]) < 8:
            wanted = "(slice, 1, y, x)" if self.axes == 2 else "(nodule, 1, z, y, x)"
            raise ValueError(
                f"images: expected {wanted}, 8 or more along each side, got shape "
                f"{tuple(images.shape)}"
            )
        features = images
        for i, block in enumerate(self.blocks):
            features = self.pool(_channels_last(features)) if i else _channels_last(features)
            for layer in cast(nn.ModuleList, block):
                features = layer(features).relu_()
        return features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From (slice, 1, y, x) or (nodule, 1, z, y, x) to (slice or nodule, 256)."""
        return self.maps(images).flatten(2).mean(2)


class SliceMean(nn.Module):
    """The mean of the slices, in place of slice attention."""

    def forward(
        self, features: torch.Tensor, nodule: torch.Tensor, n: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From (slice, 256) to (nodule, 256) and the weights (slice,), all the same in a nodule."""
        weights = torch.bincount(nodule, minlength=n)[nodule].to(features.dtype).reciprocal()
        return segment_sum(weights[:, None] * features, nodule, n), weights


class Branches(nn.Module):
    """Fully connected layers side by side, one for each attribute, computed as one product."""

    def __init__(self, attributes: int, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(attributes, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(attributes, outputs)) if bias else None
        for matrix in self.weight:  # Glorot, each by its own fans
            nn.init.xavier_uniform_(matrix)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """From (…, attribute or 1, input) to (…, attribute, output); 1 goes to all layers."""
        result = torch.einsum("...ti,toi->...to", vectors, self.weight)
        return result if self.bias is None else result + self.bias


class SliceAttention(nn.Module):
    """A weight for each slice of a nodule, and the mean of the slices so weighted (eq. 1–3).

    The bias of `w1` has no effect: the softmax takes away what is added to all slices. The paper
    calls it SAM, which in Lei 2020 is another thing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.w0 = nn.Linear(FEATURES, HIDDEN)
        self.w1 = nn.Linear(HIDDEN, 1)
        for layer in (self.w0, self.w1):  # Glorot and Bengio 2010, and biases of zero (3.2)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

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
    """The model of figure 2, what an ablation leaves of it, or the same layers in 3D (3.3)."""

    def __init__(self, design: Design = FULL) -> None:
        super().__init__()
        n = len(design.attributes)
        self.backbone = Backbone(axes=3 if design.volumetric else 2)
        self.slices: SliceAttention | SliceMean | None = None
        if not design.volumetric:
            self.slices = SliceAttention() if design.slice_attention else SliceMean()
        self.modulation: AttributeModulation | None = None
        self.attention: CrossAttributeAttention | None = None
        if design.cross_attribute:
            self.modulation = AttributeModulation(n, auxiliary=design.auxiliary is not None)
            self.attention = CrossAttributeAttention(n)
        self.heads = Heads(n)

    def forward(
        self, images: torch.Tensor, nodule: torch.Tensor | None = None, n: int | None = None
    ) -> Outputs:
        """Score `n` nodules from all their slices, normalised (slice, 1, y, x).

        `nodule` is (slice,) int64, the number of the nodule that each slice belongs to. The 3D
        network takes volumes alone, (nodule, 1, z, y, x) as `samples.volumes` makes them.
        """
        return self.head(self.trunk(images), nodule, n)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """The feature maps, (row, 256, …), as `lesionlab.attention` wants them."""
        return self.backbone.maps(images)

    def head(
        self, maps: torch.Tensor, nodule: torch.Tensor | None = None, n: int | None = None
    ) -> Outputs:
        """What comes after the feature maps."""
        features = maps.flatten(2).mean(2)  # (slice or nodule, 256)
        if self.slices is None:
            return Outputs(self.heads(features[:, None]))
        if nodule is None or nodule.shape != maps.shape[:1] or nodule.dtype != torch.int64:
            got = None if nodule is None else (tuple(nodule.shape), nodule.dtype)
            raise ValueError(
                f"nodule: expected an int64 index for each of {len(maps)} slices, got {got}"
            )
        n = int(nodule.max()) + 1 if n is None else n
        content, slice_weights = self.slices(features, nodule, n)  # (nodule, 256), (slice,)
        if self.modulation is None or self.attention is None:
            return Outputs(self.heads(content[:, None]), slice_weights=slice_weights)
        vectors, auxiliary = self.modulation(content)  # (nodule, attribute, 256)
        mixtures, attribute_weights = self.attention(vectors)  # (nodule, attribute, 256)
        return Outputs(self.heads(mixtures), auxiliary, slice_weights, attribute_weights)


def unit(scores: torch.Tensor) -> torch.Tensor:
    """(…, attribute, 1) to (…, attribute), 0 to 1; never in half precision."""
    return scores.squeeze(-1).to(torch.promote_types(scores.dtype, torch.float32)).sigmoid()


def _channels_last(images: torch.Tensor) -> torch.Tensor:
    """Slices in the order in memory that makes torch's CPU convolutions and pools quick."""
    if images.device.type != "cpu" or images.ndim != 4 or torch.onnx.is_in_onnx_export():
        return images  # elsewhere, and in what is exported, it means nothing
    if images.shape[1] == 1:  # torch takes either order for the other; the strides have to say it
        return images.squeeze(1).unsqueeze(-1).movedim(-1, 1)
    return images.contiguous(memory_format=torch.channels_last)
