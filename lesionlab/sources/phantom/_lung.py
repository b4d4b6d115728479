"""Aerated lung: parenchyma with its texture, and tubes: vessel trees, bronchi, strands.

A tree is grown from random points: each is joined to a point nearer to the hilum, the closer and
the straighter the better, and radii add up by Murray's law, r^3 = sum of the branches' r^3
(Murray, PNAS 12 (1926) 207–214).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy.spatial import cKDTree

from lesionlab.sources.phantom import _physics as physics
from lesionlab.sources.phantom._physics import Array, FloatArray, Grid, Window, unit
from lesionlab.sources.phantom._thorax import MEAN_SCALE, Chest

GOLDEN = np.pi * (3 - np.sqrt(5))
NEIGHBOURS = 12  # among how many of the nearest points a branch looks for the one that it hangs on
MOTTLE_MM = 1.5  # correlation length of the texture of lung that is too fine for single vessels, mm
MARGIN_MM = 12.0  # how far around the crop vessels are grown, so that trunks reach into it
MEAN_TISSUE = 134.0  # density of lung over that of air, on average, HU


# (n, 2, 4): straight pieces of tube, tapered; `(z, y, x, radius)` of both ends of each, mm.
Tubes = Array
NO_TUBES = np.zeros((0, 2, 4))


def bent(knots: Iterable[Array], radii: Iterable[Array]) -> Tubes:
    """N tubes through knots, (n, 3) each, with (n,) radii at each knot, mm; first pieces first."""
    ends = [np.column_stack(knot) for knot in zip(knots, radii, strict=True)]
    return np.stack((np.concatenate(ends[:-1]), np.concatenate(ends[1:])), axis=1)


def grow_tree(
    rng: Generator, points: Array, root: Array, *, tip: float, largest: float = 4.0
) -> Tubes:
    """Join `points` (n, 3) to a tree that flows to `root` (3,): 2n pieces, each branch bent once.

    All in mm; `tip` is the radius of the last twigs, and no radius is above `largest`.
    """
    n = len(points)
    if n == 0:
        return NO_TUBES
    points = points[np.argsort(np.linalg.norm(points - root, axis=-1), kind="stable")]
    parent = _parents(points, unit(points - root))
    cube = np.full(n, tip**3) * np.exp(0.5 * rng.standard_normal(n))
    for child in range(n - 1, 0, -1):
        cube[parent[child]] += cube[child]
    radius = np.minimum(np.cbrt(cube), largest)
    start = points[parent]
    start[0] = root
    upstream = np.minimum(radius[parent], 1.25 * radius)
    upstream[0] = radius[0]
    span = np.linalg.norm(points - start, axis=-1)[:, None]
    middle = (start + points) / 2 + 0.06 * span * rng.standard_normal((n, 3))
    return bent((start, middle, points), (upstream, (upstream + radius) / 2, radius))


def _parents(points: Array, outwards: Array) -> npt.NDArray[np.int64]:
    """(n,) on which point each of `points` hangs: the cheapest by length and straightness.

    The points are ordered by their distance to the root, on which the first one hangs.
    """
    n = len(points)
    order = np.arange(n)
    _, near = cKDTree(points).query(points, k=min(NEIGHBOURS, n))
    near = near.reshape(n, -1)
    step = points[:, None] - points[near]  # (child, neighbour, 3)
    along = (step * outwards[:, None]).sum(-1)
    cost = 2.4 * np.linalg.norm(step, axis=-1) - 1.4 * along  # the length, if straight
    cost[near >= order[:, None]] = np.inf
    best = cost.argmin(1)
    parent: npt.NDArray[np.int64] = near[order, best]
    for child in np.flatnonzero(np.isinf(cost[order, best]))[1:]:  # none nearer to the root
        step = points[child] - points[:child]
        parent[child] = (
            2.4 * np.linalg.norm(step, axis=-1) - 1.4 * (step * outwards[child]).sum(1)
        ).argmin()
    parent[0] = 0
    return parent


def fill(tubes: Tubes, grid: Grid) -> FloatArray:
    """(planes, y, x) share of each fine voxel that lies inside a tube, 0 to 1.

    Parallel fibres with samples half a pixel apart fill each tube, and the samples are counted,
    which gives partial volume for any radius. Pieces that do not reach the grid cost nothing.
    """
    low, high = grid.ends
    ends, reach = tubes[..., :3], tubes[..., 3].max(1)[:, None] + grid.pixel
    near = (ends.max(1) + reach > low) & (ends.min(1) - reach < high)
    tubes = tubes[near.all(1)]
    if not len(tubes):
        return np.zeros(grid.shape, np.float32)
    start, radii = tubes[:, 0, :3], tubes[..., 3]
    way, between = tubes[:, 1, :3] - start, 0.5 * grid.pixel
    length, axis = np.linalg.norm(way, axis=-1), unit(way)
    fibres = np.maximum(1, np.rint(np.pi * (radii.mean(1) / between) ** 2)).astype(np.int32)
    steps = np.maximum(1, np.ceil(length / between)).astype(np.int32)
    count = fibres * steps

    def each(values: Array) -> FloatArray:
        """A tube's value for each of its samples; single precision, for speed."""
        return np.repeat(values.astype(np.float32), count)

    number = np.arange(count.sum(), dtype=np.int32) - np.repeat(np.cumsum(count) - count, count)
    fibre = number // np.repeat(steps, count)
    at = (number - fibre * np.repeat(steps, count) + np.float32(0.5)) * each(1 / steps)
    radius = each(radii[:, 0]) + at * each(radii[:, 1] - radii[:, 0])
    several = (fibres > 1) / fibres  # a single fibre is the axis itself
    ring = radius * np.sqrt((fibre + np.float32(0.5)) * each(several))
    spiral = np.arange(fibres.max()) * GOLDEN
    aside = ring * np.cos(spiral).astype(np.float32)[fibre]
    above = ring * np.sin(spiral).astype(np.float32)[fibre]
    # two directions at right angles to the axis and to each other
    helper = np.where(np.abs(axis[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    side = unit(np.cross(axis, helper))
    up = np.cross(axis, side)
    flat = np.zeros(len(number), np.int32)
    inside = np.ones(len(number), bool)
    for k, (n, voxel) in enumerate(zip(grid.shape, grid.voxel, strict=True)):
        # in voxels from the corner of the first one
        position = at * each(length * axis[:, k] / voxel)
        position += aside * each(side[:, k] / voxel)
        position += above * each(up[:, k] / voxel)
        position += each((start[:, k] - low[k]) / voxel + 0.5)
        inside &= (position >= 0) & (position < n)
        flat *= np.int32(n)
        flat += position.astype(np.int32)
    mass = radius * radius * each(np.pi * length / count / grid.voxel.prod())
    filled = np.bincount(flat[inside], mass[inside], minlength=int(np.prod(grid.shape)))
    return np.minimum(filled.astype(np.float32), np.float32(1)).reshape(grid.shape)


@dataclass(frozen=True)
class Lung:
    """One scan's lung tissue."""

    hu: float  # density at mid-height of the field of view
    gradient: float  # HU per mm towards the back, the dependent side
    mottle: float  # standard deviation of the texture below the size of a vessel, HU
    emphysema: float  # HU by which the holes of emphysema are darker, 0 for none
    density: float  # ends of vessels per cm³
    tip: float  # radius of a vessel's last twig, mm


def draw_lung(rng: Generator) -> Lung:
    """Draw one scan's lung tissue; centres and spreads are those of the real crops."""
    normal = rng.standard_normal(4)
    emphysema = rng.uniform(30, 90) if rng.random() < 0.25 else 0.0
    return Lung(
        hu=float(np.clip(MEAN_TISSUE - 1000 + 30 * normal[0], -938, -768)),
        gradient=float(0.3 + 0.3 * normal[1]),
        mottle=float(np.clip(28 + 9 * normal[2], 8, 55)),
        emphysema=float(emphysema),
        density=float(5.2 * np.exp(0.4 * normal[3])),
        tip=float(rng.uniform(0.18, 0.34)),
    )


def inflated(lung: Lung, scale: float) -> Lung:
    """Tissue of lungs of mean size in lungs of another: the less air, the denser and less even.

    Tissue is kept, so that density over that of air goes with one over the volume, scale³.
    """
    tissue = (lung.hu + 1000) * (MEAN_SCALE / scale) ** 3
    mottle = lung.mottle * (tissue / MEAN_TISSUE) ** 0.8
    hu = float(np.clip(tissue - 1000, -950, -740))
    return replace(lung, hu=hu, mottle=float(np.clip(mottle, 8, 60)))


def parenchyma(rng: Generator, lung: Lung, grid: Grid) -> FloatArray:
    """(planes, y, x) HU of lung without vessels."""
    broad = physics.texture(rng, grid.shape, 9.0 / grid.voxel)
    fine = physics.texture(rng, grid.shape, MOTTLE_MM / grid.voxel)
    slope = (lung.gradient * (grid.y - 256 * grid.pixel)).astype(np.float32)[:, None]
    out = broad * np.float32(22) + fine * np.float32(lung.mottle)
    out += slope + np.float32(lung.hu)
    if lung.emphysema:
        out -= np.float32(lung.emphysema) * np.clip(broad - 0.3, 0, 1)
    return np.maximum(out, np.float32(-1000))


Clear = tuple[Window, FloatArray]
"""A window of the grid, and the share of vessels and bronchi that stays there."""


def vessels(
    rng: Generator, volume: FloatArray, lung: Lung, chest: Chest, grid: Grid, clear: Clear | None
) -> FloatArray:
    """Write bronchi into `volume`, HU; returns the share of each fine voxel that vessels fill."""
    low, high = grid.ends
    low, high = low - MARGIN_MM, high + MARGIN_MM
    n = int(lung.density * np.prod(high - low) / 1000)
    trees = []
    for _ in range(2):  # arteries and veins
        points = rng.uniform(low, high, (n // 2, 3))
        depth, _ = chest.radial(float((low[0] + high[0]) / 2), points[:, 1], points[:, 2])
        points = points[(depth < -3.0) & (chest.diaphragm(*points.T) < -3.0)]
        root = hilum(rng, chest, float((low[2] + high[2]) / 2))
        trees.append(grow_tree(rng, points, root, tip=lung.tip))
    blood = np.maximum(fill(trees[0], grid), fill(trees[1], grid))
    radius = trees[0][..., 3]
    bronchi = trees[0][(radius.min(1) > 1.0) & (radius.max(1) < 3.0)]  # they run beside arteries
    offset = 1.9 * bronchi[..., 3].mean(1)[:, None] * np.array([[0.2, 0.7, 0.7]])
    bronchi[..., :3] += offset[:, None]
    bronchus = fill(bronchi, grid)
    lumen = fill(bronchi * [1, 1, 1, 0.68], grid)
    if clear is not None:
        window, share = clear
        for tree in (blood, bronchus, lumen):
            tree[window] *= share
    volume += bronchus * (-300 - volume)
    volume += lumen * (-960 - volume)
    return blood


def hilum(rng: Generator, chest: Chest, x: float) -> Array:
    """(3,) where the vessels of the lung at column `x` come from, mm."""
    middle = 0.5 * chest.fov + chest.shift[1]
    side = -1 if x < middle else 1
    jitter = 4.0 * rng.standard_normal(3)
    height, y = 0.52 * chest.height, 0.50 * chest.fov
    return np.array([height, y + chest.shift[0], middle + side * 0.09 * chest.fov]) + jitter


def feeding_vessels(
    rng: Generator, chest: Chest, grid: Grid, middle: Array, radius: float
) -> FloatArray:
    """Share of each fine voxel in the 0 to 3 vessels that run from a lesion to the hilum."""
    count = int(rng.binomial(3, 0.5))
    width = np.minimum(rng.uniform(0.4, 1.3, count), 0.25 + 0.25 * radius)
    bend, spread = rng.standard_normal((2, count, 3))
    low, high = grid.ends
    straight = unit(hilum(rng, chest, float((low[2] + high[2]) / 2)) - middle)
    towards = unit(straight + 0.6 * spread)
    turn = middle + (radius + 9.0) * towards
    end = turn + 28.0 * towards + 5.0 * bend
    start = np.broadcast_to(middle, turn.shape)
    return fill(bent((start, turn, end), (0.8 * width, width, 1.15 * width)), grid)
