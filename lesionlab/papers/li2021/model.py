"""Li et al. 2021: the network, in two and in three dimensions by the same lines (5 and 6).

Sections are those of the paper, which gives its equations no numbers here; comments name them by
what they define. What it leaves open:

- Widths 64-128-256-512, each block halves the sides of its input; the first one by a max-pool, as
  the text says only that it is convolutional. Batch normalisation as in its reference 25.
- The soft attention's x is the output of the third block, its gate x_g that of the fourth one,
  which is upsampled; the channel attention's x is the output of the fourth block.
- A classifier is a mean over all places and one linear layer.
- The text of 5.2.2 once has the weighted features added to x; the formula, as here, reweights x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from lesionlab.papers.li2021.samples import InputMode

Attention = Literal["basic", "soft", "self"]

WIDTHS = (64, 128, 256, 512)
REDUCTION = 16
"""C to C/16 and back, in the channel attention (5.2.2)."""

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
NORMALISATION = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
UPSAMPLING = {2: "bilinear", 3: "trilinear"}
"""By the number of dimensions; nothing else tells 3D from 2D."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """What tells one model from another.

    Attributes:
        attention: In front of each head.
        mode: What the network is given.
        n_slices: The channels of 2.5D.
        size: The sides of the input, pixels or voxels.
        narrow: By how much all blocks have fewer channels; ours, for small files.
    """

    attention: Attention
    mode: InputMode
    n_slices: int = 1
    size: int = 64
    narrow: int = 1

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of the four blocks."""
        return tuple(width // self.narrow for width in WIDTHS)

    @property
    def axes(self) -> int:
        """Dimensions of the convolutions; the slices of 2.5D are channels."""
        return 3 if self.mode == "3d" else 2


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says of a batch, and what it weighed.

    Attributes:
        logits: By attribute, (lesion, class).
        gates: (lesion, head, y, x) or (lesion, head, z, y, x), the masks x_m of soft attention, 0
            to 1; None without.
        channels: (lesion, head, channel), the weights x_m of channel attention, 0 to 1; None
            without.
    """

    logits: Mapping[str, torch.Tensor]
    gates: torch.Tensor | None = None
    channels: torch.Tensor | None = None


class ConvolutionBlock(nn.Sequential):
    """The first block: a convolution, and half as many places along each axis."""

    def __init__(self, inputs: int, outputs: int, axes: int) -> None:
        super().__init__(
            CONVOLUTION[axes](inputs, outputs, 3, padding=1, bias=False),
            NORMALISATION[axes](outputs),
            nn.ReLU(inplace=True),
            MAX_POOL[axes](2),
        )


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, and half as many places (He et al. 2016, Fig. 2)."""

    def __init__(self, inputs: int, outputs: int, axes: int) -> None:
        super().__init__()
        convolution, normalisation = CONVOLUTION[axes], NORMALISATION[axes]
        self.residual = nn.Sequential(
            convolution(inputs, outputs, 3, stride=2, padding=1, bias=False),
            normalisation(outputs),
            nn.ReLU(inplace=True),
            convolution(outputs, outputs, 3, padding=1, bias=False),
            normalisation(outputs),
        )
        self.shortcut = nn.Sequential(
            convolution(inputs, outputs, 1, stride=2, bias=False),
            normalisation(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (lesion, input, …) to (lesion, output, …)."""
        both: torch.Tensor = self.residual(x) + self.shortcut(x)
        return both.relu()


class SoftAttention(nn.Module):
    """A mask over places from a deeper layer's features: `x̂ = x_m ⊗ x` (5.2.1, Fig. 4A)."""

    def __init__(self, channels: int, gate_channels: int, axes: int) -> None:
        super().__init__()
        convolution = CONVOLUTION[axes]
        self.of_x = convolution(channels, gate_channels, 1)  # C_x to C_g
        self.of_gate = convolution(gate_channels, gate_channels, 1)
        self.fuse = convolution(gate_channels, 1, 1)
        self.upsampling = UPSAMPLING[axes]

    def forward(self, x: torch.Tensor, x_g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From x (lesion, C_x, …) and x_g (lesion, C_g, …) to x̂, as x, and x_m (lesion, 1, …)."""
        gate = self.of_gate(x_g)  # before it is upsampled: the same, and quicker; eq. h of 5.2.1
        gate = functional.interpolate(gate, x.shape[2:], mode=self.upsampling)  # eq. h of 5.2.1
        mixed = (self.of_x(x) + gate).relu()  # eq. h of 5.2.1
        x_m = self.fuse(mixed).sigmoid()  # one value for each place, eq. x_m of 5.2.1
        return x_m * x, x_m  # eq. x̂ of 5.2.1


class ChannelAttention(nn.Module):
    """A weight for each channel from its mean: squeeze-and-excitation (5.2.2, Fig. 4B).

    The paper calls it self-attention, which usually is another thing (Vaswani et al. 2017).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.w2 = nn.Linear(channels, channels // REDUCTION, bias=False)  # W_2, C to C/16
        self.w1 = nn.Linear(channels // REDUCTION, channels, bias=False)  # W_1, C/16 to C

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From x (lesion, C, …) to x̂, as x, and x_m (lesion, C)."""
        z = x.flatten(2).mean(2)  # squeezed, (lesion, C), eq. z of 5.2.2
        z_hat = self.w1(self.w2(z).relu())  # eq. ẑ of 5.2.2
        x_m = z_hat.sigmoid()  # eq. x_m of 5.2.2
        return x * x_m.reshape(*x_m.shape, *[1] * (x.ndim - 2)), x_m  # eq. x̂ of 5.2.2


class Head(nn.Module):
    """One attribute's attention, if any, and its classifier."""

    def __init__(self, design: Design, classes: int) -> None:
        super().__init__()
        shallow, deep = design.widths[-2:]
        soft, channel = design.attention == "soft", design.attention == "self"
        self.soft = SoftAttention(shallow, deep, design.axes) if soft else None
        self.channel = ChannelAttention(deep) if channel else None
        self.classifier = nn.Linear(shallow if self.soft else deep, classes)

    def forward(
        self, maps: torch.Tensor, deep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """From the third and fourth block's output to logits (lesion, class) and the weights."""
        features, weights = deep, None
        if self.soft is not None:
            features, weights = self.soft(maps, deep)
        elif self.channel is not None:
            features, weights = self.channel(deep)
        return self.classifier(features.flatten(2).mean(2)), weights


class Network(nn.Module):
    """Four blocks that all attributes share, and a head for each (Fig. 3).

    `classes` are the number of classes by attribute. The feature map that `lesionlab.attention`
    explains is the output of the third block, the same for all three kinds of attention.
    """

    def __init__(self, design: Design, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.axes, self.inputs = design.axes, design.n_slices
        first, *middle, last = design.widths
        blocks: list[nn.Module] = [ConvolutionBlock(self.inputs, first, self.axes)]
        for inputs, outputs in zip(design.widths, middle, strict=False):
            blocks.append(ResidualBlock(inputs, outputs, self.axes))
        self.blocks = nn.Sequential(*blocks)
        self.last_block = ResidualBlock(middle[-1], last, self.axes)
        self.heads = nn.ModuleDict({name: Head(design, n) for name, n in classes.items()})

    def forward(self, images: torch.Tensor) -> Outputs:
        """Classify lesions, (lesion, slice, y, x) or (lesion, 1, z, y, x) of 16 or more a side."""
        return self.head(self.trunk(images))

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """The feature maps of the third block, an eighth of the images' sides."""
        if images.ndim != self.axes + 2 or images.shape[1] != self.inputs:
            sides = "z, y, x" if self.axes == 3 else "y, x"
            raise ValueError(
                f"images: expected (lesion, {self.inputs}, {sides}), got {tuple(images.shape)}"
            )
        maps: torch.Tensor = self.blocks(images)
        return maps

    def head(self, maps: torch.Tensor) -> Outputs:
        """What comes after the feature maps."""
        deep = self.last_block(maps)
        found = {name: head(maps, deep) for name, head in self.heads.items()}
        logits = {name: scores for name, (scores, _) in found.items()}
        weights = [weight for _, weight in found.values() if weight is not None]
        if not weights:
            return Outputs(logits)
        if weights[0].ndim == 2:
            return Outputs(logits, channels=torch.stack(weights, dim=1))
        return Outputs(logits, gates=torch.cat(weights, dim=1))
