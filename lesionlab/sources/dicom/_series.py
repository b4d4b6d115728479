"""Many DICOM slices to one volume: which belong together, in which order, and what is missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionlab.sources.dicom._files import (
    BadFileError,
    DicomError,
    Pixels,
    Slice,
    read_pixels,
    read_slice,
)

FloatArray = npt.NDArray[np.float64]

SAME_POSITION = 0.01  # mm; slices nearer stand at one position; LIDC's nearest are 0.45 mm apart
GAP = 1.5  # a step above this many times the median step means that slices are missing

_COMPANIONS = {
    ".csv", ".db", ".htm", ".html", ".ini", ".jpg", ".json", ".log", ".md", ".nrrd", ".pdf", ".png",
    ".sha256", ".tsv", ".txt", ".xml", ".yaml", ".yml", ".zip",
}  # fmt: skip
"""Endings of files that lie beside DICOM files and do not claim to be any (LIDC's are .xml)."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT series as one block of HU with its geometry.

    Attributes:
        hu: (z, y, x) Hounsfield units; int16 where every value is whole and fits, else float32.
        spacing: `(z, y, x)` mm; z is the median step between slices.
        origin_mm: `(x, y, z)` of the first voxel's centre in the patient (towards left, back,
            head).
        direction: (3, 3); the columns are the directions in the patient in which the x, y and z
            index grow, as in ITK.
        slice_z: (z,) position of each slice along the last of them, mm, ascending. For axial
            slices this is the z of ImagePositionPatient.
        warnings: What was set aside and what else a user should know, in sentences.
    """

    hu: npt.NDArray[Any]
    spacing: tuple[float, float, float]
    origin_mm: tuple[float, ...]
    direction: FloatArray
    slice_z: FloatArray
    series_uid: str
    thickness: float = math.nan  # SliceThickness, mm; NaN where it is not stated
    synthetic: bool = False  # written by `write_series`, not scanned
    warnings: tuple[str, ...] = ()

    def patient_mm(self, index: Any) -> FloatArray:
        """(..., 3) positions `(x, y, z)` in the patient, mm, of voxel indices `(z, y, x)`.

        These may lie between voxels and outside.
        """
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
) -> Volume:
    """Read a CT series into HU with its geometry.

    Slices are ordered by ImagePositionPatient along their normal, whatever their file names and
    InstanceNumbers, and z ascends. Rescale slope and intercept act slice by slice. Padding
    (PixelPaddingValue, and all of −2000 HU and less) becomes −1024 HU. Where two slices stand at
    one position the one of lesser InstanceNumber is kept, as in pylidc.

    Args:
        source: A folder (its subfolders are not searched), one file, or a list of files.
        series_uid: Which SeriesInstanceUID, where several are mixed.
        strict: Refuse a series of which slices are missing (a step is over 1.5 times the median
            one) or a file is truncated, not DICOM, lacks what is needed or does not fit the others.
            False leaves bad files out and goes on with what is there; `warnings` say so.

    Returns:
        The volume; its `warnings` say what was set aside.

    Raises:
        DicomError: The series cannot be read as asked; the message names the file.
        FileNotFoundError: There is no such folder.
    """
    slices, warnings = select(source, series_uid, strict)
    decoded: dict[Path, Pixels] = {}
    # one file at a time, not sitk.ImageSeriesReader: it takes the type of the first slice for all,
    # which loses the fractions of another slope, and it cannot leave out a bad file
    for s in slices:
        try:
            decoded[s.path] = read_pixels(s.path)
        except BadFileError as error:
            if strict:
                raise
            warnings.append(f"excluded {error}")
    if not decoded:
        raise DicomError(f"all {len(slices)} slices are bad: {warnings[-1]}")
    series = arrange([s for s in slices if s.path in decoded], strict)
    return _assemble(series, decoded, warnings + series.notes)


@dataclass(frozen=True)
class Series:
    """The slices of one series in order, from their headers alone."""

    slices: list[Slice]  # one per position, ascending
    duplicates: list[list[Slice]]  # the others at the same position, for each of `slices`
    direction: FloatArray  # as in `Volume`
    positions: FloatArray  # `slice_z` of `Volume`
    spacing: tuple[float, float, float]  # as in `Volume`
    notes: list[str]  # what is odd about the steps between slices


def list_files(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files of a folder that may be DICOM by their name; of a list of files, all of them.

    Subfolders and hidden files are passed over.
    """
    if not isinstance(source, (str, Path)):
        return list(dict.fromkeys(Path(file) for file in source))
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{str(path)!r}: no such file or folder of DICOM files")
    inside = [f for f in sorted(path.iterdir()) if not f.name.startswith(".") and f.is_file()]
    return [f for f in inside if not is_companion(f)]


def is_companion(path: Path) -> bool:
    """Whether a file does not claim to be DICOM."""
    return path.suffix.lower() in _COMPANIONS or path.name in ("DICOMDIR", "LICENSE", "Thumbs.db")


def select(
    source: str | Path | Iterable[str | Path], series_uid: str | None, strict: bool
) -> tuple[list[Slice], list[str]]:
    """The slices of one series, and what to say of the other files."""
    files = list_files(source)
    where = str(source)
    if not isinstance(source, (str, Path)):
        where = f"{files[0]} and {len(files) - 1} more" if files else "an empty list of files"
    skipped: Counter[str] = Counter()
    bad: list[BadFileError] = []
    slices: list[Slice] = []
    for file in files:
        try:
            header = read_slice(file)
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
        )
    found = Counter(s.series_uid for s in slices)
    if series_uid is None and len(found) > 1:
        raise DicomError(
            f"{where}: {len(found)} series mixed; pass series_uid=… with one of {_tally(found)}"
        )
    wanted = slices[0].series_uid if series_uid is None else series_uid
    if wanted not in found:
        raise DicomError(f"{where}: no slice of series_uid={wanted!r}; found {_tally(found)}")
    slices, odd = _alike([s for s in slices if s.series_uid == wanted], strict)
    warnings = [f"excluded {error}" for error in bad + odd]
    if skipped:
        warnings.append(f"skipped, not CT slices: {_tally(skipped)}")
    if other := found.total() - found[wanted]:
        warnings.append(f"skipped {other} slices of other series")
    return slices, warnings


def _tally(counted: Counter[str]) -> str:
    return ", ".join(f"{n} × {what}" for what, n in counted.most_common())


def _alike(slices: list[Slice], strict: bool) -> tuple[list[Slice], list[BadFileError]]:
    """Slices of one size, spacing and orientation; the rarer kinds are bad files."""
    odd: list[BadFileError] = []
    for what, kind in (
        ("rows and columns", lambda s: s.shape),
        ("PixelSpacing", lambda s: tuple(round(v, 4) for v in s.pixel_spacing)),
        ("ImageOrientationPatient", lambda s: tuple(round(v, 3) + 0.0 for v in s.orientation)),
    ):
        ((common, n),) = Counter(map(kind, slices)).most_common(1)
        odd += [
            BadFileError(
                s.path,
                f"{what} {kind(s)} differ from the {common} of {n} other slices of the series",
            )
            for s in slices
            if kind(s) != common
        ]
        if odd and strict:
            raise odd[0]
        slices = [s for s in slices if kind(s) == common]
    return slices, odd


def arrange(slices: list[Slice], strict: bool) -> Series:
    """Put slices in order along their normal and check the steps between them."""
    along_x, along_y = np.array(slices[0].orientation).reshape(2, 3)
    normal = np.cross(along_x, along_y)
    # z ascends towards the head, as in pylidc
    main = 2 if abs(normal[2]) > 1e-3 else int(np.abs(normal).argmax())
    direction = np.column_stack((along_x, along_y, normal * np.sign(normal[main]))) + 0.0
    # pylidc's rule for two slices at one position: the lesser InstanceNumber wins
    slices = sorted(slices, key=lambda s: (s.instance_number, str(s.path)))
    along = (np.array([s.position for s in slices]) @ direction[:, 2]).tolist()
    groups: list[list[int]] = []
    for i in sorted(range(len(slices)), key=lambda i: along[i]):
        if groups and along[i] - along[groups[-1][0]] < SAME_POSITION:
            groups[-1].append(i)
        else:
            groups.append([i])
    groups = [sorted(group) for group in groups]
    kept = [slices[group[0]] for group in groups]
    positions = np.array([along[group[0]] for group in groups])
    _check_sideways(kept, direction)
    step, notes = _step(kept, positions, strict)
    return Series(
        slices=kept,
        duplicates=[[slices[i] for i in group[1:]] for group in groups],
        direction=direction,
        positions=positions,
        spacing=(step, *kept[0].pixel_spacing),
        notes=notes,
    )


def _check_sideways(slices: list[Slice], direction: FloatArray) -> None:
    """Slices must be stacked along their normal: no tilted gantry, none pushed aside."""
    if len(slices) < 2:
        return
    away = np.array([s.position for s in slices]) - np.array(slices[0].position)
    along = away @ direction[:, 2]
    aside = away @ direction[:, :2]  # (slice, 2)
    limit = 0.1 * min(slices[0].pixel_spacing) + 0.002
    if np.abs(aside).max() <= limit:
        return
    slope = np.median(np.diff(aside, axis=0) / np.diff(along)[:, None], axis=0)
    rest = np.abs(aside - along[:, None] * slope).max(axis=1)
    if rest.max() <= limit and np.abs(slope).max() > 0:
        tilt = math.degrees(math.atan(float(np.hypot(*slope))))
        raise DicomError(
            f"{slices[0].path} and {len(slices) - 1} more: the gantry was tilted, slices are "
            f"stacked {tilt:.2f}° off their normal; resample the series first"
        )
    worst = int(np.abs(rest - np.median(rest)).argmax())
    off = np.abs(aside[worst] - np.median(aside, axis=0)).max()
    raise DicomError(
        f"{slices[worst].path}: lies {off:.3g} mm beside the other slices, expected them stacked "
        "along their normal"
    )


def _step(slices: list[Slice], positions: FloatArray, strict: bool) -> tuple[float, list[str]]:
    """The median step between slices, mm, and what is odd about the steps."""
    if len(slices) == 1:
        if not slices[0].thickness > 0:
            raise DicomError(f"{slices[0].path}: a single slice without SliceThickness")
        return slices[0].thickness, ["a single slice: its thickness stands for the spacing"]
    steps = np.diff(positions)
    step = float(np.median(steps))
    notes = []
    # the lower of the two middle steps where their number is even: among few, one may be the gap
    usual = float(np.quantile(steps, 0.5, method="lower"))
    gaps = np.flatnonzero(steps > GAP * usual)
    for k in gaps:
        text = (
            f"{steps[k]:.4g} mm between {slices[k].path} and {slices[k + 1].path.name}, where "
            f"{usual:.4g} mm is usual: about {max(round(steps[k] / usual) - 1, 1)} slices missing"
        )
        if strict:
            more = f" ({len(gaps)} such gaps)" if len(gaps) > 1 else ""
            raise DicomError(f"{text}{more}; strict=False reads it all the same")
        notes.append(text)
    if np.abs(steps - step).max() > 0.1 * step and not len(gaps):
        notes.append(f"uneven steps between slices: {steps.min():.4g} to {steps.max():.4g} mm")
    return step, notes


def _assemble(series: Series, decoded: dict[Path, Pixels], warnings: list[str]) -> Volume:
    first = series.slices[0]
    for winner, others in zip(series.slices, series.duplicates, strict=True):
        for other in others:
            same = np.array_equal(decoded[winner.path].hu, decoded[other.path].hu)
            warnings.append(
                f"{other.path} stands at the position of {winner.path.name} with "
                + ("the same pixels" if same else "other pixels and a greater InstanceNumber")
                + ", and was left out"
            )
    whole = all(decoded[s.path].hu.dtype == np.int16 for s in series.slices)
    hu = np.empty((len(series.slices), *first.shape), dtype=np.int16 if whole else np.float32)
    notes: Counter[str] = Counter()
    for k, s in enumerate(series.slices):
        pixels = decoded.pop(s.path)  # so that the slices go as the volume comes
        hu[k] = pixels.hu
        notes.update(pixels.notes)
    warnings += [f"{note} (in {n} slices)" for note, n in notes.items()]
    return Volume(
        hu=hu,
        spacing=series.spacing,
        origin_mm=first.position,
        direction=series.direction,
        slice_z=series.positions,
        series_uid=first.series_uid,
        thickness=first.thickness,
        synthetic=all(s.synthetic for s in series.slices),
        warnings=tuple(warnings),
    )
