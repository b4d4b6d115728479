"""Trees of `.anno` files, written: Li's lesions as phantoms, LIDC-IDRI's where its scans are.

    from lesionlab.sources.anno import writing
    writing.write("lesions", writing.phantoms(20))
    writing.write("lesions", writing.lidc_scans("downloads"))

Each scan becomes a subject with a number of its own. The mapping to the patients is written beside
the tree and never into it. Of real scans only named header fields are kept, and new UIDs stand in
place of the old ones: see `lesionlab.sources.dicom.copy_series`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lesionlab import _files, _names, _processes
from lesionlab.attributes import RATING_NAMES
from lesionlab.crops import Crop
from lesionlab.li_of_lidc import categories
from lesionlab.sources import lidc
from lesionlab.sources.anno import ATTRIBUTES, _shapes, subjects_path
from lesionlab.sources.anno._files import COLUMNS, WHO
from lesionlab.sources.anno._index import STEP, open_slices
from lesionlab.sources.anno._shapes import BoolArray, FloatArray
from lesionlab.sources.dicom import Dicom, DicomError, copy_series, write_series
from lesionlab.sources.phantom import li2021

logger = logging.getLogger(__name__)

PLACE = "CT/H01/2000/01/01"  # ct_type/hospital/year/month/day of all subjects
SERIES = "SE01"
CIRCLE_MM = 5.0
PHANTOM_SIZE = 144  # pixels; crops of 128 around a lesion that is not quite in the middle fit in

Codes = Mapping[Any, int]


Outlined = tuple[BoolArray, tuple[int, int, int]]
"""A lesion's masks `(doctor, z, y, x)`, and the scan's index `(z, y, x)` of their first voxel."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan to be written."""

    patient: str
    codes: Sequence[Sequence[Codes]]  # by lesion and doctor; what is left out was not told
    make: Callable[[Path, str], Sequence[Outlined]]
    """Writes DICOM files in a folder, for a subject's number, and gives the lesions."""


def write(
    root: str | Path,
    scans: Iterable[Scan],
    *,
    every: int = STEP,
    circle_mm: float = CIRCLE_MM,
    processes: int = 1,
    progress: bool = True,
) -> Path:
    """Write a tree, and the mapping from subjects to patients beside it; gives the root.

    Until all is written the tree lies in a hidden folder beside `root`. If the same is to be
    written once more, it goes on with the scans that are not in there yet.

    Args:
        root: A new or empty folder.
        scans: Each becomes a subject, 0001, 0002, …, with one series.
        every: Mark every so many slices of a lesion, and its last one: three in the paper.
        circle_mm: A lesion that is less wide gets circles in place of contours.
        processes: So many write scans.
        progress: Show a bar.

    Raises:
        FileExistsError: There is something at `root`, or the mapping is there already.
    """
    _names.whole(1, every=every)
    root = Path(root).expanduser().resolve()
    for path in (root, subjects_path(root)):
        _files.check_new_folder(path)
    by_subject = {f"{number:04d}": scan for number, scan in enumerate(scans, 1)}
    patients = [(subject, scan.patient) for subject, scan in by_subject.items()]
    attributes = [
        (subject, SERIES, lesion, doctor, *(codes.get(name) for name in COLUMNS[len(WHO) :]))
        for subject, scan in by_subject.items()
        for lesion, of_lesion in enumerate(scan.codes, 1)
        for doctor, codes in enumerate(of_lesion, 1)
    ]
    same = hashlib.sha256(repr((every, circle_mm, patients, attributes)).encode()).hexdigest()
    unfinished = root.with_name(f".{root.name}-{same[:12]}")
    work = partial(_write_scan, unfinished / PLACE, every, circle_mm)
    written = _processes.in_order(work, by_subject.items(), processes, "wrote a scan")
    for _ in tqdm(written, "write", len(by_subject), disable=not progress, unit="scan"):
        pass
    tables = {
        unfinished / ATTRIBUTES: pd.DataFrame(attributes, columns=COLUMNS, dtype=object),
        subjects_path(root): pd.DataFrame(patients, columns=["subject", "patient"]),
    }
    for path, table in tables.items():
        _files.write_text(path, table.to_csv(index=False, lineterminator="\n"))
    os.replace(unfinished, root)
    return root


def _write_scan(place: Path, every: int, circle_mm: float, item: tuple[str, Scan]) -> None:
    """Write a subject's folder, unless it is there: then it is whole."""
    subject, scan = item
    if (place / subject).exists():
        return
    with _files.replacing_folder(place / subject) as folder:
        lesions = scan.make(folder / SERIES, subject)
        slices, _, location, step, _ = open_slices(folder / SERIES, None)
        first = slices[0]
        common = {
            "SeriesID": first.series_uid,
            "Origin": first.position,
            "Dimension": [*first.shape[::-1], len(slices)],
            "Spacing": [*first.pixel_spacing[::-1], step],
        }
        aids = itertools.count(1)
        for lesion, (masks, origin) in enumerate(lesions, 1):
            for doctor, mask in enumerate(masks, 1):
                for k, outline in _outlines(mask, first.pixel_spacing, every, circle_mm):
                    # what a circle has outside the image is moved to its edge
                    at = np.clip(outline + origin[1:], -0.5, np.array(first.shape) - 0.5)
                    points = np.round(at[:, ::-1], 3)
                    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
                    aid, z = next(aids), round(float(location[origin[0] + k]), 4) + 0.0
                    told = {"NoduleSerialNumber": aid, "InstanceNumber": z, "LesionID": lesion}
                    told |= {"XMin": x0, "XMax": x1, "YMin": y0, "YMax": y1}
                    told |= common | {"Coords": points.tolist()}
                    file = folder / f"{SERIES}_01_{doctor:02d}/{aid}_{z}.anno"
                    _files.write_text(file, json.dumps(told, allow_nan=False) + "\n")


def _outlines(
    mask: BoolArray, pixel_spacing: tuple[float, float], every: int, circle_mm: float
) -> Iterator[tuple[int, FloatArray]]:
    """Slice and outline of each mark of one doctor."""
    if not mask.any():
        return
    width = np.ptp(np.argwhere(mask)[:, 1:], axis=0) + 1
    small = (width * pixel_spacing).max() < circle_mm
    marked = np.flatnonzero(mask.any(axis=(1, 2))).tolist()
    for k in sorted({*marked[::every], marked[-1]}):
        for outline in [_shapes.circle(mask[k])] if small else _shapes.trace(mask[k]):
            yield k, outline


# --- What can be written ------------------------------------------------------------------------


def phantoms(n: int | None = None, *, seed: int = 0) -> Iterator[Scan]:
    """Phantoms of Li's lesions: the first `n` of `phantom.li2021.lesions`, each its own scan.

    Lesions of one patient become subjects of their own, as a second scan does in the paper (3.1).
    """
    table: Any = li2021.lesions(seed=seed).iloc[:n]
    for lesion_id, row in table.iterrows():
        codes = {name: int(row[name]) for name in COLUMNS[len(WHO) :]}
        yield Scan(row["patient"], [[codes]], partial(_render, lesion_id, seed))


def _render(lesion_id: str, seed: int, folder: Path, subject: str) -> list[Outlined]:
    return _put(li2021.phantom(lesion_id, seed=seed, size=PHANTOM_SIZE), folder, subject)


def from_crop(crop: Crop, patient: str, codes: Sequence[Codes]) -> Scan:
    """A phantom's crop as a scan with one lesion; `codes` are those of each reader.

    A crop of a real scan is a ValueError: its files would say that it is a phantom.
    """
    if crop.tier != "phantom":
        raise ValueError(f"{crop.lesion_id}: expected the crop of a phantom, got {crop.tier}")
    return Scan(patient, [codes], partial(_put, crop))


def _put(crop: Crop, folder: Path, subject: str) -> list[Outlined]:
    z = np.round(crop.slice_index * crop.spacing[0], 4).tolist()
    write_series(crop.hu, folder, patient_id=subject, spacing=crop.spacing, slice_z=z)
    return [(crop.masks, (0, 0, 0))]


def lidc_scans(root: str | Path, *, progress: bool = True) -> Iterator[Scan]:
    """The scans of LIDC-IDRI below a folder, with the outlines of each reader as a doctor's.

    A lesion of which a slice is missing is left out, with a logged warning, and so is a scan of
    which no lesion is left.
    """
    source = Dicom(root, progress=progress)
    report = source.report()
    nodules = lidc.nodules()
    for scan_id, row in report[report["n_files"] * report["n_lesions"] > 0].iterrows():
        try:
            files = source.open_scan(int(str(scan_id)), row["series_uid"]).files
        except DicomError as error:
            logger.warning("scan %s is left out: %s", scan_id, error)
            continue
        places = {k: n for n, k in enumerate(sorted(files))}
        codes, lesions = [], {}
        for lesion_id, nodule in nodules[nodules["scan_id"] == scan_id].iterrows():
            masks = lidc.masks(str(lesion_id))
            z, y, x = masks.origin
            if not places.keys() >= {*range(z, z + masks.readers.shape[1])}:
                logger.warning("%s is left out: not all of its slices are there", lesion_id)
                continue
            codes.append(codes_of_readers(nodule))
            lesions[str(lesion_id)] = places[z], y, x
        if lesions:
            paths = [files[k].path for k in places]
            yield Scan(row["patient"], codes, partial(_copy, paths, lesions))


def _copy(
    paths: list[Path], lesions: Mapping[str, tuple[int, int, int]], folder: Path, subject: str
) -> list[Outlined]:
    copy_series(paths, folder, patient_id=subject)
    return [(lidc.masks(lesion_id).readers, origin) for lesion_id, origin in lesions.items()]


def codes_of_readers(nodule: Any) -> list[dict[Any, int]]:
    """Li's codes from the ratings of each reader of a nodule of LIDC-IDRI, as far as they go.

    `lesionlab.li_of_lidc` has the rules; LIDC says nothing of location, vessels and pleura.
    """
    told = {name: nodule[f"{name}_readings"] for name in RATING_NAMES}
    told |= {f"{name}_readings": [[one] for one in some] for name, some in told.items()}
    table = categories(pd.DataFrame(told).assign(diameter=nodule["diameter"]))
    return [row.dropna().astype(int).to_dict() for _, row in table.iterrows()]
