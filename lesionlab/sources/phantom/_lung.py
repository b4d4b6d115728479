"""Aerated lung: parenchyma with its gradient and texture, vessels, and bronchi beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lesionlab.sources.phantom._fields import Array, FloatArray, Grid, texture
from lesionlab.sources.phantom._thorax import MEAN_SCALE, Chest
from lesionlab.sources.phantom._vessels import Tubes, fill, grow_tree

MOTTLE_MM = 1.5
"""Correlation length of the texture of lung that is too fine for single vessels, mm."""

MARGIN_MM = 12.0
"""How far around the crop vessels are grown, so that trunks reach into it."""


MEAN_TISSUE = 122.0
"""Density of lung over that of air, on average, HU."""


@dataclass(frozen=True)
class Lung:
    """One scan's lung tissue.

    Attributes:
        hu: Density at mid-height of the field of view, HU.
        gradient: HU per mm towards the back, the dependent side.
        mottle: Standard deviation of the texture below the size of a vessel, HU.
        emphysema: HU by which the holes of emphysema are darker, 0 for none.
        density: Ends of vessels per cm³.
        tip: Radius of a vessel's last twig, mm.
    """

    hu: float
    gradient: float
    mottle: float
    emphysema: float
    density: float
    tip: float


def draw_lung(rng: np.random.Generator) -> Lung:
    """Draw one scan's lung tissue; centres and spreads are those of the real crops."""
    normal = rng.standard_normal(4)
    emphysema = rng.uniform(30, 90) if rng.random() < 0.25 else 0.0
    return Lung(
        hu=float(np.clip(MEAN_TISSUE - 1000 + 30 * normal[0], -950, -780)),
        gradient=float(0.3 + 0.3 * normal[1]),
        mottle=float(np.clip(26 + 9 * normal[2], 8, 55)),
        emphysema=float(emphysema),
        density=float(4.5 * np.exp(0.4 * normal[3])),
        tip=float(rng.uniform(0.18, 0.34)),
    )


def inflated(lung: Lung, scale: float) -> Lung:
    """The same tissue in lungs of another size: the less air, the denser, and the less even.

    Tissue is kept, so that density over that of air goes with one over the volume, scale³.

    Args:
        lung: Drawn for lungs of mean size.
        scale: Size of the lungs over the mean, as a length.
    """
    tissue = (lung.hu + 1000) * (MEAN_SCALE / scale) ** 3
    mottle = lung.mottle * (tissue / MEAN_TISSUE) ** 0.8
    return replace(
        lung,
        hu=float(np.clip(tissue - 1000, -950, -740)),
        mottle=float(np.clip(mottle, 8, 60)),
    )


def parenchyma(rng: np.random.Generator, lung: Lung, grid: Grid) -> FloatArray:
    """(planes, y, x) HU of lung without vessels."""
    shape = (len(grid.z_fine), grid.size, grid.size)
    scale = np.array([grid.step, grid.pixel, grid.pixel])
    broad = texture(rng, shape, tuple(9.0 / scale))
    fine = texture(rng, shape, tuple(MOTTLE_MM / scale))
    middle = 256 * grid.pixel
    slope = (lung.gradient * (grid.y - middle)).astype(np.float32)[:, None]
    out = broad * np.float32(14) + fine * np.float32(lung.mottle)
    out += slope + np.float32(lung.hu)
    if lung.emphysema:
        holes = np.clip(broad - 0.3, 0, 1)
        out -= np.float32(lung.emphysema) * holes
    return np.maximum(out, np.float32(-1000))


def vessels(
    rng: np.random.Generator, lung: Lung, chest: Chest, grid: Grid
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Shares of each fine voxel in a vessel, in a bronchus with its wall, and in its lumen."""
    low = np.array([grid.z_fine[0], grid.y[0], grid.x[0]]) - MARGIN_MM
    high = np.array([grid.z_fine[-1], grid.y[-1], grid.x[-1]]) + MARGIN_MM
    n = int(lung.density * np.prod(high - low) / 1000)
    trees = []
    for _ in range(2):  # arteries and veins
        points = rng.uniform(low, high, (n // 2, 3))
        depth, _ = chest.radial(float((low[0] + high[0]) / 2), points[:, 1], points[:, 2])
        points = points[(depth < -3.0) & (chest.diaphragm(*points.T) < -3.0)]
        trees.append(grow_tree(rng, points, _hilum(rng, chest, low, high), tip=lung.tip))
    blood = fill(trees[0], grid)
    blood = np.maximum(blood, fill(trees[1], grid))
    arteries = trees[0]
    accompanied = (arteries.radius.min(1) > 1.0) & (arteries.radius.max(1) < 3.0)
    if not accompanied.any():
        nothing = np.zeros_like(blood)
        return blood, nothing, nothing
    beside = arteries.take(accompanied)
    offset = 1.9 * beside.radius.mean(1, keepdims=True) * np.array([[0.2, 0.7, 0.7]])
    start, end = beside.start + offset, beside.end + offset
    outer = fill(Tubes(start, end, beside.radius), grid)
    return blood, outer, fill(Tubes(start, end, 0.68 * beside.radius), grid)


def _hilum(rng: np.random.Generator, chest: Chest, low: Array, high: Array) -> Array:
    """Where the vessels of this crop's lung come from, mm."""
    middle = 0.5 * chest.fov + chest.shift[1]
    side = -1 if (low[2] + high[2]) / 2 < middle else 1
    jitter = 4.0 * rng.standard_normal(3)
    height, y, x = 0.52 * chest.height, 0.50 * chest.fov, middle + side * 0.09 * chest.fov
    return np.asarray(np.array([height, y + chest.shift[0], x]) + jitter)


HALO_MM = 5.0
"""How far from a lesion the lung is denser than elsewhere, mm."""


def halo(rng: np.random.Generator, distance: FloatArray) -> FloatArray:
    """HU by which lung is denser beside a lesion: pressed together, or with a little fluid.

    Args:
        rng: Source of the draw; the mean at the surface is 60 HU.
        distance: Signed distance to the lesion's surface, mm.
    """
    strength = np.float32(min(rng.exponential(60.0), 250.0))
    fade = np.clip(1 - np.maximum(distance, 0) / np.float32(HALO_MM), 0, 1)
    return np.asarray(strength * fade * fade)


def feeding_vessels(
    rng: np.random.Generator, chest: Chest, grid: Grid, middle: Array, radius: float
) -> FloatArray:
    """Share of each fine voxel in the vessels that run into a lesion, on their way to the hilum.

    Args:
        rng: Source of the draws: 0 to 3 vessels of 0.4 to 1.3 mm.
        chest: The chest, for the hilum.
        grid: The crop.
        middle: (3,) centre of the lesion, mm.
        radius: Its radius, mm.
    """
    count = int(rng.binomial(3, 0.5))
    width = np.minimum(rng.uniform(0.4, 1.3, count), 0.25 + 0.25 * radius)
    bend, spread = rng.standard_normal((2, count, 3))
    low = np.array([grid.z_fine[0], grid.y[0], grid.x[0]])
    high = np.array([grid.z_fine[-1], grid.y[-1], grid.x[-1]])
    towards = _hilum(rng, chest, low, high) - middle
    towards = towards / max(float(np.sqrt((towards**2).sum())), 1e-6) + 0.6 * spread
    towards /= np.maximum(np.sqrt((towards**2).sum(1)), 1e-6)[:, None]
    turn = middle + (radius + 9.0) * towards
    end = turn + 28.0 * towards + 5.0 * bend
    start = np.broadcast_to(middle, turn.shape)
    calibre = np.stack((0.8 * width, width, 1.15 * width), 1)
    tubes = Tubes(
        np.concatenate((start, turn)),
        np.concatenate((turn, end)),
        np.concatenate((calibre[:, :2], calibre[:, 1:])),
    )
    return fill(tubes, grid)
