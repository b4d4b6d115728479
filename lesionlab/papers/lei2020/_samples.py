"""Lei 2020, sample preparation (4.1, Table 1): see `lesionlab.papers.lei2020`, which offers it.

32 × 32 pixels of a square of two equivalent diameters, with 1, 11 or 21 slices as channels, or one
slice at three scales. No augmentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from lesionlab.crops import Crop
from lesionlab.crops.resampling import Outside, volumes
from lesionlab.crops.sampling import Lesion, Samples, batch, in_chunks, to_unit

CHANNELS = {"D1C": 1, "D11C": 11, "D21C": 21}
"""Slices of the paper's three data sets that `prepare` builds; D3C is `prepare_scales`'."""

WINDOW = (-1024.0, 400.0)
"""HU that become 0 and 1."""


def prepare(
    crops: Iterable[Crop],
    *,
    channels: int = 11,
    size: int = 32,
    scale: float = 2.0,
    slice_step: float = 1.0,
    diameters: Sequence[float] | None = None,
    window: tuple[float, float] = WINDOW,
    level: float = 0.5,
    outside: Outside = "edge",
    device: torch.device | str = "cpu",
) -> Samples:
    """Slices 1 mm apart around the nodule's centre, as channels: D1C, D11C, D21C (Table 1).

    The paper takes centre and diameter from the "nodule report"; here the centre is the centroid
    of the consensus mask and the diameter that of the sphere with its volume. The middle slice
    lies exactly at the centroid. In plane, pixels keep their size until the square is resized to
    32, which the paper does not describe: bilinear, without a low-pass filter, so a nodule over
    some 16 pixels in diameter loses detail. Intensities are not given: HU clipped to `window` and
    scaled to [0, 1].

    Args:
        crops: Crops.
        channels: Slices, odd: 1, 11 or 21 in the paper.
        size: Side of a sample, pixels.
        scale: Side of the square as a multiple of the diameter.
        slice_step: Distance between slices, mm.
        diameters: Of each crop's nodule, mm; from its consensus mask if None.
        window: HU that become 0 and 1.
        level: Share of the readers for the consensus.
        outside: What lies beyond a crop. 21 slices reach 10 mm up and down, beyond most nodules:
            read `Samples.report()`.
        device: Where to compute.

    Returns:
        `images` (nodule, channels, size, size) in [0, 1].

    Raises:
        ValueError: An option is out of range, or a crop has no consensus.
    """
    if channels < 1 or channels % 2 == 0:
        raise ValueError(f"channels={channels!r}: expected an odd number, 1, 11 or 21 in the paper")
    return _build(
        crops,
        channels=channels,
        scales=(scale,),
        size=size,
        slice_step=slice_step,
        diameters=diameters,
        window=window,
        level=level,
        outside=outside,
        device=device,
    )


def prepare_scales(
    crops: Iterable[Crop],
    *,
    scales: Sequence[float] = (2.0, 3.0, 4.0),
    size: int = 32,
    diameters: Sequence[float] | None = None,
    window: tuple[float, float] = WINDOW,
    level: float = 0.5,
    outside: Outside = "edge",
    device: torch.device | str = "cpu",
) -> Samples:
    """The centre slice in squares of 2, 3 and 4 diameters, as channels: D3C (Table 1).

    Arguments as in `prepare`. Four diameters reach beyond a crop of 128 pixels from 20 mm or so.

    Returns:
        `images` (nodule, scales, size, size) in [0, 1].

    Raises:
        ValueError: An option is out of range, or a crop has no consensus.
    """
    return _build(
        crops,
        channels=1,
        scales=tuple(scales),
        size=size,
        slice_step=1.0,
        diameters=diameters,
        window=window,
        level=level,
        outside=outside,
        device=device,
    )


def _build(
    crops: Iterable[Crop],
    *,
    channels: int,
    scales: tuple[float, ...],
    size: int,
    slice_step: float,
    diameters: Sequence[float] | None,
    window: tuple[float, float],
    level: float,
    outside: Outside,
    device: torch.device | str,
) -> Samples:
    """Both builders: symmetric slices for each scale, one after the other."""
    if not scales or not all(np.isfinite(s) and s > 0 for s in (*scales, slice_step)):
        raise ValueError(f"scale {scales}, slice_step {slice_step!r}: expected numbers above 0")
    given = None if diameters is None else np.asarray(diameters, float)
    if given is not None and not (given.ndim == 1 and np.all(np.isfinite(given) & (given > 0))):
        raise ValueError("diameters: expected one length in mm above 0 for each crop")
    done = 0

    def some(lesions: list[Lesion]) -> Samples:
        nonlocal done
        diameter = np.array([lesion.equivalent_diameter for lesion in lesions])
        if given is not None:
            diameter = given[done : done + len(lesions)]
            if len(diameter) < len(lesions):
                raise ValueError(f"diameters: {len(given)} for more crops than that")
        done += len(lesions)
        spacing = np.array([lesion.crop.spacing for lesion in lesions])
        centre = np.stack([lesion.centroid for lesion in lesions])
        steps = (np.arange(channels) - channels // 2) * slice_step / spacing[:, :1]
        read = [
            volumes(
                [lesion.crop.hu for lesion in lesions],
                [lesion.crop.slice_index for lesion in lesions],
                centre[:, :1] + steps,
                centre[:, 1:],
                diameter[:, None] * scale / spacing[:, 1:],
                size=size,
                outside=outside,
                device=device,
            )
            for scale in scales
        ]
        images = to_unit(torch.cat([hu for hu, _, _ in read], dim=1), window)
        padded = np.mean([share for _, share, _ in read], axis=0)
        return batch(lesions, images, padded=padded, missing=read[0][2])

    samples = in_chunks(crops, some, level=level)
    if given is not None and len(given) != done:
        raise ValueError(f"diameters: {len(given)} for {done} crops")
    return samples


def duplicate_slice(images: torch.Tensor, channel: int) -> torch.Tensor:
    """Put one slice into every channel, as Figs. 5 and 7 feed a network trained on D11C.

    Args:
        images: (nodule, channel, y, x).
        channel: Which slice.

    Raises:
        IndexError: There is no such channel.
    """
    if not 0 <= channel < images.shape[1]:
        raise IndexError(f"channel={channel!r}: the batch has channels 0 to {images.shape[1] - 1}")
    return images[:, channel : channel + 1].expand_as(images).contiguous()
