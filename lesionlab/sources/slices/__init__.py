"""Real pixels around every LIDC-IDRI nodule, from the public "LIDC-IDRI slices" set of 0.2 GB.

The set holds, for 2,630 nodules, pictures of 128 × 128 native pixels and one mask per reader:

    LIDC-IDRI-slices/LIDC-IDRI-xxxx/nodule-k/{images,mask-0,mask-1,mask-2,mask-3}/slice-s.png

It says neither which nodule of the database a folder shows nor where in the scan it lies. Both were
found from the masks, once, and stand in a table that comes with lesionlab. The pictures are scaled
slice by slice to 8 bits; a second table undoes that: HU = slope × pixel + intercept. In its place a
table beside the set, `lidc-idri-slices-intensity.csv`, is taken. `tables/README.md` describes both.
Each slice carries the steps from the slice that was measured; `Crop.hu_error` follows from them.

    from lesionlab.sources.slices import Slices
    source = Slices()              # LESIONLAB_LIDC_SLICES, or Slices("…/the-set.zip")
    source.lesion_ids              # the nodules that it shows
    source.crop("LIDC-IDRI-0001-S0012-N01").hu

21 nodules are not in it, and in 139 others slices are missing. HU are those of 8-bit pictures, in
steps of 3 to 22 HU (median 9), on top of the error of the table; 282 slices, all those of 47
nodules, have no HU at all. In 131 nodules some reader's mask is not what that reader drew, so
crops carry our masks, rasterised from the contours.
"""

from __future__ import annotations

import io
import logging
import os
import re
import zlib
from contextlib import suppress
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, UnidentifiedImageError

from lesionlab._files import sha256
from lesionlab.crops import Crop
from lesionlab.sources import archives, lidc, origins

logger = logging.getLogger(__name__)

SIZE = 128
"""Rows and columns of every picture."""

MAX_BYTES = 1 << 20
"""Largest picture file that is opened; 128 × 128 bytes take 17 kB at most, uncompressed."""

IMAGES = "images"
MASKS = ("mask-0", "mask-1", "mask-2", "mask-3")

_NAME = re.compile(
    r"(?:[^/]+/)*(LIDC-IDRI-[0-9]{4})/nodule-([0-9]{1,4})/(images|mask-[0-3])/"
    r"slice-([0-9]{1,4})\.png"
)

TABLES = Path(__file__).parents[1] / "tables"
"""The tables that come with lesionlab, for the public set; README.md there explains them."""

INDEX = TABLES / "lidc-idri-slices-index.csv.gz"
"""Which nodule each folder of the public set shows, and where."""

INTENSITY_NAME = "lidc-idri-slices-intensity.csv"
INTENSITY = TABLES / f"{INTENSITY_NAME}.gz"
"""What puts each picture of the public set back into HU."""

SAMPLE = 16
"""So many pictures are looked at, at most, to tell the public set from others."""

CLIP = (-1024, 3071)
"""Crops are clipped to what 12 bits hold: padding outside the field of view reaches −3000 HU."""

MAX_SLOPE, MAX_HU = 1000, 100_000
"""Largest slope and intercept of the table; 8 bits of all HU there are take a slope below 300."""

UNCALIBRATED = (8.5, -1020.0, -1)
"""Slope, intercept and steps for slices whose HU are not known: the rounded medians of the others.
Shapes stay visible, values are not HU, and `Crop.calibrated` says so."""

FIRST_EDITION = "f4c95195d0d01d4ade9a7d347199c78a933d5b13a2e08e7e5de73e32c5c122d2"
"""SHA-256 of the table that the one of lesionlab puts right; where it lies, ours is taken."""


class SlicesError(RuntimeError):
    """The slices set, or the table beside it, is broken or not what was expected."""


class Key(NamedTuple):
    """Which picture: `part` is `images` or one of `mask-0` … `mask-3`."""

    patient: str
    nodule: int
    part: str
    number: int


class Folder(NamedTuple):
    """A row of the index: what one folder of the public set shows."""

    patient: str
    nodule: int  # the k of `nodule-k`
    lesion_id: str
    corner_y: int  # index in the scan of the pictures' first row
    corner_x: int  # index in the scan of the pictures' first column
    slices: list[int]  # numbers of the pictures that show the lesion
    slice_index: list[int]  # their indices in the scan
    missing_slices: list[int]  # indices of the lesion's other slices, which the set does not show
    leftover: str  # another lesion, of which overwritten pictures stayed in this folder; or ""
    iou: float  # of the set's masks and ours, at 50 % consensus
    reader_iou: list[float]  # of each reader's masks; NaN where both are empty

    @property
    def corner(self) -> tuple[int, int]:
        """`(y, x)` index in the scan of the pictures' first pixel."""
        return self.corner_y, self.corner_x

    def key(self, number: int, part: str = IMAGES) -> Key:
        """One of its pictures."""
        return Key(self.patient, self.nodule, part, number)


@cache
def read_index() -> dict[str, Folder]:
    """The folders of the public set by `lesion_id`, in the order of patients and folders."""

    def numbers(text: str, kind: type = int) -> list[Any]:
        return [kind(word) for word in text.split()]

    lists: Any = dict.fromkeys(["slices", "slice_index", "missing_slices"], numbers)
    lists["reader_iou"] = partial(numbers, kind=float)
    table = pd.read_csv(INDEX, converters=lists, keep_default_na=False)
    folders = map(Folder._make, table.itertuples(index=False))
    return {folder.lesion_id: folder for folder in folders}


class Archive(archives.Archive[Key]):
    """The pictures of a folder or a zip, found by name at any depth and read on demand."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            origins.SLICES,
            _NAME,
            lambda patient, nodule, part, n: Key(patient, int(nodule), part, int(n)),
            max_bytes=MAX_BYTES,
            error=SlicesError,
            item="picture",
        )

    def read(self, key: Key) -> npt.NDArray[np.uint8]:
        """The picture, (y, x); SlicesError if it is no 8-bit grey PNG of 128 × 128.

        Size and kind are read from the header before any pixel is decoded, so a file that claims
        to be huge costs nothing.
        """
        name = self.names[key]
        try:
            data = self.data(key)
            with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                # Pillow has one mode for grey of any bits: they and the kind of colour stand here
                if (picture.mode, *picture.size, *data[24:26]) != ("L", SIZE, SIZE, 8, 0):
                    raise ValueError(f"expected {SIZE} × {SIZE} pixels of 8-bit grey")
                return np.array(picture, dtype=np.uint8)
        except MemoryError:
            raise  # says nothing about the picture
        except UnidentifiedImageError:
            raise SlicesError(f"{self.path}: {name} is no PNG file, or is broken") from None
        except Exception as error:  # damage shows in Pillow as errors of many kinds
            raise SlicesError(f"{self.path}: {name} is no picture of the set: {error}") from error


class Slices(archives.Opened[Key]):
    """The slices set or a part of it, opened (`archives.Opened`).

    Args:
        path: The set, a folder or its zip; if None, what `LESIONLAB_LIDC_SLICES` names, or else
            what `lesionlab data fetch slices` left in the user's data folder. A table of
            intensities stands in that folder or the one that holds it. Where it differs from the
            one of lesionlab, and where no slice is calibrated, a warning says so.

    Raises:
        FileNotFoundError: There is no such file or folder, or none is named.
        SlicesError: The set or the table is broken, unsafe or something else.
    """

    _archive: Archive

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = archives.locate(origins.SLICES, path)
        self._archive = Archive(self.path)
        self.intensity_path, self._calibration = _find_intensity(self._archive)

    @cached_property
    def intensity_checksum(self) -> str | None:
        """SHA-256 of the table of slopes and intercepts, if there is one."""
        return None if self.intensity_path is None else sha256(self.intensity_path)

    @cached_property
    def _folders(self) -> dict[str, Folder]:
        """The folders of which all pictures are there, by lesion."""
        return {i: f for i, f in read_index().items() if not self._n_absent(f)}

    def _n_absent(self, folder: Folder) -> int:
        return sum(folder.key(number) not in self._archive.names for number in folder.slices)

    @property
    def lesion_ids(self) -> list[str]:
        """The nodules that have a crop, in the order of the set's folders."""
        return list(self._folders)

    def crop(self, lesion_id: str) -> Crop:
        """The voxels of one nodule: 128 × 128 pixels on every slice that the set shows.

        HU are rounded and clipped to `CLIP`. Slices that the intensity table has no HU for get the
        map `UNCALIBRATED`. Masks are ours, in the order of the nodule's `reading_ids`.

        Raises:
            LookupError: The set has no crop of that nodule; the message says why.
            SlicesError: A file cannot be read, or the folder's masks do not show the nodule.
        """
        if lesion_id not in self._folders:
            raise LookupError(
                f"the slices set has no crop of {lesion_id}: {self._why_not(lesion_id)}"
            )
        folder, masks = self._folders[lesion_id], lidc.masks(lesion_id)
        slice_index = np.array(folder.slice_index, dtype=np.int64)
        placed = masks.window(slice_index, folder.corner, SIZE)
        self._check_shown(folder, placed)
        hu, steps = zip(*(self._slice(folder, n) for n in folder.slices), strict=True)
        return Crop(
            lesion_id=lesion_id,
            hu=np.stack(hu),
            masks=placed,
            spacing=masks.spacing,
            slice_index=slice_index,
            corner=folder.corner,
            steps=np.array(steps),
            tier="slices",
        )

    def _slice(self, folder: Folder, number: int) -> tuple[npt.NDArray[np.int16], int]:
        """HU of one picture, and the steps from the slice that they were measured on."""
        key = folder.key(number)
        slope, intercept, steps = self._calibration.get(key, UNCALIBRATED)
        every = np.rint(slope * np.arange(256) + intercept).clip(*CLIP).astype(np.int16)
        return every[self._archive.read(key)], steps

    def _check_shown(self, folder: Folder, ours: npt.NDArray[np.bool_]) -> None:
        """Some mask of the folder must be ours, or another set has the names of the public one."""
        for s in ours.sum(axis=(0, 2, 3)).argsort()[::-1]:
            for part in MASKS:
                if (key := folder.key(folder.slices[s], part)) in self._archive.names:
                    mask = self._archive.read(key) > 0
                    if (mask == ours[:, s]).all(axis=(1, 2)).any() and mask.any():
                        return
        raise SlicesError(
            f"{self.path}: no mask of {folder.patient}/nodule-{folder.nodule} is one of "
            f"{folder.lesion_id}, which the public set shows there: expected the public set"
        )

    def _why_not(self, lesion_id: str) -> str:
        """Why a nodule has no crop; "" if it has one."""
        if lesion_id in self._folders:
            return ""
        if lesion_id not in lidc.nodules().index:
            return "no nodule has that lesion_id"
        folder = read_index().get(lesion_id)
        if folder and (n_absent := self._n_absent(folder)) < len(folder.slices):
            return f"{n_absent} of its {len(folder.slices)} pictures are missing"
        return "no folder of the set shows it"


Calibration = dict[Key, tuple[float, float, int]]
"""Slope, intercept and steps of every slice that has them."""

_COLUMNS: Any = {"patient": "str", "nodule": int, "slice": int, "source": "str"}
_COLUMNS |= {"slope": float, "intercept": float, "steps": int}


def _find_intensity(archive: Archive) -> tuple[Path | None, Calibration]:
    """The table for a set: its path and what it holds; a warning says what a user should know."""
    path = archive.path
    beside = [folder / INTENSITY_NAME for folder in (path, path.parent)]
    shipped = _read_intensity(INTENSITY) if _is_public(archive) else {}
    own = next((file for file in beside if os.path.lexists(file)), None)
    if own and shipped and sha256(own) == FIRST_EDITION:
        logger.info("%s is the first edition; the table of lesionlab is used", own)
        own = None
    if own is None:
        if not shipped:
            logger.warning(
                "there is no %s beside %s, and its pictures are not those that the table of "
                "lesionlab is for: no slice has values in HU, and Crop.calibrated is False",
                INTENSITY_NAME,
                path,
            )
        return INTENSITY if shipped else None, shipped
    table = _read_intensity(own)
    if table.keys().isdisjoint(archive.names):
        raise SlicesError(f"{own} has HU for no slice of {path}: expected the table of this set")
    n = sum(table.get(key) != shipped.get(key) for key in table.keys() | shipped.keys())
    if shipped and n:
        logger.warning("%s is used; on %d slices it differs from lesionlab's own table", own, n)
    return own, table


def _read_intensity(path: Path) -> Calibration:
    """Read a table; rows of source `none`, in any case, are passed over."""
    if not path.is_file():  # a pipe would block
        raise SlicesError(f"{path} is no file: expected the CSV table of intensities, or nothing")
    try:
        # pandas would take the first of two columns, and call the other one `slope.1`
        twice = pd.read_csv(path, header=None, nrows=1, dtype="str").loc[0].value_counts()
        if double := [name for name in _COLUMNS if twice.get(name, 0) > 1]:
            raise ValueError(f"column {double[0]!r} stands in it twice")
        table = pd.read_csv(path, usecols=list(_COLUMNS), dtype=_COLUMNS)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise SlicesError(f"{path} cannot be read as a CSV table: {error}") from error
    if table.empty:
        raise SlicesError(f"{path}, line 2: expected a row for every slice, found no rows at all")
    table = table[table["source"].fillna("none").str.strip().str.lower() != "none"]
    # within these, all HU that a scanner can give; beyond them, arithmetic overflows
    good: Any = table["slope"].between(0, MAX_SLOPE, "right") & (table["intercept"].abs() <= MAX_HU)
    good &= ~table.duplicated(["patient", "nodule", "slice"]) & (table["steps"] >= 0)
    if not good.all():
        raise SlicesError(
            f"{path}, line {int(good.idxmin()) + 2}: expected a slice that stands in one row only, "
            f"a slope above 0 and up to {MAX_SLOPE:g}, an intercept within ±{MAX_HU:,} and steps "
            "of 0 or more; or source none"
        )
    columns = ["patient", "nodule", "slice", "slope", "intercept", "steps"]
    rows = table[columns].itertuples(index=False)
    return {Key(patient, k, IMAGES, number): tuple(line) for patient, k, number, *line in rows}


def _is_public(archive: Archive) -> bool:
    """Whether a sample of the pictures is what the table of lesionlab was measured on.

    Another set in the same folders, scaled in another way, would get wrong HU from it.
    """
    table = pd.read_csv(INTENSITY, dtype={"crc32": "str"}).dropna(subset="crc32")
    rows = table[["patient", "nodule", "slice", "crc32"]].itertuples(index=False)
    crc32 = {Key(patient, k, IMAGES, number): int(crc, 16) for patient, k, number, crc in rows}
    common = [key for key in crc32 if key in archive.names]
    equal = []
    for key in common[:: 1 + len(common) // SAMPLE]:
        with suppress(SlicesError):  # a broken picture says nothing
            equal.append(zlib.crc32(archive.read(key).tobytes()) == crc32[key])
    return bool(equal) and all(equal)
