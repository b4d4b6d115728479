"""Phantom CT around the real LIDC-IDRI contours: crops for every lesion with no download.

Masks, spacing, slice thickness and the lesion's place are real. The voxels are rendered by **one**
reader's ratings, drawn at random; malignancy is never read. The chest is an average one, without
other nodules. `lesionlab.realism` measures how far all this is from real slices.

Size and form of a lesion are the contours': the average of the readers' signed distances, which is
smooth where their masks are stairs. One reader's ratings say the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.random import Generator
from scipy import ndimage
from scipy.special import ndtr

from lesionlab import _names
from lesionlab.attributes import RATING_NAMES, rating
from lesionlab.crops import Crop
from lesionlab.sources import lidc
from lesionlab.sources.lidc import LesionMasks
from lesionlab.sources.phantom import _lung
from lesionlab.sources.phantom import _scene as scene
from lesionlab.sources.phantom._lung import NO_TUBES, Tubes, bent
from lesionlab.sources.phantom._physics import (
    Array,
    FloatArray,
    Grid,
    Window,
    generator,
    grain,
    unit,
)
from lesionlab.sources.phantom._thorax import make_room, surroundings

__all__ = ["drawn_ratings", "phantom", "render"]

CONTEXT = 2  # slices above and below the readers' outlines
REACH_MM = 10.5  # how far slices reach from the centre: 21 slices at 1 mm can be cut out
HALO_MM = 5.0  # how far from a lesion the lung is denser than elsewhere
SCAN_MM = 320.0  # height of a scan whose number of slices is not given

# The ratings that change voxels: sphericity is the outlines', and malignancy is never read.
RENDERED = [name for name in RATING_NAMES if name not in ("sphericity", "malignancy")]

# How far inside the readers' outline the edge lies, mm; fitted to the real slices' HU inside
INSET_MM = -0.08

# Standard deviation of the Gaussian edge in mm, by margin: 1 poorly defined to 5 sharp.
EDGE_MM = {1: 1.7, 2: 1.2, 3: 0.8, 4: 0.45, 5: 0.28}
# Contrast against the lung, by subtlety: 1 extremely subtle to 5 obvious.
CONTRAST = {1: 0.72, 2: 0.82, 3: 0.90, 4: 0.96, 5: 1.0}
# Spicules by spiculation: 1 none to 5 marked.
SPICULES = {1: 0, 2: 8, 3: 16, 4: 26, 5: 38}
SPICULE_MM = (0.6, 1.1)  # radius where it starts; radiologists call those from 2 mm across coarse
# By texture: HU of the ground glass, and the depth (0 edge, 1 centre) from which it is solid.
GROUND_GLASS = {1: (-640, 9.0), 2: (-560, 0.75), 3: (-520, 0.42), 4: (-330, 0.16), 5: (0, -9.0)}
SOLID_HU = 58.0
# By internal structure: 2 fluid, 3 fat, 4 air, with the depth from which it fills the nodule.
CONTENT = {2: (8.0, 0.15), 3: (-95.0, 0.15), 4: (-950.0, 0.38)}


def phantom(lesion_id: str, *, seed: int = 0, size: int = 128) -> Crop:
    """Render a nodule of `lidc.nodules`; see `render`. A LookupError for other ids."""
    nodule = lidc.default().nodule(lesion_id)
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

    def draws(what: str) -> Generator:
        return generator(what, lesion_id, seed)

    # some small lesions keep clear of the pleura, and some large ones near it lie on it: as
    # often as real ones touch it, in the volumes
    diameter, chosen = float(nodule["diameter"]), draws("room").random() < 0.4
    if chosen and diameter < 12:
        chest = make_room(chest, inside, gap=5)
    else:
        chest = make_room(chest, inside, reach=15 if chosen and diameter >= 20 else 0)

    volume = _lung.parenchyma(draws("parenchyma"), lung, grid)
    blood = _lung.vessels(draws("vessels"), volume, lung, chest, grid, clear=None)
    lesion = _Lesion(draws("lesion"), told, _shape_on_planes(masks, grid), grid, lung.hu)
    window = lesion.window
    # lung beside a lesion is denser than elsewhere, by 60 HU on average
    denser = np.float32(min(draws("halo").exponential(60.0), 250.0))
    fade = np.clip(1 - np.maximum(lesion.distance, 0) / np.float32(HALO_MM), 0, 1)
    volume[window] += denser * fade * fade
    feeding = _lung.feeding_vessels(draws("feeding"), chest, grid, inside.mean(0), diameter / 2)
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


def _average_distance(
    readers: npt.NDArray[np.bool_], spacing: tuple[float, float, float]
) -> FloatArray:
    """(z, y, x) mean over readers of the signed distance to their outline, mm, negative inside.

    Where two readers drew apart from each other the mean may be positive everywhere; then the
    smallest distance to any of them is taken.
    """
    signed = []
    for mask in filter(np.any, readers):
        distance = ndimage.distance_transform_edt(~mask, sampling=spacing)
        (box,) = ndimage.find_objects(mask.astype(np.uint8))  # a small part of the volume
        inside = ndimage.distance_transform_edt(np.pad(mask[box], 1), sampling=spacing)
        distance[box] -= inside[1:-1, 1:-1, 1:-1]
        signed.append(distance.astype(np.float32))
    mean: FloatArray = np.mean(signed, axis=0, dtype=np.float32)
    consensus = readers.mean(axis=0) >= 0.5
    # more than four outlines are two nodules that the grouping could not part
    apart = len(readers) > 4 or not (mean < -0.5 * spacing[2]).any()
    if apart and consensus.any():
        mean = np.min(signed, axis=0)
    return mean


_Shape = tuple[FloatArray, Window]
"""(planes, y, x) signed distance to the surface, mm, and the window of the grid it stands in."""


def _shape_on_planes(masks: LesionMasks, grid: Grid) -> _Shape:
    """The form of the lesion that the readers outlined, on the fine planes."""
    readers, origin = masks.readers, masks.origin
    pad_z = max(1, int(np.ceil(4.0 / grid.spacing)))
    pad = int(np.ceil(5.0 / grid.pixel))
    box = np.pad(readers, ((0, 0), (pad_z, pad_z), (pad, pad), (pad, pad)))
    on_slices = _average_distance(box, (grid.spacing, grid.pixel, grid.pixel))
    # the part of the box that lies in the crop
    top, left = origin[1] - pad - grid.corner[0], origin[2] - pad - grid.corner[1]
    rows = slice(max(top, 0), min(top + box.shape[2], grid.size))
    columns = slice(max(left, 0), min(left + box.shape[3], grid.size))
    on_slices = on_slices[:, rows.start - top : rows.stop - top]
    on_slices = on_slices[:, :, columns.start - left : columns.stop - left]
    at = grid.z_fine / grid.spacing - (origin[0] - pad_z)
    within = np.flatnonzero((at >= 0) & (at <= len(on_slices) - 1))
    low = np.minimum(at[within].astype(int), len(on_slices) - 2)
    share = (at[within] - low).astype(np.float32)[:, None, None]
    distance = on_slices[low] * (1 - share) + on_slices[low + 1] * share
    planes = slice(int(within[0]), int(within[-1]) + 1)
    smooth = ndimage.gaussian_filter(distance, (0, 0.7, 0.7), mode="nearest")
    return smooth.astype(np.float32) + np.float32(INSET_MM), (planes, rows, columns)


class _Lesion:
    """A shape of `_shape_on_planes` with its edge, density and strands, by one reader's ratings."""

    def __init__(
        self, rng: Generator, ratings: Mapping[str, int], shape: _Shape, grid: Grid, lung_hu: float
    ) -> None:
        (distance, self.window), self.grid, ragged = shape, grid, {1: 0.5, 2: 0.3, 3: 0.12}
        self.deepest = deepest = max(float(-distance.min()), 0.5 * grid.pixel)
        self.coarse, self.fine = grain(rng, distance.shape, 0.55 * deepest, grid)
        lobes = (ratings["lobulation"] - 1) / 4 * min(0.16 * deepest, 1.0)
        # a margin that cannot be seen well is also an irregular one
        rough = ragged.get(ratings["margin"], 0.0) * min(1.0, deepest / 3)
        # mm to the lesion's surface, negative inside
        self.distance = distance + np.float32(lobes) * self.coarse + np.float32(rough) * self.fine
        sigma = max(min(EDGE_MM[ratings["margin"]], 0.45 * deepest), 0.29 * grid.pixel)
        # of each voxel that the lesion fills
        self.share = ndtr(-self.distance / np.float32(sigma)).astype(np.float32)
        # 0 at the edge, 1 at the deepest place
        self.inward = np.clip(-self.distance / deepest, 0, 1)
        hu = self._density(ratings["texture"], rng.standard_normal(2))
        if ratings["calcification"] != 6:
            hu = self._calcify(rng, ratings["calcification"], hu)
        contrast, lung = np.float32(CONTRAST[ratings["subtlety"]]), np.float32(lung_hu)
        self.hu = (lung + contrast * (hu - lung)).astype(np.float32)
        # a cavity, fat or fluid: its density, and its share of the lesion
        self.content_hu, depth = CONTENT.get(ratings["internal_structure"], (0.0, 9.0))
        content = np.clip((self.inward - depth) * deepest / grid.pixel + 0.5, 0, 1)
        self.content_share = content.astype(np.float32)
        self.strands = self._spicules(rng, SPICULES[ratings["spiculation"]])

    def _density(self, rating: int, level: Array) -> FloatArray:
        """HU by texture: ground glass at the rim, solid from some depth on, patchily."""
        solid = SOLID_HU + 25 * level[0] + 10 * self.fine
        glass_hu, onset = GROUND_GLASS[rating]
        if rating == 5:
            return np.asarray(solid, np.float32)
        glass = glass_hu + 60 * level[1] + 35 * self.fine + 25 * self.coarse
        inside = (self.inward + 0.18 * self.coarse - onset) * max(self.deepest, 1.5)
        ramp = np.clip(inside / 1.2 + 0.5, 0, 1)
        return np.asarray(glass + ramp * (solid - 40 - glass), np.float32)

    def _calcify(self, rng: Generator, pattern: int, hu: FloatArray) -> FloatArray:
        """HU with calcium: 1 popcorn, 2 laminated, 3 solid, 4 non-central, 5 central."""
        inward, voxel = self.inward, self.grid.voxel
        peak = float(np.clip(np.exp(np.log(950) + 0.5 * rng.standard_normal()), 350, 2400))
        turn = rng.uniform(0, 2 * np.pi)
        if pattern == 1:
            share = np.clip(2.5 * self.coarse, 0, 1) * np.clip(6 * inward, 0, 1)
        elif pattern == 2:
            share = 0.5 + 0.5 * np.sin(2 * np.pi * (2.2 * inward - 0.1))
        elif pattern == 3:
            share = np.clip(8 * inward, 0, 1)
        else:
            inside = inward > 0
            axes = zip(inside.shape, voxel, strict=True)
            around = np.ix_(*(np.arange(n) * v for n, v in axes))
            n = max(int(inside.sum()), 1)
            middle = np.array([float((a * inside).sum()) / n for a in around])
            radius = float(np.cbrt(3 * n * voxel.prod() / (4 * np.pi)))  # of a ball of that volume
            if pattern == 4:
                middle = middle + 0.5 * radius * np.array([0.0, np.sin(turn), np.cos(turn)])
            away = np.sqrt(sum((a - m) ** 2 for a, m in zip(around, middle, strict=True)))
            share = np.clip((0.48 * radius - away) / self.grid.pixel + 0.5, 0, 1) * inside
        return np.asarray(hu + share * (peak - hu), np.float32)

    def _spicules(self, rng: Generator, count: int) -> Tubes:
        """Strands that start on the surface and run straight out, tapering."""
        deepest, voxel = self.deepest, self.grid.voxel
        near = np.argwhere(np.abs(self.distance) < 0.6 * self.grid.pixel)
        if not count or not len(near):
            return NO_TUBES
        window = zip(self.grid.axes, self.window, strict=True)
        corner = np.array([at[span.start] for at, span in window])
        inside = np.argwhere(self.distance < 0)
        middle = (inside.mean(0) if len(inside) else near.mean(0)) * voxel
        at = near[rng.integers(len(near), size=count)] * voxel
        out = unit(at - middle) + 0.3 * rng.standard_normal((count, 3))
        reach = rng.uniform(0.5, 1.4, (count, 1)) * (2.5 + 0.15 * count)
        reach = reach * min(1.0, deepest / 4 + 0.3)
        width = rng.uniform(*SPICULE_MM, count) * min(1.0, 0.5 + deepest / 8)
        return bent((at - 0.8 * out + corner, at + reach * out + corner), (width, 0.4 * width))
