"""Lesions and predictions for other programs: NIfTI or NRRD cases, and DICOM-SEG.

    from lesionlab import exporting
    from lesionlab.crops import datasets
    exporting.export("nifti", "cases", datasets.get("phantom-wang2021"))

`nifti` writes a folder as `lesionlab.sources.nifti` reads it. `dicom-seg` writes a folder for each
lesion with a segmentation for each mask. It goes with the lesion's own DICOM series where that is
at hand (the data sets `dicom` and `anno`), or else with one that is written beside it, of the
crop's slices. Masks that a model predicted are written as the readers' are. Maps, whose values have
a sign, are NIfTI in both, in the patient's mm: a segmentation cannot hold them.

Where the voxels lie in the patient comes from the source's files. The crops of `slices`, `volumes`
and `phantom` do not say it: their z is that of LIDC's database, and x and y count from the scan's
first pixel, as all three do for phantoms of private data.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from lesionlab import _files, _names
from lesionlab.crops import Crop, datasets
from lesionlab.crops.datasets import DataSet
from lesionlab.sources import lidc
from lesionlab.sources.dicom._files import PHANTOM
from lesionlab.sources.dicom._segments import write_segmentation
from lesionlab.sources.dicom._series import CROP, axes_of, write_series
from lesionlab.sources.nifti import LABELS, Grid, Nifti, write_volume

Format = Literal["nifti", "dicom-seg"]
Arrays = Mapping[str, npt.NDArray[Any]]
"""By `lesion_id` or `lesion_id/name`: booleans are a mask, floats a map, on the crop's voxels."""

NAME = re.compile("[A-Za-z0-9_-]{1,40}")
MAX_BYTES = 1 << 29  # of one array


def export(
    form: Format,
    out: str | Path,
    of: DataSet,
    lesion_ids: Iterable[str] | None = None,
    *,
    predictions: Arrays | None = None,
    suffix: Literal[".nii.gz", ".nii", ".nrrd"] = ".nii.gz",
    progress: bool = True,
) -> tuple[Path, dict[str, str]]:
    """Write lesions of a data set, with their readers' masks and with predictions.

    Args:
        form: `nifti` or `dicom-seg`.
        out: A new or empty folder. It appears when all is written, or not at all.
        of: The data set; crops that are not there yet are made.
        lesion_ids: Which lesions; all if None.
        predictions: What a model said of them, by lesion.
        suffix: Format of the images of `nifti`.
        progress: Show a bar.

    Returns:
        The folder, and the reason for each lesion that could not be written.

    Raises:
        FileExistsError: There is something at `out`.
        ValueError: There is no such format or lesion, or a prediction does not fit its crop.
    """
    _names.one_of("format", form, get_args(Format))
    _names.one_of("suffix", suffix, (".nii.gz", ".nii", ".nrrd"))
    root = Path(out).expanduser().resolve()
    if root.exists() and (root.is_file() or any(root.iterdir())):
        raise FileExistsError(f"{root} is there already; expected a new or empty folder")
    by_lesion: dict[str, dict[str, str]] = {}  # the key of each prediction, by lesion and name
    for key in predictions or ():
        lesion_id, _, name = key.partition("/")
        by_lesion.setdefault(lesion_id, {})[f"prediction-{name}" if name else "prediction"] = key
    asked = of.ids(by_lesion if lesion_ids is None and by_lesion else lesion_ids)
    store = datasets.crops(of.name, asked, seed=of.seed, source=of.source, progress=progress)
    left_out = {i: why for i, why in store.exclusions.items() if i in set(asked)}
    table, lines = of.table(), []
    with _files.replacing_folder(root) as folder:
        for lesion_id in tqdm([i for i in asked if i in store], "write", disable=not progress):
            crop, row = store[lesion_id], table.loc[lesion_id]
            keys = by_lesion.get(lesion_id, {})
            arrays = {
                name: _checked(crop, key, (predictions or {})[key]) for name, key in keys.items()
            }
            grid, slices = _place(of, crop, row)
            masks = {f"{k}": mask for k, mask in enumerate(crop.masks, 1) if mask.any()}
            try:
                if form == "nifti":
                    lines.append(_write_case(folder, crop, grid, row, masks, arrays, suffix))
                else:
                    _write_segments(folder, crop, grid, row, masks, arrays, slices)
            except ValueError as error:
                left_out[lesion_id] = str(error)
        if form == "nifti":
            columns = ["case", "patient", "image", "mask", "pathology"]
            text = pd.DataFrame(lines, columns=columns).to_csv(index=False, lineterminator="\n")
            _files.write_text(folder / LABELS, text)
    return root, left_out


def read_predictions(path: str | Path) -> Arrays:
    """Predictions in a NumPy archive `.npz`; each array is read when it is asked for.

    ValueError: It is no such archive, or an array in it is larger than `MAX_BYTES`.
    """
    try:
        found: Any = np.load(path, allow_pickle=False)
        sizes = [info.file_size for info in found.zip.infolist()]
    except (ValueError, AttributeError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"{path} is no NumPy archive, .npz, of numbers") from None
    if max(sizes, default=0) > MAX_BYTES:
        raise ValueError(f"{path}: expected arrays of at most {MAX_BYTES:,} bytes")
    arrays: Arrays = found
    return arrays


def _checked(crop: Crop, key: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A prediction as booleans or float32."""
    name = key.partition("/")[2]
    if name and not NAME.fullmatch(name):
        raise ValueError(f"{key!r:.60}: expected a name of letters, digits, dashes, underscores")
    kind = array.dtype.kind
    if array.shape != crop.hu.shape or kind not in "bf" or not np.isfinite(array).all():
        raise ValueError(
            f"prediction {key!r}: expected {crop.hu.shape} booleans or finite floats, got "
            f"{array.shape} {array.dtype}"
        )
    return array.astype(np.bool_ if kind == "b" else np.float32)


def _place(of: DataSet, crop: Crop, row: Any) -> tuple[Grid, list[Path]]:
    """Where a crop lies, and the files of its slices where they are DICOM."""
    source = of.opened
    if isinstance(source, Nifti):
        return source.grid(crop), []
    inside = 0, *crop.corner
    if of.name in ("dicom", "anno"):
        files = source.scan(crop.lesion_id).files
        slices = [files[k] for k in crop.slice_index.tolist()]
        axes = tuple(axes_of(slices[0]).ravel().tolist())
        return Grid(crop.spacing, slices[0].position, axes).at(inside), [s.path for s in slices]
    if not of.of_lidc:
        return Grid(crop.spacing, (0.0, 0.0, 0.0)).at(crop.origin), []
    z = lidc.default().database.slice_z[row["scan_id"]][crop.slice_index[0]]
    return Grid(crop.spacing, (0.0, 0.0, float(z))).at(inside), []


def _write_case(
    folder: Path, crop: Crop, grid: Grid, row: Any, masks: Arrays, arrays: Arrays, suffix: str
) -> tuple[Any, ...]:
    """Write image, masks and predictions; gives the line of the table."""
    if (np.diff(crop.slice_index) != 1).any():
        raise ValueError("slices are missing, and NIfTI and NRRD cannot say where")
    names = {k: f"{crop.lesion_id}-label{f'-{k}' if len(masks) > 1 else ''}{suffix}" for k in masks}
    synthetic, image = crop.tier == "phantom", f"{crop.lesion_id}{suffix}"
    volumes = {image: crop.hu} | {names[k]: mask for k, mask in masks.items()}
    volumes |= {f"{crop.lesion_id}-{name}{suffix}": array for name, array in arrays.items()}
    for name, array in volumes.items():
        voxels = array.astype(np.uint8) if array.dtype == np.bool_ else array
        write_volume(folder / name, voxels, grid, synthetic=synthetic)
    pathology = row.get("pathology")
    return crop.lesion_id, row["patient"], image, ";".join(names.values()), pathology


def _write_segments(
    folder: Path,
    crop: Crop,
    grid: Grid,
    row: Any,
    masks: Arrays,
    arrays: Arrays,
    slices: list[Path],
) -> None:
    """Write a folder with a segmentation for each mask, and the slices where there are none."""
    synthetic, step = crop.tier == "phantom", crop.spacing[0]
    folder, corner = folder / crop.lesion_id, crop.corner
    if not slices:
        z = grid.origin[2] + (crop.slice_index - crop.slice_index[0]) * step
        ct = write_series(
            crop.hu,
            folder / "ct",
            patient_id=str(row["patient"]),
            spacing=crop.spacing,
            slice_z=np.round(z, 6).tolist(),
            corner_mm=(grid.origin[0], grid.origin[1]),
            synthetic=synthetic,
        )
        slices, corner = sorted(ct.iterdir()), (0, 0)
    folder.mkdir(exist_ok=True)
    for name, array in ({f"mask-{k}": mask for k, mask in masks.items()} | dict(arrays)).items():
        if array.dtype == np.bool_:
            write_segmentation(
                folder / f"{name}.dcm",
                array,
                slices,
                spacing_z=step,
                corner=corner,
                label=name,
                by_reader=name.startswith("mask-"),
                description=PHANTOM if synthetic else CROP,
            )
        else:
            write_volume(folder / f"{name}.nii.gz", array, grid, synthetic=synthetic)
