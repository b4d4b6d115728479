"""Phantom CT around the real LIDC-IDRI contours: crops for every lesion with no download.

Masks, ratings, spacing, slice thickness and the place of the lesion in the scan are real, from
`lesionlab.sources.lidc`. The voxels are rendered: lung with vessels, pleura and chest wall by the
lesion's place in the scan, the lesion itself by **one** reader's ratings, drawn at random; then
partial volume, the blur of a reconstruction kernel and correlated noise. Malignancy is never read.

    from lesionlab.sources import phantom
    crop = phantom.phantom("LIDC-IDRI-0078-S0001-N02", seed=0)

What this is not: the chest is an average one, other nodules nearby are left out, and there is no
motion, beam hardening or scar. `lesionlab.realism` measures how far it is from real slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from lesionlab.crops import Crop
from lesionlab.sources import lidc
from lesionlab.sources.lidc import LesionMasks
from lesionlab.sources.phantom._fields import Grid, blur, draw_scanner, generator, noise
from lesionlab.sources.phantom._lesion import RENDERED, Lesion, build_lesion, shape_on_planes
from lesionlab.sources.phantom._lung import (
    draw_lung,
    feeding_vessels,
    halo,
    inflated,
    parenchyma,
    vessels,
)
from lesionlab.sources.phantom._thorax import draw_chest, make_room, surroundings
from lesionlab.sources.phantom._vessels import fill

__all__ = ["drawn_ratings", "lesions", "make", "phantom", "render"]

HU_RANGE = (-1024, 3071)
"""What twelve bits of CT hold."""

REACH_MM = 10.5
"""Slices reach at least so far from the lesion's centre: 21 slices at 1 mm can be cut out."""

SCAN_MM = 320.0
"""Height of a scan whose number of slices is not given."""

_COLUMNS = ("series_uid", "slice_thickness", "diameter", "z")


def lesions() -> list[str]:
    """Ids of all lesions that can be rendered: every nodule of `lidc.nodules`."""
    return list(_nodules().index)


def phantom(lesion_id: str, *, seed: int = 0, size: int = 128) -> Crop:
    """Render one lesion of the installed database; see `render`.

    Raises:
        LookupError: No nodule has that id.
        ValueError: As in `render`.
    """
    masks = lidc.masks(lesion_id)  # also says so if there is no such lesion
    nodules = _nodules()
    nodule: Any = nodules.loc[lesion_id]
    scan_slices = _scan_slices(int(nodule["scan_id"]))
    return render(nodule, masks, seed=seed, size=size, scan_slices=scan_slices)


def make(lesion_id: str, seed: int = 0) -> Crop:
    """`phantom(lesion_id, seed=seed)`, a plain function for the workers of a process pool."""
    return phantom(lesion_id, seed=seed)


def drawn_ratings(nodule: pd.Series[Any], *, seed: int = 0) -> dict[str, int]:
    """The one reader's ratings that `render` renders, by name.

    The reader is drawn with equal chances from those of the nodule; lesion and seed alone decide.
    A rating that is missing (outside its scale) is read as the harmless one: soft tissue.

    Args:
        nodule: A row of `lidc.nodules`.
        seed: As in `render`.

    Raises:
        KeyError: A column is missing.
        ValueError: A rating is not on its scale.
    """
    missing = [f"{name}_readings" for name in RENDERED if f"{name}_readings" not in nodule.index]
    if missing:
        raise KeyError(f"nodule has no column {missing}; expected a row of lidc.nodules()")
    rng = generator("reader", nodule.name, seed)
    reader = int(rng.integers(len(nodule["margin_readings"])))
    drawn = {}
    for name in RENDERED:
        value = float(nodule[f"{name}_readings"][reader])
        if np.isnan(value) and name == "internal_structure":
            value = 1.0
        drawn[name] = _on_scale(name, value, f"{name}_readings of {nodule.name}")
    return drawn


def _on_scale(name: str, value: float, what: str) -> int:
    highest = {"internal_structure": 4, "calcification": 6}.get(name, 5)
    if value not in range(1, highest + 1):
        raise ValueError(f"{what}: expected whole numbers from 1 to {highest}, got {value}")
    return int(value)


def render(
    nodule: pd.Series[Any],
    masks: LesionMasks,
    *,
    seed: int = 0,
    size: int = 128,
    context: int = 2,
    scan_slices: int | None = None,
    ratings: Mapping[str, int] | None = None,
) -> Crop:
    """Render the CT around one nodule's contours.

    The same bytes for the same lesion and seed in any order and process. What belongs to the
    scanner and the patient is drawn once per `series_uid` and seed, so that lesions of one scan
    share kernel, dose, chest and lung.

    Args:
        nodule: A row of `lidc.nodules`; of its ratings one reader's are used, malignancy never.
        masks: The same nodule's masks.
        seed: Another seed gives another patient around the same contours.
        size: Rows and columns of the crop, in pixels of the scan.
        context: Slices above and below the readers' outlines; more where they are needed to reach
            10.5 mm from the lesion's centre.
        scan_slices: Slices in the scan, where the crop ends; unknown if None.
        ratings: Render these instead of one reader's: each of the seven of `drawn_ratings`.

    Returns:
        A crop of the tier `phantom`, around the middle of all readers' outlines. Rows and columns
        may reach over the border of the scan, slices do not.

    Raises:
        KeyError: A column or a rating is missing.
        ValueError: `masks` are empty or of another lesion, the outlines do not fit into `size`, or
            a rating is not on its scale.
    """
    _check(nodule, masks, size, context)
    told = drawn_ratings(nodule, seed=seed) if ratings is None else _given(ratings)
    spacing, thickness = masks.spacing[0], float(nodule["slice_thickness"])
    grid = _grid(nodule, masks, size, context, scan_slices)
    series, lesion_id = nodule["series_uid"], masks.lesion_id
    height = scan_slices * spacing if scan_slices else max(SCAN_MM, grid.z_slices[-1] + spacing)

    scanner = draw_scanner(generator("scanner", series, seed), thickness=thickness, spacing=spacing)
    chest = draw_chest(generator("chest", series, seed), pixel=grid.pixel, height=height)
    lung = inflated(draw_lung(generator("lung", series, seed)), chest.scale)
    # readers of one nodule may have drawn side by side and agree on no voxel
    marked = masks.consensus if masks.consensus.any() else masks.readers.any(axis=0)
    inside = (np.argwhere(marked) + np.array(masks.origin)) * np.array(masks.spacing)
    chest = make_room(chest, inside)

    volume = parenchyma(generator("parenchyma", lesion_id, seed), lung, grid)
    blood, bronchus, lumen = vessels(generator("vessels", lesion_id, seed), lung, chest, grid)
    volume += bronchus * (-300 - volume)
    volume += lumen * (-960 - volume)
    distance, window = shape_on_planes(masks.readers, masks.origin, grid)
    lesion = build_lesion(
        generator("lesion", lesion_id, seed), told, distance, window, grid, lung_hu=lung.hu
    )
    volume[window] += halo(generator("halo", lesion_id, seed), lesion.distance)
    middle, radius = inside.mean(0), float(nodule["diameter"]) / 2
    feeding = feeding_vessels(generator("feeding", lesion_id, seed), chest, grid, middle, radius)
    blood = np.maximum(blood, feeding)
    volume, share = _embed(volume, blood * (chest.blood - 5 - volume), lesion, grid)
    around = surroundings(generator("wall", lesion_id, seed), chest, grid)
    aerated = np.clip(0.5 - around.depth / np.float32(1.2 * grid.pixel), 0, 1)
    aerated = 1 - (1 - aerated) * (1 - grid.average(share))
    slices = aerated * grid.average(volume) + (1 - aerated) * around.hu
    slices = blur(slices.astype(np.float32), scanner=scanner, pixel=grid.pixel)
    slices += noise(generator("noise", lesion_id, seed), grid, scanner)

    return Crop(
        lesion_id=lesion_id,
        hu=np.clip(np.rint(slices), *HU_RANGE).astype(np.int16),
        masks=_place(masks, grid),
        spacing=masks.spacing,
        slice_index=grid.first + np.arange(grid.n_slices, dtype=np.int64),
        corner=grid.corner,
        calibrated=np.ones(grid.n_slices, np.bool_),
        tier="phantom",
    )


def _embed(volume: Any, vessels_over: Any, lesion: Lesion, grid: Grid) -> tuple[Any, Any]:
    """Put vessels and lesion into the lung; also the lesion's share of every fine voxel.

    What is denser shows: vessels are seen through ground glass, and not through a solid nodule.
    """
    w = lesion.window
    filled = volume[w] + lesion.share * (lesion.hu - volume[w])
    volume = volume + vessels_over
    volume[w] = np.maximum(volume[w], filled)
    if len(lesion.strands.start):
        strands = fill(lesion.strands, grid)
        volume = np.maximum(volume, volume + strands * (-10 - volume))
    emptied = lesion.content_share * lesion.share
    volume[w] += emptied * (np.float32(lesion.content_hu) - volume[w])
    share = np.zeros_like(volume)
    share[w] = lesion.share
    return volume, share


def _given(ratings: Mapping[str, int]) -> dict[str, int]:
    if absent := [name for name in RENDERED if name not in ratings]:
        raise KeyError(f"ratings has no {absent}; expected all of {list(RENDERED)}")
    return {name: _on_scale(name, ratings[name], f"ratings[{name!r}]") for name in RENDERED}


def _check(nodule: pd.Series[Any], masks: LesionMasks, size: int, context: int) -> None:
    missing = [name for name in _COLUMNS if name not in nodule.index]
    if missing:
        raise KeyError(f"nodule has no column {missing}; expected a row of lidc.nodules()")
    if nodule.name != masks.lesion_id:
        raise ValueError(f"masks are of {masks.lesion_id!r}, expected those of {nodule.name!r}")
    for name, value, least in (("size", size, 16), ("context", context, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: expected a whole number, {least} or more")
    if not masks.readers.any():
        raise ValueError(f"masks of {masks.lesion_id}: expected at least one voxel, got none")


def _grid(
    nodule: pd.Series[Any], masks: LesionMasks, size: int, context: int, scan_slices: int | None
) -> Grid:
    """Which slices, rows and columns of the scan the crop shows."""
    drawn = masks.readers.any(axis=0)
    spans = []
    for axis in range(3):
        at = np.unique(np.nonzero(drawn)[axis]) + masks.origin[axis]
        spans.append((int(at[0]), int(at[-1]) + 1))
    corner = []
    for low, high in spans[1:]:
        if high - low > size:
            raise ValueError(
                f"size={size}: the outlines of {masks.lesion_id} are {high - low} pixels wide; "
                "expected a size at least as large"
            )
        corner.append((low + high) // 2 - size // 2)
    spacing = masks.spacing[0]
    reach = int(np.ceil(REACH_MM / spacing))
    centre = float(nodule["z"])
    first = max(0, min(spans[0][0] - context, int(np.floor(centre)) - reach))
    end = max(spans[0][1] + context, int(np.ceil(centre)) + reach + 1)
    if scan_slices is not None:
        end = min(end, scan_slices)
    return Grid(
        first=first,
        n_slices=end - first,
        corner=(corner[0], corner[1]),
        size=size,
        spacing=spacing,
        thickness=float(nodule["slice_thickness"]),
        pixel=masks.spacing[2],
    )


def _place(masks: LesionMasks, grid: Grid) -> Any:
    """The readers' masks in the frame of the crop."""
    frame = np.zeros((len(masks.readers), grid.n_slices, grid.size, grid.size), np.bool_)
    origin = (grid.first, *grid.corner)
    reader, *where = np.nonzero(masks.readers)
    frame[reader, *(w + o - g for w, o, g in zip(where, masks.origin, origin, strict=True))] = True
    return frame


@cache
def _nodules() -> pd.DataFrame:
    return lidc.nodules()


def _scan_slices(scan_id: int) -> int:
    """Number of slices in a scan."""
    return len(lidc.default().database.slice_z[scan_id])
