"""The same lesions, slices and pixels of two sources, and the regions of a crop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lesionlab.crops import Crop

Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

RING_MM = 5.0
"""Thickness of the ring around a lesion that counts as its surroundings, mm."""

REGIONS = ("inside", "ring", "crop")

LEVELS = 255
"""Steps of an 8-bit picture between its darkest and its brightest pixel."""


def pair(phantoms: Iterable[Crop], real: Iterable[Crop]) -> tuple[list[Crop], list[Crop]]:
    """Cut two sets of crops to the lesions, calibrated slices, rows and columns that both have.

    Args:
        phantoms: Crops of one source.
        real: Crops of another, of some of the same lesions.

    Returns:
        Two lists of equal length, lesion by lesion in the order of `real`, of equal shapes. A
        lesion without a common slice, or without a consensus voxel on one, is left out.

    Raises:
        ValueError: A lesion occurs twice in one set, or its masks or spacing differ.
    """
    by_id = _by_id("phantoms", phantoms)
    left, right = [], []
    for lesion_id, theirs in _by_id("real", real).items():
        if lesion_id not in by_id:
            continue
        ours = by_id[lesion_id]
        if not np.allclose(ours.spacing, theirs.spacing):
            raise ValueError(
                f"spacing of {lesion_id} is {ours.spacing} in phantoms and {theirs.spacing} in "
                "real; expected the same"
            )
        slices = np.intersect1d(
            ours.slice_index[ours.calibrated], theirs.slice_index[theirs.calibrated]
        )
        top, left_edge = np.maximum(ours.corner, theirs.corner)
        bottom = min(c.corner[0] + c.hu.shape[1] for c in (ours, theirs))
        right_edge = min(c.corner[1] + c.hu.shape[2] for c in (ours, theirs))
        if not len(slices) or bottom <= top or right_edge <= left_edge:
            continue
        box = (int(top), int(bottom), int(left_edge), int(right_edge))
        a, b = _cut(ours, slices, box), _cut(theirs, slices, box)
        if a.masks.shape != b.masks.shape or (a.masks != b.masks).any():
            raise ValueError(f"masks of {lesion_id} differ between phantoms and real")
        if a.consensus().any():
            left.append(a)
            right.append(b)
    return left, right


def _by_id(name: str, crops: Iterable[Crop]) -> dict[str, Crop]:
    found: dict[str, Crop] = {}
    for crop in crops:
        if crop.lesion_id in found:
            raise ValueError(f"{name} has {crop.lesion_id} twice; expected each lesion once")
        found[crop.lesion_id] = crop
    return found


def _cut(crop: Crop, slices: npt.NDArray[np.int64], box: tuple[int, int, int, int]) -> Crop:
    at = np.searchsorted(crop.slice_index, slices)
    rows = slice(box[0] - crop.corner[0], box[1] - crop.corner[0])
    columns = slice(box[2] - crop.corner[1], box[3] - crop.corner[1])
    return replace(
        crop,
        hu=crop.hu[at, rows, columns],
        masks=crop.masks[:, at, rows, columns],
        slice_index=crop.slice_index[at],
        corner=(box[0], box[2]),
        calibrated=crop.calibrated[at],
    )


def through_eight_bits(crop: Crop) -> Crop:
    """The crop as it would be after being saved like the real slices, and put back into HU.

    Each slice is scaled so that its smallest value is 0 and its largest 255, and rounded. What
    remains different is the error of the table that puts the real ones back (median 6 to 37 HU).
    """
    hu = crop.hu.astype(float)
    low = hu.min(axis=(1, 2), keepdims=True)
    step = np.maximum(hu.max(axis=(1, 2), keepdims=True) - low, 1e-9) / LEVELS
    return replace(crop, hu=np.rint(np.rint((hu - low) / step) * step + low).astype(np.int16))


@dataclass(frozen=True)
class View:
    """A crop with what several measures need of it, worked out once."""

    crop: Crop

    @cached_property
    def hu(self) -> Array:
        """(z, y, x) HU."""
        return self.crop.hu.astype(float)

    @cached_property
    def consensus(self) -> BoolArray:
        """(z, y, x) what at least half of the readers marked."""
        return self.crop.consensus()

    @cached_property
    def distance(self) -> Array:
        """(z, y, x) in-plane signed distance to the consensus outline, mm; inf where there is none.

        In plane, because the slices at hand are those with an outline and not the ones between.
        """
        out = np.full(self.hu.shape, np.inf)
        spacing = self.crop.spacing
        for k, mask in enumerate(self.consensus):
            if mask.any():
                outside = ndimage.distance_transform_edt(~mask, sampling=spacing[1:])
                inside = ndimage.distance_transform_edt(mask, sampling=spacing[1:])
                half = spacing[2] / 2  # the outline runs between two voxel centres
                out[k] = np.where(mask, half - inside, outside - half)
        return out

    @cached_property
    def regions(self) -> dict[str, Array]:
        """HU of the voxels of each of `REGIONS`; the last is the whole crop."""
        ring = (self.distance > 0) & (self.distance <= RING_MM)
        return {
            "inside": self.hu[self.distance < 0],
            "ring": self.hu[ring],
            "crop": self.hu.ravel(),
        }


def views(crops: Sequence[Crop]) -> tuple[str, list[View]]:
    """The one tier of some crops, and a view of each.

    Raises:
        ValueError: No crops, or of several tiers.
    """
    tiers = sorted({crop.tier for crop in crops})
    if len(tiers) != 1:
        raise ValueError(f"crops are of the tiers {tiers}; expected at least one crop, of one tier")
    return tiers[0], [View(crop) for crop in crops]
