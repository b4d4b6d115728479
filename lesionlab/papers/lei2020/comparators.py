"""Lei 2020, the networks and heads that the paper compares its own with.

ResNet and DenseNet are MONAI's, VGG-16 and the attention-gated classifier, which MONAI does not
have, are written out. "-CAM" and "-SAM" have large maps: Table 2 takes strides and pools out of
them, so that 16 × 16 places are left of 32 × 32 pixels. Parameter counts are those of the published
networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lesionlab import _names
from lesionlab.papers.lei2020.model import (
    BatchNorm2d,
    CAMHead,
    Design,
    FeatureMaps,
    Head,
    Outputs,
    SAMHead,
    UNet,
    channels_last,
    convolution,
    normalise,
    pooled,
    pooling,
)

GATED = (16, 32, 64, 128, 128)
"""Maps at the five scales of the attention-gated classifier."""


class Compared(nn.Module):
    """Convolutions of a network for photographs, given slices as channels."""

    def __init__(self, layers: nn.Module, *, features: int, stride: int) -> None:
        super().__init__()
        self.layers, self.features, self.stride = layers, features, stride

    def forward(self, images: torch.Tensor) -> FeatureMaps:
        """From (lesion, slice, y, x) to (lesion, feature, y / stride, x / stride)."""
        return FeatureMaps(self.layers(channels_last(images)))


def resnet(blocks: list[int], channels: int, *, large_maps: bool = False) -> nn.Sequential:
    """ResNet-18 or -34 without its last layer (He et al. 2016).

    Large maps: "reduce the last pooling layer and strides in each residual block are set as 1"
    (Table 2); 16 × 16 come out if the max pool goes too.
    """
    from monai.networks.nets.resnet import ResNet  # takes seconds to load

    with torch.device("meta"):
        net = ResNet(
            "basic", blocks, [64, 128, 256, 512], spatial_dims=2, n_input_channels=channels,
            conv1_t_stride=2, feed_forward=False, bias_downsample=False,
        )  # fmt: skip
    blocks_of = (net.layer1, net.layer2, net.layer3, net.layer4)
    if large_maps:
        for module in nn.ModuleList(blocks_of).modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
    pool = nn.Identity() if large_maps else net.maxpool
    return _drawn(nn.Sequential(net.conv1, net.bn1, net.act, pool, *blocks_of))


def densenet121(channels: int, *, large_maps: bool = False) -> nn.Sequential:
    """DenseNet-121 without its last layer (Huang et al. 2017, with bottlenecks, θ = 0.5).

    Large maps: "delete the final pooling layer and strides of pooling in transition block are
    reduced to 1" (Table 2), and the first max pool goes, as in the ResNets. A window of 2 at
    stride 1 would lose a pixel in each transition; here it is one of 3, padded.
    """
    from monai.networks.nets.densenet import DenseNet121  # takes seconds to load

    with torch.device("meta"):
        layers: Any = DenseNet121(spatial_dims=2, in_channels=channels, out_channels=1).features
    if large_maps:
        layers.pool0 = nn.Identity()
        for transition in (layers.transition1, layers.transition2, layers.transition3):
            transition.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return _drawn(nn.Sequential(layers, nn.ReLU(inplace=True)))


def _drawn(layers: nn.Sequential) -> nn.Sequential:
    """Layers of MONAI made as ours are: weights drawn alike, and normalisation that takes 1 × 1.

    They come without values (on torch's meta device), so that making them draws nothing.
    """
    layers.to_empty(device=torch.get_default_device())
    for name, module in list(layers.named_modules()):
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            layers.set_submodule(name, BatchNorm2d(module.num_features))
    return layers


def vgg16(channels: int, *, large_maps: bool = False) -> nn.Sequential:
    """VGG-16 without its fully connected layers (Simonyan and Zisserman 2015).

    Large maps: without the last four of its five max pools.
    """
    layers: list[nn.Module] = []
    # configuration D of its Table 1
    for width, n in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(n):
            layers += [convolution(channels, width), nn.ReLU(inplace=True)]
            channels = width
        if width == 64 or not large_maps:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class PerceptronHead(nn.Module):
    """VGG's three fully connected layers, with dropout; of one pixel, not of 7 × 7 as published."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (features, 4096):
            layers += [nn.Linear(inputs, 4096), nn.ReLU(inplace=True), nn.Dropout()]
        self.layers = nn.Sequential(*layers, nn.Linear(4096, outputs))

    def forward(self, maps: FeatureMaps) -> Outputs:
        """The logits."""
        return Outputs(self.layers(maps.features.flatten(2).mean(2)), maps.features)


class GatedTrunk(nn.Module):
    """Five scales of a VGG-like network, one convolution each (SAG-C).

    Lei 2020 "only preserved the first Conv layer at each scale" of Schlemper et al. 2019. The
    widths are those of https://github.com/ozan-oktay/Attention-Gated-Networks at its default
    `feature_scale=4`.
    """

    features, stride = GATED[-1], 16

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Sequential(convolution(a, b), normalise(b), nn.ReLU(inplace=True))
            for a, b in zip((channels, *GATED[:-1]), GATED, strict=True)
        )

    def forward(self, images: torch.Tensor) -> FeatureMaps:
        """The last scale, and the third and fourth in `earlier`."""
        maps = [channels_last(images)]
        for i, scale in enumerate(self.scales):
            maps.append(scale(functional.max_pool2d(maps[-1], 2) if i else maps[-1]))
        return FeatureMaps(maps[-1], earlier=(maps[3], maps[4]))


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

    def forward(self, maps: FeatureMaps) -> Outputs:
        """The logits."""
        last = maps.features
        gated = [gate(early, last) for gate, early in zip(self.gates, maps.earlier, strict=True)]
        means = torch.cat([*gated, last.flatten(2).mean(2)], dim=1)
        return Outputs(self.classifier(means), last)


class FullyConnectedHead(Head):
    """One fully connected layer for all pooled maps together (3.1, Appendix C).

    It has no activation map, as each of its outputs mixes all maps.
    """

    def __init__(self, design: Design, features: int, size: tuple[int, ...], outputs: int) -> None:
        super().__init__(design, features, size, outputs)
        self.pool = pooling("average", len(size))
        self.mix = nn.Linear(features * math.prod(pooled(size)), features)

    def values(self, features: torch.Tensor) -> torch.Tensor:
        """What stands in place of H."""
        found: torch.Tensor = self.mix(self.pool(features).flatten(1))
        return found


class FlatHead(Head):
    """A linear classifier of every value of every map: our "Baseline" of Table 2."""

    def __init__(self, design: Design, features: int, size: tuple[int, ...], outputs: int) -> None:
        super().__init__(design, features * math.prod(size), size, outputs)

    def values(self, features: torch.Tensor) -> torch.Tensor:
        """All values, (lesion, feature × y × x)."""
        return features.flatten(1)


def trunk(design: Design, channels: int) -> Any:
    """All that comes before the head, with its number of maps (`features`) and `stride`.

    The maps of the networks of others are large, 16 × 16, unless the head is their own.
    """
    if design.trunk == "unet":
        return UNet(channels, design)
    if design.trunk == "attention_gate":
        return GatedTrunk(channels)
    layers: dict[str, tuple[Callable[..., nn.Module], int]] = {
        "resnet18": (partial(resnet, [2, 2, 2, 2]), 512),
        "resnet34": (partial(resnet, [3, 4, 6, 3]), 512),
        "vgg16": (vgg16, 512),
        "densenet121": (densenet121, 1024),
    }
    _names.one_of("trunk", design.trunk, ["unet", "attention_gate", *layers])
    make, features = layers[design.trunk]
    large = design.head != "own"
    return Compared(make(channels, large_maps=large), features=features, stride=2 if large else 32)


def head(design: Design, features: int, size: tuple[int, ...], outputs: int) -> nn.Module:
    """The head of a design, for feature maps of that size."""
    if design.head == "own" and design.trunk == "attention_gate":
        return GatedHead(outputs)
    if design.head == "own" and design.trunk == "vgg16":
        return PerceptronHead(features, outputs)
    kinds: dict[str, type[Head]] = {
        "own": CAMHead,
        "cam": CAMHead,
        "sam": SAMHead,
        "fully_connected": FullyConnectedHead,
        "flat": FlatHead,
    }
    _names.one_of("head", design.head, kinds)
    return kinds[design.head](design, features, size, outputs)
