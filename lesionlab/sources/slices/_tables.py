"""The slices set as tables: what each folder shows, and the HU of each slice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lesionlab.sources.lidc import Lidc
from lesionlab.sources.slices._archive import (
    IMAGES,
    MASKS,
    SIZE,
    Archive,
    Key,
    PictureError,
    SlicesError,
    as_mask,
)
from lesionlab.sources.slices._matching import Folder, Lesion, Match, match_patient

Calibration = dict[Key, tuple[float, float]]
Excluded = list[tuple[str, str]]

_COLUMNS = ("patient", "nodule", "slice", "slope", "intercept", "source")


# --- Intensity ----------------------------------------------------------------------------------


def read_intensity(path: Path) -> Calibration:
    """Slope and intercept of every slice that has them; rows of source `none` are passed over.

    Raises:
        SlicesError: The file is not such a table, or a row cannot be right; it is named.
    """
    try:
        table = pd.read_csv(path, dtype={"patient": "str", "source": "str"})
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise SlicesError(f"{path} cannot be read as a CSV table: {error}") from error
    if absent := [name for name in _COLUMNS if name not in table]:
        raise SlicesError(f"{path}: the columns {absent} are missing; expected {list(_COLUMNS)}")
    numbers = table[["nodule", "slice", "slope", "intercept"]].apply(pd.to_numeric, errors="coerce")
    whole = numbers[["nodule", "slice"]]
    bad = ~((whole >= 0) & (whole % 1 == 0)).all(axis=1) | table["patient"].isna()
    _refuse(path, table, bad, "nodule and slice are whole numbers from 0, patient is a name")
    _refuse(path, table, table.duplicated(["patient", "nodule", "slice"]), "a slice has one row")
    known = table["source"].fillna("none") != "none"
    finite = np.isfinite(numbers[["slope", "intercept"]]).all(axis=1) & (numbers["slope"] > 0)
    _refuse(path, table, known & ~finite, "slope is above 0 and both are finite, or source none")
    return {
        Key(patient, int(nodule), IMAGES, int(number)): (float(slope), float(intercept))
        for patient, nodule, number, slope, intercept in zip(
            table["patient"][known], *(numbers[c][known] for c in numbers), strict=True
        )
    }


def _refuse(path: Path, table: pd.DataFrame, bad: pd.Series, expected: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        values = ", ".join(str(table[name].iloc[row]) for name in _COLUMNS)
        # line 1 is the header
        raise SlicesError(f"{path}, line {row + 2} ({values}): expected that {expected}")


def is_offset(slope: float, intercept: float, floor: int) -> bool:
    """Whether a row of the table gives stored values, 1024 above HU, instead of HU.

    Scanners store HU + 1024 and a lower number outside the field of view. Where such padding is
    in the picture, some rows take it for air. Padding then stands apart: it is below
    −800 and the next denser pixel above −350, denser than any lung, though lung surrounds
    the nodule. In the public set this holds for 662 of 15,229 slices; on the others that pixel is
    below −685 and on these above −70, so the limit does not matter. In 63 scans some nodules are
    such and others not: lung (the 10th percentile of a slice without its padding) of the former is
    1020 HU above that of the latter, in the median over scans.

    Args:
        slope: HU per grey value.
        intercept: HU of grey value 0.
        floor: Lowest grey value above 0 in the picture; 0 if there is none.
    """
    return floor > 0 and intercept <= -800 and slope * floor + intercept >= -350


def to_hu(
    pixels: npt.NDArray[np.uint8], slope: float, intercept: float, clip: tuple[int, int]
) -> npt.NDArray[np.int16]:
    """`slope · pixel + intercept`, rounded and clipped."""
    every = np.rint(slope * np.arange(256) + intercept).clip(*clip).astype(np.int16)
    hu: npt.NDArray[np.int16] = every[pixels]
    return hu


# --- Matching -----------------------------------------------------------------------------------


def match_all(archive: Archive, source: Lidc, *, progress: bool) -> pd.DataFrame:
    """Read every picture, match every folder; a row per folder and per nodule without one."""
    from tqdm.auto import tqdm

    content: dict[str, dict[int, dict[int, set[str]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(set))
    )
    for key in archive.names:
        content[key.patient][key.nodule][key.number].add(key.part)
    nodules = source.nodules()
    rank = nodules.groupby("scan_id").cumcount()
    of_patient = {str(p): t.index.tolist() for p, t in nodules.groupby("patient", sort=False)}
    rows: list[dict[str, Any]] = []
    leftovers: dict[str, list[str]] = defaultdict(list)
    for patient in tqdm(sorted(content), "matching", unit="patient", disable=not progress):
        lesions = [_lesion(source, i, int(rank[i])) for i in of_patient.get(patient, [])]
        read = [_folder(archive, patient, k, s) for k, s in sorted(content[patient].items())]
        matches = iter(match_patient([f for f, _, _ in read if len(f.numbers)], lesions))
        for folder, floors, excluded in read:
            match = (
                next(matches)
                if len(folder.numbers)
                else Match(folder.nodule, reason="no slice can be used, see exclusions()")
            )
            for number, reason in match.excluded.items():
                name = archive.names[Key(patient, folder.nodule, IMAGES, number)]
                excluded.append((name, reason))
            n_slices = sum(IMAGES in parts for parts in content[patient][folder.nodule].values())
            row = _row(patient, match, n_slices, excluded)
            rows.append(row | {"floors": [floors[number] for number in match.used]})
            for other, numbers in match.leftovers.items():
                text = f"slices of it in {patient}/nodule-{folder.nodule}: {len(numbers)}"
                leftovers[other].append(text)
    found = {row["lesion_id"] for row in rows}
    for lesion_id in nodules.index[~nodules.index.isin(list(found))]:
        reason = "; ".join(["no folder of the set shows it", *leftovers[lesion_id]])
        absent = Match(-1, lesion_id, reason)
        row = _row(str(nodules.loc[lesion_id, "patient"]), absent, 0, [])
        rows.append(row | {"floors": []})
    table = pd.DataFrame(rows)
    return table.astype({"nodule": "Int64", "corner_y": "Int64", "corner_x": "Int64"})


def _lesion(source: Lidc, lesion_id: str, rank: int) -> Lesion:
    masks = source.masks(lesion_id)
    return Lesion(lesion_id, rank, masks.readers, masks.origin)


def _folder(
    archive: Archive, patient: str, nodule: int, slices: dict[int, set[str]]
) -> tuple[Folder, dict[int, int], Excluded]:
    """The masks of the slices that can be used, their floors, and what cannot, with reasons."""
    excluded: Excluded = []
    floors: dict[int, int] = {}
    numbers, planes = [], []
    for number, parts in sorted(slices.items()):
        keys = {part: Key(patient, nodule, part, number) for part in parts}
        masks = {part: keys[part] for part in sorted(parts - {IMAGES})}
        if IMAGES not in parts:
            excluded += [(archive.names[k], "a mask without its picture") for k in masks.values()]
            continue
        try:
            picture = archive.read(keys[IMAGES])
        except PictureError as error:
            excluded.append((archive.names[keys[IMAGES]], str(error)))
            continue
        plane = np.zeros((len(MASKS), SIZE, SIZE), dtype=bool)
        readable = 0
        for part, key in masks.items():
            try:
                plane[MASKS.index(part)] = as_mask(archive.read(key))
                readable += 1
            except PictureError as error:
                excluded.append((archive.names[key], str(error)))
        if readable:
            floors[number] = int(picture[picture > 0].min(initial=255)) if picture.any() else 0
            numbers.append(number)
            planes.append(plane)
        else:
            excluded.append((archive.names[keys[IMAGES]], "a picture without a readable mask"))
    stacked = np.stack(planes, axis=1) if planes else np.zeros((len(MASKS), 0, SIZE, SIZE), bool)
    return Folder(nodule, np.array(numbers, dtype=np.int64), stacked), floors, excluded


def _row(
    patient: str, match: Match, n_slices: int, excluded: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    excluded = list(excluded)
    matched = match.lesion_id is not None and not match.reason
    return {
        "patient": patient,
        "nodule": match.nodule if match.nodule >= 0 else None,
        "lesion_id": match.lesion_id,
        "matched": matched,
        "reason": match.reason,
        "method": match.method,
        "corner_y": match.corner[0] if matched else None,
        "corner_x": match.corner[1] if matched else None,
        "n_slices": n_slices,
        "slices": match.used,
        "slice_index": match.slice_index,
        "missing_slices": match.missing,
        "iou": match.iou,
        "reader_iou": match.reader_iou,
        "cut_voxels": match.cut_voxels,
        "excluded": len(excluded),
        "excluded_names": [name for name, _ in excluded],
        "excluded_reasons": [reason for _, reason in excluded],
    }
