"""Wang 2021: classifier, segmentation, and the five ways to put them together (2, Fig. 2 and 3).

What the paper leaves open, or prints otherwise:

- The classifier pools after blocks 2, 4 and 6, so that 256 × 4³ values reach the first fully
  connected block; "after every 2 blocks" would be four times, and three are counted.
- The U-Net has the classifier's widths, mirrored, and nearest-neighbour upsampling. Its last layer
  has two channels, and the nodule's begins with a bias of log(π / (1 − π)), π = 0.01 (Lin et al.
  2017, 4.1, the paper's reference 36).
- Dice is that of the nodule's channel alone. n stands above the fraction too, and 1 is added.
- Missing voxels are no part of a mask: predicted ones are 0 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from lesionlab.papers.wang2021.samples import MaskFill, apply_mask

Cascade = Literal["raw", "masked", "cascade", "joint", "branches", "segmentation"]
"""Fig. 3 (a) to (e), and the segmentation alone."""

WIDTHS = (16, 16, 32, 32, 64, 64, 256, 256)
DILATIONS = (1, 1, 2, 2, 2, 2, 4, 4, 2, 2, 2, 2, 1, 1)
"""Of the segmentation's blocks; the fifteenth has a kernel of one voxel (2.2)."""

POOLED = (2, 4, 6)  # after so many blocks
SIZE = 32
HIDDEN = 256
DROPOUT = 0.1
NODULE_SHARE = 0.01  # π, what the segmentation first says of every voxel
DICE_N = 1.0


@dataclass(frozen=True, kw_only=True)
class Design:
    """What tells one model from another.

    Attributes:
        cascade: Which of Fig. 3.
        task: What is classified; empty for a segmentation alone.
        mask_fill: What is left outside of a mask; see `apply_mask`.
        hard: Whether predicted masks are cut at a probability of one half. No gradient of the class
            then reaches the segmentation.
        weight: λ of eq. 4.
        narrow: By how much all convolutions are narrower.
    """

    cascade: Cascade
    task: str = ""
    mask_fill: MaskFill = "zero"
    hard: bool = False
    weight: float = 1.0
    narrow: int = 1

    @property
    def segments(self) -> bool:
        """Whether there is a segmentation."""
        return self.cascade not in ("raw", "masked")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the eight blocks."""
        return tuple(width // self.narrow for width in WIDTHS)


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says of a batch.

    Attributes:
        logits: By task, (nodule, class); empty for a segmentation alone.
        segmentation: (nodule, 1, z, y, x) logits of the nodule against the background, or None.
        masks: (nodule, 1, z, y, x) what the batch knows of the masks, NaN where it is missing.
        given: (nodule, 1, z, y, x) what the classifier was given, or None for (e).
    """

    logits: dict[str, torch.Tensor]
    segmentation: torch.Tensor | None
    masks: torch.Tensor
    given: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Trunk:
    """What is there before the fully connected blocks; `features` are (nodule, 256, 4, 4, 4)."""

    features: torch.Tensor
    segmentation: torch.Tensor | None
    masks: torch.Tensor
    given: torch.Tensor | None


class Block(nn.Sequential):
    """Convolution of 3 × 3 × 3, batch normalisation, ReLU; the size stays (2.1, 2.2)."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv3d(inputs, outputs, 3, padding=dilation, dilation=dilation),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
        )


class Encoder(nn.Module):
    """Eight blocks, and three max-pools between them."""

    def __init__(self, widths: tuple[int, ...], dilations: tuple[int, ...]) -> None:
        super().__init__()
        ends = zip((1, *widths), widths, dilations, strict=False)
        self.blocks = nn.ModuleList(Block(*parts) for parts in ends)
        self.pool = nn.MaxPool3d(2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """From (nodule, 1, z, y, x) to an eighth of its sides, and what each pool was given."""
        skipped = []
        for number, block in enumerate(self.blocks):
            if number in POOLED:
                skipped.append(x)
                x = self.pool(x)
            x = block(x)
        return x, skipped


class UNet(nn.Module):
    """The segmentation: fifteen blocks, eight on the way down and seven on the way up (Fig. 2b)."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = Encoder(widths, DILATIONS[:8])
        self.upsample = nn.Upsample(scale_factor=2)
        blocks, below = [], widths[-1]
        for step, skip in enumerate(widths[n - 1] for n in reversed(POOLED)):
            first, second = DILATIONS[8 + 2 * step : 10 + 2 * step]
            blocks += [Block(below + skip, skip, first), Block(skip, skip, second)]
            below = skip
        self.decoder = nn.ModuleList(blocks)
        self.last = nn.Conv3d(below, 2, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of nodule against background (nodule, 1, z, y, x), and the deepest features."""
        deepest, skipped = self.encoder(images)
        x = deepest
        for step, skip in enumerate(reversed(skipped)):
            x = torch.cat([self.upsample(x), skip], dim=1)
            x = self.decoder[2 * step + 1](self.decoder[2 * step](x))
        background, nodule = self.last(x).split(1, dim=1)
        return nodule - background, deepest  # its sigmoid is the softmax of the two


class FullyConnected(nn.Sequential):
    """Three fully connected blocks, from features to logits (2.1)."""

    def __init__(self, channels: int, classes: int) -> None:
        places = (SIZE // 2 ** len(POOLED)) ** 3
        super().__init__(
            nn.Flatten(),
            nn.Linear(channels * places, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, classes),
        )


class Network(nn.Module):
    """One of the models of Fig. 3, for patches of 32³ voxels.

    Its parts are `unet`, `encoder` and `classifier`, as far as it has them. The feature map that
    `lesionlab.attention` explains is what the fully connected blocks get. `edit`, where it is set,
    changes a mask before it is applied: one of `samples.EDITS`.
    """

    edit: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __init__(self, design: Design, classes: int) -> None:
        super().__init__()
        self.design, widths = design, design.widths
        self.unet = UNet(widths) if design.segments else None
        alone = design.cascade in ("branches", "segmentation")
        self.encoder = None if alone else Encoder(widths, (1,) * 8)
        self.classifier = FullyConnected(widths[-1], classes) if design.task else None
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):  # He et al. 2015, reference 35
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if self.unet is not None:
            start = math.log(NODULE_SHARE / (1 - NODULE_SHARE))
            nn.init.constant_(self.unet.last.bias[1:], start)  # type: ignore[index]

    def forward(self, images: torch.Tensor) -> Outputs:
        """Segment and classify patches.

        `images` are (nodule, 1, z, y, x), normalised by eq. 5, or (nodule, 2, z, y, x) with masks
        as `samples.prepare` gives them in the second channel. Without it, no voxel is missing.
        """
        return self.head(self.trunk(images))

    def trunk(self, images: torch.Tensor) -> Trunk:
        """The part before the fully connected blocks."""
        if images.ndim != 5 or images.shape[1] not in (1, 2) or set(images.shape[2:]) != {SIZE}:
            raise ValueError(
                f"images: expected (nodule, 1 or 2, {SIZE}, {SIZE}, {SIZE}), "
                f"got {tuple(images.shape)}"
            )
        if self.design.cascade == "masked" and images.shape[1] == 1:
            raise ValueError("images: this model is given masks in a second channel, got none")
        image, masks = images[:, :1], images[:, 1:]
        if not masks.shape[1]:
            masks = torch.zeros_like(image)
        # twice as quick on a processor, and the same numbers but for rounding
        image = image.contiguous(memory_format=torch.channels_last_3d)
        segmentation = features = given = None
        if self.unet is not None:
            segmentation, features = self.unet(image)
        if self.encoder is not None:
            given = self.masked(image, segmentation, masks)
            features, _ = self.encoder(given)
        return Trunk(features, segmentation, masks, given)  # type: ignore[arg-type]

    def masked(
        self, image: torch.Tensor, segmentation: torch.Tensor | None, masks: torch.Tensor
    ) -> torch.Tensor:
        """What the classifier is given (eq. 3): the image, masked by what the model has."""
        if self.design.cascade == "raw":
            return image
        if segmentation is not None:
            inside = (segmentation > 0).to(image) if self.design.hard else segmentation.sigmoid()
            masks = inside * masks.isfinite()
        masks = masks.to(image)
        if self.edit is not None:
            masks = self.edit(masks.nan_to_num(0.0))
        return apply_mask(image, masks, mask_fill=self.design.mask_fill)

    def head(self, trunk: Trunk) -> Outputs:
        """The part after the feature map."""
        found = {}
        if self.classifier is not None:
            found[self.design.task] = self.classifier(trunk.features)
        return Outputs(found, trunk.segmentation, trunk.masks, trunk.given)


def dice_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """(nodule,) `1 − (2 Σ s_gt s_pre + n) / (Σ s_gt² + Σ s_pre² + n)` over known voxels (eq. 2).

    Args:
        logits: (nodule, 1, z, y, x), of the nodule against the background.
        masks: The same shape, 0 and 1; NaN marks voxels that are missing.
    """
    known = masks.isfinite()
    s_pre = (logits.float().sigmoid() * known).flatten(1)
    s_gt = masks.nan_to_num(0.0).flatten(1)
    both = s_gt.square().sum(1) + s_pre.square().sum(1)  # eq. 2
    return 1 - (2 * (s_gt * s_pre).sum(1) + DICE_N) / (both + DICE_N)  # eq. 2
