"""The pixels of one DICOM file in HU: decoding, padding, slope and intercept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import AllTransferSyntaxes

from lesionlab.sources.dicom._files import (
    MAX_PIXELS,
    BadFileError,
    as_uid,
    label,
    numbers,
    open_file,
    quiet,
    whole,
    words,
)

AIR = -1024
"""HU that takes the place of padding."""

LOWEST = -2000
"""HU at and below this are padding whatever the header says: scanners fill with −2000 or −3024."""


@dataclass(frozen=True)
class Pixels:
    """The pixels of one slice.

    Attributes:
        hu: (y, x); int16 where all values are whole and fit, else float32.
        is_hu: The header does not say that values are in another unit.
        n_padding: Pixels outside the field of view that were set to `AIR`.
        notes: What was odd.
    """

    hu: npt.NDArray[Any]
    is_hu: bool
    n_padding: int
    notes: tuple[str, ...]


@quiet()
def read_pixels(path: Path) -> Pixels:
    """Decode one slice and turn it into HU: `slope * stored + intercept`.

    MONOCHROME1 asks viewers to draw low values bright; it does not change what a stored value
    means in HU, so nothing is inverted. Bits above BitsStored are ignored and the sign extended
    (PS3.5, 8.1.1).

    Raises:
        BadFileError: The pixels are damaged, of a kind that CT slices do not have, or compressed
            in a way that SimpleITK does not decode.
    """
    dataset = open_file(path, pixels=True)
    if words(dataset, "PhotometricInterpretation", path)[0] not in ("MONOCHROME1", "MONOCHROME2"):
        raise BadFileError(path, f"{label('PhotometricInterpretation')} is not MONOCHROME1 or 2")
    whole(dataset, "SamplesPerPixel", path, range(1, 2))
    if numbers(dataset, "NumberOfFrames", path, 1, default=1) != (1,):
        raise BadFileError(path, f"{label('NumberOfFrames')}: expected one frame per file")
    (slope,) = numbers(dataset, "RescaleSlope", path, 1)
    (intercept,) = numbers(dataset, "RescaleIntercept", path, 1)
    if slope == 0:
        raise BadFileError(path, f"{label('RescaleSlope')} is 0")
    notes = []
    is_hu = set(words(dataset, "RescaleType", path)) <= {"", "HU"}
    if not is_hu:
        notes.append(f"{label('RescaleType')} is not HU")
    stored, bare = _stored(dataset, path, slope, intercept)
    if not np.array_equal(stored, bare):
        notes.append("bits above BitsStored are set and were ignored")
    padding = _padding(dataset, path, stored) | _padding(dataset, path, bare)
    with np.errstate(all="ignore"):
        hu = stored.astype(np.float64) * slope + intercept
    if not np.isfinite(hu).all() or np.abs(hu).max() > np.finfo(np.float32).max:
        raise BadFileError(path, "RescaleSlope and RescaleIntercept give numbers without end")
    if padding.any() and (level := float(hu[padding].max())) > -900:
        notes.append(f"PixelPaddingValue stands for {level:g} HU, which could be tissue")
    padding = (padding | (hu <= LOWEST)) & (hu != AIR)
    hu[padding] = AIR
    limits = np.iinfo(np.int16)
    fits = hu.min() >= limits.min and hu.max() <= limits.max and bool((hu == np.rint(hu)).all())
    dtype = np.int16 if fits else np.float32
    return Pixels(hu.astype(dtype), is_hu, int(padding.sum()), tuple(notes))


def _stored(
    dataset: Any, path: Path, slope: float, intercept: float
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Stored values without the bits above BitsStored, and as they stand in the file."""
    allocated = whole(dataset, "BitsAllocated", path, range(8, 33))
    bits = whole(dataset, "BitsStored", path, range(1, allocated + 1))
    if whole(dataset, "HighBit", path, range(allocated)) != bits - 1:
        raise BadFileError(path, f"{label('HighBit')} is not BitsStored - 1")
    signed = whole(dataset, "PixelRepresentation", path, range(2))
    size = range(1, MAX_PIXELS + 1)
    shape = whole(dataset, "Rows", path, size), whole(dataset, "Columns", path, size)
    try:
        syntax = as_uid(str(dataset.file_meta.TransferSyntaxUID))
    except Exception:
        raise BadFileError(path, f"lacks {label('TransferSyntaxUID')}") from None
    if syntax not in AllTransferSyntaxes:
        raise BadFileError(path, f"cannot be decoded: an unknown transfer syntax ({syntax})")
    if "PixelData" not in dataset:
        raise BadFileError(path, f"lacks {label('PixelData')}: truncated, or not an image")
    try:
        if syntax.is_compressed:
            found = (_decompressed(path) - intercept) / slope
            bare = np.rint(found).astype(f"{'ui'[signed]}{allocated // 8}")
        else:
            decoder = get_decoder(syntax)
            bare, _ = decoder.as_array(dataset, raw=True, correct_unused_bits=False)  # type: ignore[arg-type]
    except MemoryError:
        raise  # says nothing about the file
    except Exception as error:
        how = f", compressed as {syntax.name} ({syntax})," if syntax.is_compressed else ""
        raise BadFileError(
            path,
            f"its pixels{how} cannot be decoded ({type(error).__name__}): truncated or damaged",
        ) from None
    if bare.shape != shape or not np.issubdtype(bare.dtype, np.integer):
        raise BadFileError(path, f"its pixels decode to {bare.shape}, expected {shape}")
    shift = 8 * bare.dtype.itemsize - bits
    return (bare << shift) >> shift, bare


def _decompressed(path: Path) -> npt.NDArray[np.float64]:
    """(y, x) values of a compressed file, to which SimpleITK has applied slope and intercept.

    The header was read and its sizes were checked before, by pydicom.
    """
    import SimpleITK as sitk  # noqa: N813 - its users' own name for it

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]
    image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    values: npt.NDArray[np.float64] = sitk.GetArrayFromImage(image)[0].astype(np.float64)
    return values


def _padding(dataset: Any, path: Path, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Pixels that the header calls padding (PS3.3, C.7.5.1.1.2)."""
    (first,) = numbers(dataset, "PixelPaddingValue", path, 1, default=math.nan)
    if math.isnan(first):
        return np.zeros(stored.shape, dtype=bool)
    (last,) = numbers(dataset, "PixelPaddingRangeLimit", path, 1, default=first)
    # the value is often written with the other sign: 63536 for a signed −2000
    low, high = sorted(_as_stored(v, stored.dtype) for v in (first, last))
    return (stored >= low) & (stored <= high)


def _as_stored(number: float, dtype: np.dtype[Any]) -> float:
    limits, span = np.iinfo(dtype), 2.0 ** (8 * dtype.itemsize)
    if number > limits.max:
        return number - span
    return number + span if number < limits.min else number
