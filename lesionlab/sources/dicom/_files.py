"""One DICOM file: what its header says and its pixels in HU, or a plain error that names the file.

The messages of pydicom can quote values of the file, and so names and dates of a patient. They are
never passed on: an error here says which file, which attribute and what was expected.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, FileMetaDataset, filereader
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate, generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP class of a CT slice; localizers have it too
PHANTOM = "lesionlab phantom"  # SeriesDescription of what `write_series` makes
# What no CT slice reaches is taken for damage, before memory and time are spent on it: a file of
# 2 kB can claim to hold a gigabyte of pixels, and one of 0.2 MB a minute's worth of elements.
MAX_PIXELS = 2048  # rows and columns
MAX_BYTES = 1 << 25  # of a file of which pixels are wanted, and of any deflated one when inflated
MAX_READS = 100_000  # pydicom reads one to three times for an element, at any depth
MAX_NESTED = 250_000  # the same for files of which sequences are wanted
MAX_VALUE = 4096  # bytes of an attribute but the pixels
AIR = -1024  # HU that takes the place of padding
LOWEST = -2000  # HU from here down are padding in any file: scanners fill with −2000 or −3024
INT16 = (-32768, 32767)
Range = tuple[float, float]
WIDE: Range = (-1e6, 1e6)  # no mm and no HU lie outside; stored padding may
STORED: Range = (-(2**31), 2**32)

SLICE_TAGS: list[Any] = [
    "SOPClassUID", "SeriesInstanceUID", "ImageType", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "Rows", "Columns", "SeriesDescription", "SliceLocation", "SOPInstanceUID", "PatientID",
    "PatientName", "FrameOfReferenceUID", "ConvolutionKernel", "TemporalPositionIdentifier",
    "AcquisitionNumber",
]  # fmt: skip

PIXEL_TAGS: list[Any] = [
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "RescaleSlope",
    "RescaleIntercept", "PixelData",
]  # fmt: skip
_TOLD: list[Any] = ["RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit"]
FRAME_TAGS = {*SLICE_TAGS, *PIXEL_TAGS, *_TOLD}  # all that slices and pixels are made from
_PIXELS = int(Tag("PixelData"))
_HU = re.compile(r"(HU|HOUND?SFIELD( UNITS?)?)?")  # RescaleType; some scanners write it out
_SIZES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers SOF of JPEG and JPEG-LS
_BARE = re.compile(rb"[\2\x08]\0[\0-\x18]\0")  # how a file begins that lacks the preamble


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
    logger = logging.getLogger("pydicom")
    before, logger.propagate = logger.propagate, False
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.propagate = before


class _TooMuchError(ValueError):
    """A file holds more than any that is meant; the message has no value of it."""


class _Reads(io.BufferedReader):
    """A file that can be read from so many times only."""

    name = ""  # where pydicom looks for it
    left = MAX_READS

    def of(self, data: bytes) -> _Reads:
        """Bytes of the file, from which what is left may be read."""
        part = _Reads(io.BytesIO(data))
        part.left = self.left
        return part

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise _TooMuchError("holds more elements than can be")
        return super().read(size)


def parse(
    path: Path, tags: Iterable[Any] | None, nested: Iterable[Any] = (), most: int = MAX_BYTES
) -> tuple[Any, _Reads]:
    """The wanted attributes of a file as pydicom reads them, and no others, and how it was read.

    A file without preamble is read if it begins like file meta or a data set.

    Args:
        path: The file.
        tags: Attributes of few bytes, and the pixels; None: all attributes before the pixels.
        nested: Sequences that are wanted too.
        most: Bytes of a file of which pixels are wanted.
    """
    short = {int(Tag(tag)) for tag in tags or ()}
    wanted = short | {int(Tag(tag)) for tag in nested}
    last = max(wanted, default=_PIXELS - 1)
    bounded = {*short, 0x00080005} - {_PIXELS}

    def stop(tag: int, vr: str | None, length: int) -> bool:
        if length > MAX_VALUE and tag in bounded:
            raise _TooMuchError(f"an attribute is longer than {MAX_VALUE:,} bytes")
        if MAX_BYTES < length < 0xFFFFFFFF and (tag in wanted or not wanted) and tag != _PIXELS:
            raise _TooMuchError(f"an attribute is longer than {MAX_BYTES:,} bytes")
        return tag > last  # they ascend in a file

    with path.open("rb", buffering=0) as raw:
        file = _Reads(raw)
        file.left = MAX_READS if short and not nested else MAX_NESTED
        if last == _PIXELS and path.stat().st_size > most:
            raise _TooMuchError(f"is larger than {most:,} bytes")
        begin = file.peek(132)
        bare = begin[128:132] != b"DICM" and bool(_BARE.match(begin))
        filereader.read_preamble(file, force=bare)
        meta = filereader._read_file_meta_info(file)
        start = file.tell()
        file.seek(0)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            head, inflater = file.read(start), zlib.decompressobj(-zlib.MAX_WBITS)
            data = inflater.decompress(file.read(MAX_BYTES), MAX_BYTES)
            if not inflater.eof:
                raise _TooMuchError(f"is cut off, or inflates to more than {MAX_BYTES:,} bytes")
            # as if it had not been deflated, or pydicom would inflate it without a bound
            plain = ExplicitVRLittleEndian.ljust(len(DeflatedExplicitVRLittleEndian), "\0")
            head = head.replace(DeflatedExplicitVRLittleEndian.encode(), plain.encode())
            file = file.of(head + data)
        return filereader.read_partial(file, stop, force=bare, specific_tags=list(wanted)), file


class Header:
    """The attributes of one file. Each method gives a valid value or raises a `BadFileError`.

    A `dataset` that is given is taken in place of the file's: a frame of it.
    """

    def __init__(
        self, path: Path, tags: list[Any] | None, dataset: Dataset | None = None, **nested: Any
    ) -> None:
        self.path = path
        if dataset is not None:
            self.dataset: Any = dataset
            return
        try:
            if not path.is_file():  # a pipe or a device would block
                raise FileNotFoundError(errno.ENOENT, "there is no such file")
            self.dataset, self._reads = parse(path, tags, **nested)
        except _TooMuchError as error:
            raise self.error(f"{error}: damaged") from None
        except InvalidDicomError:
            raise self.error("not a DICOM file: no 'DICM' at byte 128") from None
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror or 'damaged'}") from None
        except Exception as error:
            why = f"its header is damaged ({type(error).__name__} while parsing)"
            raise self.error(why) from None

    def error(self, reason: str) -> BadFileError:
        """The error that this file is to be refused with."""
        return BadFileError(self.path, reason)

    def items(self, dataset: Dataset, tag: Any) -> list[Dataset]:
        """The items of a sequence of this file, whose elements are all counted together."""
        part = None
        try:
            found = dataset.get_item(tag) if tag in dataset else None
            if not isinstance(found, RawDataElement):
                return list(found.value) if found is not None and found.VR == "SQ" else []
            part = self._reads.of(data := found.value or b"")
            how = found.is_implicit_VR, found.is_little_endian, len(data), "iso8859"
            return list(filereader.read_sequence(part, *how))
        except MemoryError:
            raise
        except Exception:
            raise self.error("a sequence is damaged, or holds more elements than can be") from None
        finally:
            self._reads.left = part.left if part else self._reads.left

    def values(self, keyword: str) -> list[Any]:
        """The values of an attribute; none where it is absent or empty."""
        try:
            found = self.dataset.get(keyword)
            many = list(found) if isinstance(found, (list, tuple, MultiValue)) else [found]
            return [] if many in ([None], [""], [b""]) else many
        except Exception:
            raise self.error(f"{keyword} cannot be read") from None

    def numbers(
        self, keyword: str, count: int = 1, within: Range = WIDE, default: float | None = None
    ) -> list[float]:
        """Finite numbers in a range, both ends included; the default where there is none."""
        low, high = within
        found = self.values(keyword)
        if not found and default is not None:
            return [default]
        try:
            result = [float(v) for v in found]
        except Exception:
            result = []
        if len(result) != count or not all(low <= v <= high for v in result):
            what = "a number" if count == 1 else f"{count} numbers"
            raise self.error(f"{keyword} is not {what} from {low:g} to {high:g}")
        return result

    def whole(self, keyword: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        return int(self.numbers(keyword, 1, (low, high), default)[0])

    def uid(self, keyword: str) -> str:
        """A unique identifier."""
        found = "".join(map(str, self.values(keyword))).strip("\0 ")
        if not re.fullmatch(r"[0-9.]{1,64}", found):
            raise self.error(f"{keyword} is not a UID")
        return found

    def words(self, keyword: str) -> list[str]:
        """The texts of an attribute, upper case; one empty text where it is absent."""
        return [str(v).strip().upper() for v in self.values(keyword) or [""]]

    def quietly(self, keyword: str) -> str:
        """The text of an attribute, to be compared and never shown; empty where it is damaged."""
        with suppress(BadFileError):
            return "\\".join(self.words(keyword))
        return ""

    def syntax(self) -> UID:
        """How the pixels are stored."""
        try:
            bare = getattr(self.dataset, "preamble", b"") is None and not self.dataset.file_meta
            # without file meta, pydicom has found out how the header is written
            syntax = ExplicitVRLittleEndian if bare else self.dataset.file_meta.TransferSyntaxUID
            syntax = UID(syntax)
        except Exception:
            raise self.error("lacks TransferSyntaxUID, or it cannot be read") from None
        if syntax not in AllTransferSyntaxes:
            raise self.error("cannot be decoded: an unknown transfer syntax")
        return syntax

    @property
    def synthetic(self) -> bool:
        """Written by `write_series`, not scanned."""
        return self.words("SeriesDescription") == [PHANTOM.upper()]


@dataclass(frozen=True)
class Slice:
    """What the header of one CT slice says, checked."""

    path: Path
    series_uid: str = field(repr=False)
    instance_number: float  # infinity where it is empty
    position: tuple[float, ...]  # (x, y, z) of the first pixel's centre in the patient, mm
    orientation: tuple[float, ...]  # of increasing column and row index, two unit vectors
    pixel_spacing: tuple[float, float]  # (y, x), mm
    shape: tuple[int, int]  # (rows, columns)
    thickness: float  # mm, or NaN
    location: float  # SliceLocation, mm, or NaN
    synthetic: bool  # written by `write_series`
    # to be compared and never shown
    sop_uid: str = field(repr=False)
    patient: tuple[str, str] = field(repr=False)
    frame_of_reference: str = field(repr=False)
    kernel: str = field(repr=False)
    phase: tuple[str, str] = field(repr=False)  # TemporalPositionIdentifier, AcquisitionNumber
    frame: int | None = None  # which of an Enhanced CT file, from 0

    def __str__(self) -> str:
        return f"{self.path}" if self.frame is None else f"{self.path}, frame {self.frame + 1}"


@quiet()
def read_slice(path: Path) -> Slice | str:
    """Check the header of a file; gives the slice, or why the file is not one of a CT scan."""
    return slice_of(Header(path, SLICE_TAGS))


def slice_of(header: Header, frame: int | None = None) -> Slice | str:
    """The slice that a header describes, or why it is not one of a CT scan."""
    sop_class = header.uid("SOPClassUID")
    if sop_class != CT_IMAGE:
        name = UID(sop_class).name
        return name if name != sop_class else "unknown SOP class"
    if "LOCALIZER" in header.words("ImageType"):
        return "localizer"
    vectors = np.array(header.numbers("ImageOrientationPatient", 6)).reshape(2, 3)
    lengths = np.linalg.norm(vectors, axis=1)
    # a file carries few digits, so a unit vector may be a little off
    if np.abs(lengths - 1).max() > 1e-3 or abs(vectors[0] @ vectors[1]) > 1e-3:
        raise header.error("ImageOrientationPatient is not two unit vectors at a right angle")
    y, x = header.numbers("PixelSpacing", 2, (1e-3, 1e3))
    (thickness,) = header.numbers("SliceThickness", 1, (0, 1e3), math.nan)
    location = math.nan
    with suppress(BadFileError):  # only the names of `.anno` files rest on it
        (location,) = header.numbers("SliceLocation", 1, WIDE, math.nan)
    quietly = header.quietly
    return Slice(
        path=header.path,
        series_uid=header.uid("SeriesInstanceUID"),
        instance_number=header.numbers("InstanceNumber", 1, STORED, math.inf)[0],
        position=tuple(header.numbers("ImagePositionPatient", 3)),
        orientation=tuple((vectors / lengths[:, None]).ravel().tolist()),
        pixel_spacing=(y, x),
        shape=(header.whole("Rows", 1, MAX_PIXELS), header.whole("Columns", 1, MAX_PIXELS)),
        thickness=thickness or math.nan,
        location=location,
        synthetic=header.synthetic,
        sop_uid=quietly("SOPInstanceUID"),
        patient=(quietly("PatientID"), quietly("PatientName")),
        frame_of_reference=quietly("FrameOfReferenceUID"),
        kernel=quietly("ConvolutionKernel"),
        phase=(quietly("TemporalPositionIdentifier"), quietly("AcquisitionNumber")),
        frame=frame,
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

    Raises:
        BadFileError: The pixels are damaged, of a kind that CT slices do not have, or compressed
            in a way that SimpleITK does not decode.
    """
    return pixels_of(Header(path, [*PIXEL_TAGS, *_TOLD]))


def pixels_of(header: Header) -> Pixels:
    """The pixels that a header describes; errors as of `read_pixels`."""
    slope, intercept = (header.numbers(k)[0] for k in ("RescaleSlope", "RescaleIntercept"))
    if slope == 0:
        raise header.error("RescaleSlope is 0")
    bits, signed = header.whole("BitsAllocated", 8, 32), header.whole("PixelRepresentation", 0, 1)
    hu = _decode(header, bits, signed, slope, intercept)
    notes = []
    is_hu = all(map(_HU.fullmatch, header.words("RescaleType")))
    if not is_hu:
        notes.append("RescaleType is not HU")
    # padding (PS3.3, C.7.5.1.1.2) is given in stored values, often with the other sign: 63536 for
    # a signed −2000
    (first,) = header.numbers("PixelPaddingValue", 1, STORED, math.nan)
    (last,) = header.numbers("PixelPaddingRangeLimit", 1, STORED, first)
    lowest = -(2 ** (bits - 1)) if signed else 0
    stored = [(value - lowest) % 2**bits + lowest for value in (first, last)]
    low, high = sorted(slope * value + intercept for value in stored)
    padding = (hu > low - abs(slope) / 2) & (hu < high + abs(slope) / 2)
    if padding.any() and (level := float(hu[padding].max())) > -900:
        notes.append(f"PixelPaddingValue stands for {level:g} HU, which could be tissue")
    hu[padding | (hu <= LOWEST)] = AIR
    fits = bool((hu == np.rint(hu).clip(*INT16)).all())
    return Pixels(hu.astype(np.int16 if fits else np.float32), is_hu, tuple(notes))


def _decode(
    header: Header, allocated: int, signed: int, slope: float, intercept: float
) -> npt.NDArray[np.float64]:
    """(y, x) values, to which slope and intercept are applied.

    Pixels of another kind or size than a CT slice has are refused. Plain ones are taken as they
    are; SimpleITK, which would take seven times as long, decodes all others. It gets a file of what
    was checked and nothing else: sequences nested 10,000 deep end its process.
    """
    import SimpleITK as sitk  # noqa: N813 - its users' own name for it

    if header.words("PhotometricInterpretation") != ["MONOCHROME2"]:
        raise header.error("PhotometricInterpretation is not MONOCHROME2")
    header.whole("SamplesPerPixel", 1, 1)
    header.whole("NumberOfFrames", 1, 1, default=1)  # Enhanced CT is another SOP class
    shape = header.whole("Rows", 1, MAX_PIXELS), header.whole("Columns", 1, MAX_PIXELS)
    bits = header.whole("BitsStored", 1, allocated)
    header.whole("HighBit", bits - 1, bits - 1)
    syntax = header.syntax()
    pixels = header.values("PixelData")
    size = len(pixels[0]) if pixels and isinstance(pixels[0], bytes) else 0
    expected = shape[0] * shape[1] * allocated // 8
    if not size or (not syntax.is_compressed and not expected <= size <= expected + 1):
        raise header.error(f"its pixels are {size:,} bytes, expected {expected:,}: damaged")
    if not syntax.is_compressed and syntax != ExplicitVRBigEndian and allocated in (8, 16, 32):
        kind, spare = f"<{'ui'[signed]}{allocated // 8}", allocated - bits
        stored = np.frombuffer(pixels[0], kind, shape[0] * shape[1]).reshape(shape)
        # bits above BitsStored are of overlays; to the right again, the sign comes down
        stored = stored << spare >> spare if spare else stored
        return slope * stored.astype(np.float64) + intercept
    if syntax in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
        pixels = [_checked_jpeg(header, pixels[0], shape, allocated)]
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]
    big, compressed = syntax == ExplicitVRBigEndian, syntax.is_compressed
    try:
        here = (header.dataset[name] for name in PIXEL_TAGS if name in header.dataset)
        checked = Dataset({element.tag: element for element in here})
        checked["PixelData"].value = pixels[0]
        checked.SOPClassUID, checked.SOPInstanceUID = CT_IMAGE, "1.2.3"
        checked.file_meta = FileMetaDataset()
        checked.file_meta.TransferSyntaxUID = (
            syntax if big or compressed else ExplicitVRLittleEndian
        )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "slice.dcm")
            checked.save_as(
                file, implicit_vr=False, little_endian=not big, enforce_file_format=True
            )
            image = sitk.ReadImage(str(file), imageIO="GDCMImageIO")
        values: npt.NDArray[np.float64] = sitk.GetArrayFromImage(image).astype(np.float64)
    except MemoryError:
        raise  # says nothing about the file
    except Exception:
        raise header.error(f"its pixels, stored as {syntax.name}, cannot be decoded") from None
    if values.shape != (1, *shape):
        raise header.error(f"its pixels decode to {values.shape}, expected {(1, *shape)}")
    plane: npt.NDArray[np.float64] = values[0]
    return plane


def _checked_jpeg(header: Header, pixels: bytes, shape: tuple[int, int], allocated: int) -> bytes:
    """The stream of one JPEG or JPEG-LS frame and nothing else, of the size that the header says.

    GDCM makes room for what the header says and ends the process where the stream has more.
    """
    try:
        (frame,) = generate_frames(pixels, number_of_frames=1)
    except Exception:
        frame = b""
    at = 2  # behind SOI; segments follow, each with its length, until one has the size
    while frame[at : at + 1] == b"\xff" and at < len(frame) - 10 and frame[at + 1] not in _SIZES:
        at += 1 if frame[at + 1] == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4])
    begin, marker, _, depth, *size = struct.unpack(">BBHBHHB", frame[at : at + 10].ljust(10, b"\0"))
    same = begin == 0xFF and marker in _SIZES and size == [*shape, 1]
    if not (same and depth <= allocated and (depth > 8) == (allocated > 8)):
        raise header.error("its pixels, a JPEG stream, are not of the size in its header: damaged")
    return encapsulate([frame])
