"""Masks as DICOM Segmentation (PS3.3, A.51) beside the series that they were drawn on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionlab import __version__
from lesionlab.sources.dicom._files import quiet


def written_by(series_number: int) -> dict[str, Any]:
    """What highdicom asks about a new object in a series of its own, and who wrote it."""
    import highdicom as hd

    return {
        "series_instance_uid": hd.UID(),
        "series_number": series_number,
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": "lesionlab",
        "manufacturer_model_name": "lesionlab",
        "software_versions": __version__,
        "device_serial_number": "0",
    }


@quiet()
def write_segmentation(
    path: Path,
    mask: npt.NDArray[np.bool_],
    slices: list[Path],
    *,
    spacing_z: float,
    corner: tuple[int, int],
    label: str,
    by_reader: bool,
    description: str,
) -> None:
    """Write one mask as one binary segment, a nodule, with a frame for each slice.

    Args:
        path: A new file.
        mask: (z, y, x), the slices in the order of `slices`.
        slices: The CT files that the mask was drawn on; patient, study and place are theirs.
        spacing_z: Distance of the slices, mm, which not every series states.
        corner: `(y, x)` index in a slice of the mask's first voxel; what lies outside is left out.
        label: What the segment is called.
        by_reader: Drawn by a reader, and not predicted.
        description: SeriesDescription.

    Raises:
        ImportError: highdicom is not installed.
    """
    import highdicom as hd
    import pydicom
    from pydicom.sr.codedict import codes

    source: list[Any] = [pydicom.dcmread(file, stop_before_pixels=True) for file in slices]
    first = source[0]
    z, y, x = np.nonzero(mask)
    y, x = y + corner[0], x + corner[1]
    inside = (y >= 0) & (x >= 0) & (y < first.Rows) & (x < first.Columns)
    whole = np.zeros((len(source), first.Rows, first.Columns), np.uint8)
    whole[z[inside], y[inside], x[inside]] = 1
    model = hd.AlgorithmIdentificationSequence(
        name="lesionlab", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Nodule,
        algorithm_type="MANUAL" if by_reader else "AUTOMATIC",
        algorithm_identification=None if by_reader else model,
    )
    made = hd.seg.Segmentation(
        source_images=source,
        pixel_array=whole,
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        **written_by(100),
        pixel_measures=hd.PixelMeasuresSequence(
            pixel_spacing=first.PixelSpacing,
            slice_thickness=first.get("SliceThickness") or spacing_z,
            spacing_between_slices=round(spacing_z, 6),
        ),
        omit_empty_frames=False,  # as many slices as the crop, or SimpleITK reads another volume
        series_description=description,
    )
    made.save_as(path)
