"""Volumes to DICOM files that other programs read: the way out for phantom scans."""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from lesionlab.sources.dicom._files import (
    CT_IMAGE,
    PHANTOM,
    BadFileError,
    Slice,
    as_uid,
    read_header,
    vector,
)
from lesionlab.sources.dicom._series import Volume
from lesionlab.sources.lidc._database import FloatArray

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def write_series(
    volume: Volume | npt.ArrayLike,
    folder: str | Path,
    *,
    patient_id: str,
    spacing: Sequence[float] | None = None,
    series_uid: str | None = None,
    study_uid: str | None = None,
    slice_z0: float | None = None,
    slice_z: Sequence[float] | None = None,
    origin_xy: tuple[float, float] | None = None,
    direction: npt.ArrayLike | None = None,
    slope: float = 1.0,
    intercept: float = -1024.0,
    thickness: float | None = None,
    kvp: float | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> Path:
    r"""Write a phantom scan as one CT Image Storage file per slice.

    Every file says that it is no scan: SeriesDescription "lesionlab phantom", ImageType
    DERIVED\SECONDARY\AXIAL, Manufacturer "lesionlab". Explicit VR little endian, 16 bit signed.
    No date is written; the same arguments with the same `seed` give the same bytes. The folder
    appears when all files are in it, or not at all.

    Args:
        volume: (z, y, x) HU, or a `Volume`, whose geometry is taken where none is given here.
        folder: Where to; its name and place are free.
        patient_id: PatientID, up to 64 characters.
        spacing: `(z, y, x)` mm; needed for an array.
        series_uid: SeriesInstanceUID; a new one if None (from `seed`, if given). With the UIDs
            of a real LIDC scan, pylidc takes the phantom for that scan.
        study_uid: StudyInstanceUID; likewise.
        slice_z0: Position of the first slice along the third column of `direction`, mm; 0 if
            None. For axial slices, the z of its ImagePositionPatient.
        slice_z: (z,) position of every slice in its place, ascending, mm; for uneven steps.
        origin_xy: The two other coordinates of the first voxel, along the first and second column
            of `direction`, mm; for axial slices, x and y. The centre of the slice is at 0 if None.
        direction: (3, 3) as `Volume.direction`; axial, head first, face up if None.
        slope: RescaleSlope. HU are rounded to the nearest `slope * whole number + intercept`.
        intercept: RescaleIntercept.
        thickness: SliceThickness, mm; the spacing along z if None.
        kvp: KVP; empty if None, since a phantom has none.
        seed: Makes new UIDs the same every time; random if None.
        overwrite: Replace a folder that holds nothing but slices of an earlier call.

    Returns:
        The folder, with `slice-0000.dcm`, `slice-0001.dcm` … by ascending z.

    Raises:
        FileExistsError: The folder is there and not empty, and `overwrite` is False; or it holds
            something else than slices.
        ValueError: An argument is impossible, or HU do not fit into 16 bits.
    """
    hu, (dz, dy, dx), z, axes, corner = _geometry(
        volume, spacing, slice_z0, slice_z, origin_xy, direction
    )
    _check_fits(hu, slope, intercept)
    if not isinstance(patient_id, str) or not re.fullmatch(r"[^\\\x00-\x1f]{1,64}", patient_id):
        # not shown: it could be a person's
        got = f"{len(patient_id)}" if isinstance(patient_id, str) else type(patient_id).__name__
        raise ValueError(
            f"patient_id: expected 1 to 64 characters, none a backslash or control one, got {got}"
        )
    new = _new_uids(seed)
    study_uid = _checked_uid("study_uid", study_uid or next(new))
    series_uid = _checked_uid("series_uid", series_uid or next(new))
    frame_uid = generate_uid(entropy_srcs=["frame", series_uid])
    if thickness is None:
        thickness = volume.thickness if isinstance(volume, Volume) else dz
        thickness = thickness if thickness > 0 else dz
    if not (math.isfinite(thickness) and thickness > 0):
        raise ValueError(f"thickness={thickness!r}: expected mm above 0")

    common = _common(patient_id, study_uid, series_uid, frame_uid)
    common.ImageOrientationPatient = [_ds(v) for v in axes[:, :2].T.ravel()]
    common.PixelSpacing = [_ds(dy), _ds(dx)]
    common.SliceThickness, common.SpacingBetweenSlices = _ds(thickness), _ds(dz)
    common.KVP = None if kvp is None else _ds(kvp)
    common.RescaleSlope, common.RescaleIntercept = _ds(slope), _ds(intercept)
    common.Rows, common.Columns = hu.shape[1:]
    with _new_folder(Path(folder), overwrite=overwrite) as temporary:
        for k, plane in enumerate(hu):  # slice by slice: in double precision the whole is large
            _write_slice(
                temporary / f"slice-{k:04d}.dcm",
                common,
                index=k,
                position=axes @ np.array([*corner, z[k]]),
                location=float(z[k]),
                plane=_stored(plane, slope, intercept).astype("<i2"),
            )
    return Path(folder)


def _geometry(
    volume: Volume | npt.ArrayLike,
    spacing: Sequence[float] | None,
    slice_z0: float | None,
    slice_z: Sequence[float] | None,
    origin_xy: tuple[float, float] | None,
    direction: npt.ArrayLike | None,
) -> tuple[npt.NDArray[Any], tuple[float, ...], FloatArray, FloatArray, tuple[float, float]]:
    """HU, spacing, slice positions, axes, and the first voxel along the first two axes."""
    if isinstance(volume, Volume):
        hu: npt.NDArray[Any] = volume.hu
        spacing = volume.spacing if spacing is None else spacing
        direction = volume.direction if direction is None else direction
        at = vector(volume.origin_mm) @ np.asarray(direction, dtype=np.float64)
        origin_xy = (float(at[0]), float(at[1])) if origin_xy is None else origin_xy
        if slice_z is None and slice_z0 is None:
            slice_z = volume.slice_z.tolist()
    else:
        hu = np.asarray(volume)
    if hu.ndim != 3 or 0 in hu.shape or hu.dtype.kind not in "iuf":
        raise ValueError(f"volume: expected numbers (z, y, x), got {hu.dtype} {hu.shape}")
    if max(hu.shape[1:]) > 65535:
        raise ValueError(f"volume: slices of {hu.shape[1:]} pixels are more than DICOM holds")
    if not np.isfinite(hu).all():
        raise ValueError("volume: some HU are not finite")
    if spacing is None or len(spacing) != 3 or not all(0 < s < math.inf for s in spacing):
        raise ValueError(f"spacing={spacing!r}: expected (z, y, x) mm above 0")
    if slice_z is not None and slice_z0 is not None:
        raise ValueError("slice_z and slice_z0 are given: expected one of them")
    dz, dy, dx = map(float, spacing)
    if slice_z is None:
        # rounded, or 0.1 + 0.2 makes seventeen digits where a file holds sixteen
        z = np.round((slice_z0 or 0.0) + dz * np.arange(len(hu)), 9)
    else:
        z = np.asarray(slice_z, dtype=np.float64)
        if z.shape != hu.shape[:1]:
            raise ValueError(f"slice_z: expected {len(hu)} positions, got shape {z.shape}")
    if not np.isfinite(z).all() or (np.diff(z) <= 0).any():
        raise ValueError("slice positions: expected finite and ascending mm")
    axes = np.array(AXIAL if direction is None else direction, dtype=np.float64)
    if axes.shape != (3, 3) or not np.allclose(axes.T @ axes, np.eye(3), atol=1e-5):
        raise ValueError("direction: expected three unit columns at right angles")
    if origin_xy is None:
        origin_xy = (-dx * (hu.shape[2] - 1) / 2, -dy * (hu.shape[1] - 1) / 2)
    return hu, (dz, dy, dx), z, axes, origin_xy


def _check_fits(hu: npt.NDArray[Any], slope: float, intercept: float) -> None:
    if not (math.isfinite(slope) and slope != 0 and math.isfinite(intercept)):
        raise ValueError(f"slope={slope!r}, intercept={intercept!r}: expected finite, slope not 0")
    limits = np.iinfo(np.int16)
    for k, plane in enumerate(hu):
        extremes = float(plane.min()), float(plane.max())
        if not all(limits.min <= _stored(v, slope, intercept) <= limits.max for v in extremes):
            raise ValueError(
                f"volume: {extremes[0]:g} to {extremes[1]:g} HU in slice {k} do not fit into "
                f"16 bits with slope={slope:g} and intercept={intercept:g}"
            )


def _stored(hu: Any, slope: float, intercept: float) -> Any:
    """Whole numbers that stand for HU, as float64."""
    return np.rint((np.asarray(hu, dtype=np.float64) - intercept) / slope)


def _new_uids(seed: int | None) -> Iterator[str]:
    for name in ("study", "series"):
        yield generate_uid(entropy_srcs=None if seed is None else ["lesionlab", name, str(seed)])


def _checked_uid(name: str, uid: str) -> str:
    if not as_uid(uid).is_valid:
        raise ValueError(f"{name}={uid!r}: expected a DICOM UID, digits and dots, up to 64")
    return uid


def _ds(number: float) -> str:
    """A decimal string of at most 16 characters, as near as that goes."""
    return format_number_as_ds(float(number) + 0.0)


def _common(patient_id: str, study_uid: str, series_uid: str, frame_uid: str) -> Dataset:
    """What all slices share: the CT Image IOD (PS3.3, A.3), type 2 attributes empty."""
    d = Dataset()
    d.SpecificCharacterSet = "ISO_IR 192"
    d.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    d.SOPClassUID = CT_IMAGE
    d.PatientID = patient_id
    d.PatientIdentityRemoved = "YES"
    d.DeidentificationMethod = "synthetic, no patient"
    for keyword in (
        "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
        "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
        "AcquisitionNumber",
    ):  # fmt: skip
        setattr(d, keyword, None)
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = (
        study_uid,
        series_uid,
        frame_uid,
    )
    d.SeriesNumber = 1
    d.SeriesDescription = PHANTOM
    d.Modality = "CT"
    d.Manufacturer = "lesionlab"
    d.DerivationDescription = "rendered by lesionlab, not a scan of a person"
    d.BurnedInAnnotation = "NO"
    d.LossyImageCompression = "00"
    d.PatientPosition = "HFS"
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.RescaleType = "HU"
    d.WindowCenter, d.WindowWidth = "-600", "1500"
    return d


def _write_slice(
    path: Path,
    common: Dataset,
    *,
    index: int,
    position: FloatArray,
    location: float,
    plane: npt.NDArray[np.int16],
) -> None:
    d = Dataset()
    d.update(common)
    d.InstanceNumber = index + 1
    d.SOPInstanceUID = generate_uid(entropy_srcs=[common.SeriesInstanceUID, str(index)])
    d.ImagePositionPatient = [_ds(v) for v in position]
    d.SliceLocation = _ds(location)
    d.PixelData = plane.tobytes()
    d["PixelData"].VR = "OW"
    d.file_meta = FileMetaDataset()
    d.file_meta.MediaStorageSOPClassUID = UID(CT_IMAGE)
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.save_as(path, enforce_file_format=True)


@contextlib.contextmanager
def _new_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder that takes the place of `folder` when the block ends well."""
    if folder.exists() or folder.is_symlink():
        _check_replaceable(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    temporary = folder.with_name(f".{folder.name}.{mark}.tmp")
    old = folder.with_name(f".{folder.name}.{mark}.old")
    try:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            os.replace(folder, old)  # a folder that is not empty cannot be replaced in one step
        try:
            os.replace(temporary, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)  # only now: what was there is not lost before
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(folder: Path, *, overwrite: bool) -> None:
    if folder.is_symlink() or not folder.is_dir():
        raise FileExistsError(f"{str(folder)!r} is there and is not a folder")
    inside = list(folder.iterdir())
    if inside and not overwrite:
        raise FileExistsError(f"{str(folder)!r} is there already; overwrite=True replaces it")
    strange = [f.name for f in inside if not _is_ours(f)]
    if strange:
        raise FileExistsError(
            f"{str(folder)!r} holds other files than written phantoms, so it is not replaced; "
            f"one of {len(strange)} is {strange[0]!r}"
        )


def _is_ours(file: Path) -> bool:
    if not re.fullmatch(r"slice-\d{4,}\.dcm", file.name):
        return False
    try:
        header = read_header(file)
    except BadFileError:
        return False
    return isinstance(header, Slice) and header.synthetic
