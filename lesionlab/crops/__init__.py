"""One lesion's voxels, wherever they come from: rendered, public slices, or whole DICOM scans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Tier = Literal["phantom", "slices", "dicom"]


# eq=False: comparing arrays as a tuple's members raises; two crops are equal if they are the same
@dataclass(frozen=True, eq=False)
class Crop:
    """The voxels of one lesion in HU with its readers' masks; all sources give this.

    Attributes:
        lesion_id: As in `lesionlab.sources.lidc.nodules`.
        hu: (z, y, x) int16, Hounsfield units.
        masks: (reader, z, y, x) bool, in the order of the nodule's `reading_ids`.
        spacing: `(z, y, x)` distance between voxel centres, mm.
        slice_index: (z,) index of each slice in the scan; consecutive unless slices are missing.
        corner: `(y, x)` index in the scan of the crop's first row and column. Negative, or near
            the far edge, where the crop reaches over the border of the scan.
        calibrated: (z,) bool, False for slices whose values are not known in HU.
        tier: Which source.
    """

    lesion_id: str
    hu: npt.NDArray[np.int16]
    masks: npt.NDArray[np.bool_]
    spacing: tuple[float, float, float]
    slice_index: npt.NDArray[np.int64]
    corner: tuple[int, int]
    calibrated: npt.NDArray[np.bool_]
    tier: Tier

    def __post_init__(self) -> None:
        depth = self.hu.shape[:1]
        for name, dtype, shape, words in (
            ("hu", np.int16, self.hu.shape[:3], "(z, y, x)"),
            ("masks", np.bool_, (len(self.masks), *self.hu.shape), "(reader, z, y, x) as in hu"),
            ("slice_index", np.int64, depth, "(z,), one value per slice"),
            ("calibrated", np.bool_, depth, "(z,), one value per slice"),
        ):
            value = getattr(self, name)
            if value.shape != shape or value.dtype != dtype:
                raise ValueError(
                    f"{name} of {self.lesion_id}: expected {words}, {np.dtype(dtype)}, got "
                    f"{value.shape}, {value.dtype}"
                )
        if self.hu.ndim != 3 or not self.hu.size:
            raise ValueError(
                f"hu of {self.lesion_id}: expected (z, y, x) without an empty axis, got "
                f"{self.hu.shape}"
            )
        if len(self.spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise ValueError(
                f"spacing of {self.lesion_id}: expected (z, y, x) mm above 0, got {self.spacing}"
            )
        if len(self.corner) != 2 or not all(isinstance(i, int | np.integer) for i in self.corner):
            raise ValueError(
                f"corner of {self.lesion_id}: expected two whole numbers (y, x), got {self.corner}"
            )
        if self.tier not in get_args(Tier):
            raise ValueError(
                f"tier of {self.lesion_id}: expected one of {', '.join(get_args(Tier))}, "
                f"got {self.tier!r}"
            )

    @property
    def origin(self) -> tuple[int, int, int]:
        """`(z, y, x)` index in the scan of the first voxel."""
        return (int(self.slice_index[0]), *self.corner)

    def consensus(self, level: float = 0.5) -> npt.NDArray[np.bool_]:
        """(z, y, x), True where at least the share `level`, 0 to 1, of the readers include it."""
        votes: npt.NDArray[np.uint16] = self.masks.sum(axis=0, dtype=np.uint16)
        return votes >= votes_needed(len(self.masks), level)


def votes_needed(n_readers: int, level: float) -> int:
    """How many of the readers are at least the share `level` of them.

    Counting whole votes gives the same voxels as averaging the masks, many times as fast.

    >>> [votes_needed(n, 0.5) for n in (1, 2, 3, 4)]
    [1, 1, 2, 2]
    """
    if not 0 < level <= 1:
        raise ValueError(f"level={level!r}: expected a share above 0 and up to 1")
    return next((k for k in range(1, n_readers + 1) if k / n_readers >= level), n_readers + 1)
