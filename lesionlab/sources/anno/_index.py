"""What lies in a tree of `.anno` files: its scans, their contours joined into lesions, faults."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from lesionlab import _files
from lesionlab.sources import _own
from lesionlab.sources._own import Fault, Record
from lesionlab.sources.anno import _shapes
from lesionlab.sources.anno._files import (
    FILE_NAME,
    MAX_SIZE,
    SUBJECT,
    AnnoError,
    Annotation,
    BadAnnoError,
    check,
    read_annotation,
)
from lesionlab.sources.dicom._files import BadFileError, DicomError, Slice, read_slice
from lesionlab.sources.dicom._series import arrange, may_be_dicom, select

DEPTH = 7  # of a series or of a doctor's folder below the root
EXPECTED = "expected ct_type/hospital/year/month/day/subject/SE01 and SE01_01_01, and no links"
FOLDER = re.compile(r"(SE[0-9]{2,4})(?:_[0-9]{2}_([0-9]{2,4}))?")  # of slices, or of a doctor
NOBODY = -1  # in place of a doctor's number
STEP = 3  # slices from one mark of a lesion to the next (3.2.1)
MAX_OFF = 0.1  # mm that a slice may lie off an annotation; also at most a fifth of the step


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

    def fault(self, path: Path, key: str, reason: str) -> Fault:
        """What is wrong with one of its files or folders."""
        return Fault(str(path.relative_to(self.root)), key, reason)


def find_scans(root: Path) -> tuple[dict[str, Scan], list[Fault]]:
    """The scans of a tree by their name, and what lies where it should not. Links are passed by.

    Raises:
        AnnoError: There is no scan at all.
    """
    found: dict[tuple[Path, str], list[tuple[int, str]]] = defaultdict(list)
    scans: dict[str, Scan] = {}
    faults = []
    for path in sorted(filter(Path.is_dir, root.rglob("SE*"))):
        below, match = path.relative_to(root), FOLDER.fullmatch(path.name)
        placed = len(below.parts) == DEPTH and SUBJECT.fullmatch(path.parent.name)
        if match and placed and not path.is_symlink():
            doctor = int(match[2]) if match[2] else NOBODY
            found[path.parent, match[1]].append((doctor, path.name))
        else:
            faults.append(Fault(str(below), "", EXPECTED))
    for (folder, series), inside in found.items():
        doctors = tuple(sorted(one for one in inside if one[0] != NOBODY))
        scan = Scan(root, folder.name, series, folder, doctors)
        if len(doctors) == len(inside):
            faults.append(scan.fault(scan.dicom, "", "is missing: the doctors' slices"))
        elif (other := scans.setdefault(scan.name, scan)) is not scan:
            why = f"the same subject and series as {other.dicom.relative_to(root)}"
            faults.append(scan.fault(scan.dicom, "", why))
    if not scans:
        raise AnnoError(f"{root}: no scan in it; {EXPECTED}")
    return scans, faults


def read_scans(
    scans: list[Scan], *, processes: int | None, progress: bool, thorough: bool
) -> dict[str, Record]:
    """`read_scan` of each scan, by its name, with its `key`; kept while no file is changed."""
    keys = {scan.name: _key(scan, thorough) for scan in scans}
    items, work = {scan.name: scan for scan in scans}, partial(read_scan, thorough=thorough)
    return _own.records("anno", items, keys, work, processes=processes, progress=progress)


def _key(scan: Scan, thorough: bool) -> str:
    """SHA-256 of the names, sizes and times of a scan's files, and of the code that reads them."""
    lines = [_files.sha256_code("sources/anno", "sources/dicom"), scan.name, str(thorough)]
    for folder in (scan.series, *(name for _, name in scan.doctors)):
        for file in sorted((scan.folder / folder).iterdir()):
            status = file.lstat()
            lines.append(f"{folder}/{file.name!r} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_scan(scan: Scan, thorough: bool = False) -> Record:
    """Check a scan's `.anno` files against the header of one slice, and join them into lesions.

    Where it is to be `thorough`, they are held against the headers of all slices.

    Returns:
        - `series_uid`, `spacing` `(z, y, x)` mm, `synthetic`;
        - `lesions`: by number ("L" and LesionID, or "A" and the lowest `aid`) what `_lesion` gives;
        - `faults`: path, key and reason of what was left out.
    """
    faults: list[Fault] = []
    record: Record = {"series_uid": "", "spacing": [], "synthetic": False, "lesions": {}}
    record["faults"] = faults
    if (first := _first_slice(scan)) is None:
        faults.append(scan.fault(scan.dicom, "", "has no CT slice that can be read"))
        return record
    marks = list(_marks(scan, first, faults))
    if not marks:
        faults.append(scan.fault(scan.dicom, "", "has no contour that can be used"))
        return record
    if thorough:
        faults += _check_slices(scan, first.series_uid, [mark for _, mark in marks])
    z = float(np.median([mark.spacing[2] for _, mark in marks]))
    spacing = (z, *first.pixel_spacing)
    record |= {"series_uid": first.series_uid, "synthetic": first.synthetic, "spacing": spacing}
    record["lesions"] = {
        name: _lesion(scan, [marks[k] for k in members], spacing)
        for name, members in sorted(_join([mark for _, mark in marks]).items())
    }
    return record


def _first_slice(scan: Scan) -> Slice | None:
    for file in sorted(filter(may_be_dicom, scan.dicom.iterdir())):
        with suppress(BadFileError):
            if isinstance(found := read_slice(file), Slice):
                return found
    return None


def _marks(scan: Scan, first: Slice, faults: list[Fault]) -> Iterator[tuple[int, Annotation]]:
    """Doctor and annotation of each file that can be used."""
    y, x = first.pixel_spacing
    files = [
        (doctor, file)
        for doctor, name in scan.doctors
        for file in sorted((scan.folder / name).iterdir())
        if not file.name.startswith(".")
    ]
    named = ((doctor, FILE_NAME.fullmatch(file.name)) for doctor, file in files)
    used = Counter((doctor, int(name[1])) for doctor, name in named if name)
    for doctor, file in files:
        try:
            mark = read_annotation(file)
            n, of = used[doctor, mark.aid], scan.series
            size, same = first.shape[::-1], np.allclose(mark.spacing[:2], (x, y), rtol=0, atol=1e-3)
            check(
                file,
                (n == 1, "NoduleSerialNumber", f"{n} files of doctor {doctor} have this aid"),
                (mark.series_uid == first.series_uid, "SeriesID", f"is not that of {of}"),
                (mark.dimension[:2] == size, "Dimension", f"{of} has {size[0]} × {size[1]} pixels"),
                (same, "Spacing", f"pixels of {of} are {x:g} and {y:g} mm wide"),
            )
            yield doctor, mark
        except BadAnnoError as error:
            faults.append(scan.fault(error.path, error.key, error.reason))


def _join(marks: list[Annotation]) -> dict[str, list[int]]:
    """Which marks show one lesion: by `LesionID`; without, by overlap at most `STEP` slices away.

    Marks of different doctors are joined alike, also in the same slice.
    """
    lesions: dict[str, list[int]] = defaultdict(list)
    for k, mark in enumerate(marks):
        if mark.lesion is not None:
            lesions[f"L{mark.lesion}"].append(k)
    if not (loose := [k for k, mark in enumerate(marks) if mark.lesion is None]):
        return lesions
    pixels = [_shapes.fill(marks[k].outline) for k in loose]
    row = np.repeat(np.arange(len(loose)), [len(some) for some in pixels])
    # each pixel that is in any mark is a column
    column = np.unique(np.concatenate(pixels) @ (MAX_SIZE, 1), return_inverse=True)[1]
    inside = sparse.csr_array((np.ones(len(row), dtype=np.float32), (row, column)))
    location = np.array([marks[k].location for k in loose])
    reach = (STEP + 0.5) * np.array([marks[k].spacing[2] for k in loose])
    near = (inside @ inside.T).toarray() * (np.abs(location[:, None] - location) <= reach)
    labels = sparse.csgraph.connected_components(near, directed=False)[1]
    for label in np.unique(labels):
        members = [loose[k] for k in np.flatnonzero(labels == label)]
        lesions[f"A{min(marks[k].aid for k in members)}"] += members
    return lesions


def _lesion(
    scan: Scan, marks: list[tuple[int, Annotation]], spacing: tuple[float, ...]
) -> dict[str, Any]:
    """What the table says of a lesion, and its files: doctor, `aid`, name."""
    outlines = [mark.outline for _, mark in marks]
    size = np.ptp(np.concatenate(outlines), axis=0) * spacing[1:]
    pixels = [_shapes.fill(outline) for outline in outlines]
    location = np.repeat([mark.location for _, mark in marks], [len(some) for some in pixels])
    y, x = np.concatenate(pixels).mean(axis=0).tolist()
    return {
        "files": [(d, mark.aid, str(mark.path.relative_to(scan.folder))) for d, mark in marks],
        "diameter": float(size.max()),
        "slice_location": float(location.mean()),
        "y": y,
        "x": x,
        "n_slices": len({mark.location for _, mark in marks}),
        "circles": all(map(_shapes.is_circle, outlines)),
    }


# --- The slices, which a crop or the validator opens --------------------------------------------


def open_slices(folder: Path, series_uid: str | None) -> tuple[list[Slice], Any, Any, float, Any]:
    """Slices in order along z, their positions and SliceLocations, the step in mm, and notes."""
    slices, notes = select(folder, series_uid, strict=False)
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
    why = f"no slice at {mark.location:g} mm; the nearest is {away.min():.3g} mm away"
    check(mark.path, (away.min() <= min(MAX_OFF, step / 5), "InstanceNumber", why))
    return int(away.argmin())


def _check_slices(scan: Scan, series_uid: str, marks: list[Annotation]) -> Iterator[Fault]:
    """What is wrong with a scan's slices, and with annotations beside them."""
    try:
        slices, _, location, step, notes = open_slices(scan.dicom, series_uid)
    except DicomError as error:
        notes, marks = [str(error)], []
    yield from (scan.fault(scan.dicom, "", note) for note in notes)
    for mark in marks:
        n, z, of = mark.dimension[2], mark.spacing[2], scan.series
        at_first = np.allclose(mark.origin, slices[0].position, rtol=0, atol=0.1)
        try:
            index_of(mark, location, step)
            check(
                mark.path,
                (n == len(slices), "Dimension", f"{n} slices, but {of} has {len(slices)}"),
                (abs(z - step) <= 0.01 * step, "Spacing", f"{z:g} mm along z, not {step:g} mm"),
                (at_first, "Origin", f"is not that of {of}"),
            )
        except BadAnnoError as error:
            yield scan.fault(error.path, error.key, error.reason)
