"""One DICOM file: what its header says and its pixels in HU, or a plain error that names the file.

pydicom reads the header first, and what it says of the pixels' size and kind is checked before
SimpleITK decodes them. The messages of pydicom can quote values of the file, and so names and dates
of a patient. They are never passed on: an error here says which file, which attribute and what was
expected.
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
import numpy.typing as npt
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID, AllTransferSyntaxes

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
"""SOP class of a CT slice; localizers have it too and are told apart by their ImageType."""

MAX_PIXELS = 8192
"""Rows and columns above this are taken for damage, before memory is asked for."""

PHANTOM = "lesionlab phantom"
"""SeriesDescription of what `write_series` makes."""

AIR = -1024
"""HU that takes the place of padding."""

LOWEST = -2000
"""HU at and below this are padding whatever the header says: scanners fill with −2000 or −3024."""

_SLICE_TAGS: list[Any] = [
    "SOPClassUID", "SeriesInstanceUID", "ImageType", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "Rows", "Columns", "SeriesDescription",
]  # fmt: skip


class DicomError(RuntimeError):
    """DICOM files cannot be read as what was asked for; the message names file or folder."""


class BadFileError(DicomError):
    """One file cannot be used; `reason` has no value that could identify a patient."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both as args, or a process pool cannot hand it over
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what pydicom warns of and logs, which can quote values of the file, from being shown.

    Every function that touches a file does so in here, for pydicom parses a value when it is asked
    for and not when the file is opened.
    """
    # a logger's filter does not act on those below it
    named = [n for n in logging.root.manager.loggerDict if re.match(r"pydicom(\.|$)", n)]
    loggers = [logging.getLogger(name) for name in named]
    for logger in loggers:
        logger.addFilter(_drop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False


def label(keyword: str) -> str:
    """Keyword and tag, as in `Rows (0028,0010)`."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    return f"{keyword} ({tag.group:04X},{tag.element:04X})"


def as_uid(text: str) -> UID:
    """A pydicom UID, without pydicom's opinion on the console."""
    return UID(text, validation_mode=pydicom.config.IGNORE)


class Header:
    """The attributes of one file. Each method gives a valid value or raises a `BadFileError`.

    Args:
        path: The file.
        pixels: Also read the pixel data, still encoded.
        tags: Read only these attributes.
    """

    def __init__(self, path: Path, *, pixels: bool = False, tags: list[Any] | None = None) -> None:
        self.path = path
        try:
            if not path.is_file():  # a pipe or a device would block
                raise self.error("there is no such file")
            if path.stat().st_size <= 132:
                raise self.error("not a DICOM file: it is empty or ends within 132 bytes")
            self.dataset: Any = pydicom.dcmread(
                path, stop_before_pixels=not pixels, specific_tags=tags
            )
        except DicomError:
            raise
        except InvalidDicomError:
            raise self.error("not a DICOM file: no 'DICM' at byte 128") from None
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror or 'damaged'}") from None
        except Exception as error:
            raise self.error(
                f"its header is damaged ({type(error).__name__} while parsing)"
            ) from None

    def error(self, reason: str) -> BadFileError:
        """The error that this file is to be refused with."""
        return BadFileError(self.path, reason)

    def values(self, keyword: str, default: Any = None) -> list[Any]:
        """The values of an attribute; `[default]` where it is absent or empty."""
        try:
            found = self.dataset.get(keyword)
            many = list(found) if isinstance(found, (list, tuple, MultiValue)) else [found]
            many = [] if found is None or found == "" or found == b"" else many
        except Exception:
            raise self.error(f"{label(keyword)} cannot be read") from None
        if not many and default is None:
            raise self.error(f"lacks {label(keyword)}")
        return many or [default]

    def numbers(self, keyword: str, count: int, default: float | None = None) -> list[float]:
        """The `count` numbers of an attribute, finite if there is no default."""
        found = self.values(keyword, default)
        try:
            result = [float(v) for v in found]
        except Exception:
            raise self.error(f"{label(keyword)} is not a number") from None
        if len(result) != count:
            raise self.error(f"{label(keyword)} has {len(result)} values, expected {count}")
        if default is None and not all(map(math.isfinite, result)):
            raise self.error(f"{label(keyword)} is not finite")
        return result

    def whole(self, keyword: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        (found,) = self.numbers(keyword, 1, default)
        if found not in range(low, high + 1):
            raise self.error(f"{label(keyword)} is {found:g}, expected {low} to {high}")
        return int(found)

    def uid(self, keyword: str) -> str:
        """A unique identifier."""
        found = str(self.values(keyword)[0]).strip("\0 ")
        if not re.fullmatch(r"[0-9.]{1,64}", found):
            raise self.error(f"{label(keyword)} is not a UID")
        return found

    def words(self, keyword: str) -> list[str]:
        """The texts of an attribute, upper case; one empty text where it is absent."""
        return [str(v).strip().upper() for v in self.values(keyword, "")]

    @property
    def synthetic(self) -> bool:
        """Written by `write_series`, not scanned."""
        return self.words("SeriesDescription") == [PHANTOM.upper()]


@dataclass(frozen=True)
class Slice:
    """What the header of one CT slice says, checked."""

    path: Path
    series_uid: str
    instance_number: float  # infinity where it is empty
    position: tuple[float, ...]  # (x, y, z) of the first pixel's centre in the patient, mm
    orientation: tuple[float, ...]  # of increasing column and row index, two unit vectors
    pixel_spacing: tuple[float, float]  # (y, x), mm
    shape: tuple[int, int]  # (rows, columns)
    thickness: float  # mm, or NaN
    synthetic: bool  # written by `write_series`


@quiet()
def read_slice(path: Path) -> Slice | str:
    """Read and check the header of one file.

    Returns:
        The slice, or why the file is not a slice of a CT scan: a localizer or another SOP class.
    """
    header = Header(path, tags=_SLICE_TAGS)
    sop_class = header.uid("SOPClassUID")
    if sop_class != CT_IMAGE:
        name = as_uid(sop_class).name
        return name if name != sop_class else "unknown SOP class"
    if "LOCALIZER" in header.words("ImageType"):
        return "localizer"
    y, x = header.numbers("PixelSpacing", 2)
    if not (0 < y < 1000 and 0 < x < 1000):
        raise header.error(f"{label('PixelSpacing')} is {y:g}, {x:g}; expected mm above 0")
    (thickness,) = header.numbers("SliceThickness", 1, math.nan)
    if thickness < 0 or math.isinf(thickness):
        raise header.error(f"{label('SliceThickness')} is {thickness:g}; expected mm above 0")
    position = header.numbers("ImagePositionPatient", 3)
    if max(map(abs, position)) > 1e6:
        raise header.error(f"{label('ImagePositionPatient')} lies a kilometre away")
    vectors = np.array(header.numbers("ImageOrientationPatient", 6)).reshape(2, 3)
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
        right_angle = abs(vectors[0] @ vectors[1]) < 1e-3
    # a file carries few digits, so a unit vector may be a little off
    if not (np.abs(lengths - 1) < 1e-3).all() or not right_angle:
        raise header.error(
            f"{label('ImageOrientationPatient')} is not two unit vectors at a right angle"
        )
    (number,) = header.numbers("InstanceNumber", 1, math.inf)
    return Slice(
        path=path,
        series_uid=header.uid("SeriesInstanceUID"),
        instance_number=number if math.isfinite(number) else math.inf,
        position=tuple(position),
        orientation=tuple((vectors / lengths[:, None]).ravel().tolist()),
        pixel_spacing=(y, x),
        shape=(header.whole("Rows", 1, MAX_PIXELS), header.whole("Columns", 1, MAX_PIXELS)),
        thickness=thickness or math.nan,
        synthetic=header.synthetic,
    )


@dataclass(frozen=True)
class Pixels:
    """The pixels of one slice."""

    hu: npt.NDArray[Any]  # (y, x); int16 where all values are whole and fit, else float32
    is_hu: bool  # the header does not say that values are in another unit
    notes: tuple[str, ...]  # what was odd


@quiet()
def read_pixels(path: Path) -> Pixels:
    """Decode one slice into HU, which are `RescaleSlope * stored + RescaleIntercept`.

    MONOCHROME1 asks viewers to draw low values bright. It does not change what a stored value means
    in HU, so it changes nothing here.

    Raises:
        BadFileError: The pixels are damaged, of a kind that CT slices do not have, or compressed
            in a way that SimpleITK does not decode.
    """
    header = Header(path, pixels=True)
    slope, intercept = (header.numbers(k, 1)[0] for k in ("RescaleSlope", "RescaleIntercept"))
    if slope == 0:
        raise header.error(f"{label('RescaleSlope')} is 0")
    notes = []
    is_hu = set(header.words("RescaleType")) <= {"", "HU"}
    if not is_hu:
        notes.append(f"{label('RescaleType')} is not HU")
    hu = _decode(header, slope, intercept)
    if not np.isfinite(hu).all() or np.abs(hu).max() > np.finfo(np.float32).max:
        raise header.error("RescaleSlope and RescaleIntercept give numbers without end")
    padding = _padding(header, hu, slope, intercept)
    if padding.any() and (level := float(hu[padding].max())) > -900:
        notes.append(f"PixelPaddingValue stands for {level:g} HU, which could be tissue")
    hu[padding | (hu <= LOWEST)] = AIR
    limits = np.iinfo(np.int16)
    fits = hu.min() >= limits.min and hu.max() <= limits.max and bool((hu == np.rint(hu)).all())
    dtype = np.int16 if fits else np.float32
    return Pixels(hu.astype(dtype), is_hu, tuple(notes))


def _decode(header: Header, slope: float, intercept: float) -> npt.NDArray[np.float64]:
    """(y, x) values, to which SimpleITK has applied slope and intercept.

    Pixels of another kind or size than a CT slice has are refused before they reach the decoder.
    """
    import SimpleITK as sitk  # noqa: N813 - its users' own name for it

    signed = header.whole("PixelRepresentation", 0, 1)
    inverted = header.words("PhotometricInterpretation") == ["MONOCHROME1"]
    if not inverted and header.words("PhotometricInterpretation") != ["MONOCHROME2"]:
        raise header.error(f"{label('PhotometricInterpretation')} is not MONOCHROME1 or 2")
    if inverted and signed:
        raise header.error("MONOCHROME1 with signed pixels, which SimpleITK does not decode")
    header.whole("SamplesPerPixel", 1, 1)
    header.whole("NumberOfFrames", 1, 1, default=1)  # Enhanced CT is another SOP class
    shape = header.whole("Rows", 1, MAX_PIXELS), header.whole("Columns", 1, MAX_PIXELS)
    allocated = header.whole("BitsAllocated", 8, 32)
    bits = header.whole("BitsStored", 1, allocated)
    if header.whole("HighBit", 0, allocated) != bits - 1:
        raise header.error(f"{label('HighBit')} is not BitsStored - 1")
    try:
        syntax = as_uid(str(header.dataset.file_meta.TransferSyntaxUID))
    except Exception:
        raise header.error(f"lacks {label('TransferSyntaxUID')}") from None
    if syntax not in AllTransferSyntaxes:
        raise header.error(f"cannot be decoded: an unknown transfer syntax ({syntax})")
    (data,) = header.values("PixelData")
    expected = shape[0] * shape[1] * allocated // 8
    if not syntax.is_compressed and not expected <= len(data) <= expected + 1:
        raise header.error(
            f"its pixels cannot be decoded ({len(data):,} bytes, expected {expected:,}): "
            "truncated or damaged"
        )
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]
    try:
        image = sitk.ReadImage(str(header.path), imageIO="GDCMImageIO")
        values: npt.NDArray[np.float64] = sitk.GetArrayFromImage(image).astype(np.float64)
    except MemoryError:
        raise  # says nothing about the file
    except Exception as error:
        raise header.error(
            f"its pixels, stored as {syntax.name} ({syntax}), cannot be decoded "
            f"({type(error).__name__}): truncated or damaged"
        ) from None
    if values.shape != (1, *shape):
        raise header.error(f"its pixels decode to {values.shape}, expected {(1, *shape)}")
    if inverted:  # SimpleITK turns stored values over: `2**bits - 1 - stored`
        values = slope * (2**bits - 1) + 2 * intercept - values
    plane: npt.NDArray[np.float64] = values[0]
    return plane


def _padding(
    header: Header, hu: npt.NDArray[np.float64], slope: float, intercept: float
) -> npt.NDArray[np.bool_]:
    """Pixels that the header calls padding (PS3.3, C.7.5.1.1.2), which it does in stored values."""
    (first,) = header.numbers("PixelPaddingValue", 1, math.nan)
    (last,) = header.numbers("PixelPaddingRangeLimit", 1, first)
    allocated, signed = (
        int(header.numbers(k, 1)[0]) for k in ("BitsAllocated", "PixelRepresentation")
    )
    lowest = -(2 ** (allocated - 1)) if signed else 0
    # the value is often written with the other sign: 63536 for a signed −2000
    stored = [(value - lowest) % 2**allocated + lowest for value in (first, last)]
    low, high = sorted(slope * value + intercept for value in stored)
    half = abs(slope) / 2
    inside: npt.NDArray[np.bool_] = (hu > low - half) & (hu < high + half)
    return inside
