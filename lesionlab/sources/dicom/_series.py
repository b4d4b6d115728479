"""Many DICOM slices to one volume: which belong together, in which order, and what is missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lesionlab.sources.dicom._files import BadFileError, DicomError, Slice, read_header
from lesionlab.sources.dicom._order import OnGap, Series, arrange
from lesionlab.sources.dicom._pixels import Pixels, read_pixels
from lesionlab.sources.lidc._database import FloatArray

OnBadFile = Literal["raise", "exclude"]

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
        series_uid: SeriesInstanceUID.
        instance_uids: SOPInstanceUID of each slice.
        thickness: SliceThickness, mm; NaN where it is not stated.
        synthetic: Written by `write_series`, not scanned.
        counts: What was set aside: files that are `not CT` slices or `not DICOM` by their name,
            `bad files`, `other series`, `identical duplicates` and `different duplicates`, and
            `padding voxels` that were set to −1024 HU.
        warnings: What a user should know, in sentences.
    """

    hu: npt.NDArray[Any]
    spacing: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: FloatArray
    slice_z: FloatArray
    series_uid: str
    instance_uids: tuple[str, ...]
    thickness: float = math.nan
    synthetic: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def patient_mm(self, index: Any) -> FloatArray:
        """Where voxels lie in the patient.

        Args:
            index: (..., 3) voxel indices `(z, y, x)`, which may lie between voxels and outside.

        Returns:
            (..., 3) positions `(x, y, z)`, mm.
        """
        at = np.asarray(index, dtype=np.float64)
        inside = at[..., 0].clip(0, len(self.slice_z) - 1)
        z = np.interp(inside, np.arange(len(self.slice_z)), self.slice_z) - self.slice_z[0]
        z = z + (at[..., 0] - inside) * self.spacing[0]
        steps = np.stack((at[..., 2] * self.spacing[2], at[..., 1] * self.spacing[1], z), axis=-1)
        placed: FloatArray = np.asarray(self.origin_mm) + steps @ self.direction.T
        return placed


def list_files(source: str | Path | Iterable[str | Path]) -> tuple[list[Path], int]:
    """The files of a folder that may be DICOM, and how many others there are by their name.

    Subfolders and hidden files are passed over; of a list of files all are taken.

    Raises:
        FileNotFoundError: There is no such file or folder.
    """
    if not isinstance(source, (str, Path)):
        return list(dict.fromkeys(Path(file) for file in source)), 0
    path = Path(source)
    if path.is_file():
        return [path], 0
    if not path.is_dir():
        raise FileNotFoundError(f"{str(path)!r}: no such file or folder of DICOM files")
    inside = [f for f in sorted(path.iterdir()) if not f.name.startswith(".") and f.is_file()]
    files = [f for f in inside if not is_companion(f)]
    return files, len(inside) - len(files)


def is_companion(path: Path) -> bool:
    """Whether a file does not claim to be DICOM."""
    return path.suffix.lower() in _COMPANIONS or path.name in ("DICOMDIR", "LICENSE", "Thumbs.db")


def check_choice(name: str, given: str, choices: Sequence[str]) -> None:
    """Refuse an option that does not exist."""
    if given not in choices:
        raise ValueError(f"{name}={given!r}: expected {' or '.join(map(repr, choices))}")


def index_series(
    source: str | Path | Iterable[str | Path],
    *,
    series_uid: str | None = None,
    on_gap: OnGap = "raise",
    on_bad_file: OnBadFile = "raise",
) -> Series:
    """Read the headers of a series and put its slices in order; see `read_series`."""
    check_choice("on_gap", on_gap, ("raise", "warn"))
    check_choice("on_bad_file", on_bad_file, ("raise", "exclude"))
    files, n_others = list_files(source)
    where = str(source) if isinstance(source, (str, Path)) else _listed(files)
    counts: Counter[str] = Counter({"not DICOM": n_others})
    skipped: Counter[str] = Counter()
    bad: list[BadFileError] = []
    slices: list[Slice] = []
    for file in files:
        try:
            header = read_header(file)
        except BadFileError as error:
            if on_bad_file == "raise":
                raise
            bad.append(error)
            continue
        if isinstance(header, str):
            skipped[header] += 1
        else:
            slices.append(header)
    warnings = [f"excluded {error}" for error in bad]
    if skipped:
        warnings.append(f"skipped, not CT slices: {_tally(skipped)}")
    if not slices:
        raise DicomError(
            f"{where}: no CT slices among {len(files)} files"
            + (f"; skipped {_tally(skipped)}" if skipped else "")
            + (f"; {len(bad)} bad, the first is {bad[0]}" if bad else "")
        )
    slices, counts["other series"] = _one_series(slices, series_uid, where)
    slices, odd = _alike(slices, on_bad_file)
    warnings += [f"excluded {error}" for error in odd]
    counts["bad files"] = len(bad) + len(odd)
    counts["not CT"] = skipped.total()
    return arrange(slices, counts=dict(counts), warnings=tuple(warnings), on_gap=on_gap)


def _listed(files: list[Path]) -> str:
    return f"{files[0]} and {len(files) - 1} more" if files else "an empty list of files"


def _tally(counted: Counter[str]) -> str:
    return ", ".join(f"{n} × {what}" for what, n in counted.most_common())


def _one_series(slices: list[Slice], series_uid: str | None, where: str) -> tuple[list[Slice], int]:
    found = Counter(s.series_uid for s in slices)
    if series_uid is None and len(found) > 1:
        rarest = found.most_common()[-1][0]
        example = next(s.path.name for s in slices if s.series_uid == rarest)
        raise DicomError(
            f"{where}: {len(found)} series mixed; pass series_uid=… with one of "
            f"{_tally(found)} (the last is in {example})"
        )
    if series_uid is not None and series_uid not in found:
        raise DicomError(f"{where}: no slice of series_uid={series_uid!r}; found {_tally(found)}")
    wanted = series_uid or next(iter(found))
    return [s for s in slices if s.series_uid == wanted], len(slices) - found[wanted]


def _alike(slices: list[Slice], on_bad_file: OnBadFile) -> tuple[list[Slice], list[BadFileError]]:
    """Slices of one size, spacing and orientation; the rarer kinds are bad files."""
    for what, kind in (
        ("rows and columns", lambda s: s.shape),
        ("PixelSpacing", lambda s: tuple(round(v, 4) for v in s.pixel_spacing)),
        ("ImageOrientationPatient", lambda s: tuple(round(v, 3) + 0.0 for v in s.orientation)),
    ):
        tally = Counter(map(kind, slices))
        if len(tally) > 1:
            common, n = tally.most_common(1)[0]
            odd = [
                BadFileError(
                    s.path,
                    f"{what} {kind(s)} differ from the {common} of {n} other slices of the series",
                )
                for s in slices
                if kind(s) != common
            ]
            if on_bad_file == "raise":
                raise odd[0]
            rest, more = _alike([s for s in slices if kind(s) == common], on_bad_file)
            return rest, odd + more
    return slices, []


def read_series(
    source: str | Path | Iterable[str | Path],
    *,
    series_uid: str | None = None,
    on_gap: OnGap = "raise",
    on_bad_file: OnBadFile = "raise",
) -> Volume:
    """Read a CT series into HU with its geometry.

    Slices are ordered by ImagePositionPatient along their normal, whatever their file names and
    InstanceNumbers, and z ascends. Rescale slope and intercept act slice by slice. Padding
    (PixelPaddingValue, and all of −2000 HU and less) becomes −1024 HU. Where two slices stand at
    one position the one of lesser InstanceNumber is kept, as in pylidc.

    Args:
        source: A folder (its subfolders are not searched), one file, or a list of files.
        series_uid: Which SeriesInstanceUID, where several are mixed.
        on_gap: What to do where slices are missing, that is where a step is over 1.5 times the
            median one: "raise", or "warn" and go on with what is there.
        on_bad_file: What to do with a file that is truncated, not DICOM, lacks what is needed or
            does not fit the others: "raise", or "exclude" and count it.

    Returns:
        The volume. `warnings` and `counts` say what was set aside.

    Raises:
        DicomError: The series cannot be read as asked; the message names the file.
        FileNotFoundError: There is no such folder.
        ValueError: An option does not exist.
    """
    series = index_series(source, series_uid=series_uid, on_gap=on_gap, on_bad_file=on_bad_file)
    everything = [*series.slices] + [s for group in series.duplicates for s in group]
    decoded: dict[Path, Pixels] = {}
    bad: list[BadFileError] = []
    for s in everything:
        try:
            decoded[s.path] = read_pixels(s.path)
        except BadFileError as error:
            if on_bad_file == "raise":
                raise
            bad.append(error)
    if bad:
        lost = {error.path for error in bad}
        left = [s for s in everything if s.path not in lost]
        if not left:
            raise DicomError(f"all {len(bad)} slices are bad, the first is {bad[0]}")
        counts = series.counts | {"bad files": series.counts["bad files"] + len(bad)}
        warnings = tuple(f"excluded {error}" for error in bad)
        # what was said of gaps and steps no longer holds; the rest does
        said = tuple(w for w in series.warnings if w.startswith(("excluded", "skipped")))
        series = arrange(left, counts=counts, warnings=said + warnings, on_gap=on_gap)
    return _assemble(series, decoded)


def _assemble(series: Series, decoded: dict[Path, Pixels]) -> Volume:
    first = series.slices[0]
    warnings = list(series.warnings)
    counts = Counter(series.counts)
    for winner, others in zip(series.slices, series.duplicates, strict=True):
        for other in others:
            same = np.array_equal(decoded[winner.path].hu, decoded[other.path].hu)
            counts["identical duplicates" if same else "different duplicates"] += 1
            if not same:
                warnings.append(
                    f"{other.path} stands at the position of {winner.path.name} with other "
                    "pixels and was left out: its InstanceNumber is not the lesser one"
                )
    whole = all(decoded[s.path].hu.dtype == np.int16 for s in series.slices)
    hu = np.empty((len(series.slices), *first.shape), dtype=np.int16 if whole else np.float32)
    notes: Counter[str] = Counter()
    for k, s in enumerate(series.slices):
        pixels = decoded.pop(s.path)  # so that the slices go as the volume comes
        hu[k] = pixels.hu
        counts["padding voxels"] += pixels.n_padding
        notes.update(pixels.notes)
    warnings += [f"{note} (in {n} slices)" for note, n in notes.items()]
    return Volume(
        hu=hu,
        spacing=series.spacing,
        origin_mm=first.position,
        direction=series.direction,
        slice_z=series.positions,
        series_uid=first.series_uid,
        instance_uids=tuple(s.instance_uid for s in series.slices),
        thickness=first.thickness,
        synthetic=all(s.synthetic for s in series.slices),
        counts={name: n for name, n in counts.items() if n},
        warnings=tuple(warnings),
    )
