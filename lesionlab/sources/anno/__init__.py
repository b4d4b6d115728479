"""Lesions in a tree of `.anno` files beside DICOM scans: the data set of Li 2021 (3.1).

    ct_type/hospital/year/month/day/subject/SE01/…                    the slices, DICOM
    ct_type/hospital/year/month/day/subject/SE01_01_02/aid_loc.anno   the contours of doctor 2
    attributes.csv                                                    the nine codes, by doctor

    from lesionlab.sources.anno import Anno
    source = Anno("my-lesions")            # or LESIONLAB_ANNO
    source.lesions()                       # a row for each lesion
    source.exclusions()                    # what was left out, with file, key and reason
    source.crop("0001-SE01-L1")

An `.anno` file has one contour in one slice, as JSON with the paper's keys; a Python literal is
read too. It has its own number `aid`, and `loc` is the SliceLocation in mm. The paper leaves open
what joins the slices of a lesion, and what the table of attributes is called: here a whole number
`LesionID` does, or else contours that overlap and lie at most three slices apart; and the table is
`attributes.csv` in the tree's root, one line for each lesion and doctor. Its column `lesion` has
the LesionID, or the `aid` of one of the lesion's contours. A subject who was scanned twice has two
numbers in the paper. The mapping that restores the patient lies outside the tree, in
`<root>-subjects.csv` beside it (`subject,patient`).

The paper does not say where in a pixel its coordinates count from: here whole numbers are the
centres of pixels, and the fractions 0 and 1 the outer edges of the image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lesionlab.attributes import LI_CATEGORIES, majority
from lesionlab.crops import Crop
from lesionlab.sources import _own, origins
from lesionlab.sources._own import Fault
from lesionlab.sources.anno import _index, _shapes
from lesionlab.sources.anno._files import ATTRIBUTES as ATTRIBUTES
from lesionlab.sources.anno._files import AnnoError as AnnoError
from lesionlab.sources.anno._files import Annotation as Annotation
from lesionlab.sources.anno._files import BadAnnoError as BadAnnoError
from lesionlab.sources.anno._files import Codes, read_attributes, read_subjects
from lesionlab.sources.anno._files import read_annotation as read_annotation
from lesionlab.sources.anno._shapes import fill_between as fill_between
from lesionlab.sources.dicom._lidc import Scan as OpenScan
from lesionlab.sources.dicom._lidc import check_margin, cut_out
from lesionlab.sources.lidc import LesionMasks

MISSING = (
    f"{origins.ANNO} is not set: expected a folder of .anno files and DICOM scans of your own; to "
    f"see one: lesionlab data export anno FOLDER, then export {origins.ANNO}=FOLDER"
)
EDGE = 16  # pixels around a lesion that is larger than a crop is asked to be


def subjects_path(root: Path) -> Path:
    """Where the mapping from subjects to patients is looked for, and written."""
    return root.with_name(f"{root.name}-subjects.csv")


class Anno(_own.Lesions):
    """A tree of `.anno` files, opened.

    Every file is read and checked once; what it said is kept in the cache folder, scan by scan, so
    that an interrupted reading goes on where it ended. An instance can be sent to other processes.
    It keeps the slices of the last lesion's scan: ask for lesions scan by scan.

    `lesions()` has a row for each lesion with contours and attributes:

    - `patient` (the lowest subject number of the true patient), `scan_id`, `series_uid`;
    - `doctors` (who outlined it, in the order of `Crop.masks`), `n_readers`, `raters` (who
      gave attributes);
    - the nine codes, each the `majority` of raters, missing where nobody told; and
      `<attribute>_readings`, each rater's;
    - `diameter`, larger side in plane, mm; `slice_location`, mm, and `y`, `x`, voxel index,
      of its centre of gravity; `n_slices`, marked ones; `circles`, True where all
      contours were drawn with the circle tool;
    - `slice_spacing`, `slice_thickness` (taken to be the same), `pixel_spacing`, mm.

    Args:
        root: The folder with `attributes.csv`; if None, what `LESIONLAB_ANNO` names.
        processes: How many read files; follows from the number of scans if None.
        progress: Show a bar where there are many scans.
        thorough: Hold the annotations against the header of every slice, not of one.

    Raises:
        FileNotFoundError: There is no such folder, or none is named.
        AnnoError: It holds no scan, or the mapping from subjects to patients cannot be read.
    """

    error, own = AnnoError, "anno"

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        processes: int | None = None,
        progress: bool = True,
        thorough: bool = False,
    ) -> None:
        self.root = _own.folder(origins.ANNO, root, MISSING, ATTRIBUTES)
        self._scans, faults = _index.find_scans(self.root)
        self._records = _index.read_scans(
            list(self._scans.values()), processes=processes, progress=progress, thorough=thorough
        )
        attributes, self._faults = read_attributes(self.root / ATTRIBUTES)
        patients = read_subjects(subjects_path(self.root))
        self._faults += faults
        self._rows: dict[str, dict[str, Any]] = {}
        for scan in self._scans.values():
            self._faults += [Fault(*fault) for fault in self._records[scan.name]["faults"]]
            table = attributes.pop((scan.subject, scan.series), {})
            for row in self._lesions_of(scan, table):
                patient = patients.get(scan.subject, scan.subject)
                self._rows[row.pop("lesion_id")] = {"patient": patient} | row
        for subject, series in sorted(attributes):
            why = "no such subject and series in the tree"
            self._faults.append(Fault(ATTRIBUTES, f"{subject} {series}", why))
        self._last: tuple[str, OpenScan, Any, float] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}

    def _lesions_of(
        self, scan: _index.Scan, table: dict[tuple[int, int], Codes]
    ) -> Iterator[dict[str, Any]]:
        """The rows of a scan's lesions; what has no contour or no attributes is a fault."""
        record = self._records[scan.name]
        lesions = record["lesions"]
        codes: dict[str, dict[int, Codes]] = {name: {} for name in lesions}
        by_aid = {
            (aid, doctor): name
            for name, found in lesions.items()
            for doctor, aid, _ in found["files"]
            if name.startswith("A")
        }
        for (number, doctor), told in table.items():
            name = f"L{number}" if f"L{number}" in lesions else by_aid.get((number, doctor))
            if name is None:
                why = f"doctor {doctor} gave attributes, and there is no contour to go with them"
            elif codes[name].setdefault(doctor, told) != told:
                why = f"doctor {doctor} gave its contours different codes; the first are kept"
            else:
                continue
            self._faults.append(Fault(ATTRIBUTES, f"{scan.name} {number}", why))
        z, y, _ = record["spacing"] or (0, 0, 0)
        for name, found in lesions.items():
            doctors = sorted({doctor for doctor, _, _ in found["files"]})
            raters = sorted(codes[name])
            for doctor in sorted({*doctors} - {*raters}):
                why = f"no attributes of doctor {doctor} for this lesion"
                self._faults.append(scan.fault(scan.folder, f"{scan.series} {name}", why))
            if not any(codes[name].values()):
                continue
            row = {
                "lesion_id": f"{scan.name}-{name}",
                "scan_id": scan.name,
                "series_uid": record["series_uid"],
                "doctors": doctors,
                "n_readers": len(doctors),
                "raters": raters,
            }
            for attribute in (a.name for a in LI_CATEGORIES):
                readings = [codes[name][rater].get(attribute) for rater in raters]
                row[attribute] = majority(code for code in readings if code is not None)
                row[f"{attribute}_readings"] = readings
            row |= {key: value for key, value in found.items() if key != "files"}
            yield row | {"slice_spacing": z, "slice_thickness": z, "pixel_spacing": y}

    def annotations(self, lesion_id: str) -> dict[int, list[Annotation]]:
        """The contours of a lesion by doctor. A LookupError for an unknown id."""
        if lesion_id not in self._rows:
            raise LookupError(f"no lesion has the lesion_id {lesion_id!r}")
        scan = self._scans[self._rows[lesion_id]["scan_id"]]
        name = lesion_id.removeprefix(f"{scan.name}-")
        found: dict[int, list[Annotation]] = defaultdict(list)
        for doctor, _, file in self._records[scan.name]["lesions"][name]["files"]:
            found[doctor].append(read_annotation(scan.folder / file))
        return dict(sorted(found.items()))

    def crop(
        self,
        lesion_id: str,
        *,
        size: int = 128,
        margin_mm: float = 12.0,
        interpolate: bool = True,
    ) -> Crop:
        """Cut one lesion out of its scan, in HU, with a mask for each doctor.

        Args:
            lesion_id: Which lesion.
            size: Rows and columns; more where the lesion is larger. Outside the scan there is air.
            margin_mm: Slices up to that far below and above the contours are taken along.
            interpolate: Fill slices between those that a doctor marked, see `fill_between`; False
                leaves the masks there empty.

        Raises:
            LookupError: No lesion has that id.
            AnnoError: The scan lacks one of its slices, or a file was changed.
            DicomError: A slice cannot be read.
        """
        check_margin(size, margin_mm)
        by_doctor = self.annotations(lesion_id)
        scan, location, step = self._open(self._rows[lesion_id]["scan_id"])
        parts = []
        for doctor, marks in enumerate(by_doctor.values()):
            for mark in marks:
                pixels = _shapes.fill(mark.outline)
                at = doctor, _index.index_of(mark, location, step)
                parts.append(np.hstack((np.tile(at, (len(pixels), 1)), pixels)))
        voxels = np.concatenate(parts)  # (voxel, 4): doctor, z, y, x
        _, *low = voxels.min(axis=0).tolist()
        readers = np.zeros(voxels.max(axis=0) + 1 - [0, *low], dtype=np.bool_)
        readers[tuple((voxels - [0, *low]).T)] = True
        if interpolate:
            readers = np.array([fill_between(mask) for mask in readers])
        masks = LesionMasks(
            lesion_id=lesion_id,
            reading_ids=tuple(by_doctor),
            readers=readers,
            consensus=readers.mean(axis=0) >= 0.5,
            origin=(low[0], low[1], low[2]),
            spacing=(step, *scan.files[0].pixel_spacing),
        )
        if (widest := max(readers.shape[2:])) > size:
            size = widest + 2 * EDGE
        return cut_out(lesion_id, masks, scan, size=size, margin_mm=margin_mm, tier="anno")

    def scan(self, lesion_id: str) -> OpenScan:
        """The scan of a lesion, open; errors as of `crop`."""
        return self._open(self._rows[lesion_id]["scan_id"])[0]

    def _open(self, name: str) -> tuple[OpenScan, Any, float]:
        if self._last is None or self._last[0] != name:
            self._last = None  # it goes first, so that two scans are never held
            scan, uid = self._scans[name], self._records[name]["series_uid"]
            slices, positions, location, step, notes = _index.open_slices(scan.dicom, uid)
            opened = OpenScan(uid, positions, dict(enumerate(slices)), scan.dicom, tuple(notes))
            self._last = name, opened, location, step
        return self._last[1:]


def validate(root: str | Path, *, progress: bool = True) -> tuple[int, list[Fault]]:
    """Check a whole tree: how many lesions can be used, and every fault."""
    opened = Anno(root, progress=progress, thorough=True)
    return len(opened._rows), opened._faults


class Detection(NamedTuple):
    """A lesion as a detector is to find it: a ball in the patient's world, all in mm."""

    x: float
    y: float
    z: float
    diameter: float


def detection_label(
    crop: Crop, origin: tuple[float, float, float] = (0.0, 0.0, 0.0), *, level: float = 0.5
) -> Detection:
    """The label for detection of Li 2021 (2.1.1): centre of gravity, longer geometric moment.

    The paper gives no formula. Here the diameter is the longest axis of the ellipsoid, in one slice
    of the ellipse, that has the second moments of the mask. For a ball it is the diameter.

    Args:
        crop: Of any source; slices are evenly spaced and axial.
        origin: `(x, y, z)` mm of the scan's first voxel, as `Origin` of an `.anno` file.
        level: Share of the readers that must include a voxel.

    Raises:
        ValueError: No voxel is included.
    """
    inside = np.argwhere(crop.consensus(level))
    if not len(inside):
        raise ValueError(f"level={level!r}: no voxel of {crop.lesion_id} lies in so many masks")
    index = np.column_stack((crop.slice_index[inside[:, 0]], inside[:, 1:] + crop.corner))
    at = index * np.array(crop.spacing)
    flat = bool((inside[:, 0] == inside[0, 0]).all())
    axes = slice(1, 3) if flat else slice(0, 3)
    # the last part is what a voxel has about its own centre
    moments = np.cov(at[:, axes].T, bias=True) + np.diag(np.square(crop.spacing[axes]) / 12)
    longest = float(np.linalg.eigvalsh(moments)[-1])
    z, y, x = (at.mean(axis=0) + origin[::-1]).tolist()
    return Detection(x, y, z, 2 * float(np.sqrt((4 if flat else 5) * longest)))
