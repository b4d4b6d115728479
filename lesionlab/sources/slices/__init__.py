"""Real pixels around every LIDC-IDRI nodule, from the public "LIDC-IDRI slices" set of 0.2 GB.

The set holds, for 2,630 nodules, pictures of 128 × 128 native pixels and one mask per reader:

    LIDC-IDRI-slices/LIDC-IDRI-xxxx/nodule-k/{images,mask-0,mask-1,mask-2,mask-3}/slice-s.png

It says neither which nodule of the database a folder shows nor where in the scan it lies. Both were
found from the masks, once, and stand in a table that comes with lesionlab. The pictures are scaled
slice by slice to 8 bits; a second table undoes that: HU = slope × pixel + intercept. In its place a
table beside the set, `lidc-idri-slices-intensity.csv`, is taken. `tables/README.md` describes both.

    from lesionlab.sources.slices import Slices
    source = Slices()              # LESIONLAB_LIDC_SLICES, or Slices("…/the-set.zip")
    source.report()                # what is there and what is not
    source.crop("LIDC-IDRI-0001-S0012-N01").hu

21 nodules are not in it, and in 139 others slices are missing. HU are those of 8-bit pictures, in
steps of 3 to 22 HU (median 9), on top of an error of the table of 3 to 37 HU; 307 slices, all those
of 52 nodules, have no HU at all. In 131 nodules some reader's mask is not what that reader drew, so
crops carry our masks, rasterised from the contours.
"""

from __future__ import annotations

from collections import Counter
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from lesionlab._files import sha256
from lesionlab.crops import Crop
from lesionlab.sources import lidc, origins
from lesionlab.sources.slices._archive import IMAGES, MASKS, SIZE, Archive, Key
from lesionlab.sources.slices._archive import SlicesError as SlicesError
from lesionlab.sources.slices._intensity import find_intensity, is_offset

INDEX = Path(__file__).parents[1] / "tables" / "lidc-idri-slices-index.csv.gz"
"""Which nodule each folder of the public set shows, and where; README.md beside it explains it."""

CLIP = (-1024, 3071)
"""Crops are clipped to what 12 bits hold: padding outside the field of view reaches −3000 HU."""

UNCALIBRATED = (8.5, -1020.0)
"""Slope and intercept for slices whose HU are not known: the rounded medians of the others. Shapes
stay visible, values are not HU, and `Crop.calibrated` says so."""


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


class Slices:
    """The slices set or a part of it, opened.

    An instance can be sent to other processes, but is not to be used on both sides of a fork.

    Args:
        path: The set, a folder or its zip; if None, what `LESIONLAB_LIDC_SLICES` names, or else
            what `lesionlab data fetch slices` left in the user's data folder. Slopes and intercepts
            are those of a `lidc-idri-slices-intensity.csv` in the set's folder or the one that
            holds it, or else, for the public set only, of the table that comes with lesionlab.
            Where the two tables differ, and where no slice is calibrated, a warning says so.

    Raises:
        FileNotFoundError: There is no such file or folder, or none is named.
        SlicesError: The set or the table is broken, unsafe or something else.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        found = Path(path).expanduser() if path is not None else origins.named(origins.SLICES)
        if found is None:
            raise FileNotFoundError(origins.SLICES.missing())
        if not found.exists():
            raise FileNotFoundError(f"{found} does not exist; expected {origins.SLICES.expected}")
        self.path = found.resolve()
        self._archive = Archive(self.path)
        self.intensity_path, self._calibration = find_intensity(self._archive)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the zip; of a folder, of the names, sizes and times of its files."""
        return self._archive.checksum()

    @cached_property
    def intensity_checksum(self) -> str | None:
        """SHA-256 of the table of slopes and intercepts, if there is one."""
        return None if self.intensity_path is None else sha256(self.intensity_path)

    @cached_property
    def _folders(self) -> dict[str, Folder]:
        """The folders of which all pictures are there, by lesion."""
        return {i: f for i, f in read_index().items() if not self._n_absent(f)}

    @cached_property
    def _n_slices(self) -> Counter[tuple[str, int]]:
        return Counter(
            (key.patient, key.nodule) for key in self._archive.names if key.part == IMAGES
        )

    def _n_absent(self, folder: Folder) -> int:
        return sum(folder.key(number) not in self._archive.names for number in folder.slices)

    @property
    def lesion_ids(self) -> list[str]:
        """The nodules that have a crop, in the order of the set's folders."""
        return list(self._folders)

    def report(self, *, progress: bool = False) -> pd.DataFrame:
        """What is there and what is not; reads every picture once.

        Returns:
            A row per nodule of the database, those with a folder in the set first. Columns are
            those of `Folder`, missing where the set has none, and

            - `matched` (the nodule has a crop), and `reason` if not;
            - `n_slices`: image slices in the folder; `excluded`: how many of them are in no crop;
            - `n_calibrated`: slices of the crop with known HU; `n_offset`: those among them for
              which the table gives values 1024 too high.
        """
        rows: list[dict[str, Any]] = []
        in_set = [f for f in read_index().values() if (f.patient, f.nodule) in self._n_slices]
        for folder in tqdm(in_set, "slices", unit="nodule", disable=not progress):
            maps: list[tuple[Any, bool, bool]] = []
            reason = self._why_not(folder.lesion_id)
            try:
                maps = [] if reason else [self._slice(folder, n) for n in folder.slices]
            except SlicesError as error:
                reason = str(error)
            n_slices = self._n_slices[folder.patient, folder.nodule]
            about = {"matched": not reason, "reason": reason, "n_slices": n_slices}
            about["excluded"] = n_slices - len(folder.slices) + self._n_absent(folder)
            about["n_calibrated"] = sum(known for _, known, _ in maps)
            about["n_offset"] = sum(offset for _, _, offset in maps)
            rows.append(folder._asdict() | about)
        nodules = lidc.nodules()["patient"]
        for lesion_id in nodules.index.difference([f.lesion_id for f in in_set], sort=False):
            about = {"matched": False, "reason": self._why_not(lesion_id)}
            rows.append({"patient": nodules[lesion_id], "lesion_id": lesion_id} | about)
        counts = ["n_slices", "excluded", "n_calibrated", "n_offset"]
        columns = [*Folder._fields[:3], "matched", "reason", *Folder._fields[3:], *counts]
        table = pd.DataFrame(rows, columns=columns)
        table[counts] = table[counts].fillna(0).astype(int)
        return table.astype({"nodule": "Int64"})

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
        hu, known, _ = zip(*(self._slice(folder, n) for n in folder.slices), strict=True)
        return Crop(
            lesion_id=lesion_id,
            hu=np.stack(hu),
            masks=placed,
            spacing=masks.spacing,
            slice_index=slice_index,
            corner=folder.corner,
            calibrated=np.array(known),
            tier="slices",
        )

    def _slice(self, folder: Folder, number: int) -> tuple[npt.NDArray[np.int16], bool, bool]:
        """HU of one picture, whether they are known, and whether the table is 1024 too high."""
        pixels = self._archive.read(folder.key(number))
        known = self._calibration.get(folder.key(number))
        slope, intercept = known or UNCALIBRATED
        floor = int(pixels[pixels > 0].min(initial=255)) if pixels.any() else 0
        offset = known is not None and is_offset(slope, intercept, floor)
        if offset:
            intercept -= 1024
        every = np.rint(slope * np.arange(256) + intercept).clip(*CLIP).astype(np.int16)
        return every[pixels], known is not None, offset

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

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path,)


@cache
def _reopen(path: Path) -> Slices:
    return Slices(path)
