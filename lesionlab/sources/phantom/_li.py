"""How Li 2021's nine codes become voxels; `phantom_li2021` says what each looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from lesionlab.crops import Crop
from lesionlab.sources.phantom._fields import Array, FloatArray, Grid, generator, texture
from lesionlab.sources.phantom._joint import AIR, CONSOLIDATION, EFFUSION, GLASS
from lesionlab.sources.phantom._lung import _hilum, parenchyma, vessels
from lesionlab.sources.phantom._scene import (
    Place,
    Scan,
    fewer_twigs,
    find_place,
    finish,
    fissure_hu,
    grid_around,
    offsets,
)
from lesionlab.sources.phantom._shapes import (
    Blobs,
    indent,
    leading_vessels,
    lobulated_shape,
    patchy_shape,
    pleural_depth,
    round_shape,
    strands,
)
from lesionlab.sources.phantom._thorax import surroundings
from lesionlab.sources.phantom._vessels import Tubes, fill

CLEAR_MM, UNCLEAR_MM = 0.3, 1.4  # standard deviation of the edge
RIM_MM = 3.0  # reach of the ground glass around an unclear margin
STRANDS_MM = {2: (6.0, 13.0), 3: (2.0, 5.0)}  # by code: long, short
NEAR_MM, FREE_MM = (5.0, 12.0), (12.0, 32.0)  # from lesion to pleura
CLEARANCE_MM = 4.0  # how far other vessels keep from a lesion
LUMEN_HU = -970.0


@dataclass(frozen=True)
class _Body:
    """A lesion in its window of the fine planes.

    Attributes:
        window: Slices `(z, y, x)` of the fine grid.
        surface: Signed distance to the outline, mm, negative inside.
        inward: 0 at the outline to 1 at the deepest place.
        deepest: Depth there, mm.
        coarse: Random field with blobs of about half the lesion.
        fine: Random field with blobs of 1.5 mm.
    """

    window: tuple[slice, slice, slice]
    surface: FloatArray
    inward: FloatArray
    deepest: float
    coarse: FloatArray
    fine: FloatArray


def draw_lesion(
    lesion_id: str,
    codes: Mapping[str, int],
    scan: Scan,
    *,
    diameter: float,
    spacing: float,
    size: int,
    seed: int,
) -> Crop:
    """Render one lesion with its surroundings.

    Args:
        lesion_id: Of the lesion.
        codes: The nine, by name.
        scan: Its patient and scanner.
        diameter: Larger side in plane, mm.
        spacing: Distance and thickness of slices, mm.
        size: Rows and columns, pixels.
        seed: As in `phantom_li2021.render`.
    """
    rng = generator("form", lesion_id, seed)
    shape = _shape(rng, codes).with_diameter(diameter)
    place = _place(generator("place", lesion_id, seed), scan, codes, diameter)
    pixel = scan.chest.pixel
    half_z = max(float(shape.half_widths()[0]) + 3.0, 6 * spacing)
    grid = grid_around(
        place, size=size, half_z=half_z, spacing=spacing, thickness=spacing, pixel=pixel
    )
    around = surroundings(generator("wall", lesion_id, seed), place.chest, grid)
    body = _body(rng, codes, shape, place, grid, diameter)

    lung = fewer_twigs(scan.lung, grid)
    volume = parenchyma(generator("parenchyma", lesion_id, seed), lung, grid)
    volume += fissure_hu(place.chest, place.centre, grid)
    trees = vessels(generator("vessels", lesion_id, seed), lung, place.chest, grid)
    for tree in trees:
        tree[body.window] *= np.clip(body.surface / CLEARANCE_MM - 0.25, 0, 1)
    blood, bronchus, lumen = trees
    volume += bronchus * (-300 - volume)
    volume += lumen * (-960 - volume)
    signs = generator("signs", lesion_id, seed)
    root = _hilum(signs, place.chest, place.centre, place.centre)
    if codes["vessel_convergence"] == 2:
        blood = np.maximum(blood, _convergence(signs, shape, place, root, grid, diameter))
    volume += blood * (place.chest.blood - 5 - volume)

    share = _fill_in(volume, signs, codes, body, place, root, grid)
    if codes["spiculation_length"] != 1:
        count = int(np.clip(10 + 0.8 * diameter, 14, 44))
        lengths = STRANDS_MM[codes["spiculation_length"]]
        burrs = strands(signs, shape, place.centre, count=count, lengths=lengths, furthest=diameter)
        drawn = fill(burrs, grid)
        volume = np.maximum(volume, volume + drawn * (0 - volume))
    if codes["pleural_indentation"] == 2 and codes["lesion_type"] != EFFUSION:
        from_lesion = float(shape.reach(place.outwards[None], diameter)[0])
        gap = max(place.to_wall - from_lesion, 1.0)
        height = 0.55 * gap + 1.0
        around = indent(
            around, grid, place.centre, place.outwards, height=height, width=0.3 * gap + 1.0
        )
        line = _line(place, from_lesion - 1.0, place.to_wall)
        volume = np.maximum(volume, volume + fill(line, grid) * (20 - volume))
    return finish(volume, share, around, grid, scan, lesion_id=lesion_id, seed=seed)


def _shape(rng: np.random.Generator, codes: Mapping[str, int]) -> Blobs:
    if codes["lobulation_presence"] == 2:
        return lobulated_shape(rng)
    return patchy_shape(rng) if codes["lesion_type"] == CONSOLIDATION else round_shape(rng)


def _place(
    rng: np.random.Generator, scan: Scan, codes: Mapping[str, int], diameter: float
) -> Place:
    """A place in the lobe: at the wall where the pleura is drawn in, and for some of the others."""
    kind, indented = codes["lesion_type"], codes["pleural_indentation"] == 2
    near = rng.random() < 0.4 or indented
    gap = float(rng.uniform(*(NEAR_MM if near else FREE_MM)))
    radius = diameter / 2
    if kind == EFFUSION:
        radius, gap = 0.0, 4.0
    elif kind == AIR and not indented:
        gap = float(rng.uniform(0.8, 3.0))
    return find_place(
        rng,
        scan.chest,
        radius=radius,
        gap=gap,
        lobe=codes["lesion_location"],
        facing="back" if kind == EFFUSION else "wall" if near or kind == AIR else "any",
    )


def _body(
    rng: np.random.Generator,
    codes: Mapping[str, int],
    shape: Blobs,
    place: Place,
    grid: Grid,
    diameter: float,
) -> _Body:
    reach = shape.half_widths() + RIM_MM + CLEARANCE_MM + 2
    if codes["lesion_type"] == EFFUSION:
        reach = np.maximum(reach, diameter / 2 + RIM_MM + CLEARANCE_MM + 2)
    spans = []
    for at, middle, span in zip((grid.z_fine, grid.y, grid.x), place.centre, reach, strict=True):
        inside = np.flatnonzero(np.abs(at - middle) <= span)
        spans.append(slice(int(inside[0]), int(inside[-1]) + 1))
    window = (spans[0], spans[1], spans[2])
    z, y, x = offsets(grid, place.centre)
    z, y, x = z[window[0]], y[:, window[1]], x[:, :, window[2]]
    if codes["lesion_type"] == EFFUSION:
        depth = pleural_depth(place.chest, grid)[window]
        lens = 1 - (z * z + y * y + x * x) / np.float32((diameter / 2) ** 2)
        thickness = np.float32(rng.uniform(0.2, 0.32) * diameter)
        surface = 0.8 * np.maximum(depth, -depth - thickness * np.maximum(lens, np.float32(-1)))
    else:
        surface = shape.distance(z, y, x)
    deepest = max(float(-surface.min()), 0.5 * grid.pixel)
    voxel = np.array([grid.step, grid.pixel, grid.pixel])
    coarse = texture(rng, surface.shape, tuple(np.maximum(0.55 * deepest, 0.8) / voxel))
    fine = texture(rng, surface.shape, tuple(1.5 / voxel))
    uneven = 0.03 * deepest if codes["lesion_type"] != CONSOLIDATION else 0.12 * deepest
    surface = surface + np.float32(min(uneven, 1.5)) * coarse
    if codes["margin_clarity"] == 2:
        surface += np.float32(0.6 * min(1.0, deepest / 3)) * fine
    surface = surface.astype(np.float32)
    inward = np.clip(-surface / np.float32(deepest), 0, 1)
    return _Body(window, surface, inward, deepest, coarse, fine)


def _fill_in(
    volume: FloatArray,
    rng: np.random.Generator,
    codes: Mapping[str, int],
    body: _Body,
    place: Place,
    root: Array,
    grid: Grid,
) -> FloatArray:
    """Write the lesion into `volume`; its share of every fine voxel."""
    here = volume[body.window]
    unclear = codes["margin_clarity"] == 2
    edge = min(UNCLEAR_MM, 0.4 * body.deepest) if unclear else CLEAR_MM
    edge = max(edge, 0.29 * grid.pixel)
    part = ndtr(-body.surface / np.float32(edge)).astype(np.float32)
    if unclear:
        rim = np.exp(-((np.maximum(body.surface, 0) / np.float32(RIM_MM)) ** 2))
        here += np.float32(0.45) * rim * np.clip(1 + 0.5 * body.fine, 0, 2) * (-430 - here)
    hu = _density(rng, codes["lesion_type"], body)
    if codes["calcification_extent"] != 1:
        hu = _calcify(rng, codes["calcification_extent"], hu, body, grid)
    here += part * (hu - here)
    if codes["lesion_type"] == AIR:
        wall = min(float(rng.uniform(1.0, 1.6)), 0.35 * body.deepest)
        _empty(here, body.surface + np.float32(wall), grid)
    if codes["lesion_type"] == CONSOLIDATION:
        bronchi = fill(_bronchi(rng, place, root, body.deepest), grid)[body.window]
        here += bronchi * part * (body.inward > 0.05) * (-930 - here)
    if codes["cavity"] == 2:
        _empty(here, _hole(rng, body, grid), grid)
    share = np.zeros_like(volume)
    share[body.window] = part
    return share


def _density(rng: np.random.Generator, kind: int, body: _Body) -> FloatArray:
    """HU of the lesion without calcium and holes."""
    level = float(rng.standard_normal())
    if kind == GLASS:
        hu = -570 + 40 * level + 35 * body.fine + 25 * body.coarse
    elif kind == EFFUSION:
        hu = 8 + 5 * level + 3 * body.fine
    elif kind == AIR:
        hu = -30 + 20 * level + 10 * body.fine
    else:
        hu = 38 + 12 * level + 10 * body.fine
    return np.asarray(hu, np.float32)


def _calcify(
    rng: np.random.Generator, code: int, hu: FloatArray, body: _Body, grid: Grid
) -> FloatArray:
    """Calcium in one or two clumps (2), or in nearly all of the lesion (3)."""
    peak = np.float32(np.clip(600 * np.exp(0.35 * rng.standard_normal()), 350, 1500))
    if code == 3:
        share = np.clip((body.inward * body.deepest - 0.3) / grid.pixel + 0.5, 0, 1)
    else:
        clumps = [_ball(rng, body, grid, 0.45, 0.4) for _ in range(int(rng.integers(1, 3)))]
        rough = np.minimum.reduce(clumps) + np.float32(0.12 * body.deepest) * body.coarse
        share = np.clip(0.5 - rough / grid.pixel, 0, 1)
    return np.asarray(hu + share * (peak * (1 + 0.12 * body.fine) - hu), np.float32)


def _hole(rng: np.random.Generator, body: _Body, grid: Grid) -> FloatArray:
    """Signed distance to the inner wall of a cavity, uneven and not quite in the middle."""
    ball = _ball(rng, body, grid, 0.15, float(rng.uniform(0.5, 0.68)))
    inner = ball + np.float32(0.08 * body.deepest) * body.coarse
    wall = np.float32(min(1.5, 0.3 * body.deepest))
    return np.asarray(np.maximum(inner, body.surface + wall), np.float32)


def _ball(
    rng: np.random.Generator, body: _Body, grid: Grid, off: float, radius: float
) -> FloatArray:
    """Signed distance to a ball near the deepest place; lengths in shares of the depth there."""
    deep = np.unravel_index(int(np.argmin(body.surface)), body.surface.shape)
    aim = rng.standard_normal(3)
    aim *= off * body.deepest / max(float(np.sqrt((aim**2).sum())), 1e-6)
    voxel = (grid.step, grid.pixel, grid.pixel)
    z, y, x = np.ogrid[tuple(slice(n) for n in body.surface.shape)]
    z, y, x = (
        ((at - d) * v - a).astype(np.float32)
        for at, d, v, a in zip((z, y, x), deep, voxel, aim, strict=True)
    )
    away: FloatArray = np.sqrt(z * z + (y * y + x * x))
    return away - np.float32(radius * body.deepest)


def _empty(here: FloatArray, inner: FloatArray, grid: Grid) -> None:
    """Air where `inner`, a signed distance, is negative."""
    here += np.clip(0.5 - inner / np.float32(grid.pixel), 0, 1) * (np.float32(LUMEN_HU) - here)


def _bronchi(rng: np.random.Generator, place: Place, root: Array, deepest: float) -> Tubes:
    """Air-filled bronchi that fan out through a consolidation from the side of the hilum."""
    towards = root - place.centre
    towards = towards / max(float(np.sqrt((towards**2).sum())), 1e-6)
    n = 5
    start = place.centre + 0.7 * deepest * towards + 0.15 * deepest * rng.standard_normal((n, 3))
    aim = -towards + 0.55 * rng.standard_normal((n, 3))
    end = start + deepest * rng.uniform(1.1, 1.8, (n, 1)) * aim
    width = rng.uniform(0.9, 1.5, n)
    return Tubes(start, end, np.stack((width, 0.6 * width), axis=1))


def _convergence(
    rng: np.random.Generator, shape: Blobs, place: Place, root: Array, grid: Grid, diameter: float
) -> FloatArray:
    """Share of each fine voxel in the vessels that lead to the lesion."""
    led = leading_vessels(
        rng,
        shape,
        place.centre,
        root,
        count=int(rng.integers(3, 6)),
        furthest=diameter,
        radius=float(np.clip(0.07 * diameter, 0.8, 1.7)),
    )
    return fill(led, grid)


def _line(place: Place, start: float, end: float) -> Tubes:
    """The strand between lesion and pleura."""
    ends = place.centre + np.array([[start], [end]]) * place.outwards
    return Tubes(ends[:1], ends[1:], np.array([[0.6, 0.6]]))
