"""Fu 2021, the plain layers that its modules are built of: see `lesionlab.papers.fu2021`."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from lesionlab.packing import segment_sum
from lesionlab.papers.fu2021._winograd import convolve_relu

WIDTHS = (32, 64, 128, 256)
CONVOLUTIONS = (2, 2, 3, 3)
FEATURES = WIDTHS[-1]
HIDDEN = 128
"""Of both attention modules (eq. 1 and 5)."""
FEW, MANY = 4, 32
"""Slices: batches up to `MANY` are filled up to a multiple of `FEW`, others of half of `MANY`."""


class Backbone(nn.Module):
    """Convolutions with ReLU in four blocks, pooled between them and over the image (2.1).

    Args:
        axes: 2 for slices, 3 for volumes.
    """

    def __init__(self, axes: int = 2) -> None:
        super().__init__()
        layer = nn.Conv2d if axes == 2 else nn.Conv3d
        self.pool = nn.MaxPool2d(2) if axes == 2 else nn.MaxPool3d(2)
        self.blocks = nn.ModuleList()
        channels = 1
        for width, n in zip(WIDTHS, CONVOLUTIONS, strict=True):
            inputs = [channels, *[width] * (n - 1)]
            self.blocks.append(nn.ModuleList(layer(c, width, 3, padding=1) for c in inputs))
            channels = width
        for convolution in self.modules():
            if isinstance(convolution, nn.Conv2d | nn.Conv3d) and convolution.bias is not None:
                # He et al. 2015, normal as in their code; the paper does not say which
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                nn.init.zeros_(convolution.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From (slice, 1, y, x) or (nodule, 1, z, y, x) to (slice or nodule, 256)."""
        return self.maps(images).flatten(2).mean(2)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """The feature maps before the mean over them, (slice, 256, y, x) or with z."""
        features = _rounded(images)
        for i, block in enumerate(self.blocks):
            features = self.pool(_channels_last(features)) if i else _channels_last(features)
            for layer in cast(nn.ModuleList, block):
                if isinstance(layer, nn.Conv2d):
                    features = convolve_relu(features, layer)
                else:
                    features = layer(features).relu_()
        return features[: len(images)]


class SliceMean(nn.Module):
    """The mean of the slices, in place of slice attention."""

    def forward(
        self, features: torch.Tensor, nodule: torch.Tensor, n: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `fu2021.SliceAttention`; the weights of a nodule are all the same."""
        weights = torch.bincount(nodule, minlength=n)[nodule].to(features.dtype).reciprocal()
        return segment_sum(weights[:, None] * features, nodule, n), weights


class Branches(nn.Module):
    """Fully connected layers side by side, one for each attribute, computed as one product.

    Args:
        attributes: How many.
        inputs: Values into each layer.
        outputs: Values out of each layer.
        bias: Whether they add one.
    """

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


def glorot(*layers: nn.Linear) -> None:
    """Glorot and Bengio 2010, uniform, and biases of zero (3.2)."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def unit(scores: torch.Tensor) -> torch.Tensor:
    """(…, attribute, 1) to (…, attribute), 0 to 1; never in half precision."""
    return scores.squeeze(-1).to(torch.promote_types(scores.dtype, torch.float32)).sigmoid()


def _rounded(images: torch.Tensor) -> torch.Tensor:
    """On a CPU, empty slices behind a batch, up to a round number of them.

    torch compiles a convolution anew for every number of images, which takes longer than to
    compute it; packed batches would have a hundred numbers, more than torch remembers.
    """
    if images.device.type != "cpu" or images.ndim != 4:
        return images
    step = FEW if len(images) <= MANY else MANY // 2
    extra = -len(images) % step
    return images if not extra else torch.cat([images, images.new_zeros(extra, *images.shape[1:])])


def _channels_last(images: torch.Tensor) -> torch.Tensor:
    """Slices in the order in memory that makes torch's CPU convolutions and pools quick."""
    if images.device.type != "cpu" or images.ndim != 4:
        return images
    if images.shape[1] == 1:  # torch takes either order for the other; the strides have to say it
        return images.squeeze(1).unsqueeze(-1).movedim(-1, 1)
    return images.contiguous(memory_format=torch.channels_last)


def check_slices(images: torch.Tensor, nodule: torch.Tensor, n: int | None) -> int:
    """How many nodules a packed batch has.

    Raises:
        ValueError: It is none.
    """
    if images.ndim != 4 or images.shape[1] != 1 or min(images.shape[2:]) < 8:
        raise ValueError(
            "images: expected (slice, 1, y, x) with 8 pixels or more along each side, "
            f"got shape {tuple(images.shape)}"
        )
    if nodule.shape != images.shape[:1] or nodule.dtype != torch.int64 or not len(nodule):
        raise ValueError(
            f"nodule: expected an int64 index for each of {len(images)} slices, "
            f"got shape {tuple(nodule.shape)}, {nodule.dtype}"
        )
    if n is None:
        n = int(nodule.max()) + 1
    # on a GPU, looking would wait for all that is still being computed
    if nodule.device.type == "cpu" and not 0 <= int(nodule.min()) <= int(nodule.max()) < n:
        raise ValueError(
            f"nodule: expected indices from 0 to {n - 1}, "
            f"got {int(nodule.min())} to {int(nodule.max())}"
        )
    return n


def check_volumes(images: torch.Tensor) -> None:
    """Refuse what is no batch of volumes.

    Raises:
        ValueError: It has another shape.
    """
    if images.ndim != 5 or images.shape[1] != 1 or min(images.shape[2:]) < 8:
        raise ValueError(
            "images: expected (nodule, 1, z, y, x) with 8 voxels or more along each axis, "
            f"got shape {tuple(images.shape)}"
        )
