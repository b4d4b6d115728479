"""Series of DICOM files: found in a tree, read as one volume in order, and written of a phantom."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pydicom
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import format_number_as_ds
from tqdm.auto import tqdm

from lesionlab._files import replacing_folder
from lesionlab.sources.dicom._enhanced import ENHANCED, Enhanced
from lesionlab.sources.dicom._files import (
    AIR,
    CT_IMAGE,
    PHANTOM,
    BadFileError,
    DicomError,
    Header,
    Pixels,
    Slice,
    quiet,
    read_pixels,
    read_slice,
)
from lesionlab.sources.dicom._order import arrange as arrange
from lesionlab.sources.dicom._order import axes_of as axes_of
from lesionlab.sources.dicom._order import oddities, straighten

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

_COMPANIONS = {
    ".csv", ".db", ".htm", ".html", ".ini", ".jpg", ".json", ".log", ".md", ".nrrd", ".pdf", ".png",
    ".sha256", ".tsv", ".txt", ".xml", ".yaml", ".yml", ".zip",
}  # fmt: skip
"""Endings of files that lie beside DICOM files and do not claim to be any (LIDC's are .xml)."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT series as one block of HU with its geometry."""

    hu: npt.NDArray[Any]  # (z, y, x); int16 where every value is whole and fits, else float32
    spacing: tuple[float, float, float]  # `(z, y, x)` mm; z is the median step between slices
    origin_mm: tuple[float, ...]  # `(x, y, z)` of the first voxel: towards left, back, head
    direction: FloatArray  # (3, 3), as ITK's; columns: where the x, y and z index grow
    slice_z: FloatArray  # (z,) positions along the last of them, mm, ascending; z if axial
    series_uid: str
    thickness: float  # SliceThickness, mm; NaN where it is not stated
    synthetic: bool  # written by `write_series`, not scanned
    warnings: tuple[str, ...]  # what was set aside and what else a user should know, in sentences
    files: tuple[Path, ...] = ()  # (z,) where each slice came from, if each is a file as it is here

    def patient_mm(self, index: Any) -> FloatArray:
        """(..., 3) positions `(x, y, z)` in the patient, mm, of any indices `(z, y, x)`."""
        at = np.asarray(index, dtype=np.float64)
        inside = at[..., 0].clip(0, len(self.slice_z) - 1)
        z = np.interp(inside, np.arange(len(self.slice_z)), self.slice_z) - self.slice_z[0]
        z = z + (at[..., 0] - inside) * self.spacing[0]
        steps = np.stack((at[..., 2] * self.spacing[2], at[..., 1] * self.spacing[1], z), axis=-1)
        placed: FloatArray = np.asarray(self.origin_mm) + steps @ self.direction.T
        return placed


def read_series(
    source: str | Path | Iterable[str | Path],
    *,
    series_uid: str | None = None,
    strict: bool = True,
    recursive: bool = False,
    phase: int | None = None,
) -> Volume:
    """Read a CT series into HU with its geometry.

    Slices are ordered by ImagePositionPatient along their normal, whatever their file names and
    InstanceNumbers, and z ascends. Rescale slope and intercept act slice by slice. Padding
    (PixelPaddingValue, and all of −2000 HU and less) becomes −1024 HU. Where two slices stand at
    one position the one of lesser InstanceNumber is kept, as in pylidc. Files of Enhanced CT
    (PS3.3, A.38), uncompressed or not, are read frame by frame. Slices of a tilted gantry are moved
    in their planes, and interpolated, until they are stacked along their normal; `warnings` say so.

    Args:
        source: A folder, a file, or a list of both, such as `places` of `find_series`.
        series_uid: Which SeriesInstanceUID, where several are mixed.
        strict: Refuse a series of which slices are missing (a step is over 1.5 times the usual
            one), that mixes patients or frames of reference, or of which a file is truncated, not
            DICOM, lacks what is needed or does not fit the others. False leaves bad files out and
            goes on with what is there; `warnings` say so.
        recursive: Search the subfolders too.
        phase: Which phase or reconstruction, from 1, where one series holds several.

    Raises:
        DicomError: The series cannot be read as asked; the message names the file.
        ValueError: The series has no such phase.
    """
    slices, warnings = select(source, series_uid, strict, recursive=recursive)
    decoded: dict[Slice, Pixels] = {}
    opened: Enhanced | None = None
    unusable: Path | None = None
    # one file at a time, not sitk.ImageSeriesReader: it takes the type of the first slice for all,
    # which loses the fractions of another slope, and it cannot leave out a bad file
    for s in slices:
        try:
            if s.frame is None:
                decoded[s] = read_pixels(s.path)
                continue
            if s.path == unusable:
                continue
            if opened is None or opened.path != s.path:
                unusable = s.path
                opened = Enhanced(s.path, with_pixels=True)
                unusable = None
            decoded[s] = opened.pixels(s.frame)
        except BadFileError as error:
            if strict:
                raise
            warnings.append(f"excluded {error}")
    if not decoded:
        raise DicomError(f"all {len(slices)} slices are bad: {warnings[-1]}")
    del opened
    slices = [s for s in slices if s in decoded]
    try:
        slices, direction, positions, spacing, odd = arrange(
            slices, strict, phase=phase, tilted=True
        )
    except DicomError as error:
        raise DicomError(following(str(error), warnings)) from None
    first = slices[0]
    pixels = [decoded[s] for s in slices]
    notes = Counter(note for p in pixels for note in p.notes)
    hu = np.empty((len(pixels), *first.shape), np.result_type(*(p.hu for p in pixels)))
    del pixels
    for k, s in enumerate(slices):  # one slice goes when it has come: not two volumes
        hu[k] = decoded.pop(s).hu
    hu, origin, moved = straighten(hu, slices, direction)
    paths = tuple(s.path for s in slices)
    warnings += odd + moved + [f"{note} (in {n} slices)" for note, n in notes.items()]
    return Volume(
        hu=hu,
        spacing=spacing,
        origin_mm=origin,
        direction=direction,
        slice_z=positions,
        series_uid=first.series_uid,
        thickness=first.thickness,
        synthetic=all(s.synthetic for s in slices),
        warnings=tuple(warnings),
        # what is written beside the scan refers to its slices as they lie in files
        files=() if moved or any(s.frame is not None for s in slices) else paths,
    )


def may_be_dicom(path: Path) -> bool:
    """Whether a file is not hidden and does not claim by its name to be something else."""
    other = path.suffix.lower() in _COMPANIONS or path.name in ("DICOMDIR", "LICENSE", "Thumbs.db")
    return not other and not path.name.startswith(".")


def following(told: str, warnings: Sequence[str]) -> str:
    """An error as told, and which files were excluded before, from which it may follow."""
    excluded = [warning for warning in warnings if warning.startswith("excluded ")]
    more = f", and {len(excluded) - 1} more" if len(excluded) > 1 else ""
    return f"{told}; {excluded[0]}{more}" if excluded else told


def files_below(
    root: Path, failed: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder of a tree that has files which may be DICOM, with these; links are not taken."""
    for name, subfolders, names in os.walk(root, onerror=failed):
        subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
        if files := [file for n in sorted(names) if may_be_dicom(file := Path(name, n))]:
            yield Path(name), files


def select(
    source: str | Path | Iterable[str | Path],
    series_uid: str | None,
    strict: bool,
    *,
    recursive: bool | None = None,
) -> tuple[list[Slice], list[str]]:
    """The slices of one series, and what to say of the other files.

    With `recursive=None`, for scans of a known kind, it does not look into subfolders, for Enhanced
    CT, or for what the headers say that is odd.
    """
    paths = [Path(source)] if isinstance(source, (str, Path)) else [Path(one) for one in source]
    files: list[Path] = []
    below: list[Path] = []
    for path in paths:
        inside = filter(may_be_dicom, sorted(path.iterdir())) if path.is_dir() else [path]
        files += [file for file in inside if file == path or file.is_file()]
        if recursive or (recursive is not None and isinstance(source, (str, Path))):
            below += (file for folder, of in files_below(path) if folder != path for file in of)
    if recursive:
        files += filter(Path.is_file, below)
    unread = f"{len(below)} files in subfolders were not read; recursive=True reads them"
    where = ", ".join(map(str, paths[:2])) + (" …" if len(paths) > 2 else "") or "an empty list"
    skipped: Counter[str] = Counter()
    bad: list[BadFileError] = []
    slices: list[Slice] = []
    for file in dict.fromkeys(files):
        try:
            header = read_slice(file)
            if recursive is not None and header in ENHANCED:
                slices += Enhanced(file).slices()
                continue
        except BadFileError as error:
            if strict:
                raise
            bad.append(error)
            continue
        if isinstance(header, str):
            skipped[header] += 1
        else:
            slices.append(header)
    if not slices:
        raise DicomError(
            f"{where}: no CT slices among {len(files)} files"
            + (f"; skipped {_tally(skipped)}" if skipped else "")
            + (f"; {len(bad)} bad, the first is {bad[0]}" if bad else "")
            + (f"; {unread}" if below and not recursive else "")
        )
    found = Counter(s.series_uid for s in slices)
    if series_uid is None and len(found) > 1:
        sizes = " and ".join(str(n) for _, n in found.most_common(3))
        more = " …" if len(found) > 3 else ""
        raise DicomError(
            f"{where}: {len(found)} series mixed, of {sizes}{more} slices; pass series_uid=… of "
            "one of them, which find_series lists"
        )
    wanted = slices[0].series_uid if series_uid is None else series_uid
    if wanted not in found:
        raise DicomError(
            f"{where}: no slice has this series_uid; find_series lists those of the {len(found)} "
            "series that are there"
        )
    slices = [s for s in slices if s.series_uid == wanted]
    ((usual, n),) = Counter(map(_kind, slices)).most_common(1)
    differs = f"size, PixelSpacing or ImageOrientationPatient are not those of {n} other slices"
    odd = [BadFileError(s.path, differs) for s in slices if _kind(s) != usual]
    if odd and strict:
        raise odd[0]
    warnings = [f"excluded {error}" for error in bad + odd]
    if skipped:
        warnings.append(f"skipped, not CT slices: {_tally(skipped)}")
    if other := found.total() - found[wanted]:
        warnings.append(f"skipped {other} slices of other series")
    if below and not recursive:
        warnings.append(unread)
    slices = [s for s in slices if _kind(s) == usual]
    if recursive is not None:
        refused, notes = oddities(slices, skipped.total())
        if refused and strict:
            raise DicomError(f"{where}: {refused[0]}; strict=False reads it all the same")
        warnings += refused + notes
    return slices, warnings


def _kind(s: Slice) -> tuple[float, ...]:
    """What all slices of a series share."""
    spacing = [round(v, 4) for v in s.pixel_spacing]
    return (*s.shape, *spacing, *(round(v, 3) for v in s.orientation))


def _tally(counted: Counter[str]) -> str:
    return ", ".join(f"{n} × {what}" for what, n in counted.most_common())


def find_series(root: str | Path, *, progress: bool = True) -> pd.DataFrame:
    """List the DICOM series of a tree of folders, of every modality, reading headers only.

    A folder whose first and last file, by name, are of one series is taken to hold that series and
    no other, which is quick to find out. Hidden files and folders, links to folders, and files that
    do not claim to be DICOM by their ending are passed over.

    Returns:
        One row per series, by path: `series_uid`, `modality`, `synthetic` (written by
        `write_series`), `n_files`, `places` (its files, or whole folders; `read_series` takes
        both), and `path` of the deepest folder above them, relative to `root`.
        `attrs["excluded"]` is a list of files that could not be read, each with the reason.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotADirectoryError(f"{str(root)!r} is not a folder")
    bad: list[BadFileError] = []

    def failed(error: OSError) -> None:
        bad.append(BadFileError(Path(error.filename), f"cannot be opened: {error.strerror}"))

    folders = dict(files_below(root, failed))
    rows: list[dict[str, Any]] = []
    for folder, files in tqdm(folders.items(), "series", unit="folder", disable=not progress):
        found, faults = _read(list(dict.fromkeys([files[0], files[-1]])))
        if not faults and found[0]["series_uid"] == found[-1]["series_uid"]:
            found = [found[0] | {"n_files": len(files), "place": folder}]
        else:
            found, faults = _read(files)
        rows += [row | {"folder": folder} for row in found]
        bad += faults
    columns = ["series_uid", "modality", "synthetic", "n_files", "place", "folder"]
    series = pd.DataFrame(rows, columns=columns).groupby("series_uid", as_index=False)
    table = series.agg(
        modality=("modality", "first"),
        synthetic=("synthetic", "first"),
        n_files=("n_files", "sum"),
        places=("place", list),
        path=("folder", lambda of_one: os.path.commonpath(set(of_one))),
    )
    relative = [Path(path).relative_to(root).as_posix() for path in table["path"]]
    table["path"] = pd.array(relative, dtype="str")
    table = table.sort_values(["path", "series_uid"], ignore_index=True)
    tell_bad(table, bad)
    return table


def tell_bad(table: pd.DataFrame, bad: list[BadFileError]) -> None:
    """Log how many files could not be read, and keep them in `attrs["excluded"]` of a table."""
    if bad:
        logger.warning("%d files are not readable as DICOM, the first is %s", len(bad), bad[0])
    table.attrs["excluded"] = [(str(error.path), error.reason) for error in bad]


@quiet()
def _read(files: list[Path]) -> tuple[list[dict[str, Any]], list[BadFileError]]:
    """A row for every file that is DICOM, and the others."""
    found, bad = [], []
    for file in files:
        try:
            header = Header(file, ["SeriesInstanceUID", "Modality", "SeriesDescription"])
            row = {"series_uid": header.uid("SeriesInstanceUID"), "synthetic": header.synthetic}
            row |= {"modality": header.words("Modality")[0], "n_files": 1, "place": file}
            found.append(row)
        except BadFileError as error:
            bad.append(error)
    return found, bad


CROP = "lesionlab crop"  # SeriesDescription of a crop of a real scan
# what all phantoms say; the empty ones are attributes that the CT Image IOD (PS3.3, A.3) asks for
# and that may be empty. SimpleITK adds size, spacing, position, orientation and pixels.
_SAID = {
    "0008|0005": "ISO_IR 192",
    "0008|0008": "DERIVED\\SECONDARY\\AXIAL",  # ImageType
    "0008|0016": CT_IMAGE,
    "0008|0060": "CT",
    "0008|0070": "lesionlab",  # Manufacturer
    "0008|103e": PHANTOM,  # SeriesDescription
    "0008|2111": "rendered by lesionlab, not a scan of a person",
    "0012|0062": "YES",  # PatientIdentityRemoved
    "0012|0063": "synthetic, no patient",
    "0018|5100": "HFS",  # PatientPosition
    "0020|0011": "1",  # SeriesNumber
    "0028|0301": "NO",  # BurnedInAnnotation
    "0028|1050": "-600",  # WindowCenter
    "0028|1051": "1500",
    "0028|1052": str(AIR),  # RescaleIntercept
    "0028|1053": "1",
    "0028|1054": "HU",
    "0028|2110": "00",  # LossyImageCompression
} | dict.fromkeys(
    # dates and times, names, KVP, acquisition number and position reference
    ("0008|0020", "0008|0030", "0008|0050", "0008|0090", "0010|0010", "0010|0030", "0010|0040",
     "0018|0060", "0020|0010", "0020|0012", "0020|1040"), ""
)  # fmt: skip


def write_series(
    hu: npt.ArrayLike,
    folder: str | Path,
    *,
    patient_id: str,
    spacing: Sequence[float],
    slice_z: Sequence[float] | None = None,
    thickness: float | None = None,
    study_uid: str | None = None,
    series_uid: str | None = None,
    corner_mm: tuple[float, float] | None = None,
    synthetic: bool = True,
) -> Path:
    r"""Write a phantom scan as one CT Image Storage file per slice, axial and centred at x = y = 0.

    Every file says that it is no scan: SeriesDescription "lesionlab phantom", ImageType
    DERIVED\SECONDARY\AXIAL, Manufacturer "lesionlab". No date is written, and the same arguments
    give the same bytes. The folder appears when all files are in it, or not at all.

    Args:
        hu: (z, y, x), rounded to whole HU, from −32768 to 31743.
        folder: A new or empty folder; its name and place are free.
        patient_id: PatientID, up to 64 characters.
        spacing: `(z, y, x)` mm.
        slice_z: (z,) position of every slice, ascending, mm; even steps from 0 if None.
        thickness: SliceThickness, mm; the spacing along z if None.
        study_uid: StudyInstanceUID; made from the other arguments if None.
        series_uid: SeriesInstanceUID; likewise. With the UIDs of a real LIDC scan, pylidc takes
            the phantom for that scan.
        corner_mm: Position `(x, y)` of the first pixel, mm, in place of the usual one.
        synthetic: False for a crop of a real scan, which then does not say that it is a phantom.

    Returns:
        The folder, with `slice-0000.dcm`, `slice-0001.dcm` … by ascending z.
    """
    import SimpleITK as sitk  # noqa: N813 - its users' own name for it

    volume: npt.NDArray[Any] = np.asarray(hu)
    if volume.ndim != 3 or 0 in volume.shape or volume.dtype.kind not in "iuf":
        raise ValueError(f"hu: expected numbers (z, y, x), got {volume.dtype} {volume.shape}")
    if not (volume.min() >= -32768 and volume.max() <= 31743):  # stored + 1024; NaN is neither
        raise ValueError("hu: expected -32768 to 31743, which 16 bits hold")
    dz, dy, dx = map(float, spacing)
    # rounded, or 0.1 + 0.2 makes seventeen digits where a file holds sixteen
    z = np.round(dz * np.arange(len(volume)), 9) if slice_z is None else np.asarray(slice_z, float)
    if z.shape != volume.shape[:1] or not (np.isfinite(z).all() and (np.diff(z) > 0).all()):
        raise ValueError(f"slice_z: expected {len(volume)} ascending positions in mm")
    thickness = dz if thickness is None else float(thickness)
    if not all(0 < mm < np.inf for mm in (dz, dy, dx, thickness)):
        raise ValueError(f"spacing={spacing!r}, thickness={thickness!r}: expected mm above 0")
    if not re.fullmatch(r"[^\\\x00-\x1f]{1,64}", patient_id):  # not shown: could be a person's
        raise ValueError("patient_id: expected 1 to 64 characters, none a backslash or control one")
    digest = hashlib.sha256(repr((patient_id, dz, dy, dx, z.tolist())).encode() + volume.tobytes())
    study_uid = study_uid or generate_uid(entropy_srcs=["study", digest.hexdigest()])
    series_uid = series_uid or generate_uid(entropy_srcs=["series", digest.hexdigest()])
    for name, uid in (("study_uid", study_uid), ("series_uid", series_uid)):
        if not UID(uid, validation_mode=pydicom.config.IGNORE).is_valid:
            raise ValueError(f"{name}={uid!r}: expected a DICOM UID, digits and dots, up to 64")
    said = _SAID | {
        "0010|0020": patient_id,
        "0018|0050": format_number_as_ds(thickness),
        "0018|0088": format_number_as_ds(dz),  # SpacingBetweenSlices
        "0020|000d": study_uid,
        "0020|000e": series_uid,
        "0020|0052": generate_uid(entropy_srcs=["frame", series_uid]),
    }
    if not synthetic:
        said |= {
            "0008|103e": CROP,
            "0008|2111": "cut out of a scan by lesionlab",
            "0012|0063": CROP,
        }
    writer: Any = sitk.ImageFileWriter()  # type: ignore[no-untyped-call]
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    folder = Path(folder)
    if folder.is_symlink() or (folder.exists() and (folder.is_file() or any(folder.iterdir()))):
        raise FileExistsError(f"{str(folder)!r} is there already; expected a new or empty folder")
    with replacing_folder(folder) as temporary:
        for k, plane in enumerate(volume):
            image: Any = sitk.GetImageFromArray(np.rint(plane)[None].astype(np.int16))
            image.SetSpacing((dx, dy, dz))
            rows, columns = plane.shape
            middle = -dx * (columns - 1) / 2, -dy * (rows - 1) / 2
            image.SetOrigin((*(corner_mm or middle), float(z[k])))
            said["0008|0018"] = generate_uid(entropy_srcs=[series_uid, str(k)])
            said["0020|0013"] = str(k + 1)  # InstanceNumber
            said["0020|1041"] = format_number_as_ds(float(z[k]))  # SliceLocation
            for tag, text in said.items():
                image.SetMetaData(tag, text)
            writer.SetFileName(str(temporary / f"slice-{k:04d}.dcm"))
            writer.Execute(image)
    return folder
