"""Lei 2020, the networks of others that it compares with: see `lesionlab.papers.lei2020`.

They are written out here, each in few lines, as Table 2 changes strides and pools inside them, and
the library that is usually asked for them does not load without a second one of compiled
operators. Parameter counts are those of the published networks.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lesionlab.papers.lei2020._heads import ActivationHead
from lesionlab.papers.lei2020._layers import (
    ResidualBlock,
    Trunk,
    channels_last,
    check_images,
    convolution,
    normalise,
)

RESNETS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
"""Basic blocks at each width, 64 to 512 (He et al. 2016, Table 1)."""

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Widths of the convolutions; 0 is a max pool (configuration D of its Table 1)."""

DENSENET121 = (6, 12, 24, 16)
"""Dense layers in each block (Huang et al. 2017, Table 1)."""

GROWTH = 32
"""Maps that a dense layer adds."""

GATED = (16, 32, 64, 128, 128)
"""Maps at the five scales of the attention-gated classifier."""


class Compared(nn.Module):
    """Convolutions of a network for photographs, given slices as channels.

    Attributes:
        features: How many maps it ends in.
        stride: How many pixels of the image are one of a map: 2 for -CAM and -SAM, 32 as published.

    Args:
        layers: Its convolutions, as one.
        channels: Of the images.
        features: How many maps it ends in.
        stride: See above.
    """

    def __init__(self, layers: nn.Sequential, channels: int, *, features: int, stride: int) -> None:
        super().__init__()
        self.layers, self.channels = layers, channels
        self.features, self.stride = features, stride

    def forward(self, images: torch.Tensor) -> Trunk:
        """From (lesion, slice, y, x) to (lesion, feature, y / stride, x / stride).

        Raises:
            ValueError: The images have another shape or type.
        """
        check_images(images, self.channels, least=32)
        return Trunk(self.layers(channels_last(images)))


def resnet(name: str, channels: int, *, large_maps: bool = False) -> Compared:
    """ResNet-18 or -34 without its last layer (He et al. 2016).

    Large maps (Table 2, "reduce the last pooling layer and strides in each residual block are set
    as 1"): 16 × 16 come out if the max pool goes too, which is the only one in it besides the
    global one.
    """
    layers = [*_stem(channels, large_maps)]
    before = 64
    for i, (width, blocks) in enumerate(zip((64, 128, 256, 512), RESNETS[name], strict=True)):
        for j in range(blocks):
            stride = 2 if i and not j and not large_maps else 1
            layers.append(ResidualBlock(before, width, stride=stride))
            before = width
    return Compared(nn.Sequential(*layers), channels, features=512, stride=2 if large_maps else 32)


def vgg16(channels: int, *, large_maps: bool = False) -> Compared:
    """VGG-16 without its fully connected layers (Simonyan and Zisserman 2015).

    Large maps: without the last four of its five max pools.
    """
    layers: list[nn.Module] = []
    before, pools = channels, 0
    for width in VGG16:
        if width:
            layers += [convolution(before, width), nn.ReLU(inplace=True)]
            before = width
        else:
            pools += 1
            if pools == 1 or not large_maps:
                layers.append(nn.MaxPool2d(2))
    return Compared(nn.Sequential(*layers), channels, features=512, stride=2 if large_maps else 32)


def densenet121(channels: int, *, large_maps: bool = False) -> Compared:
    """DenseNet-121 without its last layer (Huang et al. 2017, with bottlenecks, θ = 0.5).

    Large maps (Table 2, "delete the final pooling layer and strides of pooling in transition block
    are reduced to 1"): as in the ResNets, 16 × 16 come out if the first max pool goes. A window
    of 2 at stride 1 would lose a pixel in each transition; it is one of 3, padded, here, which
    keeps size and place.
    """
    layers = [*_stem(channels, large_maps)]
    features = 64
    for i, n in enumerate(DENSENET121):
        for _ in range(n):
            layers.append(_DenseLayer(features))
            features += GROWTH
        layers += [normalise(features), nn.ReLU(inplace=True)]
        if i < len(DENSENET121) - 1:
            layers.append(convolution(features, features // 2, 1, bias=False))
            if large_maps:
                layers.append(nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False))
            else:
                layers.append(nn.AvgPool2d(2))
            features //= 2
    return Compared(
        nn.Sequential(*layers), channels, features=features, stride=2 if large_maps else 32
    )


def _stem(channels: int, large_maps: bool) -> list[nn.Module]:
    """How ResNet and DenseNet begin: half the size, and half again by a max pool."""
    layers = [
        convolution(channels, 64, 7, stride=2, bias=False),
        normalise(64),
        nn.ReLU(inplace=True),
    ]
    return layers if large_maps else [*layers, nn.MaxPool2d(3, stride=2, padding=1)]


class _DenseLayer(nn.Module):
    """Adds 32 maps made of all maps before it."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            normalise(inputs),
            nn.ReLU(inplace=True),
            convolution(inputs, 4 * GROWTH, 1, bias=False),
            normalise(4 * GROWTH),
            nn.ReLU(inplace=True),
            convolution(4 * GROWTH, GROWTH, bias=False),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([features, self.layers(features)], dim=1)


class PerceptronHead(nn.Module):
    """VGG's three fully connected layers, with dropout.

    Its last map is one pixel for an image of 32, so the first has 512 inputs: the published one
    has 49 times as many, for 224.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, outputs),
        )

    def forward(self, trunk: Trunk) -> torch.Tensor:
        """(lesion, output) logits."""
        logits: torch.Tensor = self.layers(trunk.features.flatten(2).mean(2))
        return logits

    def offset(self, trunk: Trunk) -> None:
        """None: nothing is added to what the maps say."""


class GatedTrunk(nn.Module):
    """Five scales of a VGG-like network, one convolution each (SAG-C).

    Schlemper et al. 2019 have two or three; Lei 2020 "only preserved the first Conv layer at each
    scale". Widths are those of the authors' code at its default `feature_scale=4`,
    https://github.com/ozan-oktay/Attention-Gated-Networks; Lei 2020 gives none.
    """

    features, stride = GATED[-1], 16

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.scales = nn.ModuleList(
            nn.Sequential(convolution(a, b), normalise(b), nn.ReLU(inplace=True))
            for a, b in zip((channels, *GATED[:-1]), GATED, strict=True)
        )

    def forward(self, images: torch.Tensor) -> Trunk:
        """The last scale, and the third and fourth in `earlier`; errors as `Compared`."""
        check_images(images, self.channels)
        maps = [channels_last(images)]
        for i, scale in enumerate(self.scales):
            maps.append(scale(functional.max_pool2d(maps[-1], 2) if i else maps[-1]))
        return Trunk(maps[-1], earlier=(maps[3], maps[4]))


class AttentionGate(nn.Module):
    """Where an earlier scale agrees with the last one (Schlemper et al. 2019, additive gate).

    Weights are shifted to a minimum of 0 and divided by their sum, as for classification there.
    """

    def __init__(self, features: int, gating: int) -> None:
        super().__init__()
        self.theta = convolution(features, gating, 1, bias=False)
        self.phi = convolution(gating, gating, 1)
        self.psi = convolution(gating, 1, 1)

    def forward(self, features: torch.Tensor, gating: torch.Tensor) -> torch.Tensor:
        """The weighted mean of the maps, (lesion, feature)."""
        signal = functional.interpolate(
            self.phi(gating), size=features.shape[2:], mode="bilinear", align_corners=False
        )
        weights: torch.Tensor = self.psi((self.theta(features) + signal).relu()).flatten(2)
        weights = weights - weights.amin(2, keepdim=True)
        # where all places agree alike, there is nothing to divide by
        weights = weights / weights.sum(2, keepdim=True).clamp_min(1e-7)
        return (features.flatten(2) * weights).sum(2)


class GatedHead(nn.Module):
    """A linear classifier of two gated scales and the mean of the last (SAG-C)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        third, fourth, last = GATED[2:]
        self.gates = nn.ModuleList([AttentionGate(third, last), AttentionGate(fourth, last)])
        self.classifier = nn.Linear(third + fourth + last, outputs)

    def forward(self, trunk: Trunk) -> torch.Tensor:
        """(lesion, output) logits."""
        last = trunk.features
        gated = [gate(maps, last) for gate, maps in zip(self.gates, trunk.earlier, strict=True)]
        logits: torch.Tensor = self.classifier(torch.cat([*gated, last.flatten(2).mean(2)], dim=1))
        return logits

    def offset(self, trunk: Trunk) -> None:
        """None: nothing is added to what the maps say."""


def compared(name: str, channels: int, *, large_maps: bool) -> Compared | GatedTrunk:
    """The trunk of that name, with maps of 16 × 16 for images of 32 if asked for."""
    if name == "attention_gate":
        return GatedTrunk(channels)
    if name == "vgg16":
        return vgg16(channels, large_maps=large_maps)
    if name == "densenet121":
        return densenet121(channels, large_maps=large_maps)
    return resnet(name, channels, large_maps=large_maps)


def own_head(name: str, features: int, outputs: int) -> ActivationHead | PerceptronHead | GatedHead:
    """The head that the network was published with."""
    if name == "attention_gate":
        return GatedHead(outputs)
    if name == "vgg16":
        return PerceptronHead(features, outputs)
    return ActivationHead(features, outputs)
