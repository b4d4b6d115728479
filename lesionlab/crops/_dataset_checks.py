"""What is in a store of crops, and whether it is what the database says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lesionlab.crops import Crop, datasets
from lesionlab.crops.stores import LESIONS, ROOT, CropStore
from lesionlab.sources import lidc
from lesionlab.sources.lidc import LesionMasks


def describe(store: CropStore, *, voxels: bool = True, progress: bool = False) -> dict[str, Any]:
    """Counts and ranges of a store, complete or not, such that JSON can hold them.

    With `voxels`, all of them are read for the range of HU: seconds for a full store.

    Returns:
        `CropStore.info`, with `dataset`; `readers`, `depth` (slices of a crop), `rows`, `columns`
        as (least, most); `spacing_z`, `spacing_y`, `spacing_x` in mm likewise; `masks`, readers'
        masks in all; `uncalibrated`, slices whose values are not HU; `hu` (lowest, highest) over
        calibrated slices, None if there is none or it was not asked for; `excluded_by_reason`.
    """
    table = store.table
    told: dict[str, Any] = store.info() | {"dataset": store.provenance.get("dataset"), "hu": None}
    if len(table):
        columns = [*zip(*table["shape"], strict=True), *zip(*table["spacing"], strict=True)]
        names = ("depth", "rows", "columns", "spacing_z", "spacing_y", "spacing_x")
        told |= {"readers": _span(table["readers"]), "masks": int(table["readers"].sum())}
        told |= {name: _span(values) for name, values in zip(names, columns, strict=True)}
        told["uncalibrated"] = int((~np.concatenate(table["calibrated"].tolist())).sum())
    if voxels:
        bar = tqdm(store.crops(), "voxels", len(store), disable=not progress, unit="lesion")
        spans = [_span(c.hu[c.calibrated]) for c in bar if c.calibrated.any()]
        told["hu"] = _span(spans) if spans else None
    return told | {"excluded_by_reason": by_reason(store.exclusions)}


def _span(values: Any) -> list[int | float]:
    return [np.min(values).item(), np.max(values).item()]


def by_reason(exclusions: Mapping[str, str]) -> dict[str, int]:
    """How many lesions were left out for which reason, the most frequent first.

    What differs from lesion to lesion (ids, UIDs, paths, numbers) is replaced by `…`.
    """
    reasons = (why.rpartition(f"{i}: ")[2] or why for i, why in exclusions.items())
    general = (re.sub(r"\S*[\d/\\]\S*", "…", why) for why in reasons)
    return dict(Counter(re.sub(r"^\w+Error: (?=.)", "", why) for why in general).most_common())


def validate(store: CropStore, *, progress: bool = False) -> dict[str, str]:
    """Read a store again and compare it with its sums and with the database.

    Lesions must be known to the data set, with the spacing and the readers' masks that LIDC's
    database has: equal in every voxel that the crop shows, and, except for the slices set, wholly
    inside the crop. A mask or an image without content is wrong.

    Returns:
        What is wrong, by `lesion_id` or, for what concerns all of it, by the name of a file of
        the store. Empty: nothing is.
    """
    wrong: dict[str, str] = {}
    if not store.complete:
        n_left = len(store.expected) - len(store) - len(store.exclusions)
        wrong[ROOT] = f"the build did not come to its end: {n_left} lesions are missing"
    try:
        name = str(store.provenance.get("dataset", store.tier))
        of = datasets.get(name, seed=store.provenance.get("seed", 0))
    except ValueError as error:
        return wrong | {LESIONS: str(error)} | store.validate(progress=progress)
    if of.of_lidc and store.provenance.get("database", "") not in ("", lidc.default().checksum):
        wrong[LESIONS] = "it was made with another LIDC-IDRI database than the one installed"
    known = of.table().index
    wrong |= {i: f"not a lesion of {of.name}" for i in store.expected if i not in known}
    return store.validate(partial(_faults, known, of.of_lidc), progress=progress) | wrong


def _faults(known: pd.Index[str], of_lidc: bool, crop: Crop) -> Iterator[str]:
    if crop.hu.min() == crop.hu.max():
        yield f"the image is empty: {crop.hu.min()} HU everywhere"
    if not crop.masks.any():
        yield "no reader's mask has a voxel"
    if of_lidc and crop.lesion_id in known:
        yield from _differences(crop, lidc.masks(crop.lesion_id))


def _differences(crop: Crop, masks: LesionMasks) -> Iterator[str]:
    """Where a crop is not what the database has."""
    if not np.allclose(crop.spacing, masks.spacing, rtol=0, atol=1e-6):
        here, there = (" × ".join(f"{mm:g}" for mm in c.spacing) for c in (crop, masks))
        yield f"spacing {here} mm, in the database {there} mm"
    if len(crop.masks) != len(masks.readers):
        yield f"{len(crop.masks)} readers' masks, in the database {len(masks.readers)}"
        return
    rows, columns = crop.hu.shape[1:]
    window = masks.window(crop.slice_index, crop.corner, max(rows, columns))
    expected = window[..., :rows, :columns]
    if n_off := int((expected != crop.masks).sum()):
        yield f"{n_off} voxels of the masks are not as the readers drew them"
    # the public set shows 128 × 128 pixels on the slices of one reader
    if crop.tier != "slices" and (n_outside := int(masks.readers.sum() - expected.sum())):
        yield f"{n_outside} voxels of the masks lie outside the crop"
