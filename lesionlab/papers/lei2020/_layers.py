"""Lei 2020, the trunk of figure 3, U-Net and residual blocks: see `lesionlab.papers.lei2020`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional

DEPTH = 3
"""How often the U-Net halves the image (3.2)."""


@dataclass(frozen=True, eq=False)
class Trunk:
    """What a trunk hands to the head.

    Attributes:
        features: (lesion, feature, y, x) the final maps g of eq. 5, or (lesion, feature, z, y, x).
        high_level: (lesion, feature, y, x) the U-Net's deepest maps, 256 × 4 × 4 for 32 pixels
            (3.2); None where there is no U-Net.
        earlier: Maps of earlier layers that a compared network's own head reads.
    """

    features: torch.Tensor
    high_level: torch.Tensor | None = None
    earlier: tuple[torch.Tensor, ...] = ()


def convolution(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, bias: bool = True, axes: int = 2
) -> nn.Conv2d | nn.Conv3d:
    """A convolution that keeps the size, or halves it in plane: slices are never left out.

    Weights as He et al. 2015, normal (Ronneberger et al. 2015 and He et al. 2016 have these too).
    """
    if axes == 2:
        layer: nn.Conv2d | nn.Conv3d = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, bias=bias
        )
    else:
        layer = nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), kernel // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that also trains on one lesion with maps of 1 × 1.

    That is the last batch of an epoch where one lesion is left over, in the networks that halve 32
    pixels five times. It has no spread to go by, so the running statistics are used, unchanged.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As `torch.nn.BatchNorm2d`."""
        if self.training and input.numel() == input.shape[1]:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def normalise(features: int, axes: int = 2) -> nn.Module:
    """Batch normalisation for maps in two or three axes."""
    return BatchNorm2d(features) if axes == 2 else nn.BatchNorm3d(features)


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions and a way around them (He et al. 2016, "basic block").

    Each convolution is followed by batch normalisation and ReLU (figure 3), the second ReLU after
    the sum. The way around is a 1 × 1 convolution with batch normalisation where sizes differ.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, axes: int = 2) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, stride=stride, bias=False, axes=axes)
        self.first_norm = normalise(outputs, axes)
        self.second = convolution(outputs, outputs, bias=False, axes=axes)
        self.second_norm = normalise(outputs, axes)
        self.around = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(
                convolution(inputs, outputs, 1, stride=stride, bias=False, axes=axes),
                normalise(outputs, axes),
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """From (lesion, inputs, y, x) to (lesion, outputs, y / stride, x / stride)."""
        inner = self.first_norm(self.first(features)).relu_()
        outer: torch.Tensor = self.second_norm(self.second(inner)) + self.around(features)
        return outer.relu_()


def _pair(inputs: int, outputs: int, axes: int) -> nn.Sequential:
    """Two convolutions with ReLU, one level of the U-Net."""
    return nn.Sequential(
        convolution(inputs, outputs, axes=axes),
        nn.ReLU(inplace=True),
        convolution(outputs, outputs, axes=axes),
        nn.ReLU(inplace=True),
    )


def _up(inputs: int, outputs: int, axes: int) -> nn.ConvTranspose2d | nn.ConvTranspose3d:
    """Twice the size in plane, by a 2 × 2 transposed convolution without overlap."""
    if axes == 2:
        layer: nn.ConvTranspose2d | nn.ConvTranspose3d = nn.ConvTranspose2d(inputs, outputs, 2, 2)
    else:
        layer = nn.ConvTranspose3d(inputs, outputs, (1, 2, 2), (1, 2, 2))
    # every pixel has one weight from each input map, and no ReLU follows
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    nn.init.zeros_(cast(torch.Tensor, layer.bias))
    return layer


class UNet(nn.Module):
    """Three blocks down, three up, and with residual blocks after it (figure 3).

    Layers as in Ronneberger et al. 2015: pairs of 3 × 3 convolutions with ReLU, 2 × 2 max pooling,
    2 × 2 transposed convolutions, skip connections by concatenation, no batch normalisation. Where
    the paper is silent or differs: widths 32-64-128-256 and padding 1 are what makes its 256 maps
    of 4 × 4 from 32 pixels. The residual blocks have strides 2 and 1, for its 16 × 16. There is
    no ReLU between the last 1 × 1 convolution, 64 maps, and the first residual block.

    Args:
        channels: Of the images: slices, or scales. With three axes, how many slices is free.
        outputs: Maps of the last 1 × 1 convolution.
        width: Maps of the first block.
        residual: Whether the residual blocks follow.
        axes: 3 for the same in three axes: 3 × 3 × 3, pooled in plane only, as the slices are few.
    """

    def __init__(
        self,
        channels: int,
        *,
        outputs: int = 64,
        width: int = 32,
        residual: bool = True,
        axes: int = 2,
    ) -> None:
        super().__init__()
        self.channels, self.axes = channels, axes
        widths = [width * 2**i for i in range(DEPTH + 1)]
        inputs = [channels if axes == 2 else 1, *widths]
        self.down = nn.ModuleList(_pair(inputs[i], widths[i], axes) for i in range(DEPTH + 1))
        self.pool = nn.MaxPool2d(2) if axes == 2 else nn.MaxPool3d((1, 2, 2))
        back = range(DEPTH, 0, -1)
        self.up = nn.ModuleList(_up(widths[i], widths[i - 1], axes) for i in back)
        self.join = nn.ModuleList(_pair(2 * widths[i - 1], widths[i - 1], axes) for i in back)
        self.last = convolution(width, outputs, 1, axes=axes)
        self.residual = nn.Sequential()
        if residual:
            self.residual = nn.Sequential(
                ResidualBlock(outputs, widths[-1], stride=2, axes=axes),
                ResidualBlock(widths[-1], widths[-1], axes=axes),
            )

    def forward(self, images: torch.Tensor) -> Trunk:
        """From (lesion, slice, y, x) to the final and the deepest maps.

        Raises:
            ValueError: The images have another shape or type.
        """
        check_images(images, self.channels, multiple=2**DEPTH)
        features = channels_last(images) if self.axes == 2 else images[:, None]
        skipped = []
        for i, block in enumerate(self.down):
            features = block(self.pool(features) if i else features)
            skipped.append(features)
        deepest = skipped.pop()  # (lesion, 256, y / 8, x / 8)
        for up, join in zip(self.up, self.join, strict=True):
            features = join(torch.cat([skipped.pop(), up(features)], dim=1))
        return Trunk(self.residual(self.last(features)), high_level=deepest)


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """The order in memory that makes torch's convolutions quick; the values stay."""
    return images.contiguous(memory_format=torch.channels_last)


def check_images(
    images: torch.Tensor, channels: int, *, multiple: int = 1, least: int = 16
) -> None:
    """Refuse what is no batch of images.

    Raises:
        ValueError: It has another shape or type.
    """
    if images.ndim != 4 or images.shape[1] != channels or not len(images):
        raise ValueError(
            f"images: expected (lesion, {channels} slices, y, x), got shape {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise ValueError(f"images: expected floating point, got {images.dtype}")
    if any(n < least or n % multiple for n in images.shape[2:]):
        sides = f"{least} pixels or more" + (f", a multiple of {multiple}," if multiple > 1 else "")
        raise ValueError(
            f"images: expected {sides} along each side, got shape {tuple(images.shape)}"
        )
