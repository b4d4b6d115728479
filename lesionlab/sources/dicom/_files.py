"""One DICOM file: what its header says, or a plain error that names the file.

The messages of pydicom can quote values of the file, and so names and dates of a patient. They are
therefore never passed on: an error here says which file, which attribute and what was expected.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import UID

from lesionlab.sources.lidc._database import FloatArray

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
"""SOP class of a CT slice; localizers have it too and are told apart by their ImageType."""

MAX_PIXELS = 8192
"""Rows and columns above this are taken for damage, before memory is asked for."""

PHANTOM = "lesionlab phantom"
"""SeriesDescription of what `write_series` makes."""

_HEADER_TAGS: list[Any] = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "Rows", "Columns", "SeriesDescription",
]  # fmt: skip


class DicomError(RuntimeError):
    """DICOM files cannot be read as what was asked for; the message names file or folder."""


class BadFileError(DicomError):
    """One file cannot be used.

    Attributes:
        path: Which file.
        reason: Why, in words and without any value that could identify a patient.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both as args, or a process pool cannot hand it over
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Slice:
    """What the header of one CT slice says, checked.

    Attributes:
        path: The file.
        series_uid: SeriesInstanceUID.
        instance_uid: SOPInstanceUID.
        instance_number: InstanceNumber, infinity where it is empty.
        position: `(x, y, z)` of the first pixel's centre in the patient, mm.
        orientation: Directions of increasing column and row index, two unit vectors.
        pixel_spacing: `(y, x)`, mm.
        shape: `(rows, columns)`.
        thickness: SliceThickness, mm, or NaN.
        synthetic: Written by `write_series`.
    """

    path: Path
    series_uid: str
    instance_uid: str
    instance_number: float
    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, float]
    shape: tuple[int, int]
    thickness: float
    synthetic: bool


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what pydicom warns of and logs, which can quote values of the file, from being shown.

    Every function that touches a file does so in here, for values are parsed when they are asked
    for and not when the file is opened.
    """
    # a logger's filter does not act on those below it
    named = list(logging.root.manager.loggerDict)
    loggers = [logging.getLogger(n) for n in named if n == "pydicom" or n.startswith("pydicom.")]
    silence = _Silence()
    for logger in loggers:
        logger.addFilter(silence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(silence)


class _Silence(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return False


def open_file(path: Path, *, pixels: bool = False, tags: list[Any] | None = None) -> Any:
    """Parse one file with pydicom.

    Args:
        path: The file.
        pixels: Also read the pixel data, still encoded.
        tags: Only these attributes.

    Raises:
        BadFileError: It cannot be opened, is not DICOM, or is damaged.
    """
    try:
        if not path.is_file():  # a pipe or a device would block
            raise BadFileError(path, "there is no such file")
        if path.stat().st_size <= 132:
            raise BadFileError(path, "not a DICOM file: it is empty or ends within 132 bytes")
        return pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags)
    except DicomError:
        raise
    except InvalidDicomError:
        raise BadFileError(path, "not a DICOM file: no 'DICM' at byte 128") from None
    except OSError as error:
        raise BadFileError(path, f"cannot be read: {error.strerror or 'damaged'}") from None
    except Exception as error:
        reason = f"its header is damaged ({type(error).__name__} while parsing)"
        raise BadFileError(path, reason) from None


def label(keyword: str) -> str:
    """Keyword and tag, as in `Rows (0028,0010)`."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    return f"{keyword} ({tag.group:04X},{tag.element:04X})"


def value(dataset: Any, keyword: str, path: Path, *, default: Any = None) -> Any:
    """The value of an attribute; `default` where it is absent or empty.

    Raises:
        BadFileError: It cannot be parsed, or there is neither a value nor a default.
    """
    try:
        found = dataset.get(keyword)
        empty = found is None or (hasattr(found, "__len__") and len(found) == 0)
    except Exception:
        raise BadFileError(path, f"{label(keyword)} cannot be read") from None
    if not empty:
        return found
    if default is None:
        raise BadFileError(path, f"lacks {label(keyword)}")
    return default


def numbers(
    dataset: Any, keyword: str, path: Path, count: int, *, default: float | None = None
) -> tuple[float, ...]:
    """The finite numbers of an attribute.

    Raises:
        BadFileError: They are absent, not numbers, or not `count`.
    """
    found = value(dataset, keyword, path, default=default)
    try:
        many = isinstance(found, (list, tuple, pydicom.multival.MultiValue))
        result = tuple(float(v) for v in found) if many else (float(found),)
    except Exception:
        raise BadFileError(path, f"{label(keyword)} is not a number") from None
    if len(result) != count:
        raise BadFileError(path, f"{label(keyword)} has {len(result)} values, expected {count}")
    if default is None and not all(map(math.isfinite, result)):
        raise BadFileError(path, f"{label(keyword)} is not finite")
    return result


def whole(dataset: Any, keyword: str, path: Path, allowed: range) -> int:
    """A whole number within `allowed`.

    Raises:
        BadFileError: It is absent or something else.
    """
    (found,) = numbers(dataset, keyword, path, 1)
    if found not in allowed:
        low, high = allowed[0], allowed[-1]
        raise BadFileError(path, f"{label(keyword)} is {found:g}, expected {low} to {high}")
    return int(found)


def uid(dataset: Any, keyword: str, path: Path) -> str:
    """A unique identifier.

    Raises:
        BadFileError: It is absent or has other characters than digits and dots.
    """
    found = str(value(dataset, keyword, path)).strip("\0 ")
    if not re.fullmatch(r"[0-9.]{1,64}", found):
        raise BadFileError(path, f"{label(keyword)} is not a UID")
    return found


def as_uid(text: str) -> UID:
    """A pydicom UID, without pydicom's opinion on the console."""
    return UID(text, validation_mode=pydicom.config.IGNORE)


def words(dataset: Any, keyword: str, path: Path) -> list[str]:
    """The texts of an attribute, upper case; one empty text where it is absent."""
    found = value(dataset, keyword, path, default="")
    many = isinstance(found, (list, tuple, pydicom.multival.MultiValue))
    return [str(v).strip().upper() for v in (found if many else [found])]


@quiet()
def read_header(path: Path) -> Slice | str:
    """Read and check the header of one file.

    Returns:
        The slice, or why the file is not a slice of a CT scan: a localizer or another SOP class.

    Raises:
        BadFileError: It cannot be read, lacks an attribute or has an impossible one.
    """
    dataset = open_file(path, tags=_HEADER_TAGS)
    sop_class = uid(dataset, "SOPClassUID", path)
    if sop_class != CT_IMAGE:
        name = as_uid(sop_class).name
        return name if name != sop_class else "unknown SOP class"
    if "LOCALIZER" in words(dataset, "ImageType", path):
        return "localizer"
    orientation = numbers(dataset, "ImageOrientationPatient", path, 6)
    y, x = numbers(dataset, "PixelSpacing", path, 2)
    if not (0 < y < 1000 and 0 < x < 1000):
        raise BadFileError(path, f"{label('PixelSpacing')} is {y:g}, {x:g}; expected mm above 0")
    (thickness,) = numbers(dataset, "SliceThickness", path, 1, default=math.nan)
    if thickness < 0 or math.isinf(thickness):
        raise BadFileError(path, f"{label('SliceThickness')} is {thickness:g}; expected mm above 0")
    size = range(1, MAX_PIXELS + 1)
    position = numbers(dataset, "ImagePositionPatient", path, 3)
    if max(map(abs, position)) > 1e6:
        raise BadFileError(path, f"{label('ImagePositionPatient')} lies a kilometre away")
    (number,) = numbers(dataset, "InstanceNumber", path, 1, default=math.inf)
    return Slice(
        path=path,
        series_uid=uid(dataset, "SeriesInstanceUID", path),
        instance_uid=uid(dataset, "SOPInstanceUID", path),
        instance_number=number if math.isfinite(number) else math.inf,
        position=(position[0], position[1], position[2]),
        orientation=_unit_vectors(orientation, path),
        pixel_spacing=(y, x),
        shape=(whole(dataset, "Rows", path, size), whole(dataset, "Columns", path, size)),
        thickness=thickness or math.nan,
        synthetic=words(dataset, "SeriesDescription", path) == [PHANTOM.upper()],
    )


def _unit_vectors(orientation: tuple[float, ...], path: Path) -> tuple[float, ...]:
    vectors = np.array(orientation).reshape(2, 3)
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
        right_angle = abs(vectors[0] @ vectors[1]) < 1e-3
    # a file carries few digits, so a unit vector may be a little off
    if not (np.abs(lengths - 1) < 1e-3).all() or not right_angle:
        raise BadFileError(
            path, f"{label('ImageOrientationPatient')} is not two unit vectors at a right angle"
        )
    return tuple((vectors / lengths[:, None]).ravel().tolist())


def vector(values: tuple[float, ...]) -> FloatArray:
    """A tuple of numbers as an array."""
    return np.array(values, dtype=np.float64)
