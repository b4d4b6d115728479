"""Lei 2020, the network of figure 3: its trunk and its heads, equation by equation.

Symbols of the paper: g_k feature map k, A^k the same after pooling, β_kl the weights of its fully
connected layer h_k (eq. 9 prints β_l; each map has its own), H_k its value, d_k the value of the
high-level map k, γ_k^c the classifier's weight of map k for output c, S_c the logit. Biases, which
the equations leave out, are b_k of h_k and b^c of the classifier. P is the number of pixels of a
map, p one of them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn import functional

DEPTH = 3
"""How often the U-Net halves the image (3.2)."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """The parts that a model has.

    `trunk` is all that comes before the head: `"unet"`, the paper's (figure 3), `"resnet18"`,
    `"resnet34"`, `"vgg16"`, `"densenet121"` or `"attention_gate"`. Heads are `"cam"`
    (eq. 1), `"sam"` (eq. 5–10), `"fully_connected"` (Appendix C), `"flat"` (a linear classifier of
    all values), and `"own"` (the one that a network was published with).
    """

    trunk: str = "unet"
    head: str = "sam"
    # how the U-Net's deepest maps become d of eq. 12 (HF in Table 3)
    high_level: Literal["max", "average"] | None = None
    fusion: Literal["sum", "concatenate"] = "sum"  # how d joins the values of a head (4.5.2)
    pool: Literal["max", "average"] = "average"  # in the soft activation head (FCF in Table 3)
    residual: bool = True  # residual blocks follow the U-Net (RB in Table 4)
    outputs: int = 64  # maps that the U-Net ends in
    width: int = 32  # maps of the U-Net's first block; each next one has twice as many
    axes: int = 2  # 2 takes the slices as channels (the paper), 3 as a third axis (ours)
    roll: int = 0  # by how many places d is rolled before it joins (4.5.1)
    images: str = "D11C"  # one of `samples.IMAGE_SETS` (Table 1)
    ratings: bool = False  # the readers' nine ratings (ours) and not two classes

    @property
    def deepest(self) -> int:
        """Maps of the U-Net's deepest block: 256 in the paper."""
        return 8 * self.width


HESAM = Design(high_level="max")
"""The paper's own model."""

PN_SAMP = Design(head="cam", high_level="average", fusion="concatenate", residual=False)
"""What the paper says of Wu et al. 2018 (4.1)."""


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """What a trunk gives its head."""

    features: torch.Tensor  # g of eq. 5, (lesion, feature, y, x), or (lesion, feature, z, y, x)
    high_level: torch.Tensor | None = None  # the U-Net's deepest maps, 256 × 4 × 4 for 32 pixels
    earlier: tuple[torch.Tensor, ...] = ()  # maps of earlier layers, for the gated head


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model predicts for a batch, and the maps that it does so by.

    Attributes:
        logits: (lesion, output), S of eq. 8 and 12: benign and malignant, or one for each rating.
        features: As `FeatureMaps.features`.
        high_level: (lesion, output) the part of the logits that no map shows, `Σ_k γ_k^c d_k` of
            eq. 12; None without high-level features.
    """

    logits: torch.Tensor
    features: torch.Tensor
    high_level: torch.Tensor | None = None


def convolution(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, bias: bool = True, axes: int = 2
) -> nn.Conv2d | nn.Conv3d:
    """A convolution that keeps the size, or halves it in plane: slices are never left out.

    Weights are normal as in He et al. 2015, which Ronneberger et al. 2015 and He et al. 2016 use.
    """
    kind: Any = nn.Conv2d if axes == 2 else nn.Conv3d
    steps = (1, stride, stride)[-axes:]
    layer: nn.Conv2d | nn.Conv3d = kind(inputs, outputs, kernel, steps, kernel // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that also trains on one lesion with maps of 1 × 1.

    That is what the last batch of an epoch may be, in networks that halve 32 pixels five times. One
    value has no spread: the running statistics are used, unchanged.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise (lesion, feature, y, x)."""
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

    The way around is a 1 × 1 convolution with batch normalisation where sizes differ.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, axes: int = 2) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, stride=stride, bias=False, axes=axes)
        self.first_norm = normalise(outputs, axes)
        self.second = convolution(outputs, outputs, bias=False, axes=axes)
        self.second_norm = normalise(outputs, axes)
        self.around = nn.Sequential()
        if stride != 1 or inputs != outputs:
            way = convolution(inputs, outputs, 1, stride=stride, bias=False, axes=axes)
            self.around = nn.Sequential(way, normalise(outputs, axes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """From (lesion, inputs, y, x) to (lesion, outputs, y / stride, x / stride)."""
        inner = self.first_norm(self.first(features)).relu_()
        outer: torch.Tensor = self.second_norm(self.second(inner)) + self.around(features)
        return outer.relu_()


def _pair(inputs: int, outputs: int, axes: int) -> nn.Sequential:
    """Two convolutions with ReLU, one level of the U-Net."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [convolution(channels, outputs, axes=axes), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _up(inputs: int, outputs: int, axes: int) -> nn.Module:
    """Twice the size in plane, by a 2 × 2 transposed convolution without overlap."""
    kind: Any = nn.ConvTranspose2d if axes == 2 else nn.ConvTranspose3d
    window = (1, 2, 2)[-axes:]
    layer: nn.Module = kind(inputs, outputs, window, window)
    # every pixel has one weight from each input map, and no ReLU follows
    nn.init.normal_(cast(torch.Tensor, layer.weight), std=inputs**-0.5)
    nn.init.zeros_(cast(torch.Tensor, layer.bias))
    return layer


class UNet(nn.Module):
    """Three blocks down, three up, and the residual blocks after it (figure 3).

    Layers as in Ronneberger et al. 2015: pairs of 3 × 3 convolutions with ReLU, 2 × 2 max pooling,
    2 × 2 transposed convolutions, skip connections by concatenation, no batch normalisation; with
    padding 1, and no ReLU between the last 1 × 1 convolution and the first residual block. The
    residual blocks have strides 2 and 1. In three axes, filters are 3 × 3 × 3, and pooling is in
    plane only, as the slices are few.
    """

    def __init__(self, channels: int, design: Design = HESAM) -> None:
        super().__init__()
        axes = self.axes = design.axes
        self.features = design.deepest if design.residual else design.outputs
        self.stride = 2 if design.residual else 1
        widths = [design.width * 2**i for i in range(DEPTH + 1)]
        inputs = [channels if axes == 2 else 1, *widths]
        self.down = nn.ModuleList(_pair(inputs[i], widths[i], axes) for i in range(DEPTH + 1))
        self.pool = nn.MaxPool2d(2) if axes == 2 else nn.MaxPool3d((1, 2, 2))
        back = range(DEPTH, 0, -1)
        self.up = nn.ModuleList(_up(widths[i], widths[i - 1], axes) for i in back)
        self.join = nn.ModuleList(_pair(2 * widths[i - 1], widths[i - 1], axes) for i in back)
        self.last = convolution(design.width, design.outputs, 1, axes=axes)
        self.residual = nn.Sequential()
        if design.residual:
            self.residual = nn.Sequential(
                ResidualBlock(design.outputs, widths[-1], stride=2, axes=axes),
                ResidualBlock(widths[-1], widths[-1], axes=axes),
            )

    def forward(self, images: torch.Tensor) -> FeatureMaps:
        """From (lesion, slice, y, x) to the final and the deepest maps."""
        features = channels_last(images) if self.axes == 2 else images[:, None]
        skipped = []
        for i, block in enumerate(self.down):
            features = block(self.pool(features) if i else features)
            skipped.append(features)
        deepest = skipped.pop()  # (lesion, 256, y / 8, x / 8)
        for up, join in zip(self.up, self.join, strict=True):
            features = join(torch.cat([skipped.pop(), up(features)], dim=1))
        return FeatureMaps(self.residual(self.last(features)), high_level=deepest)


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """The images in the order in memory that makes torch's convolutions quick."""
    return images.contiguous(memory_format=torch.channels_last)


class Head(nn.Module):
    """A value H_k for each feature map, d_k added where there is any, and a linear classifier.

    `S_c = b^c + Σ_k γ_k^c (H_k + d_k)` (eq. 8 and 12). γ is the `weight` of `classifier`, (output,
    feature), and b^c its `bias`, (output,). For `fusion="concatenate"` (4.5.2) the columns of d
    come after those of H.
    """

    def __init__(self, design: Design, features: int, size: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.design, self.features = design, features
        joined = design.deepest if design.fusion == "concatenate" else 0
        self.classifier = nn.Linear(features + joined, outputs)

    @abstractmethod
    def values(self, features: torch.Tensor) -> torch.Tensor:
        """H, (lesion, feature)."""

    def high_level(self, deepest: torch.Tensor) -> torch.Tensor:
        """The vector d of eq. 12, (lesion, feature): a value for each of the deepest maps (3.2)."""
        deepest = deepest.flatten(2)
        d = deepest.amax(2) if self.design.high_level == "max" else deepest.mean(2)
        return d.roll(self.design.roll, 1)

    @property
    def map_weights(self) -> torch.Tensor:
        """γ, (output, feature): what eq. 2, 7 and 11 weight the maps with."""
        return self.classifier.weight[:, : self.features]

    def forward(self, maps: FeatureMaps) -> Outputs:
        """The logits, and the part of them that no map shows."""
        values = self.values(maps.features)
        if self.design.high_level is None or maps.high_level is None:
            return Outputs(self.classifier(values), maps.features)  # eq. 8–10
        d, gamma = self.high_level(maps.high_level), self.classifier.weight
        if self.design.fusion == "sum":
            return Outputs(self.classifier(values + d), maps.features, d @ gamma.T)  # eq. 12
        logits = self.classifier(torch.cat([values, d], dim=1))
        return Outputs(logits, maps.features, d @ gamma[:, self.features :].T)


class CAMHead(Head):
    """Class activation mapping: the mean of each feature map, and a linear classifier (eq. 1, 2).

    `H_k = Σ_p g_k(p) / P`. Eq. 1 writes the sum; global average pooling, as its source and the
    text have it, is the mean. The map of eq. 2, `Σ_k γ_k^c g_k(p)`, divided by P, sums over p to
    the logit without b^c and d: the printed map and the exact one are the same but for that factor.
    """

    def values(self, features: torch.Tensor) -> torch.Tensor:
        """H, the means."""
        return features.flatten(2).mean(2)  # eq. 1


class SAMHead(Head):
    """Soft activation mapping (eq. 5–10): each feature map has a layer of its own for its regions.

    `A^k = pool(g_k)`, `H_k = b_k + Σ_l β_kl A_l^k`, `S_c = b^c + Σ_k γ_k^c H_k`. With high-level
    features, d of eq. 12, it is HESAM.

    The map of eq. 7, `M'_c(p) = Σ_k γ_k^c g_k(p)`, leaves β out. The exact one takes β back
    through the average pooling, whose window W_l has 25 pixels (125 in three axes):

        E_c(p) = Σ_k γ_k^c g_k(p) Σ_{l: p ∈ W_l} β_kl / 25
        S_c    = Σ_p E_c(p) + Σ_k γ_k^c b_k + b^c  (+ Σ_k γ_k^c d_k)

    The inner sum is a transposed convolution of β with a 5 × 5 window of 1/25 and stride 2, padded
    with zeros to the size of the map: the six windows over 16 pixels end at the 15th, so the last
    row and the last column have no part in the logit. With max pooling there is no such map that
    is the same for all images.

    `local` is h_k for all k, a convolution in one group per map whose filters are as large as A:
    `weight` is β, (feature, 1, 6, 6), and `bias` b_k, (feature,).
    """

    def __init__(self, design: Design, features: int, size: tuple[int, ...], outputs: int) -> None:
        super().__init__(design, features, size, outputs)
        self.pool = pooling(design.pool, len(size))
        kind: Any = nn.Conv2d if len(size) == 2 else nn.Conv3d
        self.local: nn.Conv2d = kind(features, features, pooled(size), groups=features)

    def values(self, features: torch.Tensor) -> torch.Tensor:
        """H of eq. 6."""
        minor = self.pool(features)  # A, (lesion, feature, 6, 6), eq. 5
        found: torch.Tensor = self.local(minor)  # (lesion, feature, 1, 1), eq. 6
        return found.flatten(1)


def pooling(kind: Literal["max", "average"], axes: int) -> nn.Module:
    """Average or maximum over windows of 5, every 2 places (figure 3)."""
    kinds = {"average": (nn.AvgPool2d, nn.AvgPool3d), "max": (nn.MaxPool2d, nn.MaxPool3d)}
    return kinds[kind][axes - 2](5, 2)


def pooled(size: tuple[int, ...]) -> tuple[int, ...]:
    """What the pooling leaves of a map of that size."""
    return tuple((side - 5) // 2 + 1 for side in size)
