"""Trees of `.anno` files, written: Li's lesions as phantoms, LIDC-IDRI's where its scans are.

    from lesionlab.sources.anno import writing
    writing.write("lesions", writing.phantoms(20))
    writing.write("lesions", writing.lidc_scans("downloads"))

Each scan becomes a subject with a number of its own. The mapping to the patients is written beside
the tree and never into it. Of real scans only named header fields are kept, and new UIDs stand in
place of the old ones: see `lesionlab.sources.dicom.copy_series`.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from lesionlab import _files, _names, _processes
from lesionlab.crops import Crop
from lesionlab.sources import lidc
from lesionlab.sources.anno import ATTRIBUTES, _shapes, subjects_path
from lesionlab.sources.anno._files import COLUMNS, WHO
from lesionlab.sources.anno._index import STEP
from lesionlab.sources.anno._shapes import BoolArray, FloatArray
from lesionlab.sources.dicom import Dicom, DicomError, copy_series, write_series
from lesionlab.sources.dicom._files import Slice
from lesionlab.sources.dicom._series import arrange, select
from lesionlab.sources.phantom import li2021

logger = logging.getLogger(__name__)

SERIES = "SE01"
CIRCLE_MM = 5.0
PHANTOM_SIZE = 144  # pixels; crops of 128 around a lesion that is not quite in the middle fit in

Codes = Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Outlined:
    """A lesion to be written."""

    masks: BoolArray  # (doctor, z, y, x)
    origin: tuple[int, int, int]  # `(z, y, x)` index in the scan of the masks' first voxel
    codes: Sequence[Codes]  # of each doctor; what is left out was not told


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan to be written; `write` puts its DICOM files in a folder, for a subject's number."""

    patient: str
    write: Callable[[Path, str], Any]
    lesions: Sequence[Outlined]


def write(
    root: str | Path,
    scans: Iterable[Scan],
    *,
    subjects: str | Path | None = None,
    place: str = "CT/H01/2000/01/01",
    every: int = STEP,
    circle_mm: float = CIRCLE_MM,
    total: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a tree, which `attributes.csv` completes; gives the root.

    Args:
        root: A new or empty folder.
        scans: Each becomes a subject, 0001, 0002, …, with one series.
        subjects: The mapping from subjects to patients, outside the tree; if None
            `<root>-subjects.csv` beside it.
        place: ct_type/hospital/year/month/day of all.
        every: Mark every so many slices of a lesion, and its last one: three in the paper.
        circle_mm: A lesion that is less wide gets circles in place of contours.
        total: How many scans there are, for the bar.
        progress: Show a bar.

    Raises:
        FileExistsError: There is something at `root`, or the mapping is there already.
        ValueError: The mapping would lie in the tree.
    """
    _names.whole(1, every=every)
    root = Path(root).expanduser().resolve()
    apart = Path(subjects).resolve() if subjects is not None else subjects_path(root)
    if apart.is_relative_to(root):
        raise ValueError(f"subjects={str(apart)!r}: expected a file outside {root}")
    for path in (root, apart):
        if path.exists() and (path.is_file() or any(path.iterdir())):
            raise FileExistsError(f"{path} is there already; expected a new or empty folder")
    rows: list[dict[str, Any]] = []
    patients = []
    for number, scan in enumerate(
        tqdm(scans, "write", total, disable=not progress, unit="scan"), 1
    ):
        subject = f"{number:04d}"
        folder = root / place / subject
        scan.write(folder / SERIES, subject)
        slices, _ = select(folder / SERIES, None, strict=False)
        slices, _, _, (step, _, _), _ = arrange(slices, strict=False)
        aid = 0
        for lesion, outlined in enumerate(scan.lesions, 1):
            aid = _write_lesion(folder, slices, step, outlined, lesion, aid, every, circle_mm)
            for doctor, codes in enumerate(outlined.codes, 1):
                told = dict(zip(WHO, (subject, SERIES, lesion, doctor), strict=True))
                rows.append(told | {**codes})
        patients.append({"subject": subject, "patient": scan.patient})
    _write_table(apart, ["subject", "patient"], patients)
    _write_table(root / ATTRIBUTES, COLUMNS, rows)
    return root


def _write_lesion(
    folder: Path,
    slices: list[Slice],
    step: float,
    outlined: Outlined,
    lesion: int,
    aid: int,
    every: int,
    circle_mm: float,
) -> int:
    """Write the contours of all doctors; gives the last number that was used."""
    first = slices[0]
    spacing = (*first.pixel_spacing[::-1], step)
    common = {
        "SeriesID": first.series_uid,
        "Origin": list(first.position),
        "Dimension": [*first.shape[::-1], len(slices)],
        "Spacing": list(spacing),
        "LesionID": lesion,
    }
    for doctor, mask in enumerate(outlined.masks, 1):
        marked = np.flatnonzero(mask.any(axis=(1, 2)))
        if not len(marked):
            continue
        width = np.ptp(np.argwhere(mask)[:, 1:], axis=0) + 1
        small = (width * first.pixel_spacing).max() < circle_mm
        for k in sorted({*marked[::every].tolist(), int(marked[-1])}):
            outlines = [_shapes.circle(mask[k])] if small else _shapes.trace(mask[k])
            one = slices[outlined.origin[0] + k]
            located = one.location if np.isfinite(one.location) else one.position[2]
            location = round(float(located), 4) + 0.0
            for outline in outlines:
                aid += 1
                points = _on_image(outline + outlined.origin[1:], first.shape)
                (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
                told = common | {"NoduleSerialNumber": aid, "InstanceNumber": location}
                told |= {"Coords": points.tolist(), "XMin": x0, "XMax": x1, "YMin": y0, "YMax": y1}
                name = f"{SERIES}_01_{doctor:02d}/{aid}_{location}.anno"
                _files.write_text(folder / name, json.dumps(told, allow_nan=False) + "\n")
    return aid


def _on_image(outline: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """(point, 2) `(x, y)`, what a circle has outside the image moved to its edge."""
    clipped = np.clip(outline, -0.5, np.array(shape) - 0.5)
    return np.asarray(np.round(clipped[:, ::-1], 3))


def _write_table(path: Path, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _files.write_text(path, file.getvalue())


# --- What can be written ------------------------------------------------------------------------


def phantoms(
    n: int | None = None, *, seed: int = 0, size: int = PHANTOM_SIZE, processes: int = 1
) -> Iterator[Scan]:
    """Phantoms of Li's lesions: the first `n` of `phantom.li2021.lesions`, each its own scan.

    Lesions of one patient become subjects of their own, as a second scan does in the paper (3.1).
    """
    table: Any = li2021.lesions(seed=seed).iloc[:n]
    render = partial(li2021.phantom, seed=seed, size=size)
    crops = _processes.in_order(render, list(table.index), processes, "rendered a phantom")
    for crop, (_, row) in zip(crops, table.iterrows(), strict=True):
        codes = {name: int(row[name]) for name in COLUMNS[len(WHO) :]}
        yield from_crop(crop, row["patient"], [codes])


def from_crop(crop: Crop, patient: str, codes: Sequence[Codes]) -> Scan:
    """A phantom's crop as a scan with one lesion; `codes` are those of each reader.

    A crop of a real scan is a ValueError: its files would say that it is a phantom.
    """
    if crop.tier != "phantom":
        raise ValueError(f"{crop.lesion_id}: expected the crop of a phantom, got {crop.tier}")
    z = np.round(crop.slice_index * crop.spacing[0], 4)

    def put(folder: Path, subject: str) -> None:
        write_series(crop.hu, folder, patient_id=subject, spacing=crop.spacing, slice_z=z.tolist())

    return Scan(patient, put, [Outlined(crop.masks, (0, 0, 0), codes)])


def lidc_scans(root: str | Path, *, progress: bool = True) -> Iterator[Scan]:
    """The scans of LIDC-IDRI below a folder, with the outlines of each reader as a doctor's.

    A lesion of which a slice is missing is left out, with a logged warning, and so is a scan of
    which no lesion is left.
    """
    source = Dicom(root, progress=progress)
    report = source.report()
    nodules = lidc.nodules()
    for scan_id, row in report[report["n_files"] > 0].iterrows():
        lesions = nodules[nodules["scan_id"] == scan_id]
        if lesions.empty:
            continue
        try:
            opened = source.open_scan(int(str(scan_id)), row["series_uid"])
            places = source.series["places"][source.series["series_uid"] == row["series_uid"]]
            slices, _ = select(places.iloc[0], row["series_uid"], strict=False)
            slices, *_ = arrange(slices, strict=False)
        except DicomError as error:
            logger.warning("scan %s is left out: %s", scan_id, error)
            continue
        number = {one.path: k for k, one in enumerate(slices)}
        at = {k: number[one.path] for k, one in opened.files.items() if one.path in number}
        outlined = []
        for _, nodule in lesions.iterrows():
            masks = lidc.masks(str(nodule.name))
            z = [at.get(masks.origin[0] + k) for k in range(masks.readers.shape[1])]
            known = [k for k in z if k is not None]
            if len(known) < len(z) or known != list(range(known[0], known[0] + len(known))):
                logger.warning("%s is left out: not all of its slices are there", nodule.name)
                continue
            origin = (known[0], *masks.origin[1:])
            outlined.append(Outlined(masks.readers, origin, codes_of_readers(nodule)))
        if outlined:
            write_files = partial(_copy, slices)
            yield Scan(row["patient"], write_files, outlined)


def _copy(slices: list[Slice], folder: Path, subject: str) -> Path:
    return copy_series(slices, folder, patient_id=subject)


def codes_of_readers(nodule: Any) -> list[dict[str, int]]:
    """Li's codes from the ratings of each reader of a nodule of LIDC-IDRI, as far as they go.

    Mass above 30 mm, ground glass with a texture of 2 or less, else nodule; margin clear from 4;
    calcification none at 6, total at 1 to 3, else partial; lobulation from 3; spiculation none
    below 2, short below 4, else long; cavity where the internal structure is air. LIDC says
    nothing of location, vessels and pleura. A rating outside its scale is left out.
    """
    found = []
    for reader in range(len(nodule["reading_ids"])):

        def rating(name: str, reader: int = reader) -> float:
            return float(nodule[f"{name}_readings"][reader])

        large, glass = nodule["diameter"] > 30, rating("texture") <= 2
        spiculation, calcium = rating("spiculation"), rating("calcification")
        codes = {
            "lesion_type": 1 if large else 3 if glass else 2,
            "margin_clarity": 1 if rating("margin") >= 4 else 2,
            "calcification_extent": 1 if calcium == 6 else 3 if calcium <= 3 else 2,
            "lobulation_presence": 2 if rating("lobulation") >= 3 else 1,
            "spiculation_length": 1 if spiculation < 2 else 3 if spiculation < 4 else 2,
        }
        if np.isfinite(content := rating("internal_structure")):
            codes["cavity"] = 2 if content == 4 else 1
        found.append(codes)
    return found
