"""Fu 2021, sample preparation (3.1, 3.2): see `lesionlab.papers.fu2021`, which offers it.

The slices of a nodule, each 64 × 64, however many there are. The slices of a mini-batch are
*packed*: stacked on axis 0, with the nodule of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from lesionlab.attributes import RATING_NAMES
from lesionlab.crops import Crop, augmentation
from lesionlab.crops.resampling import Outside, planes
from lesionlab.crops.sampling import Box, Lesion, Samples, batch, in_chunks

ATTRIBUTES = RATING_NAMES
"""All nine ratings, malignancy the last."""

SIZE = 64
"""Rows and columns of a slice."""


def prepare(
    crops: Iterable[Crop],
    *,
    size: int = SIZE,
    share: float = 0.8,
    box: Box = "outlines",
    outside: Outside = "edge",
    device: torch.device | str = "cpu",
) -> Samples:
    """Cut out every slice with nodule pixels, square around the nodule, at `size` × `size` (3.1).

    The window's side is the larger side of the nodule's box divided by `share`, its centre the
    centre of the box, and both are the same on all slices. The padding is the CT around the box,
    as from pylidc's `consensus(…, pad=…)`, but exact where pylidc pads by whole pixels.

    Where the paper leaves a choice: the box of a "50 % consensus" is printed with a mean side of
    15.8 pixels, which is the box of all readers' outlines; that of the consensus voxels has 12.5.
    So `box="outlines"` (see `lesionlab.crops.sampling.locate`). The slices are those of the
    consensus: 5.52 on average where 5.6 is printed. `outside` is what lies beyond a crop.

    Returns:
        `images` (sum of slices, 1, size, size) in HU, packed, with `nodule` and `lengths`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r}: expected above 0 and up to 1")

    def some(lesions: list[Lesion]) -> Samples:
        stacks = [lesion.stack for lesion in lesions]
        low, high = (np.stack([getattr(i, end) for i in lesions])[:, 1:] for end in ("low", "high"))
        side = (high - low).max(axis=1, keepdims=True) / share
        images, within = planes(
            stacks,
            (low + high - 1) / 2,
            np.repeat(side, 2, axis=1),
            size=size,
            outside=outside,
            device=device,
        )
        used = [lesion.crop.slice_index[lesion.slices] for lesion in lesions]
        return batch(
            lesions,
            images[:, None],
            padded=1 - within,
            missing=np.array([k[-1] - k[0] + 1 - len(k) for k in used]),
            lengths=[len(stack) for stack in stacks],
        )

    return in_chunks(crops, some, level=0.5, box=box)


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of the training set's pixels, HU (3.2)."""

    mean: float
    sd: float

    @classmethod
    def of(cls, training: Samples) -> Normalisation:
        """Measure both on the prepared training set, in double precision."""
        sd, mean = torch.std_mean(training.images.double(), correction=0)
        if not sd > 0:
            raise ValueError(f"training: all pixels are {float(mean):g} HU, there is no spread")
        return cls(float(mean), float(sd))

    def __call__(self, samples: Samples) -> Samples:
        """Subtract the mean and divide by the standard deviation."""
        shift = samples.images.new_tensor(-self.mean / self.sd)
        return replace(samples, images=torch.add(shift, samples.images, alpha=1 / self.sd))


def volumes(samples: Samples, *, depth: int = 64, value: float = 0.0) -> torch.Tensor:
    """Pad each nodule's slices to one depth, for the 3D variant (3.3): (nodule, 1, depth, y, x).

    The slices lie in the middle (the odd one out below). The paper does not say where, nor what
    with: 0, which after `Normalisation` is the mean of the training set.
    """
    lengths = samples.lengths
    if int(lengths.max()) > depth:
        worst = samples.lesion_ids[int(lengths.argmax())]
        raise ValueError(f"depth={depth!r}: {worst} has {int(lengths.max())} slices")
    shape = (len(lengths), 1, depth, *samples.images.shape[-2:])
    out = samples.images.new_full(shape, value)
    start = lengths.cumsum(0) - lengths
    here = torch.arange(len(samples.nodule), device=out.device)
    z = here + ((depth - lengths) // 2 - start)[samples.nodule]
    out[samples.nodule, 0, z] = samples.images[:, 0]
    return out


@dataclass(frozen=True)
class Augmentation:
    """One draw per nodule, by which all its slices are moved alike; each part is (nodule,)."""

    flip_x: torch.Tensor  # bool, mirror horizontally
    flip_y: torch.Tensor  # bool, mirror vertically
    turns: torch.Tensor  # quarter turns
    reverse: torch.Tensor  # bool, reverse the order of the slices


def draw(n: int, generator: torch.Generator, *, p: float = 0.5) -> Augmentation:
    """Draw for `n` nodules: a flip (one of two), a rotation (one of three), a z reversal (3.2).

    The paper lists the three with "or" and no probability; here each happens with probability
    `p`, independently of the others. So a quarter of the nodules stays as it is in plane. The
    authors' published code flips vertically or not and turns by 0, 90, 180 or 270 degrees, all
    with equal chances: there each of the eight positions of the square has 1/8.
    """
    flips = augmentation.happens(n, p, generator)
    horizontal = augmentation.happens(n, 0.5, generator)
    rotates = augmentation.happens(n, p, generator)
    turns = (augmentation.choose(n, 3, generator) + 1) * rotates
    return Augmentation(
        flips & horizontal, flips & ~horizontal, turns, augmentation.happens(n, p, generator)
    )


def apply(samples: Samples, drawn: Augmentation) -> Samples:
    """Flip, then rotate, then reverse, as drawn; an epoch is augmented fastest as a whole."""
    n = len(samples.lesion_ids)
    if len(drawn.turns) != n:
        raise ValueError(f"the draw is for {len(drawn.turns)} nodules, the batch has {n}")
    nodule = samples.nodule.cpu()
    images = augmentation.move(
        samples.images,
        flips={-1: drawn.flip_x[nodule], -2: drawn.flip_y[nodule]},
        turns=drawn.turns[nodule],
        rows=augmentation.reversed_rows(drawn.reverse, nodule),
    )
    return replace(samples, images=images)
