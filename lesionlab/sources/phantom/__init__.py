"""Phantom CT around the real LIDC-IDRI contours: crops for every lesion with no download.

Masks, spacing, slice thickness and the lesion's place are real. The voxels are rendered by **one**
reader's ratings, drawn at random; malignancy is never read. The chest is an average one, without
other nodules. `lesionlab.realism` measures how far all this is from real slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator

from lesionlab import _names
from lesionlab.attributes import rating
from lesionlab.crops import Crop
from lesionlab.sources import lidc
from lesionlab.sources.lidc import LesionMasks
from lesionlab.sources.phantom import _lung
from lesionlab.sources.phantom import _scene as scene
from lesionlab.sources.phantom._lesion import RENDERED, Lesion, shape_on_planes
from lesionlab.sources.phantom._physics import Grid, generator
from lesionlab.sources.phantom._thorax import make_room, surroundings

__all__ = ["drawn_ratings", "phantom", "render"]

CONTEXT = 2  # slices above and below the readers' outlines
REACH_MM = 10.5  # how far slices reach from the centre: 21 slices at 1 mm can be cut out
SCAN_MM = 320.0  # height of a scan whose number of slices is not given


def phantom(lesion_id: str, *, seed: int = 0, size: int = 128) -> Crop:
    """Render a nodule of `lidc.nodules`; see `render`. A LookupError for other ids."""
    nodule = lidc.nodule(lesion_id)
    n_slices = len(lidc.default().database.slice_z[int(nodule["scan_id"])])
    return render(nodule, lidc.masks(lesion_id), seed=seed, size=size, scan_slices=n_slices)


def drawn_ratings(nodule: pd.Series[Any], *, seed: int = 0) -> dict[str, int]:
    """The one reader's ratings that `render` renders, by name, for a row of `lidc.nodules`.

    The reader is drawn with equal chances from those of the nodule; lesion and seed alone decide.
    A missing internal structure is read as soft tissue. Any other rating that is not on its scale
    is a ValueError.
    """
    rng = generator("reader", nodule.name, seed)
    reader = int(rng.integers(len(nodule["margin_readings"])))
    drawn = {name: float(nodule[f"{name}_readings"][reader]) for name in RENDERED}
    if np.isnan(drawn["internal_structure"]):
        drawn["internal_structure"] = 1.0
    return _on_scale(drawn, f"a reader's rating of {nodule.name}")


def _on_scale(ratings: Mapping[str, float], what: str) -> dict[str, int]:
    for name in RENDERED:
        if ratings[name] not in rating(name).codes:
            codes = list(rating(name).codes)
            raise ValueError(f"{what}: {name}={ratings[name]}, expected one of {codes}")
    return {name: int(ratings[name]) for name in RENDERED}


def render(
    nodule: pd.Series[Any],
    masks: LesionMasks,
    *,
    seed: int = 0,
    size: int = 128,
    scan_slices: int | None = None,
    ratings: Mapping[str, int] | None = None,
) -> Crop:
    """Render the CT around one nodule's contours.

    The same bytes for the same lesion and seed in any order and process. Lesions of one scan
    (`series_uid`) share kernel, dose, chest and lung.

    Args:
        nodule: A row of `lidc.nodules`.
        masks: Those of the same nodule; empty ones, or those of another one, are a ValueError.
        seed: Another seed gives another patient around the same contours.
        size: Rows and columns of the crop, in pixels of the scan; outlines that are wider are a
            ValueError.
        scan_slices: Slices in the scan, where the crop ends; unknown if None.
        ratings: Render these instead of one reader's: each of the seven of `drawn_ratings`.

    Returns:
        A crop of the tier `phantom`, around the middle of all readers' outlines. Rows and columns
        may reach over the border of the scan, slices do not. Two slices lie above and below the
        outlines; more where they are needed to reach 10.5 mm from the lesion's centre.
    """
    lesion_id = masks.lesion_id
    if nodule.name != lesion_id:
        raise ValueError(f"masks are of {lesion_id!r}, expected those of {nodule.name!r}")
    if not masks.readers.any():
        raise ValueError(f"masks of {lesion_id}: expected at least one voxel, got none")
    told = drawn_ratings(nodule, seed=seed) if ratings is None else _on_scale(ratings, "ratings")
    grid = _grid(nodule, masks, size, scan_slices)
    spacing = grid.spacing
    height = scan_slices * spacing if scan_slices else max(SCAN_MM, grid.z_slices[-1] + spacing)
    chest, lung, scanner = scene.draw_scan(
        (nodule["series_uid"], seed), spacing, grid.thickness, grid.pixel, height, contrast=True
    )
    lung = _lung.inflated(lung, chest.scale)
    # readers of one nodule may have drawn side by side and agree on no voxel
    marked = masks.consensus if masks.consensus.any() else masks.readers.any(axis=0)
    inside = (np.argwhere(marked) + np.array(masks.origin)) * np.array(masks.spacing)
    chest = make_room(chest, inside)

    def draws(what: str) -> Generator:
        return generator(what, lesion_id, seed)

    volume = _lung.parenchyma(draws("parenchyma"), lung, grid)
    blood = _lung.vessels(draws("vessels"), volume, lung, chest, grid, clear=None)
    lesion = Lesion(draws("lesion"), told, shape_on_planes(masks, grid), grid, lung.hu)
    window = lesion.window
    volume[window] += _lung.halo(draws("halo"), lesion.distance)
    middle, radius = inside.mean(0), float(nodule["diameter"]) / 2
    feeding = _lung.feeding_vessels(draws("feeding"), chest, grid, middle, radius)
    # what is denser shows: the lung with its vessels or the lesion, then strands and content
    filled = volume[window] + lesion.share * (lesion.hu - volume[window])
    volume = volume + np.maximum(blood, feeding) * (chest.blood - 5 - volume)
    volume[window] = np.maximum(volume[window], filled)
    if len(lesion.strands):
        strands = _lung.fill(lesion.strands, grid)
        volume = np.maximum(volume, volume + strands * (-10 - volume))
    emptied = lesion.content_share * lesion.share
    volume[window] += emptied * (np.float32(lesion.content_hu) - volume[window])
    share = np.zeros_like(volume)
    share[window] = lesion.share
    around = surroundings(draws("wall"), chest, grid)
    placed = masks.window(grid.slices, grid.corner, size)
    return scene.finish((lesion_id, seed), volume, share, around, grid, scanner, placed)


def _grid(nodule: pd.Series[Any], masks: LesionMasks, size: int, scan_slices: int | None) -> Grid:
    """Which slices, rows and columns of the scan the crop shows."""
    _names.whole(16, size=size)
    drawn = np.argwhere(masks.readers.any(axis=0)) + masks.origin
    low, high = drawn.min(axis=0), drawn.max(axis=0) + 1
    if (widest := int((high - low)[1:].max())) > size:
        raise ValueError(f"size={size}: the outlines of {masks.lesion_id} are {widest} pixels wide")
    y, x = ((low + high) // 2 - size // 2).tolist()[1:]
    spacing, centre = masks.spacing[0], float(nodule["z"])
    reach = int(np.ceil(REACH_MM / spacing))
    first = max(0, min(int(low[0]) - CONTEXT, int(np.floor(centre)) - reach))
    end = max(int(high[0]) + CONTEXT, int(np.ceil(centre)) + reach + 1)
    if scan_slices is not None:
        end = min(end, scan_slices)
    thickness = float(nodule["slice_thickness"])
    return Grid(first, end - first, (y, x), size, spacing, thickness, masks.spacing[2])
