"""Lei 2020, samples (4.1, Table 1), the readers' outlines on them, and lesions for readers.

32 × 32 pixels of a square of two equivalent diameters, with 1, 11 or 21 slices as channels, or one
slice at three scales. No augmentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.ndimage import map_coordinates

from lesionlab.crops import Crop
from lesionlab.crops.resampling import Outside, volumes
from lesionlab.crops.sampling import Lesion, Samples, batch, in_chunks, locate, to_unit
from lesionlab.papers._shared import nearest
from lesionlab.sources import lidc

CHANNELS = {"D1C": 1, "D11C": 11, "D21C": 21}
"""Slices of the paper's three data sets that `prepare` builds; D3C is made by `prepare_scales`."""

WINDOW = (-1024.0, 400.0)
"""HU that become 0 and 1."""


def prepare(
    crops: Iterable[Crop],
    *,
    channels: int = 11,
    size: int = 32,
    scale: float | Sequence[float] = 2.0,
    window: tuple[float, float] = WINDOW,
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
        crops: Crops; `ValueError` for one without consensus.
        channels: Slices, odd: 1, 11 or 21 in the paper.
        size: Side of a sample, pixels.
        scale: Side of the square as a multiple of the diameter. Several scales give all slices at
            the first scale, then all at the second, and so on.
        window: HU that become 0 and 1.
        outside: What lies beyond a crop. 21 slices reach 10 mm up and down, beyond most nodules:
            read `Samples.report()`.
        device: Where to compute.

    Returns:
        `images` (nodule, scale × channel, size, size) in [0, 1].
    """
    scales = (scale,) if isinstance(scale, int | float) else tuple(scale)
    if channels < 1 or channels % 2 == 0:
        raise ValueError(f"channels={channels!r}: expected an odd number, 1, 11 or 21 in the paper")
    if not scales or not all(np.isfinite(s) and s > 0 for s in scales):
        raise ValueError(f"scale={scale!r}: expected numbers above 0")

    def chunk(lesions: list[Lesion]) -> Samples:
        diameter = np.array([lesion.equivalent_diameter for lesion in lesions])
        spacing = np.array([lesion.crop.spacing for lesion in lesions])
        centre = np.stack([lesion.centroid for lesion in lesions])
        read = [
            volumes(
                [lesion.crop.hu for lesion in lesions],
                [lesion.crop.slice_index for lesion in lesions],
                centre[:, :1] + (np.arange(channels) - channels // 2) / spacing[:, :1],
                centre[:, 1:],
                diameter[:, None] * multiple / spacing[:, 1:],
                size=size,
                outside=outside,
                device=device,
            )
            for multiple in scales
        ]
        images = to_unit(torch.cat([hu for hu, _, _ in read], dim=1), window)
        padded = np.mean([share for _, share, _ in read], axis=0)
        return batch(lesions, images, padded=padded, missing=read[0][2])

    return in_chunks(crops, chunk, level=0.5)


def prepare_scales(
    crops: Iterable[Crop], *, scales: Sequence[float] = (2.0, 3.0, 4.0), **options: Any
) -> Samples:
    """The centre slice in squares of 2, 3 and 4 diameters, as channels: D3C (Table 1).

    Options as in `prepare`. Four diameters reach beyond a crop of 128 pixels from 20 mm or so.
    """
    return prepare(crops, channels=1, scale=scales, **options)


def duplicate_slice(images: torch.Tensor, channel: int) -> torch.Tensor:
    """Put one slice into every channel, as Figs. 5 and 7 feed a network trained on D11C."""
    return images[:, [channel]].expand_as(images).contiguous()


@dataclass(frozen=True, eq=False)
class Outlines:
    """The readers' masks on the pixels of the samples' middle slice.

    Attributes:
        lesion_ids: The lesions, those left out that no reader marked in the middle slice.
        masks: For each, (reader, y, x) bool; readers who did not mark that slice are left out.
        pixel: For each, the side of a pixel, mm.
    """

    lesion_ids: tuple[str, ...]
    masks: tuple[npt.NDArray[np.bool_], ...]
    pixel: tuple[float, ...]

    def consensus(self, lesion_id: str) -> npt.NDArray[np.bool_]:
        """(y, x), where at least half of these readers are."""
        found: npt.NDArray[np.bool_] = self.masks[self.lesion_ids.index(lesion_id)].mean(0) >= 0.5
        return found


def outlines(crops: Iterable[Crop]) -> Outlines:
    """The readers' outlines where `lei2020.prepare` reads its middle slice.

    The masks go through `prepare` itself, as images: so they lie where the voxels do. A map of
    these networks has no place along z; it is held against this slice, on which the paper draws it.
    """
    ids, found, pixel = [], [], []
    for crop in crops:
        masks = masks_of(crop, channels=1)[:, 0]
        masks = masks[masks.any(axis=(1, 2))]
        if len(masks):
            ids.append(crop.lesion_id)
            found.append(masks)
            pixel.append(pixel_of(crop))
    return Outlines(tuple(ids), tuple(found), tuple(pixel))


def masks_of(crop: Crop, *, channels: int = 11) -> npt.NDArray[np.bool_]:
    """(reader, slice, y, x), the readers' masks on all slices of `lei2020.prepare`."""
    as_hu = [replace(crop, hu=mask.astype(np.int16) * 1000) for mask in crop.masks]
    images = prepare(as_hu, channels=channels, window=(0, 1000)).images
    found: npt.NDArray[np.bool_] = images.numpy() >= 0.5
    return found


def pixel_of(crop: Crop) -> float:
    """The side of a pixel of `lei2020.prepare`, mm."""
    return 2 * locate(crop).equivalent_diameter / 32


def lidc_crops(lesion_ids: Iterable[str]) -> Iterator[Crop]:
    """Crops without voxels: the readers' masks of LIDC-IDRI nodules, for `outlines`."""
    for lesion_id in lesion_ids:
        # a rim of one: what lies beyond a crop is the same as its border
        found = lidc.masks(lesion_id, pad=1)
        z, y, x = found.origin
        depth = found.consensus.shape[0]
        yield Crop(
            lesion_id=lesion_id,
            hu=np.zeros(found.consensus.shape, np.int16),
            masks=found.readers,
            spacing=found.spacing,
            slice_index=np.arange(z, z + depth),
            corner=(y, x),
            calibrated=np.ones(depth, bool),
            tier="phantom",
        )


@dataclass(frozen=True, eq=False)
class Pasted:
    """A map on the slice of a crop that is nearest to the middle of the lesion.

    Attributes:
        values: (y, x) of the crop's size, NaN beyond the square that the network saw.
        hu: (y, x) that slice.
        masks: (reader, y, x) the readers' in it.
        box: (top, left, height, width) of the square, mm from the crop's corner.
    """

    values: npt.NDArray[np.float64]
    hu: npt.NDArray[np.int16]
    masks: npt.NDArray[np.bool_]
    box: tuple[float, float, float, float]


def pasted(values: npt.ArrayLike, crop: Crop) -> Pasted:
    """Put a map of the network's square, (y, x), back on the crop's slice (4.6, Fig. 9)."""
    found = np.asarray(values, dtype=float)
    lesion = locate(crop)
    spacing = np.array(crop.spacing[1:])
    side = 2 * lesion.equivalent_diameter / spacing  # of the square, in pixels of the crop
    corner = lesion.centroid[1:] + 0.5 - side / 2
    steps = side / found.shape
    at = [
        (np.arange(n) + 0.5 - first) / step - 0.5
        for n, first, step in zip(crop.hu.shape[1:], corner, steps, strict=True)
    ]
    inside = [(a >= -0.5) & (a <= n - 0.5) for a, n in zip(at, found.shape, strict=True)]
    read = map_coordinates(found, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
    read[~np.logical_and.outer(*inside)] = np.nan
    k = int(np.abs(crop.slice_index - lesion.centroid[0]).argmin())
    box = (*(corner * spacing).tolist(), *(side * spacing).tolist())
    return Pasted(values=read, hu=crop.hu[k], masks=crop.masks[:, k], box=box)


def sample_lesions(
    lesion_ids: Sequence[str] | pd.Series[str], n: int, *, seed: int = 0
) -> list[str]:
    """`n` lesions, drawn; all if there are no more. The order they are given in does not matter."""
    there = sorted(set(lesion_ids))
    if len(there) <= n:
        return there
    return sorted(np.random.default_rng(seed).choice(there, n, replace=False).tolist())


def example_lesions(
    predictions: pd.DataFrame, *, quantiles: Sequence[float] = (0.1, 0.5, 0.9)
) -> pd.DataFrame:
    """Lesions to show, picked by rule: of each class, some called rightly and some wrongly.

    The paper chose the nodules of its figures by what they show. Here it is, for each quantile of
    the probability of the true class over the lesions of a class, the lesion nearest to it.

    Returns:
        Index lesion_id, benign ones first; columns malignant (bool), probability (of malignant),
        quantile. A lesion may serve twice where there are few.
    """
    rows = predictions.set_index("lesion_id").sort_index()
    found = []
    for label in (0, 1):
        own = rows.loc[rows["malignancy_truth"] == label, "malignancy"].astype(float)
        if own.empty:
            raise ValueError(f"predictions: no lesion of class {label}")
        picked = nearest(own if label else 1 - own, quantiles)
        found += [(n, bool(label), own[n], q) for n, q in zip(picked, quantiles, strict=True)]
    columns = ["lesion_id", "malignant", "probability", "quantile"]
    return pd.DataFrame(found, columns=columns).set_index("lesion_id")


def draw_reader_study(
    predictions: pd.DataFrame, readings: pd.DataFrame, *, each: int = 10, seed: int = 0
) -> list[str]:
    """Nodules for a reader comparison as in 4.8: `each` malignant and as many benign, drawn.

    The paper's twenty were rated by at least three doctors *and* were all classified rightly by its
    model and by the radiologists of its study. Here only the first holds: of nodules chosen for
    being right, no accuracy can be learned. `predictions` say which lesions there are, and which
    are malignant; `readings` have one row per reading.
    """
    count = readings.dropna(subset="malignancy").groupby("lesion_id").size()
    rows = predictions[predictions["lesion_id"].map(count).fillna(0) >= 3]
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for label in (0, 1):
        there = sorted(rows.loc[rows["malignancy_truth"] == label, "lesion_id"])
        if len(there) < each:
            raise ValueError(f"each={each!r}: only {len(there)} nodules of class {label}")
        chosen += rng.choice(there, each, replace=False).tolist()
    return sorted(chosen)


def reader_accuracy(
    readings: pd.DataFrame,
    lesion_ids: Sequence[str],
    *,
    truth: Literal["all", "others"] = "all",
    shuffle: int | None = None,
) -> pd.DataFrame:
    """Each "doctor" against the label, as in Table 6.

    LIDC's readers are anonymous: nothing says that the first reader of one scan and that of another
    are the same person, and more than four radiologists took part. "Dr. 1" is a column of a table,
    not a person: `shuffle` (a seed) puts the readings of each nodule into other columns, which
    changes all four rows and nothing about the readers. And the label is the mean of the readers'
    own ratings, which a reader agrees with more than with what the others say: `truth="others"` is
    the mean of all but the doctor. Where a mean or a rating is 3, it does not count.

    Args:
        readings: One row per reading: lesion_id, malignancy (1 to 5); the order of a nodule's
            readings is that of the columns.
        lesion_ids: Which nodules; `ValueError` for one without readings.
        truth: Whose mean is the label.
        shuffle: See above.

    Returns:
        Index doctor, `Dr. 1` to `Dr. 4`, or as many as a nodule has readings, and `all`. Columns n
        (nodules that count), accuracy (per cent, NaN where there are none), false_positives,
        false_negatives.
    """
    if truth not in ("all", "others"):
        raise ValueError(f"truth={truth!r}: expected 'all' or 'others'")
    known = readings.dropna(subset="malignancy").set_index("lesion_id")["malignancy"]
    if missing := set(lesion_ids) - set(known.index):
        raise ValueError(f"readings: none of lesion {min(missing)!r}")
    given = known.loc[list(lesion_ids)].astype(float)
    own = given.groupby(level=0, sort=False)
    size, mean = own.transform("size"), own.transform("mean")
    if truth == "others":
        mean = (own.transform("sum") - given) / (size - 1)  # NaN for a single reader
    column = own.cumcount()
    if shuffle is not None:
        rng = np.random.default_rng(shuffle)
        column[:] = np.concatenate([rng.permutation(max(4, n))[:n] for n in own.size()])
    parts = {f"Dr. {k + 1}": column == k for k in range(max(4, size.max()))}
    called, malignant, counts = given > 3, mean > 3, (given != 3) & (mean != 3) & mean.notna()
    table = {
        name: {
            "n": int(part.sum()),
            "accuracy": 100 * float((called == malignant)[part].mean()),
            "false_positives": int((called & ~malignant)[part].sum()),
            "false_negatives": int((~called & malignant)[part].sum()),
        }
        for name, part in {k: v & counts for k, v in {**parts, "all": column >= 0}.items()}.items()
    }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("doctor")
