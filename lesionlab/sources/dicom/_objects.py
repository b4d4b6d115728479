"""DICOM objects beside a CT series: masks and outlines read, outlines and maps written.

Standard: PS3.3, A.51 (Segmentation), A.19.3 (RT Structure Set), A.75 (Parametric Map). As elsewhere
here, an error says which file and what was expected, and has no text, name or UID of the file.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid

from lesionlab import __version__
from lesionlab.sources.dicom._files import MAX_PIXELS, PHANTOM, WIDE, BadFileError, quiet
from lesionlab.sources.dicom._segments import written_by
from lesionlab.sources.dicom._series import axes_of

if TYPE_CHECKING:
    from lesionlab.sources.dicom._series import Volume

FloatArray = npt.NDArray[np.float64]

REFERRED = {"SEG": "segmentation", "RTSTRUCT": "structure set"}
"""Modality of the objects that hold masks, and what they are."""

STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"  # SOP class of a structure set
MAX_OBJECT = 1 << 28  # bytes of a file
MAX_VOXELS = 1 << 30  # of its frames
MAX_POINTS = 1_000_000
OTHER_FRAME = (
    "is of another frame of reference than the scan: of another patient, or another examination"
)


class Plane(NamedTuple):
    """One frame of a segment."""

    position: list[float]  # (x, y, z) of the first pixel's centre, mm
    axes: FloatArray  # (3, 3), columns: where the x, y and z index grow
    spacing: tuple[float, float]  # (y, x), mm
    step: float  # mm to the next frame; 0 where it is not stated
    voxels: npt.NDArray[np.bool_]  # (y, x)
    drawn_on: list[str]  # SOPInstanceUIDs


class Outline(NamedTuple):
    """One closed outline of a ROI."""

    points: FloatArray  # (point, 3), (x, y, z) mm
    drawn_on: list[str]


@quiet()
def planes_of(path: Path, frame: str) -> dict[int, list[Plane]]:
    """The frames of each segment of a DICOM-SEG, by the segment's number.

    Args:
        path: The file.
        frame: FrameOfReferenceUID of the scan; empty if it has none.

    Raises:
        BadFileError: The file is damaged, of another frame of reference, or of another kind.
    """
    data = _read(path, "SEG")
    _check_frame(path, frame, [data.get("FrameOfReferenceUID")])
    try:
        return _planes(data)
    except MemoryError:
        raise
    except Exception as error:  # pydicom's text can quote the file
        raise _damaged(path, "SEG", error) from None


def _planes(data: Any) -> dict[int, list[Plane]]:
    kind, n = str(data.SegmentationType), int(data.NumberOfFrames)
    rows, columns = int(data.Rows), int(data.Columns)
    if kind not in ("BINARY", "FRACTIONAL") or not 0 < n * rows * columns <= MAX_VOXELS:
        raise ValueError
    if max(rows, columns) > MAX_PIXELS:
        raise ValueError
    half = int(data.get("MaximumFractionalValue", 2)) / 2 if kind == "FRACTIONAL" else 0.5
    pixels = np.reshape(data.pixel_array, (n, rows, columns))
    shared = data.SharedFunctionalGroupsSequence[0]
    found: dict[Any, Any] = {}
    for k, own in enumerate(data.PerFrameFunctionalGroupsSequence):

        def group(name: str, own: Any = own) -> Any:
            return (own if name in own else shared)[name].value[0]

        measures = group("PixelMeasuresSequence")
        spacing = [float(v) for v in measures.PixelSpacing]
        position = [float(v) for v in group("PlanePositionSequence").ImagePositionPatient]
        orientation = [float(v) for v in group("PlaneOrientationSequence").ImageOrientationPatient]
        step = abs(float(measures.get("SpacingBetweenSlices") or 0))
        _check_numbers(position, 3, WIDE)
        _check_numbers(orientation, 6, (-1.001, 1.001))
        _check_numbers([*spacing, step or 1], 3, (1e-3, 1e3))
        along: Any = SimpleNamespace(orientation=orientation)
        derived = own.get("DerivationImageSequence") or [{}]
        used = derived[0].get("SourceImageSequence") or []
        plane = Plane(
            position, axes_of(along), (spacing[0], spacing[1]), step, pixels[k] > half - 1e-9,
            [str(one.ReferencedSOPInstanceUID) for one in used],
        )  # fmt: skip
        number = group("SegmentIdentificationSequence").ReferencedSegmentNumber
        found.setdefault(int(number), []).append(plane)
    return found


@quiet()
def contours_of(path: Path, frame: str) -> dict[int, list[Outline]]:
    """The closed planar outlines of each ROI of an RTSTRUCT, by its number; errors as `planes_of`.

    A ROI without any, such as a point, is left out.
    """
    data = _read(path, "RTSTRUCT")
    rois = data.get("StructureSetROISequence") or []
    _check_frame(path, frame, [roi.get("ReferencedFrameOfReferenceUID") for roi in rois])
    found: dict[int, list[Outline]] = {}
    try:
        for roi in data.get("ROIContourSequence") or []:
            for one in roi.get("ContourSequence") or []:
                if str(one.ContourGeometricType).startswith("CLOSED_PLANAR"):
                    values = [float(v) for v in one.ContourData]
                    _check_numbers(values, len(values), WIDE)
                    points = np.reshape(values, (-1, 3))
                    if not 3 <= len(points) <= MAX_POINTS:
                        raise ValueError
                    images = one.get("ContourImageSequence") or []
                    used = [str(image.ReferencedSOPInstanceUID) for image in images]
                    number = int(roi.ReferencedROINumber)
                    found.setdefault(number, []).append(Outline(points, used))
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(path, "RTSTRUCT", error) from None
    return found


def _read(path: Path, modality: str) -> Any:
    if path.stat().st_size > MAX_OBJECT:
        raise BadFileError(path, f"is larger than {MAX_OBJECT:,} bytes")
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise ValueError  # pydicom would inflate it without a bound
        return pydicom.dcmread(path)
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(path, modality, error) from None


def _damaged(path: Path, modality: str, error: Exception) -> BadFileError:
    why = f"cannot be read as a {REFERRED[modality]}: it is damaged, or of a kind not known here"
    return BadFileError(path, f"{why} ({type(error).__name__})")


def _check_frame(path: Path, frame: str, named: list[Any]) -> None:
    if frame and {str(uid) for uid in named if uid} - {frame}:
        raise BadFileError(path, OTHER_FRAME)


def _check_numbers(values: list[float], count: int, within: tuple[float, float]) -> None:
    if len(values) != count or not all(within[0] <= v <= within[1] for v in values):
        raise ValueError


# --- written ------------------------------------------------------------------------------------


def _patient_of(first: Any) -> Any:
    """A new object with the patient and study of a slice."""
    made: Any = pydicom.Dataset()
    for name in (
        "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
        "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName",
    ):  # fmt: skip
        setattr(made, name, first.get(name, ""))
    return made


@quiet()
def write_contours(path: Path, scan: Volume, mask: npt.NDArray[np.bool_]) -> None:
    """Write a mask of a scan as a structure set with one ROI; holes are outlines of their own.

    Args:
        path: A new file.
        scan: The scan, read from DICOM files; patient, study and frame of reference are theirs.
        mask: (z, y, x) on the scan's voxels.
    """
    from lesionlab.sources.anno._shapes import trace

    used = np.flatnonzero(mask.any(axis=(1, 2))).tolist()
    images = {k: pydicom.dcmread(scan.files[k], stop_before_pixels=True) for k in used}
    first: Any = images[used[0]]
    made, new = _patient_of(first), pydicom.Dataset
    made.SOPClassUID, made.SOPInstanceUID = STRUCTURES, generate_uid()
    made.Modality, made.SeriesInstanceUID, made.SeriesNumber = "RTSTRUCT", generate_uid(), "101"
    made.Manufacturer, made.InstanceNumber = "lesionlab", "1"
    made.SoftwareVersions, made.StructureSetLabel = __version__, "lesionlab"
    made.StructureSetDate = made.StructureSetTime = ""
    made.SeriesDescription = PHANTOM if scan.synthetic else "lesionlab mask"
    frame, roi, observation, outlines = new(), new(), new(), new()
    frame.FrameOfReferenceUID = roi.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
    roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = 1, "lesion", "MANUAL"
    observation.ObservationNumber = observation.ReferencedROINumber = 1
    observation.RTROIInterpretedType = observation.ROIInterpreter = ""
    outlines.ReferencedROINumber, outlines.ContourSequence = 1, []
    for k in used:
        for line in trace(mask[k], holes=True):
            one, image = new(), new()
            image.ReferencedSOPClassUID = images[k].SOPClassUID
            image.ReferencedSOPInstanceUID = images[k].SOPInstanceUID
            points = scan.patient_mm(np.column_stack((np.full(len(line), k), line)))
            one.ContourImageSequence, one.ContourGeometricType = [image], "CLOSED_PLANAR"
            one.NumberOfContourPoints = len(points)
            one.ContourData = [f"{v:.6f}" for v in points.ravel()]
            outlines.ContourSequence.append(one)
    made.ReferencedFrameOfReferenceSequence = [frame]
    made.StructureSetROISequence, made.ROIContourSequence = [roi], [outlines]
    made.RTROIObservationsSequence = [observation]
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.save_as(path, enforce_file_format=True)


@quiet()
def write_map(
    path: Path,
    values: npt.NDArray[np.float32],
    slices: list[Path],
    positions: FloatArray,
    spacing: tuple[float, float, float],
    *,
    label: str,
    description: str,
) -> None:
    """Write a map of a crop as a DICOM Parametric Map, a frame for each slice.

    Args:
        path: A new file.
        values: (z, y, x), finite.
        slices: The CT file of each slice; patient, study, frame of reference are theirs.
        positions: (z, 3) `(x, y, z)` mm of the first value of each slice.
        spacing: `(z, y, x)` mm.
        label: What the values are, a short text.
        description: SeriesDescription.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    source: list[Any] = [pydicom.dcmread(file, stop_before_pixels=True) for file in slices]
    low, high = float(values.min()), float(values.max())
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=label[:16],
        lut_explanation=label[:64],
        unit=codes.UCUM.NoUnits,
        value_range=(low, max(high, np.nextafter(low, np.inf))),
        slope=1.0,
        intercept=0.0,
    )
    measures = hd.PixelMeasuresSequence(
        pixel_spacing=list(spacing[1:]),
        slice_thickness=source[0].get("SliceThickness") or spacing[0],
        spacing_between_slices=round(spacing[0], 6),
    )
    places = [
        hd.PlanePositionSequence("PATIENT", np.round(place, 6).tolist()) for place in positions
    ]
    made = hd.pm.ParametricMap(
        source_images=source,
        pixel_array=values,
        **written_by(102),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        window_center=(low + high) / 2,
        window_width=max(high - low, 1e-6),
        pixel_measures=measures,
        plane_orientation=hd.PlaneOrientationSequence(
            "PATIENT", [float(v) for v in source[0].ImageOrientationPatient]
        ),
        plane_positions=places,
        content_label="MAP",
        series_description=description,
    )
    made.save_as(path)
