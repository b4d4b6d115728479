"""One `.anno` file and the table of attributes, checked: what they say, or a fault that names it.

No value of a file becomes a path, and no text in one is ever executed.
"""

from __future__ import annotations

import ast
import json
import re
import stat
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lesionlab import _names
from lesionlab.attributes import LI_CATEGORIES
from lesionlab.sources._own import Fault, FaultError, checked, lines
from lesionlab.sources.anno._shapes import FloatArray, crosses_itself

ATTRIBUTES = "attributes.csv"
WHO = ("subject", "series", "lesion", "doctor")
COLUMNS = (*WHO, *(a.name for a in LI_CATEGORIES))
"""Columns of `attributes.csv`; further ones are passed over."""

MAX_BYTES = 1 << 19  # of an .anno file; a contour of 8,192 points takes 0.3 MB
MAX_POINTS = 8192
MAX_SIZE = 100_000  # rows, columns, slices; pixels and mm of any coordinate
MAX_NUMBER = 10**9  # of a lesion, annotation or doctor
SAME_MM = 0.01  # that two mm may differ by rounding
BOX = 1.0  # pixels that XMin … YMax may lie off the contour

KEYS: dict[str, tuple[tuple[int, ...], float, float]] = {
    "NoduleSerialNumber": ((), 0, MAX_NUMBER),
    "InstanceNumber": ((), -MAX_SIZE, MAX_SIZE),
    "Origin": ((3,), -MAX_SIZE, MAX_SIZE),
    "Dimension": ((3,), 1, MAX_SIZE),
    "Spacing": ((3,), 1e-3, 1e3),
    "LesionID": ((), 0, MAX_NUMBER),
    "Coords": ((0, 2), -MAX_SIZE, MAX_SIZE),
} | {f"{axis}{end}": ((), -MAX_SIZE, MAX_SIZE) for axis in "XY" for end in ("Min", "Max")}
"""The numbers (3.1), each its shape, least and largest. `LesionID` is ours, and optional."""

FILE_NAME = re.compile(r"([0-9]{1,9})_(-?[0-9]{1,6}(?:\.[0-9]{1,12})?)\.anno")
SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class AnnoError(RuntimeError):
    """A tree of `.anno` files cannot be read as what was asked for; the message names the file."""


class BadAnnoError(FaultError, AnnoError):
    """One `.anno` file cannot be used."""


check = partial(checked, BadAnnoError)


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
    aid, location = int(name[1]), float(name[2])
    told = {"LesionID": None} | _load(path)
    check(path, *((key in told, key, "is missing") for key in ("SeriesID", *KEYS)))
    uid, is_told = told["SeriesID"], told.get("LesionID") is not None
    is_uid = isinstance(uid, str) and re.fullmatch(r"[0-9.]{1,64}", uid)
    check(path, (is_uid, "SeriesID", "expected a DICOM UID, digits and dots, up to 64"))
    told["LesionID"] = told["LesionID"] if is_told else 0
    told = {key: _numbers(path, key, told[key], *limits) for key, limits in KEYS.items()}
    for key, named in {"NoduleSerialNumber": aid, "InstanceNumber": location}.items():
        fits = abs(told[key] - named) <= SAME_MM
        check(path, (fits, key, f"expected {named}, as in the file's name"))
    for key in ("Dimension", "LesionID"):
        check(path, ((told[key] % 1 == 0).all(), key, "expected whole numbers"))
    return Annotation(
        path=path,
        aid=aid,
        location=location,
        lesion=int(told["LesionID"]) if is_told else None,
        series_uid=uid,
        origin=tuple(told["Origin"].tolist()),
        dimension=tuple(map(int, told["Dimension"])),
        spacing=tuple(told["Spacing"].tolist()),
        outline=_outline(path, told),
    )


def _load(path: Path) -> dict[str, Any]:
    """The dictionary in a file."""
    try:
        status = path.lstat()
        size, most = status.st_size, MAX_BYTES
        check(path, (stat.S_ISREG(status.st_mode), "", "is a link or no plain file"))
        check(path, (size <= most, "", f"has {size:,} bytes, expected at most {most:,}"))
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
    check(path, (isinstance(found, dict), "", "expected a dictionary"))
    return dict(found)


def _numbers(
    path: Path, key: str, value: Any, shape: tuple[int, ...], low: float, high: float
) -> Any:
    """A value as an array of that shape, all of it within a range; of `Coords` any points."""
    try:
        found = np.array(value)
    except (ValueError, TypeError, OverflowError):  # lists of different lengths
        found = np.array(None)
    if key == "Coords":
        shape = (min(max(len(found), 3), MAX_POINTS) if found.ndim else 0, 2)
    # NaN lies in no range; an integer of many digits is an object, and cannot be shown either
    if (
        found.dtype.kind not in "if"
        or found.shape != shape
        or not ((low <= found) & (found <= high)).all()
    ):
        shown = type(value).__name__ if found.dtype.kind == "O" else f"{value!r:.40}"
        what = {0: "a number", 1: "three numbers"}.get(len(shape), f"3 to {MAX_POINTS:,} points")
        raise BadAnnoError(path, key, f"{shown}: expected {what} from {low:g} to {high:g}")
    return found.astype(np.float64)


def _outline(path: Path, told: dict[str, Any]) -> FloatArray:
    """`Coords` in pixels, `(y, x)`."""
    points, size = told["Coords"], told["Dimension"][:2]
    box = np.array([[told[f"{axis}{end}"] for axis in "XY"] for end in ("Min", "Max")])
    of_points, of_box = (bool(((some >= 0) & (some <= 1)).all()) for some in (points, box))
    check(path, (of_points == of_box, "Coords", "fractions of the image and pixels are mixed"))
    if of_points:
        points, box = points * size - 0.5, box * size - 0.5
    inside = ((points >= -0.5 - 1e-6) & (points <= size - 0.5 + 1e-6)).all()
    why = f"a point lies outside the image of {size[0]:g} × {size[1]:g}"
    check(path, (inside, "Coords", why))
    for k, axis in enumerate("XY"):
        check(path, (box[0, k] <= box[1, k], f"{axis}Min", f"is above {axis}Max"))
        for end, at in (("Min", points[:, k].min()), ("Max", points[:, k].max())):
            off = abs(box[int(end == "Max"), k] - at)
            check(path, (off <= BOX, f"{axis}{end}", f"is {off:.3g} pixels off the contour"))
    flat = np.linalg.matrix_rank(points - points[0], tol=1e-6) < 2
    check(path, (not flat, "Coords", "all points lie on one line"))
    outline: FloatArray = points[(points != np.roll(points, 1, axis=0)).any(axis=1), ::-1]
    check(path, (not crosses_itself(outline), "Coords", "the contour crosses itself"))
    return outline


# --- The tables beside the tree ------------------------------------------------------------------

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

    def fault(key: str, why: str) -> None:
        faults.append(Fault(path.name, key, why))

    try:
        for where, row in lines(path, COLUMNS, AnnoError):
            here = found.setdefault((row["subject"], row["series"]), {}) if row else {}
            if not row:
                fault(where, "expected as many cells as in the first line")
            elif not re.fullmatch("[0-9]{1,9} [0-9]{1,9}", f"{row['lesion']} {row['doctor']}"):
                fault(f"lesion, doctor ({where})", "expected whole numbers")
            elif (key := (int(row["lesion"]), int(row["doctor"]))) in here:
                fault(where, f"a second line of doctor {key[1]} for lesion {key[0]}")
            else:
                codes = here[key] = {}
                for name, allowed in _ALLOWED.items():
                    if (cell := row[name]) in allowed:
                        codes[name] = allowed[cell]
                    elif cell:
                        expected = _names.listed(sorted(allowed))
                        fault(f"{name} ({where})", f"{cell!r:.40}: expected {expected}")
    except AnnoError as error:
        fault("", str(error))
    return found, faults


def read_subjects(path: Path) -> dict[str, str]:
    """From a subject's number to the lowest number of the same patient, by the mapping apart.

    The patients' own identifiers stay in the file. Without it each subject is a patient.

    Raises:
        AnnoError: It is no such mapping; the message names the line.
    """
    lowest: dict[str, str] = {}
    found: dict[str, str] = {}
    rows = lines(path, ["subject", "patient"], AnnoError)
    for where, row in rows if path.exists() else ():
        if not row or not (row["subject"] and row["patient"]) or row["subject"] in found:
            raise AnnoError(f"{path}, {where}: expected a subject not told before, and a patient")
        found[row["subject"]] = patient = row["patient"]
        lowest[patient] = min(row["subject"], lowest.get(patient, row["subject"]))
    return {subject: lowest[patient] for subject, patient in found.items()}
