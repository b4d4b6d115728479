"""What lies in a tree of `.anno` files: its scans, their contours joined into lesions, faults."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from lesionlab import _files, _processes
from lesionlab.sources.anno import _shapes
from lesionlab.sources.anno._files import (
    FILE_NAME,
    SUBJECT,
    AnnoError,
    Annotation,
    BadAnnoError,
    Fault,
    read_annotation,
)
from lesionlab.sources.dicom._files import BadFileError, DicomError, Slice, read_slice
from lesionlab.sources.dicom._series import arrange, may_be_dicom, select
from lesionlab.sources.lidc import cache_folder

DEPTH = 6  # folders above a series: ct_type/hospital/year/month/day/subject
SERIES = re.compile(r"SE[0-9]{2,4}")
DOCTOR = re.compile(r"(SE[0-9]{2,4})_[0-9]{2}_([0-9]{2,4})")
STEP = 3  # slices from one mark of a lesion to the next (3.2.1)
FEW = 50  # scans that one process reads: starting others takes longer
MOST_PROCESSES = 4
MAX_OFF = 0.1  # mm that a slice may lie off an annotation; also at most a fifth of the step

Record = dict[str, Any]
"""What is known of one scan, as JSON: see `read_scan`."""


@dataclass(frozen=True)
class Scan:
    """One series of a subject, and the doctors' folders beside it."""

    root: Path
    subject: str
    series: str  # as SE01
    folder: Path  # of the subject
    doctors: tuple[tuple[int, str], ...]  # number, and name of the folder

    @property
    def dicom(self) -> Path:
        """The folder with the slices."""
        return self.folder / self.series

    @property
    def name(self) -> str:
        """What its lesions' ids begin with."""
        return f"{self.subject}-{self.series}"

    def key(self) -> str:
        """SHA-256 of the names, sizes and times of its files, and of the code that reads them."""
        lines = [_files.sha256_code("sources/anno", "sources/dicom"), self.name]
        for folder in (self.series, *(name for _, name in self.doctors)):
            with os.scandir(self.folder / folder) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    status = entry.stat(follow_symlinks=False)
                    told = f"{status.st_size} {status.st_mtime_ns}"
                    lines.append(f"{folder}/{entry.name!r} {told}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_scans(root: Path) -> tuple[list[Scan], list[Fault]]:
    """The scans of a tree, by their path, and what lies where it should not. Links are passed by.

    Raises:
        AnnoError: There is no scan at all.
    """
    scans: dict[str, Scan] = {}
    faults = []
    expected = "expected ct_type/hospital/year/month/day/subject with SE01 and SE01_01_01 in it"
    for name, subfolders, files in os.walk(root):
        folder = Path(name)
        below = folder.relative_to(root)
        subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
        for link in [sub for sub in subfolders if (folder / sub).is_symlink()]:
            subfolders.remove(link)
            faults.append(Fault(str(below / link), "", "is a link, which is not followed"))
        if any(file.endswith(".anno") for file in files):
            faults.append(Fault(str(below), "", f"holds .anno files, {expected}"))
        inside = [sub for sub in subfolders if SERIES.fullmatch(sub) or DOCTOR.fullmatch(sub)]
        if len(below.parts) < DEPTH:
            faults += [Fault(str(below / sub), "", f"lies too high: {expected}") for sub in inside]
            subfolders[:] = [sub for sub in subfolders if sub not in inside]
            continue
        for sub in sorted(set(subfolders) - set(inside)):
            faults.append(Fault(str(below / sub), "", "is no SE01 and no SE01_01_01"))
        subfolders.clear()
        if not SUBJECT.fullmatch(folder.name):
            why = "expected a subject of up to 64 letters, digits, '_' and '-'"
            faults.append(Fault(str(below), "", why))
            continue
        doctors = defaultdict(list)
        for found in filter(None, map(DOCTOR.fullmatch, inside)):
            doctors[found[1]].append((int(found[2]), found[0]))
        for lost in sorted(set(doctors) - set(inside)):
            faults.append(Fault(str(below / lost), "", "is missing: the doctors' slices"))
        for series in filter(SERIES.fullmatch, inside):
            scan = Scan(root, folder.name, series, folder, tuple(sorted(doctors[series])))
            if (other := scans.setdefault(scan.name.lower(), scan)) is not scan:
                why = f"the same subject and series as {other.dicom.relative_to(root)}"
                faults.append(Fault(str(below / series), "", why))
    if not scans:
        raise AnnoError(f"{root}: no scan in it; {expected}")
    return sorted(scans.values(), key=lambda scan: scan.dicom), faults


def read_scans(
    scans: Iterable[Scan], *, processes: int | None, progress: bool, use_cache: bool = True
) -> dict[str, Record]:
    """The record of each scan by its name; those that are in the cache are not read again."""
    found: dict[str, Record] = {}
    keys = {scan.name: scan.key() for scan in scans}
    kept = cache_folder() / "anno"
    todo = []
    for scan in scans:
        # a cache that is missing or damaged costs time, not results
        with suppress(OSError, ValueError):
            if use_cache:
                found[scan.name] = _files.read_json(kept / f"{keys[scan.name]}.json", sealed=True)
                continue
        todo.append(scan)
    read = _processes.in_order(read_scan, todo, _how_many(processes, todo), "read .anno files")
    quiet = not progress or len(todo) <= FEW
    with (
        closing(read),
        tqdm(total=len(keys), initial=len(found), disable=quiet, unit="scan") as bar,
    ):
        for scan, record in zip(todo, read, strict=True):
            found[scan.name] = record
            with suppress(OSError):
                if use_cache:
                    _files.write_json(kept / f"{keys[scan.name]}.json", record, sealed=True)
            bar.update()
    return {name: found[name] | {"key": keys[name]} for name in keys}


def _how_many(asked: int | None, items: list[Any]) -> int:
    return asked or (1 if len(items) <= FEW else min(_processes.usable_cores(), MOST_PROCESSES))


def read_scan(scan: Scan) -> Record:
    """Check a scan's `.anno` files against the header of one slice, and join them into lesions.

    Returns:
        - `series_uid`, `spacing` `(z, y, x)` mm, `synthetic`;
        - `lesions`: by number ("L" and LesionID, or "A" and the lowest `aid`) what `_lesion` gives;
        - `faults`: path, key and reason of what was left out.
    """
    faults: list[Fault] = []
    record: Record = {"series_uid": "", "spacing": [], "synthetic": False, "lesions": {}}
    told = str(scan.dicom.relative_to(scan.root))
    slices = (one for one in _slices(scan, faults) if isinstance(one, Slice))
    if (first := next(slices, None)) is None:
        faults.append(Fault(told, "", "has no CT slice that can be read"))
        return record | {"faults": faults}
    marks = list(_marks(scan, first, faults))
    if not marks:
        faults.append(Fault(told, "", "has no contour that can be used"))
        return record | {"faults": faults}
    z = float(np.median([mark.spacing[2] for _, mark in marks]))
    spacing = (z, *first.pixel_spacing)
    record |= {"series_uid": first.series_uid, "synthetic": first.synthetic, "spacing": spacing}
    record["lesions"] = {
        name: _lesion(scan, [marks[k] for k in members], spacing)
        for name, members in sorted(_join(marks).items())
    }
    return record | {"faults": faults}


def _slices(scan: Scan, faults: list[Fault]) -> Iterator[Slice | str]:
    for file in sorted(filter(may_be_dicom, scan.dicom.iterdir())):
        try:
            yield read_slice(file)
        except BadFileError as error:
            faults.append(Fault(str(file.relative_to(scan.root)), "", error.reason))


def _marks(scan: Scan, first: Slice, faults: list[Fault]) -> Iterator[tuple[int, Annotation]]:
    """Doctor and annotation of each file that can be used."""
    size, spacing = first.shape[::-1], first.pixel_spacing[::-1]
    for doctor in dict.fromkeys(number for number, _ in scan.doctors):
        folders = [scan.folder / name for number, name in scan.doctors if number == doctor]
        files = [f for folder in folders for f in sorted(folder.iterdir()) if f.name[0] != "."]
        names = map(FILE_NAME.fullmatch, (file.name for file in files))
        aids = Counter(int(name[1]) for name in names if name)
        for file in files:
            try:
                mark = read_annotation(file)
                if (n := aids[mark.aid]) > 1:
                    why = f"{n} files of doctor {doctor} have the aid {mark.aid}"
                    raise BadAnnoError(file, "NoduleSerialNumber", why)
                if mark.series_uid != first.series_uid:
                    why = f"is not the SeriesInstanceUID of {scan.series}"
                    raise BadAnnoError(file, "SeriesID", why)
                if mark.dimension[:2] != size:
                    why = f"expected {size[0]} columns and {size[1]} rows, as in {scan.series}"
                    raise BadAnnoError(file, "Dimension", why)
                if not np.allclose(mark.spacing[:2], spacing, rtol=0, atol=1e-3):
                    why = f"expected {spacing[0]:g} and {spacing[1]:g} mm, as in {scan.series}"
                    raise BadAnnoError(file, "Spacing", why)
            except BadAnnoError as error:
                where = str(error.path.relative_to(scan.root))
                faults.append(Fault(where, error.key, error.reason))
            else:
                yield doctor, mark


def _join(marks: list[tuple[int, Annotation]]) -> dict[str, list[int]]:
    """Which marks show one lesion: by `LesionID`; without, by overlap at most `STEP` slices away.

    Marks of different doctors are joined alike, also in the same slice.
    """
    lesions: dict[str, list[int]] = defaultdict(list)
    loose = [k for k, (_, mark) in enumerate(marks) if mark.lesion is None]
    for k, (_, mark) in enumerate(marks):
        if mark.lesion is not None:
            lesions[f"L{mark.lesion}"].append(k)
    if not loose:
        return lesions
    some = [marks[k][1] for k in loose]
    masks = [_shapes.fill(mark.outline) for mark in some]
    low = np.array([corner for _, corner in masks])
    high = low + [mask.shape for mask, _ in masks]
    location = np.array([mark.location for mark in some])
    reach = (STEP + 0.5) * np.array([mark.spacing[2] for mark in some])
    near = np.abs(location[:, None] - location) <= reach
    near &= ((low[:, None] < high) & (low < high[:, None])).all(axis=2)
    for i, j in np.argwhere(np.triu(near, 1)).tolist():
        start, end = np.maximum(low[i], low[j]), np.minimum(high[i], high[j])
        parts = (masks[k][0][tuple(map(slice, start - low[k], end - low[k]))] for k in (i, j))
        near[i, j] = near[j, i] = np.logical_and(*parts).any()
    labels = connected_components(near, directed=False)[1]
    for label in range(labels.max() + 1):
        members = [loose[k] for k in np.flatnonzero(labels == label)]
        lesions[f"A{min(marks[k][1].aid for k in members)}"] += members
    return lesions


def _lesion(
    scan: Scan, marks: list[tuple[int, Annotation]], spacing: tuple[float, ...]
) -> dict[str, Any]:
    """What the table says of a lesion, and its files by doctor, with their `aid`."""
    files = defaultdict(list)
    for doctor, mark in marks:
        files[str(doctor)].append((str(mark.path.relative_to(scan.folder)), mark.aid))
    outlines = [mark.outline for _, mark in marks]
    points = np.concatenate(outlines)
    size = np.ptp(points, axis=0) * spacing[1:]
    areas, centres = zip(*map(_shapes.area_and_centre, outlines), strict=True)
    where = np.column_stack((centres, [mark.location for _, mark in marks]))
    y, x, location = np.average(where, axis=0, weights=np.maximum(areas, 1e-9)).tolist()
    return {
        "files": files,
        "diameter": float(size.max()),
        "slice_location": location,
        "y": y,
        "x": x,
        "n_slices": len({mark.location for _, mark in marks}),
        "circles": all(map(_shapes.is_circle, outlines)),
    }


# --- The slices, which a crop or the validator opens --------------------------------------------


def open_slices(scan: Scan, series_uid: str) -> tuple[list[Slice], Any, Any, float, list[str]]:
    """Slices in order along z, their positions and SliceLocations, the step in mm, and notes."""
    slices, notes = select(scan.dicom, series_uid, strict=False)
    slices, _, positions, (step, _, _), odd = arrange(slices, strict=False)
    location = np.array([one.location for one in slices])
    location = np.where(np.isfinite(location), location, positions)
    return slices, positions, location, step, notes + odd


def index_of(mark: Annotation, location: Any, step: float) -> int:
    """The index of an annotation's slice.

    Raises:
        BadAnnoError: The scan has no slice there.
    """
    away = np.abs(location - mark.location)
    if away.min() > min(MAX_OFF, step / 5):
        why = f"no slice at {mark.location:g} mm; the nearest is {away.min():.3g} mm away"
        raise BadAnnoError(mark.path, "InstanceNumber", why)
    return int(away.argmin())


def check_slices(item: tuple[Scan, Record]) -> list[Fault]:
    """What is wrong with a scan's slices, and with annotations beside them."""
    scan, record = item
    told = str(scan.dicom.relative_to(scan.root))
    if not record["lesions"]:
        return []
    try:
        slices, _, location, step, notes = open_slices(scan, record["series_uid"])
    except DicomError as error:
        return [Fault(told, "", str(error))]
    faults = [Fault(told, "", note) for note in notes]
    for lesion in record["lesions"].values():
        for name, _ in (file for files in lesion["files"].values() for file in files):
            path = str((scan.folder / name).relative_to(scan.root))
            try:
                mark = read_annotation(scan.folder / name)
                index_of(mark, location, step)
            except BadAnnoError as error:
                faults.append(Fault(path, error.key, error.reason))
                continue
            if mark.dimension[2] != len(slices):
                why = f"{mark.dimension[2]} slices, but {scan.series} has {len(slices)}"
                faults.append(Fault(path, "Dimension", why))
            if abs(mark.spacing[2] - step) > 0.01 * step:
                why = f"{mark.spacing[2]:g} mm along z, but {step:g} mm in {scan.series}"
                faults.append(Fault(path, "Spacing", why))
            if not np.allclose(mark.origin, slices[0].position, rtol=0, atol=0.1):
                faults.append(Fault(path, "Origin", f"is not that of {scan.series}"))
    return faults


def check_all(
    scans: Iterable[Scan], records: dict[str, Record], *, processes: int | None, progress: bool
) -> list[Fault]:
    """`check_slices` of all scans."""
    items = [(scan, records[scan.name]) for scan in scans]
    checked = _processes.in_order(
        check_slices, items, _how_many(processes, items), "checked DICOM files"
    )
    quiet = not progress or len(items) <= FEW
    with closing(checked):
        found = tqdm(checked, "validate", len(items), disable=quiet, unit="scan")
        return [fault for faults in found for fault in faults]
