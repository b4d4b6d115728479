"""One `.anno` file and the table of attributes, checked: what they say, or a fault that names it.

No value of a file becomes a path, and no text in one is ever executed.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lesionlab import _names
from lesionlab.attributes import LI_CATEGORIES
from lesionlab.sources.anno._shapes import FloatArray, crosses_itself

KEYS = (
    "SeriesID", "NoduleSerialNumber", "InstanceNumber", "Origin", "Dimension", "Spacing", "Coords",
    "XMin", "XMax", "YMin", "YMax",
)  # fmt: skip
"""The keys of the paper (3.1); `LesionID` is ours and optional."""

ATTRIBUTES = "attributes.csv"
WHO = ("subject", "series", "lesion", "doctor")
COLUMNS = (*WHO, *(a.name for a in LI_CATEGORIES))
"""Columns of `attributes.csv`; further ones are passed over."""

MAX_BYTES = 1 << 19  # of an .anno file; a contour of 8,192 points takes 0.3 MB
MAX_TABLE = 1 << 26  # bytes of the table
MAX_POINTS = 8192
MAX_SIZE = 100_000  # rows, columns, slices; pixels and mm of any coordinate
MAX_NUMBER = 10**9  # of a lesion, annotation or doctor
SAME_MM = 0.01  # that two mm may differ by rounding
BOX = 1.0  # pixels that XMin … YMax may lie off the contour

FILE_NAME = re.compile(r"([0-9]{1,9})_(-?[0-9]{1,6}(?:\.[0-9]{1,12})?)\.anno")
SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class AnnoError(RuntimeError):
    """A tree of `.anno` files cannot be read as what was asked for; the message names the file."""


class Fault(NamedTuple):
    """Something in a tree that is wrong, and was left out."""

    path: str  # of the file or folder, below the tree's root
    key: str  # in the file, a column and line of the table, or empty
    reason: str

    def __str__(self) -> str:
        return ": ".join(filter(None, self))


class BadAnnoError(AnnoError):
    """One `.anno` file cannot be used."""

    def __init__(self, path: Path, key: str, reason: str) -> None:
        super().__init__(path, key, reason)  # all as args, or a process pool cannot hand it over
        self.path, self.key, self.reason = path, key, reason

    def __str__(self) -> str:
        return str(Fault(str(self.path), self.key, self.reason))


@dataclass(frozen=True, eq=False)
class Annotation:
    """What one `.anno` file says: a contour in one slice."""

    path: Path
    aid: int
    location: float  # SliceLocation of the slice, mm
    lesion: int | None  # LesionID
    series_uid: str
    origin: tuple[float, ...]  # (x, y, z) of the first voxel's centre, mm
    dimension: tuple[int, ...]  # columns, rows, slices
    spacing: tuple[float, ...]  # (x, y, z) mm
    outline: FloatArray  # (point, 2), `(y, x)` pixels; the centre of a pixel has whole numbers


def read_annotation(path: str | Path) -> Annotation:
    """Read an `.anno` file, JSON or a Python literal.

    `Coords` and the box are pixels, or fractions of the slice where none is above 1: then 0 and 1
    are the outer edges of the image.

    Raises:
        BadAnnoError: The file cannot be used; the message names it, the key and what was expected.
    """
    path = Path(path)
    if not (name := FILE_NAME.fullmatch(path.name)):
        raise BadAnnoError(path, "", "is not named aid_loc.anno, as 12_-103.5.anno")
    found = _Reader(path, _load(path))
    aid, location = int(name[1]), float(name[2])
    if found.number("NoduleSerialNumber", 0, MAX_NUMBER) != aid:
        raise found.error("NoduleSerialNumber", f"expected {aid}, as in the file's name")
    if abs(found.number("InstanceNumber", -MAX_SIZE, MAX_SIZE) - location) > SAME_MM:
        raise found.error("InstanceNumber", f"expected {location:g}, as in the file's name")
    uid = found.values["SeriesID"]
    if not isinstance(uid, str) or not re.fullmatch(r"[0-9.]{1,64}", uid):
        raise found.error("SeriesID", "expected a DICOM UID, digits and dots, up to 64")
    lesion = None
    if found.values.get("LesionID") is not None:
        lesion = found.whole("LesionID", found.values["LesionID"], 0, MAX_NUMBER)
    dimension = found.list("Dimension", 1, MAX_SIZE)
    return Annotation(
        path=path,
        aid=aid,
        location=location,
        lesion=lesion,
        series_uid=uid,
        origin=tuple(map(float, found.list("Origin", -MAX_SIZE, MAX_SIZE))),
        dimension=tuple(found.whole("Dimension", n, 1, MAX_SIZE) for n in dimension),
        spacing=tuple(map(float, found.list("Spacing", 1e-3, 1e3))),
        outline=_outline(found, np.array(dimension[:2], dtype=np.float64)),
    )


def _load(path: Path) -> dict[str, Any]:
    """The dictionary in a file."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise BadAnnoError(path, "", "is a link or no plain file")
        if status.st_size > MAX_BYTES:
            why = f"has {status.st_size:,} bytes, expected at most {MAX_BYTES:,}"
            raise BadAnnoError(path, "", why)
        data = path.read_bytes()
    except OSError as error:
        raise BadAnnoError(path, "", f"cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
                found = ast.literal_eval(text.strip())
    # of hostile text Python's parser raises all of these
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        why = "is neither JSON nor a Python literal: cut off or damaged"
        raise BadAnnoError(path, "", why) from None
    if not isinstance(found, dict):
        raise BadAnnoError(path, "", "expected a dictionary")
    for key in KEYS:
        if key not in found:
            raise BadAnnoError(path, key, "is missing")
    return found


@dataclass(frozen=True)
class _Reader:
    """The values of a file; each method gives a valid one or raises."""

    path: Path
    values: dict[str, Any]

    def error(self, key: str, reason: str) -> BadAnnoError:
        return BadAnnoError(self.path, key, reason)

    def checked(self, key: str, value: Any, low: float, high: float) -> Any:
        # NaN lies in no range; whole numbers of any length are compared as they are
        if type(value) not in (int, float) or not low <= value <= high:
            raise self.error(key, f"{value!r:.40}: expected a number from {low:g} to {high:g}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        return float(self.checked(key, self.values[key], low, high))

    def whole(self, key: str, value: Any, low: int, high: int) -> int:
        if (found := self.checked(key, value, low, high)) != int(found):
            raise self.error(key, f"{value!r:.40}: expected a whole number")
        return int(found)

    def list(self, key: str, low: float, high: float) -> list[Any]:
        value = self.values[key]
        if not isinstance(value, list | tuple) or len(value) != 3:
            raise self.error(key, f"{value!r:.40}: expected three numbers, of x, y and z")
        return [self.checked(key, one, low, high) for one in value]


def _outline(found: _Reader, size: FloatArray) -> FloatArray:
    """`Coords` in pixels, `(y, x)`; `size` is `(x, y)`."""
    coords = found.values["Coords"]
    if not isinstance(coords, list | tuple) or not 3 <= len(coords) <= MAX_POINTS:
        n = len(coords) if isinstance(coords, list | tuple) else "no"
        raise found.error("Coords", f"{n} points, expected a list of 3 to {MAX_POINTS:,}")
    for point in coords:
        if not isinstance(point, list | tuple) or len(point) != 2:
            raise found.error("Coords", f"{point!r:.40}: expected a point [x, y]")
        for value in point:
            found.checked("Coords", value, -MAX_SIZE, MAX_SIZE)
    points = np.array(coords, dtype=np.float64)
    ends = [[f"{axis}{end}" for axis in "XY"] for end in ("Min", "Max")]
    box = np.array([[found.number(key, -MAX_SIZE, MAX_SIZE) for key in keys] for keys in ends])
    for low, high, keys in zip(*box, zip(*ends, strict=True), strict=True):
        if low > high:
            raise found.error(keys[0], f"{low:g} is above {keys[1]}, {high:g}")
    between = (points > 0) & (points < 1)
    fractions = bool(((points >= 0) & (points <= 1)).all())
    if fractions != bool(((box >= 0) & (box <= 1)).all()) or (
        not fractions and between.all(axis=1).any()
    ):
        raise found.error("Coords", "fractions of the image and pixels are mixed")
    if fractions:
        points, box = points * size - 0.5, box * size - 0.5
    if (points < -0.5 - 1e-6).any() or (points > size - 0.5 + 1e-6).any():
        raise found.error("Coords", f"a point lies outside the image of {size[0]:g} × {size[1]:g}")
    off = np.abs(box - (points.min(axis=0), points.max(axis=0)))
    if off.max() > BOX:
        key = ends[off.max(axis=1).argmax()][off.max(axis=0).argmax()]
        raise found.error(key, f"is {off.max():.3g} pixels off the contour")
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1), ::-1]
    if len(points) < 3:
        raise found.error("Coords", f"{len(points)} points that differ, expected at least 3")
    if crosses_itself(points):
        raise found.error("Coords", "the contour crosses itself")
    if np.linalg.matrix_rank(points - points[0], tol=1e-6) < 2:
        raise found.error("Coords", "all points lie on one line")
    return points


# --- The table of attributes --------------------------------------------------------------------

Codes = dict[str, int]  # by the name of the attribute; what was not told is left out
Attributes = dict[tuple[str, str], dict[tuple[int, int], Codes]]
"""Codes by subject and series, then by lesion and doctor."""

_ALLOWED = {a.name: {str(code): code for code in (*a.unknown, *a.codes)} for a in LI_CATEGORIES}


def read_attributes(path: Path) -> tuple[Attributes, list[Fault]]:
    """The table, and what in it is wrong: a line that is of no use, or a code out of range.

    An empty cell says that the doctor did not tell. Where a doctor has two lines for one lesion,
    the second is left out. If the file is no such table at all, nothing is found and a fault says
    why.
    """
    found: Attributes = {}
    faults: list[Fault] = []
    try:
        for line in _lines(path, COLUMNS):
            _read_line(*line, found, faults)
    except AnnoError as error:
        faults.append(Fault(path.name, "", str(error)))
    return found, faults


def _read_line(
    number: int, row: dict[str, str] | int, found: Attributes, faults: list[Fault]
) -> None:
    def fault(key: str, why: str) -> None:
        faults.append(Fault(ATTRIBUTES, f"{key} (line {number})".strip(), why))

    if isinstance(row, int):
        return fault("", f"{row} cells, not as many as in the first line")
    for name in ("lesion", "doctor"):
        if not re.fullmatch("[0-9]{1,9}", row[name]):
            return fault(name, f"{row[name]!r:.40}: expected a whole number")
    key = int(row["lesion"]), int(row["doctor"])
    here = found.setdefault((row["subject"], row["series"]), {})
    if key in here:
        return fault("doctor", f"a second line of doctor {key[1]} for lesion {key[0]}")
    codes = here[key] = {}
    for name, allowed in _ALLOWED.items():
        if (cell := row[name]) in allowed:
            codes[name] = allowed[cell]
        elif cell:
            fault(name, f"{cell!r:.40}: expected {_names.listed(sorted(allowed))}")
    return None


def _lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str] | int]]:
    """Number and cells of each line of a CSV file, or how many cells where that is wrong.

    Raises:
        AnnoError: It is no file of at most `MAX_TABLE` bytes with these columns.
    """
    if not path.is_file() or path.stat().st_size > MAX_TABLE:
        raise AnnoError(f"{path}: expected a table of at most {MAX_TABLE:,} bytes")
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        try:
            header = [cell.strip() for cell in next(reader, [])]
            if missing := [name for name in columns if header.count(name) != 1]:
                raise AnnoError(f"{path}: expected one column {missing[0]!r} in the first line")
            for cells in reader:
                if len(cells) != len(header):
                    if any(cells):
                        yield reader.line_num, len(cells)
                    continue
                told = zip(header, (cell.strip() for cell in cells), strict=True)
                yield reader.line_num, dict(told)
        except csv.Error as error:
            raise AnnoError(f"{path}, line {reader.line_num}: {error}") from None


def read_subjects(path: Path | None) -> dict[str, str]:
    """From a subject's number to the lowest number of the same patient, by the mapping apart.

    The patients' own identifiers stay in the file.

    Raises:
        AnnoError: It is no such mapping; the message names the line.
    """
    lowest: dict[str, str] = {}
    found: dict[str, str] = {}
    for number, row in _lines(path, ["subject", "patient"]) if path is not None else ():
        if isinstance(row, int) or not (row["subject"] and row["patient"]):
            raise AnnoError(f"{path}, line {number}: expected a subject and a patient")
        if row["subject"] in found:
            raise AnnoError(f"{path}, line {number}: subject {row['subject']} is there twice")
        found[row["subject"]] = patient = row["patient"]
        lowest[patient] = min(row["subject"], lowest.get(patient, row["subject"]))
    return {subject: lowest[patient] for subject, patient in found.items()}
