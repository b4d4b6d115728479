"""Phantom ground-glass nodules of Wang 2021's four types, in place of the private data set.

From the paper: how many of each type are for training and for testing (Table 1); one nodule per
scan, below 1 cm; slices of 1 or 1.25 mm, pixels of 0.55 to 0.7 mm, no contrast medium (section
3.1); vessels through the nodule and the chest wall beside it, which interfere (section 1); a mask
of the nodule without large vessels. The mask is one reader's.

**The type acts through three numbers only**, which are drawn from the overlapping distributions of
`TYPES`, independently of each other: the diameter, the density of the ground glass, and the solid
core's share of the diameter. All their values are *our assumption*. Their order is that of
pathology, in which cells grow denser along the alveoli from AAH to AIS, and MIA and IAC add an
invasive part, which CT shows as solid more often than not (IASLC/ATS/ERS 2011, the paper's
reference 2). The tasks are about as hard as the paper's: diameter, mean HU and the share above
-300 HU together have an AUC of 0.73 to 0.80, the paper's model (d) one of 0.74 to 0.81.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy.special import ndtr, ndtri

from lesionlab import _names, published
from lesionlab.crops import Crop
from lesionlab.sources.phantom import _scene as scene
from lesionlab.sources.phantom._lung import Tubes, bent, fill
from lesionlab.sources.phantom._physics import Array, generator, grain
from lesionlab.sources.phantom._thorax import surroundings

__all__ = ["N_NODULES", "TYPES", "nodules", "phantom", "render"]

N_NODULES = 740  # nodules of the paper (Table 1)

DIAMETERS = (4.0, 9.9)  # smallest and largest, mm: "subcentimeter nodules" (section 3.1)
HALF_Z_MM = 18.5  # how far slices reach from the middle, for a patch of 32 mm around the centroid
LEAST_MM = 24.0  # width of a crop at least, for a patch of 22.4 mm in plane
SHARE_WITH_VESSEL, SHARE_AT_WALL = 0.4, 0.35  # of all types alike
SOLID_HU = 0.0
LARGE_VESSEL = 0.5  # share of a voxel from which a reader leaves it out of the mask
SOLID_WEIGHT = 9.0  # observations that the beta distribution of the core's share stands for

# diameter: median, mm, of a lognormal distribution cut at `DIAMETERS`, and `spread` of its
# logarithm; ground glass: mean and standard deviation, HU; p_solid: share of the nodules with a
# solid core; solid: the core's mean diameter over that of such a nodule
_ASSUMED = ("diameter", "spread", "glass_hu", "glass_sd", "p_solid", "solid")
TYPES = {
    "AAH": (5.8, 0.20, -655, 60, 0.05, 0.25),
    "AIS": (6.6, 0.22, -630, 60, 0.25, 0.32),
    "MIA": (7.4, 0.23, -602, 65, 0.50, 0.40),
    "IAC": (8.5, 0.22, -570, 70, 0.75, 0.52),
}

_RANGES = {
    "diameter": (2.0, 40.0),
    "glass_hu": (-850.0, 0.0),
    "solid_share": (0.0, 1.0),
    "slice_thickness": (0.5, 3.0),
    "pixel_spacing": (0.3, 1.0),
}


def nodules(n: int = N_NODULES, *, seed: int = 0) -> pd.DataFrame:
    """Draw a table of `n` nodules with the counts of Table 1, or in proportion to them.

    Returns:
        One row per nodule, index `lesion_id`: `patient` and `scan_id` (one nodule each),
        `pathology`, `part` (training or testing, Table 1), what is drawn by type (`diameter` in mm,
        `glass_hu`, `solid_share`; no model should be given them), what is drawn for all alike
        (`has_vessel`: one runs through it; `at_wall`), `slice_thickness` (as the distance of
        slices) and `pixel_spacing` in mm.
    """
    _names.whole(1, n=n)
    _names.whole(0, seed=seed)
    rng = generator("wang2021", "table", n, seed)
    printed = published.table("wang2021", 1).set_index("category")
    cells = printed.loc[list(TYPES), ["training", "testing"]].stack()
    table = cells.index.repeat(scene.apportion(cells.to_numpy(), n)).to_frame(index=False)
    table.columns = pd.Index(["pathology", "part"])
    kinds = pd.DataFrame([TYPES[name] for name in table["pathology"]], columns=_ASSUMED)
    low, high = (ndtr((np.log(d / kinds["diameter"])) / kinds["spread"]) for d in DIAMETERS)
    normal = ndtri(low + (high - low) * rng.random(n))
    table["diameter"] = np.round(kinds["diameter"] * np.exp(kinds["spread"] * normal), 2)
    glass = kinds["glass_hu"] + kinds["glass_sd"] * rng.standard_normal(n)
    table["glass_hu"] = np.round(np.clip(glass, -780, -350), 1)
    weight = SOLID_WEIGHT * kinds["solid"]
    core = rng.beta(weight, SOLID_WEIGHT - weight)
    table["solid_share"] = np.round(np.where(rng.random(n) < kinds["p_solid"], core, 0), 3)
    table["has_vessel"] = rng.random(n) < SHARE_WITH_VESSEL
    table["at_wall"] = rng.random(n) < SHARE_AT_WALL
    table["slice_thickness"] = rng.choice([1.0, 1.25], n)
    table["pixel_spacing"] = np.round(rng.uniform(0.55, 0.70, n), 3)
    table = table.iloc[rng.permutation(n)].reset_index(drop=True)
    table.insert(0, "patient", [f"GGN-{k + 1:04d}" for k in range(n)])
    table.insert(1, "scan_id", table["patient"] + "-S1")
    return table.set_index(pd.Index(table["scan_id"] + "-N1", name="lesion_id"))


_table = lru_cache(maxsize=4)(nodules)


def phantom(lesion_id: str, *, seed: int = 0, size: int = 64) -> Crop:
    """Render one nodule of `nodules(seed=seed)`; see `render`. A LookupError for an unknown id."""
    nodule: Any = _table(seed=seed).loc[lesion_id]
    return render(nodule, seed=seed, size=size)


def render(nodule: pd.Series[Any], *, seed: int = 0, size: int = 64) -> Crop:
    """Render the CT of one nodule, a row of `nodules`.

    The same bytes for the same row and seed, in any order and process. `pathology` is not read.
    Another seed gives another patient and another form.

    Returns:
        A crop of the tier `phantom`, `size` pixels wide, with one mask: the nodule without large
        vessels. Slices reach 18.5 mm above and below its middle.

    Raises:
        ValueError: A value is out of range, or the nodule does not fit into `size`.
    """
    numbers = scene.numbers(nodule, _RANGES, seed, size, around=4, least=LEAST_MM)
    diameter, glass_hu, solid_share, spacing, pixel = numbers
    for name in ("has_vessel", "at_wall"):
        if not isinstance(nodule[name], bool | np.bool_):
            raise ValueError(f"{name}={nodule[name]!r} of {nodule.name}: expected a boolean")
    key, scan, radius = (str(nodule.name), seed), (str(nodule["scan_id"]), seed), diameter / 2
    chest, lung, scanner = scene.draw_scan(scan, spacing, spacing, pixel, contrast=False)
    rng = generator("place", *key)
    gap, facing = ((0.5, 4.0), "wall") if nodule["at_wall"] else ((6.0, 30.0), "any")
    chest, middle = scene.find_place(rng, chest, radius, float(rng.uniform(*gap)), facing)
    grid = scene.grid_around(chest, middle, size, HALF_Z_MM, spacing)
    volume, blood = scene.made_up_lung(key, chest, lung, middle, grid)
    if nodule["has_vessel"]:
        blood = np.maximum(blood, fill(_crossing(generator("vessel", *key), middle), grid))
    # the nodule's own density, and its share of every fine voxel
    rng = generator("form", *key)
    shape = scene.stretched(rng, (0, 0, 0, 1)).with_diameter(diameter)
    surface = shape.distance(*scene.offsets(grid.z_fine, grid, middle))
    coarse, fine = grain(rng, surface.shape, 0.6 * radius, grid)
    surface = surface + np.float32(0.08 * radius) * coarse
    share = ndtr(-surface / np.float32(rng.uniform(0.5, 0.9))).astype(np.float32)
    hu = glass_hu + 30 * fine + 20 * coarse
    if solid_share > 0:
        core = surface + np.float32(radius * (1 - solid_share)) + 0.15 * radius * coarse
        hu = hu + ndtr(-core / np.float32(0.5)) * (SOLID_HU + 15 * fine - hu)
    filled = volume + share * (np.asarray(hu, np.float32) - volume)
    volume += blood * (chest.blood - 5 - volume)
    around = surroundings(generator("wall", *key), chest, grid)
    large = grid.average(blood) > LARGE_VESSEL
    volume = np.maximum(volume, filled)
    return scene.finish(key, volume, share, around, grid, scanner, not_lesion=large)


def _crossing(rng: Generator, middle: Array) -> Tubes:
    """A vessel of two straight pieces that meet in the nodule."""
    aim = scene.directions(rng, 1)[0]
    ends = np.stack((aim, -aim + 0.4 * rng.standard_normal(3))) * 30
    meeting = middle + rng.uniform(-1.2, 1.2, 3)
    width = float(rng.uniform(0.7, 1.3))
    return bent(
        (np.stack((meeting, meeting)), middle + ends),
        (np.full(2, width), np.array([1.2, 0.7]) * width),
    )
