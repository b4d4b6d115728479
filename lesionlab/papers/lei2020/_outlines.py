"""Lei 2020, the readers' outlines where the maps lie: see `lesionlab.papers.lei2020.analyses`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from lesionlab.crops import Crop
from lesionlab.crops.sampling import locate
from lesionlab.papers.lei2020._samples import prepare
from lesionlab.sources import lidc


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
        """(y, x), where at least half of these readers are.

        Raises:
            ValueError: There is no such lesion.
        """
        found: npt.NDArray[np.bool_] = self.masks[self.lesion_ids.index(lesion_id)].mean(0) >= 0.5
        return found


def outlines(crops: Iterable[Crop], *, size: int = 32, scale: float = 2.0) -> Outlines:
    """The readers' outlines where `lei2020.prepare` reads its middle slice.

    The masks go through `prepare` itself, as images: so they lie where the voxels do. A map of
    these networks has no place along z; it is held against this slice, on which the paper draws it.

    Args:
        crops: Crops.
        size: As in `prepare`.
        scale: As in `prepare`.

    Raises:
        ValueError: As `prepare`.
    """
    ids, found, pixel = [], [], []
    for crop in crops:
        masks = masks_of(crop, channels=1, size=size, scale=scale)[:, 0]
        masks = masks[masks.any(axis=(1, 2))]
        if len(masks):
            ids.append(crop.lesion_id)
            found.append(masks)
            pixel.append(pixel_of(crop, size=size, scale=scale))
    return Outlines(tuple(ids), tuple(found), tuple(pixel))


def masks_of(
    crop: Crop, *, channels: int = 11, size: int = 32, scale: float = 2.0
) -> npt.NDArray[np.bool_]:
    """(reader, slice, y, x), the readers' masks on all slices of `lei2020.prepare`.

    Raises:
        ValueError: As `prepare`.
    """
    as_hu = [replace(crop, hu=mask.astype(np.int16) * 1000) for mask in crop.masks]
    images = prepare(as_hu, channels=channels, size=size, scale=scale, window=(0, 1000)).images
    found: npt.NDArray[np.bool_] = images.numpy() >= 0.5
    return found


def pixel_of(crop: Crop, *, size: int = 32, scale: float = 2.0) -> float:
    """The side of a pixel of `lei2020.prepare`, mm.

    Raises:
        ValueError: As `lesionlab.crops.sampling.locate`.
    """
    return scale * locate(crop).equivalent_diameter / size


def lidc_crops(lesion_ids: Iterable[str]) -> Iterator[Crop]:
    """Crops without voxels: the readers' masks of LIDC-IDRI nodules, for `outlines`.

    Those of a crop on any data set, but for a nodule of which slices are missing.

    Raises:
        LookupError: No nodule has such an id.
    """
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


def pasted(values: npt.ArrayLike, crop: Crop, *, scale: float = 2.0) -> Pasted:
    """Put a map of the network's square back on the crop's slice (4.6, Fig. 9).

    Args:
        values: (y, x), a map of the size of the samples.
        crop: The lesion's.
        scale: As in `prepare`.

    Raises:
        ValueError: The map has not two axes, or as `locate`.
    """
    found = np.asarray(values, dtype=float)
    if found.ndim != 2:
        raise ValueError(f"values: expected one map, (y, x), got shape {found.shape}")
    lesion = locate(crop)
    spacing = np.array(crop.spacing[1:])
    side = scale * lesion.equivalent_diameter / spacing  # of the square, in pixels of the crop
    corner = lesion.centroid[1:] + 0.5 - side / 2
    steps = side / found.shape
    at = [
        (np.arange(n) + 0.5 - first) / step - 0.5
        for n, first, step in zip(crop.hu.shape[1:], corner, steps, strict=True)
    ]
    inside = [(a >= -0.5) & (a <= n - 0.5) for a, n in zip(at, found.shape, strict=True)]
    grid = np.meshgrid(*at, indexing="ij")
    read = map_coordinates(found, grid, order=1, mode="nearest")
    read[~np.logical_and.outer(*inside)] = np.nan
    k = int(np.abs(crop.slice_index - lesion.centroid[0]).argmin())
    box = (*(corner * spacing).tolist(), *(side * spacing).tolist())
    return Pasted(values=read, hu=crop.hu[k], masks=crop.masks[:, k], box=box)
