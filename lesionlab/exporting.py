"""Lesions and predictions for other programs: NIfTI cases, and DICOM-SEG.

    from lesionlab import exporting
    from lesionlab.crops import datasets
    exporting.export("nifti", "cases", datasets.get("phantom-wang2021"))

`nifti` writes a folder as `lesionlab.sources.nifti` reads it. `dicom-seg` writes a folder for each
lesion with a segmentation for each mask. It goes with the lesion's own DICOM series where that is
at hand (data sets `dicom` and `anno`), or else with one that is written beside it, of the crop's
slices. Maps, whose values have a sign, are NIfTI in both: a segmentation cannot hold them.

Where voxels lie in the patient comes from the source's files. `slices`, `volumes` and phantoms do
not know it: their x and y count from the scan's first pixel, and z is that of LIDC's database, or
counts from the first slice.
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

KEY = re.compile("([^/]+)(?:/([A-Za-z0-9_-]{1,40}))?")
MAX_BYTES = 1 << 29  # of a prediction


def export(
    form: Format,
    out: str | Path,
    of: DataSet,
    lesion_ids: Iterable[str] | None = None,
    *,
    predictions: Arrays | None = None,
    progress: bool = True,
) -> tuple[Path, dict[str, str]]:
    """Write lesions of a data set, with their readers' masks and with predictions.

    Args:
        form: `nifti` or `dicom-seg`.
        out: A new or empty folder. It appears when all is written, or not at all.
        of: The data set; crops that are not there yet are made.
        lesion_ids: Which lesions; all if None, or those that have predictions.
        predictions: What models said on the crops' voxels, by `lesion_id` or `lesion_id/name`:
            booleans are written as a mask, floats as a map.
        progress: Show a bar.

    Returns:
        The folder, and why some of the lesions could not be written.

    Raises:
        FileExistsError: There is something at `out`.
        ValueError: There is no such format or lesion, or a prediction does not fit its crop.
    """
    _names.one_of("format", form, get_args(Format))
    root = Path(out).expanduser().resolve()
    _files.check_new_folder(root)
    keys: dict[str, dict[str, str]] = {}  # by lesion and name
    for key in predictions or ():
        if not (match := KEY.fullmatch(key)):
            raise ValueError(f"prediction {key!r:.80}: expected lesion_id or lesion_id/name")
        keys.setdefault(match[1], {})[f"prediction{f'-{match[2]}' if match[2] else ''}"] = key
    asked = of.ids(keys if lesion_ids is None and keys else lesion_ids)
    store = datasets.crops(of.name, asked, seed=of.seed, source=of.source, progress=progress)
    left_out = {i: store.exclusions[i] for i in asked if i not in store}
    table, lines = of.table(), []
    with _files.replacing_folder(root) as folder:
        for lesion_id in tqdm([i for i in asked if i in store], "write", disable=not progress):
            crop, row = store[lesion_id], table.loc[lesion_id]
            names = keys.get(lesion_id, {}).items()
            arrays = {name: _checked(crop, key, (predictions or {})[key]) for name, key in names}
            masks = {f"label-{k}": mask for k, mask in enumerate(crop.masks, 1) if mask.any()}
            try:
                if form == "nifti":
                    lines.append(_write_case(folder, of, crop, row, masks, arrays))
                else:
                    _write_segments(folder / lesion_id, of, crop, row, masks | arrays)
            except ValueError as error:
                left_out[lesion_id] = str(error)
        if form == "nifti":
            cases = pd.DataFrame(lines, columns=["case", "patient", "image", "mask", "pathology"])
            text = cases.to_csv(index=False, lineterminator="\n")
            _files.write_text(folder / LABELS, text)
    return root, left_out


def read_predictions(path: str | Path) -> Arrays:
    """Predictions in a NumPy archive `.npz`; each array is read when it is asked for.

    ValueError: It is no such archive, or an array in it is larger than `MAX_BYTES`.
    """
    try:
        found: Any = np.load(path, allow_pickle=False)
        largest = max(info.file_size for info in found.zip.infolist())
    except (ValueError, AttributeError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"{path} is no NumPy archive .npz with arrays") from None
    if largest > MAX_BYTES:
        raise ValueError(f"{path}: expected arrays of at most {MAX_BYTES:,} bytes")
    arrays: Arrays = found
    return arrays


def _checked(crop: Crop, key: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A prediction as booleans or float32."""
    mask = array.dtype == np.bool_
    fits = array.shape == crop.hu.shape and (mask or array.dtype.kind == "f")
    if not fits or not np.isfinite(array).all():
        raise ValueError(
            f"prediction {key!r}: expected {crop.hu.shape} booleans or finite floats, got "
            f"{array.shape} {array.dtype}"
        )
    return array if mask else array.astype(np.float32)


def _place(of: DataSet, crop: Crop, row: Any) -> tuple[Grid, list[Path]]:
    """Where a crop lies, and the files of its slices where they are DICOM."""
    if isinstance(of.opened, Nifti):
        return of.opened.grid(crop), []
    if of.name in ("dicom", "anno"):
        files = of.opened.scan(crop.lesion_id).files
        slices = [files[k] for k in crop.slice_index.tolist()]
        axes = tuple(axes_of(slices[0]).ravel().tolist())
        grid = Grid(crop.spacing, slices[0].position, axes)
        return grid.at((0, *crop.corner)), [s.path for s in slices]
    grid = Grid(crop.spacing, (0.0, 0.0, 0.0)).at(crop.origin)
    if of.of_lidc:
        z = lidc.default().database.slice_z[row["scan_id"]][crop.slice_index[0]]
        grid = grid._replace(origin=(*grid.origin[:2], float(z)))
    return grid, []


def _write_case(
    folder: Path, of: DataSet, crop: Crop, row: Any, masks: Arrays, arrays: Arrays
) -> tuple[Any, ...]:
    """Write image, masks and predictions; gives the line of the table."""
    if (np.diff(crop.slice_index) != 1).any():
        raise ValueError("slices are missing, and NIfTI cannot say where")
    grid, _ = _place(of, crop, row)
    for name, array in {"": crop.hu, **masks, **arrays}.items():
        voxels = array.astype(np.uint8) if array.dtype == np.bool_ else array
        file = f"{crop.lesion_id}{name and '-'}{name}.nii.gz"
        write_volume(folder / file, voxels, grid, synthetic=crop.tier == "phantom")
    image, *names = (f"{crop.lesion_id}{name}.nii.gz" for name in ("", *(f"-{m}" for m in masks)))
    return crop.lesion_id, row["patient"], image, ";".join(names), row.get("pathology")


def _write_segments(folder: Path, of: DataSet, crop: Crop, row: Any, arrays: Arrays) -> None:
    """Write a folder with a segmentation for each mask, and the slices where there are none."""
    (grid, slices), synthetic, corner = _place(of, crop, row), crop.tier == "phantom", crop.corner
    if not slices:
        z = grid.origin[2] + (crop.slice_index - crop.slice_index[0]) * crop.spacing[0]
        written = write_series(
            crop.hu,
            folder / "ct",
            patient_id=str(row["patient"]),
            spacing=crop.spacing,
            slice_z=np.round(z, 6).tolist(),
            corner_mm=(grid.origin[0], grid.origin[1]),
            synthetic=synthetic,
        )
        slices, corner = sorted(written.iterdir()), (0, 0)
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        if array.dtype == np.bool_:
            write_segmentation(
                folder / f"{name}.dcm",
                array,
                slices,
                spacing_z=crop.spacing[0],
                corner=corner,
                label=name,
                by_reader=name.startswith("label"),
                description=PHANTOM if synthetic else CROP,
            )
        else:
            write_volume(folder / f"{name}.nii.gz", array, grid, synthetic=synthetic)
