"""One lesion's voxels, wherever they come from: rendered, public sets, or whole DICOM scans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lesionlab import _names

Tier = Literal["phantom", "slices", "volumes", "dicom", "anno", "nifti", "own"]

HU_ERROR = ((0, 1.0, 5.0), (1, 5.0, 18.0), (2, 10.0, 42.0), (4, 17.0, 70.0), (6, 47.0, 155.0))
"""Error of the tier `slices` in lung: from so many steps on, its median and 95th percentile, HU."""


# eq=False: comparing arrays as a tuple's members raises; two crops are equal if they are the same
@dataclass(frozen=True, eq=False)
class Crop:
    """The voxels of one lesion in HU with its readers' masks; all sources give this."""

    lesion_id: str
    hu: npt.NDArray[np.int16]  # (z, y, x), Hounsfield units
    masks: npt.NDArray[np.bool_]  # (reader, z, y, x), in the order of the nodule's `reading_ids`
    spacing: tuple[float, float, float]  # `(z, y, x)` distance between voxel centres, mm
    slice_index: npt.NDArray[np.int64]  # (z,) index of each slice in the scan; some may be missing
    corner: tuple[int, int]  # `(y, x)` index in the scan of the first voxel; may lie outside
    # (z,) slices from each one to the one by which its HU were found; 0 where they were measured,
    # and -1 where they are not known
    steps: npt.NDArray[np.int64]
    tier: Tier

    def __post_init__(self) -> None:
        shape, about = self.hu.shape, f"of {self.lesion_id}"
        for name, dtype, expected in (
            ("hu", np.int16, shape if len(shape) == 3 and self.hu.size else "(z, y, x)"),
            ("masks", np.bool_, (len(self.masks), *shape)),
            ("slice_index", np.int64, shape[:1]),
            ("steps", np.int64, shape[:1]),
        ):
            value = getattr(self, name)
            if value.shape != expected or value.dtype != dtype:
                got = f"{value.shape} {value.dtype}"
                raise ValueError(
                    f"{name} {about}: expected {expected} {np.dtype(dtype)}, got {got}"
                )
        if self.steps.min() < -1:
            raise ValueError(f"steps {about}: expected -1 or more, got {self.steps.min()}")
        if len(self.spacing) != 3 or not all(0 < mm < np.inf for mm in self.spacing):
            raise ValueError(f"spacing {about}: expected (z, y, x) mm above 0, got {self.spacing}")
        if [isinstance(i, int | np.integer) for i in self.corner] != [True, True]:
            raise ValueError(f"corner {about}: expected whole numbers (y, x), got {self.corner}")
        _names.one_of(f"tier {about}", self.tier, get_args(Tier))

    @property
    def origin(self) -> tuple[int, int, int]:
        """`(z, y, x)` index in the scan of the first voxel."""
        return (int(self.slice_index[0]), *self.corner)

    @property
    def calibrated(self) -> npt.NDArray[np.bool_]:
        """(z,) whether the values of a slice are known in HU."""
        return self.steps >= 0

    @property
    def hu_error(self) -> npt.NDArray[np.float64]:
        """(z,) HU: of 100 slices with as many steps, lung is off by less in 95 (`HU_ERROR`).

        0 in other tiers than `slices`, infinite where HU are not known.
        """
        known = np.zeros(len(self.steps))
        if self.tier == "slices":
            known = np.array([e for _, _, e in HU_ERROR])[
                np.searchsorted([least for least, _, _ in HU_ERROR], self.steps, side="right") - 1
            ]
        return np.where(self.calibrated, known, np.inf)

    def consensus(self, level: float = 0.5) -> npt.NDArray[np.bool_]:
        """(z, y, x), True where at least the share `level`, up to 1, of the readers include it."""
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
