"""Does a map lie in the lesion, on its margin, or around it? In mm, by the readers' outlines.

Lei et al. 2020 say of their maps that they "attach attention to margins of nodules rather than
nodule bodies" (section 2, 4.3), and show pictures. Here it is a share of the map, beside the share
that a map without preference would have: a margin band of 2 mm is most of a small nodule.

A voxel is in the *margin band* if the nearest voxel on the other side of the outline is within
`band` mm, centre to centre; else it is *inside* or *outside*. So a band as wide as a voxel is the
voxels on both sides of the outline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

REGIONS = ("inside", "margin", "outside")


@dataclass(frozen=True)
class Shares:
    """How a map is divided, the mean over readers.

    Attributes:
        inside: Of the map's positive values, how much lies in the lesion and not in the band.
        margin: How much lies in the band, on either side of the outline.
        outside: How much lies beyond.
        uniform_inside: The same for a map that is the same everywhere: the share of the voxels.
        uniform_margin: Likewise.
        uniform_outside: Likewise.
    """

    inside: float
    margin: float
    outside: float
    uniform_inside: float
    uniform_margin: float
    uniform_outside: float


@dataclass(frozen=True)
class Pointing:
    """Where a map is greatest.

    Where several voxels share the greatest value, each counts alike: a constant map has exactly
    the chances of a blind guess.

    Attributes:
        points_inside: Share of readers in whose outline the greatest value lies: the pointing game
            (Zhang et al. 2018) played with the reader's outline.
        points_margin: Share of readers in whose margin band it lies.
        points_mm: From there to the nearest voxel on the other side of the outline, mm; negative
            within the lesion. Mean over readers.
        chance_inside: `points_inside` for a blind guess.
        chance_margin: `points_margin` for a blind guess.
    """

    points_inside: float
    points_margin: float
    points_mm: float
    chance_inside: float
    chance_margin: float


def outline_distance(mask: ArrayLike, spacing: Sequence[float]) -> NDArray[np.float64]:
    """From each voxel to the nearest one on the other side of the outline, mm.

    Args:
        mask: (y, x) or (z, y, x), true in the lesion.
        spacing: Of the mask's voxels along each axis, mm.

    Returns:
        As the mask, negative in the lesion. Infinite if all voxels are on one side.

    Raises:
        ValueError: The spacing does not fit.

    >>> outline_distance([[False, True, True, True]], (1.0, 0.5))
    array([[ 0.5, -0.5, -1. , -1.5]])
    """
    inside = np.asarray(mask, bool)
    steps = np.asarray(spacing, float)
    if steps.shape != (inside.ndim,) or not np.all(np.isfinite(steps) & (steps > 0)):
        raise ValueError(
            f"spacing={spacing!r}: expected a length in mm above 0 for each of {inside.ndim} axes"
        )
    if inside.all():
        return np.full(inside.shape, -np.inf)
    if not inside.any():
        return np.full(inside.shape, np.inf)
    out: NDArray[np.float64] = distance_transform_edt(~inside, sampling=steps)
    within: NDArray[np.float64] = distance_transform_edt(inside, sampling=steps)
    return out - within


def region_shares(
    values: ArrayLike, masks: ArrayLike, spacing: Sequence[float], *, band: float = 2.0
) -> Shares:
    """How a map's positive values are divided among lesion, margin band and surroundings.

    Args:
        values: (y, x) or (z, y, x), one map; negative values, which speak against the score, count
            as 0. Brought to the mask's grid before (`activation_map` does that).
        masks: (reader, y, x) or (reader, z, y, x), or one mask without the axis of readers.
        spacing: Of the voxels along each axis, mm.
        band: How far the margin band reaches on either side of the outline, mm.

    Returns:
        The mean over readers. NaN for a map without a positive value; a constant positive map has
        a uniform map's shares.

    Raises:
        ValueError: Something does not fit, the map is not finite, or a mask is empty.
    """
    found, distances = _checked(values, masks, spacing, band)
    # of a map without positive values nothing can be shared out
    weights = found.clip(min=0)
    total = weights.sum() or math.nan
    rows = []
    for d in distances:
        parts = [d < -band, np.abs(d) <= band, d > band]
        rows.append([weights[p].sum() / total for p in parts] + [p.mean() for p in parts])
    return Shares(*map(float, np.mean(rows, axis=0)))


def pointing(
    values: ArrayLike, masks: ArrayLike, spacing: Sequence[float], *, band: float = 2.0
) -> Pointing:
    """Where a map points: into the outlines of the readers, or to their margin bands.

    Arguments and errors as in `region_shares`.
    """
    found, distances = _checked(values, masks, spacing, band)
    top = found == found.max()
    rows = [
        [(d < 0)[top].mean(), (np.abs(d) <= band)[top].mean(), d[top].mean(),
         (d < 0).mean(), (np.abs(d) <= band).mean()]
        for d in distances
    ]  # fmt: skip
    return Pointing(*map(float, np.mean(rows, axis=0)))


def region_table(
    maps: Sequence[ArrayLike],
    masks: Sequence[ArrayLike],
    spacings: Sequence[Sequence[float]],
    *,
    band: float = 2.0,
    lesion_ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """`region_shares` and `pointing` of many lesions.

    Args:
        maps: One map a lesion.
        masks: Its readers' masks.
        spacings: Its spacing.
        band: As in `region_shares`.
        lesion_ids: The index; numbers if None.

    Returns:
        One row per lesion with the fields of `Shares` and of `Pointing`.

    Raises:
        ValueError: As `region_shares`, or there are not as many of each.
    """
    rows = []
    for values, readers, spacing in zip(maps, masks, spacings, strict=True):
        shares = region_shares(values, readers, spacing, band=band)
        rows.append(vars(shares) | vars(pointing(values, readers, spacing, band=band)))
    index = None if lesion_ids is None else list(lesion_ids)
    return pd.DataFrame(rows, index=index).rename_axis("lesion_id")


def _checked(
    values: ArrayLike, masks: ArrayLike, spacing: Sequence[float], band: float
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """The map, and the distances from the outline of each reader."""
    found, readers = np.asarray(values, float), np.asarray(masks)
    if found.ndim not in (2, 3) or not found.size or not np.isfinite(found).all():
        raise ValueError(
            f"values: expected one finite map, (y, x) or (z, y, x), got shape {found.shape}"
        )
    if readers.shape == found.shape:
        readers = readers[None]
    if readers.dtype != bool or readers.shape[1:] != found.shape or not len(readers):
        raise ValueError(
            f"masks: expected bool, (reader, …) of the map's shape {found.shape}, "
            f"got {readers.dtype} {readers.shape}"
        )
    if not readers.reshape(len(readers), -1).any(axis=1).all():
        raise ValueError("masks: expected a lesion in each, one is empty")
    if not (math.isfinite(band) and band > 0):
        raise ValueError(f"band={band!r}: expected a length in mm above 0")
    return found, [outline_distance(mask, spacing) for mask in readers]
