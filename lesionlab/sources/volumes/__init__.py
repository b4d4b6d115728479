"""Real 3D crops in exact HU around 994 LIDC-IDRI nodules, from a public set of 29 MB.

The set is one NIfTI file a nodule, `LIDC-IDRI-xxxx_R_n.nii.gz`: native voxels, spacing in the
header, nodules with three readers or more in scans with slices of 2.5 mm or less. `_R_n` is the
n-th nodule of the patient's scan in the database.

    from lesionlab.sources.volumes import Volumes
    source = Volumes()             # LESIONLAB_LIDC_VOLUMES, or Volumes("…/the-set.zip")
    source.lesion_ids              # the nodules that it shows
    source.crop("LIDC-IDRI-0001-S0012-N01").hu

A volume was cut around its readers' outlines: the box of their voxels, and on both sides of it as
many more, in plane 5 to 20, but along z 0 to 5, and none in more than half of the volumes. So the
place in the scan follows from the outlines, and z stands in the header besides. A volume where the
two do not agree is refused. All places were compared, pixel by pixel, with the slices set, and with
those that were found by moving each volume over its picture (`tables/README.md`).

What lies beyond a volume is not known, and is not made up here: see `outside` in
`lesionlab.crops.resampling`, and `Samples.padded` for how much of a sample it is. Masks are the
readers' outlines from the database, rasterised by `lesionlab.sources.lidc`; the set has none.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import re
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lesionlab.crops import Crop
from lesionlab.sources import archives, lidc, origins

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
"""Largest file that is opened; those of the set have up to 0.5 MB."""

MAX_UNPACKED = 1 << 22
"""So many bytes a volume may have when it is unpacked; the largest of the set has 0.8 MB."""

TOLERANCE = 1e-3
"""Millimetres by which a header may differ from the database; those of the set do by 6e-5."""

SCAN_SHOWN = {"LIDC-IDRI-0332": 333}
"""`scan_id` of the scan that the set shows of a patient, where the patient has two."""

_NAME = re.compile(r"(?:[^/]+/)*(LIDC-IDRI-[0-9]{4})_R_([1-9][0-9]{0,2})\.nii\.gz")


class VolumesError(RuntimeError):
    """The volumes set is broken or not what was expected."""


class Key(NamedTuple):
    """Which file: the n-th nodule of a patient, from 1."""

    patient: str
    n: int


class Nifti(NamedTuple):
    """What a file of the set holds."""

    hu: npt.NDArray[np.int16]  # (z, y, x)
    spacing: tuple[float, float, float]  # `(z, y, x)`, mm
    z: float  # position of the first slice in the scan, mm


class Volumes(archives.Opened[Key]):
    """The volumes set or a part of it, opened (`archives.Opened`).

    Args:
        path: The set, a folder or its zip; if None, what `LESIONLAB_LIDC_VOLUMES` names, or else
            what `lesionlab data fetch volumes` left in the user's data folder.

    Raises:
        FileNotFoundError: There is no such file or folder, or none is named.
        VolumesError: The set is broken, unsafe or something else.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = archives.locate(origins.VOLUMES, path)
        self._archive = archives.Archive(
            self.path,
            origins.VOLUMES,
            _NAME,
            lambda patient, n: Key(patient, int(n)),
            max_bytes=MAX_BYTES,
            error=VolumesError,
            item="volume",
        )

    @cached_property
    def _keys(self) -> dict[str, Key]:
        """The file of each lesion that has one, in the order of the database."""
        nodules, keys = lidc.nodules(), {}
        for lesion_id, patient, scan in nodules[["patient", "scan_id"]].itertuples():
            key = Key(patient, int(lesion_id.rpartition("-N")[2]))
            if key in self._archive.names and SCAN_SHOWN.get(patient, scan) == scan:
                keys[lesion_id] = key
        if others := sorted(set(self._archive.names) - set(keys.values())):
            said = "%s: %d files are left out, the database has no such nodule; the first is %s"
            logger.warning(said, self.path, len(others), self._archive.names[others[0]])
        return keys

    @property
    def lesion_ids(self) -> list[str]:
        """The nodules that have a file, in the order of the database."""
        return list(self._keys)

    def crop(self, lesion_id: str) -> Crop:
        """The voxels of one nodule as the file has them: exact HU, neither clipped nor padded.

        Raises:
            LookupError: The set has no file of that nodule.
            VolumesError: The file cannot be read, or is not the volume around this nodule's
                outlines.
        """
        nodule = lidc.default().nodule(lesion_id)
        if lesion_id not in self._keys:
            raise LookupError(f"the volumes set has no file of {lesion_id}")
        key = self._keys[lesion_id]
        about = f"{self.path}: {self._archive.names[key]}"
        try:
            volume = read(self._archive.data(key))
        except MemoryError:
            raise  # says nothing about the file
        except Exception as error:  # damage shows in zipfile, gzip and zlib as errors of many kinds
            raise VolumesError(f"{about} is no volume of the set: {error}") from error
        masks = lidc.masks(lesion_id)
        z = lidc.default().database.slice_z[int(nodule["scan_id"])]
        try:
            first, *corner = _place(volume, masks, z)
        except ValueError as error:
            raise VolumesError(f"{about} is not the volume around {lesion_id}: {error}") from None
        depth, rows, columns = volume.hu.shape
        slice_index = np.arange(first, first + depth)
        window = masks.window(slice_index, (corner[0], corner[1]), max(rows, columns))
        return Crop(
            lesion_id=lesion_id,
            hu=volume.hu,
            masks=window[..., :rows, :columns].copy(),
            spacing=masks.spacing,
            slice_index=slice_index,
            corner=(corner[0], corner[1]),
            steps=np.zeros(depth, np.int64),
            tier="volumes",
        )


def _place(
    volume: Nifti, masks: lidc.LesionMasks, z: npt.NDArray[np.float64]
) -> tuple[int, int, int]:
    """`(z, y, x)` index in the scan of a volume's first voxel.

    ValueError, with what is wrong, unless the volume lies evenly around the readers' voxels and
    its spacing and its first slice are those of the database; `z` has all slices of the scan, mm.
    """
    if not np.allclose(volume.spacing, masks.spacing, rtol=0, atol=TOLERANCE):
        here, there = (" × ".join(f"{mm:g}" for mm in s) for s in (volume.spacing, masks.spacing))
        raise ValueError(f"expected the database's spacing of {there} mm, got {here}")
    drawn = np.argwhere(masks.readers.any(axis=0))
    box = drawn.max(axis=0) + 1 - drawn.min(axis=0)
    margin = np.array(volume.hu.shape) - box
    if (margin < 0).any() or (margin % 2).any():
        raise ValueError(
            f"expected the box of its outlines, {box.tolist()} voxels, with a margin that is the "
            f"same on both sides, got {list(volume.hu.shape)} voxels"
        )
    first, y, x = (drawn.min(axis=0) + masks.origin - margin // 2).tolist()
    if not 0 <= first <= len(z) - len(volume.hu) or abs(z[first] - volume.z) > TOLERANCE:
        place = f"{z[first]:g} mm" if 0 <= first < len(z) else "a slice of the scan"
        raise ValueError(f"expected its first slice at {place}, got z = {volume.z:g} mm")
    return first, y, x


def read(data: bytes) -> Nifti:
    """A compressed NIfTI file of whole numbers, axial.

    ValueError if it is anything else; what cannot be unpacked raises gzip's and zlib's own errors.

    Sizes are read from the header and held against the bytes that are there, before any voxel is
    decoded: a header that claims to be huge costs nothing, and one that inflates is cut off.
    """
    import SimpleITK as sitk  # noqa: N813 - its users' own name for it

    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        plain = file.read(MAX_UNPACKED + 1)
    if len(plain) > MAX_UNPACKED:
        raise ValueError(f"expected at most {MAX_UNPACKED:,} bytes when unpacked")
    reader: Any = sitk.ImageFileReader()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:  # SimpleITK reads from files alone
        path = Path(folder, "volume.nii")
        path.write_bytes(plain)
        reader.SetImageIO("NiftiImageIO")
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
            size = reader.GetSize()
            if len(size) != 3 or reader.GetPixelID() != sitk.sitkInt16:
                raise ValueError(f"expected 3 axes of 16-bit whole numbers, got {len(size)} axes")
            if 2 * math.prod(size) > len(plain):
                raise ValueError(f"its header says {size} voxels, more than its bytes")
            image = reader.Execute()
        except RuntimeError:  # its text is that of C++, with the place in the code
            raise ValueError("SimpleITK cannot read it as NIfTI") from None
    if not np.allclose(np.abs(np.reshape(image.GetDirection(), (3, 3))), np.eye(3), atol=1e-3):
        raise ValueError("expected axial slices, got rotated ones")
    dx, dy, dz = image.GetSpacing()
    return Nifti(sitk.GetArrayFromImage(image), (dz, dy, dx), float(image.GetOrigin()[2]))
