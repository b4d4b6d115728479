"""Phantom lesions with Li 2021's nine categories, in place of the private data set.

**The renderer sees the labels here**, all nine of them, because they are what is rendered. A model
that does well on these phantoms shows that its code works, not that readers can be imitated: there
is no reader who errs, and each sign is drawn as section 4.1 describes it, mostly plainly. What
departs from it: the paper's sizes go to 191 mm; vessels stay away from all lesions on which they do
not converge; an effusion draws in no pleura.

The paper prints how often each category occurs (Table 2), and these counts are met **exactly**. It
says in words how they go together (section 4.2): `SIGNS` by lesion type and log odds ratios
(`LIFT`) are ours, and chosen so that these sentences are true. "For cavity and pleural effusion,
they almost have no other attributes" is read as air containing space, the lesion type. Lobes are
drawn independently of all else (4.1.2); code 0, several lobes, goes to large lesions. Not honoured:
that mass and nodule are "roughly similar" but for size (4.1.1), and where cavities lie (4.1.7),
which section 4.2 and 4.1.2 contradict.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.random import Generator
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from lesionlab import _names, published
from lesionlab.attributes import LI_CATEGORIES, category
from lesionlab.crops import Crop
from lesionlab.sources.phantom import _scene as scene
from lesionlab.sources.phantom._lung import Tubes, bent, fill, hilum
from lesionlab.sources.phantom._physics import Array, FloatArray, generator, grain, unit
from lesionlab.sources.phantom._scene import Blobs, BoolArray, Key
from lesionlab.sources.phantom._thorax import Around, Chest, surroundings

__all__ = ["N_LESIONS", "lesions", "phantom", "render"]

N_LESIONS = 2014  # lesions of the paper's experiments (section 6)
ROOM_MM = 8.0  # lung that a crop shows at least on every side of a lesion, mm

# Smallest and largest diameter, by lesion type in the order of the codes: mass, nodule, glass, air,
# consolidation, effusion. Between them the logarithm is uniform.
SMALL, LARGE = (31.0, 4.0, 6.0, 8.0, 20.0, 36.0), (58.0, 29.0, 28.0, 40.0, 52.0, 58.0)
# Smallest diameter at which a sign can be seen. Lesions "less than 1 cm in diameter have fewer
# vessel convergence signs" (4.1.8): of those with the sign, one in eight may be smaller.
SMALLEST = {
    "calcification_extent": {2: 8.0, 3: 4.0},
    "lobulation_presence": {2: 8.0},
    "cavity": {2: 12.0},
    "vessel_convergence": {2: 10.0},
}
EXCEPTION = 0.125

CLEAR_MM, UNCLEAR_MM = 0.3, 1.4  # standard deviation of the edge
RIM_MM = 3.0  # reach of the ground glass around an unclear margin
STRANDS_MM = {2: (6.0, 13.0), 3: (2.0, 5.0)}  # by code: long, short
NEAR_MM, FREE_MM = (5.0, 12.0), (12.0, 32.0)  # from lesion to pleura
CLEARANCE_MM = 4.0  # how far other vessels keep from a lesion
LUMEN_HU = -970.0
PLEURA_HU = 25.0  # of pleura that is drawn into the lung

Codes = Mapping[str, int]
Ints = npt.NDArray[np.int64]

MASS, NODULE, GLASS, AIR, CONSOLIDATION, EFFUSION = category("lesion_type").codes

# By sign: its attribute, the codes that say so (a lesion with it gets the first of them), and how
# many of the printed 2,014 lesions have it, by lesion type in the order of the codes.
SIGNS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "unclear": ("margin_clarity", (2,), (628, 218, 136, 0, 145, 0)),
    "lobulated": ("lobulation_presence", (2,), (655, 256, 44, 0, 44, 0)),
    "spiculated": ("spiculation_length", (3, 2), (553, 197, 26, 0, 40, 0)),
    "long": ("spiculation_length", (2,), (214, 62, 10, 0, 21, 0)),
    "indented": ("pleural_indentation", (2,), (385, 262, 73, 2, 70, 0)),
    "convergent": ("vessel_convergence", (2,), (160, 262, 64, 2, 65, 0)),
    "calcified": ("calcification_extent", (2, 3), (18, 91, 0, 0, 3, 0)),
    "total": ("calcification_extent", (3,), (4, 45, 0, 0, 1, 0)),
    "cavity": ("cavity", (2,), (60, 25, 0, 0, 5, 0)),
    "several": ("lesion_location", (0,), (240, 20, 26, 28, 96, 26)),  # lobes
}
AMONG = {"long": "spiculated", "total": "calcified"}  # is drawn among those alone

# Log odds ratios within a lesion type, of an attribute given those drawn before it.
LIFT = {
    "lobulated": {"unclear": 1.2},
    "spiculated": {"unclear": 1.2, "lobulated": 1.0},
    "indented": {"unclear": 0.9, "lobulated": 0.9, "spiculated": 0.4},
    "convergent": {"unclear": 1.1, "lobulated": 1.2, "spiculated": 1.2, "indented": 0.6},
    "cavity": {"unclear": 0.8, "lobulated": 1.0},
}

_RANGES = {"diameter": (2.0, 80.0), "slice_thickness": (0.5, 5.0), "pixel_spacing": (0.15, 1.5)}


def lesions(n: int = N_LESIONS, *, seed: int = 0) -> pd.DataFrame:
    """Draw a table of `n` lesions with the printed counts, or in proportion to them.

    Returns:
        One row per lesion, index `lesion_id`: `patient`, `scan_id` (a patient has one scan), the
        nine codes named as in `lesionlab.attributes.LI_CATEGORIES`, `diameter` (larger side in
        plane), `slice_thickness` (as the distance of slices) and `pixel_spacing` in mm.
    """
    _names.whole(1, n=n)
    _names.whole(0, seed=seed)
    rng = generator("li2021", "table", n, seed)
    codes = pd.DataFrame(_draw_codes(rng, n))
    codes["diameter"] = _diameters(rng, codes)
    codes = codes.iloc[rng.permutation(n)].reset_index(drop=True)
    printed = {k: published.fact("li2021", f"n_{k}_experiments") for k in ("volumes", "lesions")}
    n_scans = max(1, round(n * printed["volumes"] / printed["lesions"]))
    per_scan = 1 + scene.apportion(rng.gamma(1.2, size=n_scans), n - n_scans)
    scan = np.repeat(np.arange(n_scans), per_scan)
    number = np.arange(n) - np.repeat(np.cumsum(per_scan) - per_scan, per_scan)
    thickness = rng.choice([1.0, 1.5, 2.0], n_scans, p=[0.35, 0.15, 0.5])
    pixel = np.round(rng.uniform(0.62, 0.85, n_scans), 3)
    codes.insert(0, "patient", [f"LI-{k + 1:04d}" for k in scan])
    codes.insert(1, "scan_id", codes["patient"] + "-S1")
    codes["slice_thickness"], codes["pixel_spacing"] = thickness[scan], pixel[scan]
    ids = [f"{s}-L{k + 1:02d}" for s, k in zip(codes["scan_id"], number, strict=True)]
    return codes.set_index(pd.Index(ids, name="lesion_id"))


def printed_counts() -> dict[str, dict[int, int]]:
    """The counts of Table 2 by attribute and code.

    Lesions without vessel convergence are not printed, nor are those in several lobes (code 0):
    both are what is left of the 2,014.
    """
    total = int(published.fact("li2021", "n_lesions_experiments"))
    printed = published.table("li2021", 2).set_index(["attribute", "category"])["lesions"]
    counts = {}
    for attribute in LI_CATEGORIES:
        known = printed[attribute.name][list(attribute.words.values())]
        rest = total - int(known.sum())
        here = dict(zip(attribute.words, known.fillna(rest).astype(int), strict=True))
        counts[attribute.name] = {0: rest} | here if 0 in attribute.unknown else here
    return counts


def _draw_codes(rng: Generator, n: int) -> dict[str, Ints]:
    """(n,) codes by name of the attribute; each has the printed shares of `n` lesions, rounded.

    Attributes are drawn one after the other. A lesion's chance of having one depends on its type
    (`SIGNS`) and on those drawn before (`LIFT`); then a systematic sample with these unequal
    chances (Madow, Ann Math Stat 20 (1949) 333–354) takes exactly as many as are wanted.
    """
    printed = printed_counts()
    wanted = {
        name: dict(zip(counts, scene.apportion(list(counts.values()), n).tolist(), strict=True))
        for name, counts in printed.items()
    }
    types = np.repeat(list(wanted["lesion_type"]), list(wanted["lesion_type"].values()))
    of_type = np.array(list(printed["lesion_type"].values()))
    codes = {attribute.name: np.ones(n, np.int64) for attribute in LI_CATEGORIES}
    codes["lesion_type"] = types.astype(np.int64)
    has: dict[str, BoolArray] = {}
    for name, (attribute, says, shares) in SIGNS.items():
        count = sum(wanted[attribute][code] for code in says)
        whole = AMONG.get(name)
        among, base = (has[whole], SIGNS[whole][2]) if whole else (np.ones(n, np.bool_), of_type)
        share = (np.array(shares) / np.maximum(base, 1))[types - 1]
        lift: Array = np.zeros(n)
        for given, log_odds in LIFT.get(name, {}).items():
            lift += log_odds * has[given]
        has[name] = _sample(rng, _chances(share, lift, types, among, count), types, count)
        codes[attribute][has[name]] = says[0]
    left, lobes = ~has["several"], wanted["lesion_location"]
    for code in category("lesion_location").codes:
        here = _sample(rng, left / max(left.sum(), 1) * lobes[code], types, lobes[code])
        codes["lesion_location"][here] = code
        left &= ~here
    return codes


def _chances(share: Array, lift: Array, types: Ints, among: BoolArray, count: int) -> Array:
    """(n,) chance of each lesion: the share of its type on average, `count` in all."""
    chance = np.zeros(len(share))
    if count == 0:
        return chance
    able = among & (share > 0)
    if count > able.sum():  # rounding of few lesions leaves too few: any will do
        able = among
    logit = np.zeros(len(share))
    for code in np.unique(types[able]):
        here = able & (types == code)
        middle = float(np.clip(share[here][0], 1e-3, 1 - 1e-3))
        logit[here] = lift[here] + _shift(lift[here], middle * here.sum())
    chance[able] = expit(logit[able] + _shift(logit[able], count))
    return chance


def _shift(logit: Array, target: float) -> float:
    """What to add to the log odds so that the chances sum to `target`."""
    target = np.clip(target, 1e-9, len(logit) - 1e-9)  # which no finite one reaches
    return float(brentq(lambda s: expit(logit + s).sum() - target, -40, 40, xtol=1e-14))


def _sample(rng: Generator, chance: Array, types: Ints, count: int) -> BoolArray:
    """Exactly `count` lesions with unequal chances: every 1/count-th of their running sum.

    Lesions stand in blocks by type, so that each type gets its share to within one, and in random
    order within.
    """
    taken = np.zeros(len(chance), np.bool_)
    if count == 0:
        return taken
    order = rng.permutation(len(chance))
    order = order[np.argsort(types[order], kind="stable")]
    order = order[chance[order] > 0]
    running = np.cumsum(np.minimum(chance[order], 1 - 1e-12))
    running *= count / running[-1]
    running[-1] = count  # not a rounding error less
    passed = np.floor(running + rng.random())
    taken[order] = np.diff(passed, prepend=0) > 0
    return taken


def _diameters(rng: Generator, codes: pd.DataFrame) -> Any:
    """(n,) mm, within the type's range, and not below what its signs need."""
    low, high = np.array((SMALL, LARGE))[:, codes["lesion_type"] - 1]
    spared = rng.random(len(codes)) < EXCEPTION
    for name, smallest in SMALLEST.items():
        needed = codes[name].map(smallest).fillna(0).to_numpy()
        if name == "vessel_convergence":
            needed = np.where(spared, 0.6 * needed, needed)
        low = np.maximum(low, needed)
    return np.round(low * (high / low) ** rng.random(len(codes)), 2)


_table = lru_cache(maxsize=4)(lesions)


def phantom(lesion_id: str, *, seed: int = 0, size: int = 128) -> Crop:
    """Render one lesion of `lesions(seed=seed)`; see `render`. A LookupError for an unknown id."""
    lesion: Any = _table(seed=seed).loc[lesion_id]
    return render(lesion, seed=seed, size=size)


def render(row: pd.Series[Any], *, seed: int = 0, size: int = 128) -> Crop:
    """Render the CT of one lesion, a row of `lesions`, whose codes may be changed.

    The same bytes for the same row and seed, in any order and process. Another seed gives another
    patient and another form.

    Returns:
        A crop of the tier `phantom`, `size` pixels wide, with one mask: the lesion with what is in
        it, without its strands. Slices reach 3 mm beyond it, and six at least.

    Raises:
        ValueError: A value is not on its scale, or the lesion does not fit into `size`.
    """
    codes = {}
    for attribute in LI_CATEGORIES:
        name, allowed = attribute.name, sorted({*attribute.codes, *attribute.unknown})
        codes[name] = row[name]
        if codes[name] not in allowed:
            raise ValueError(f"{name}={codes[name]!r} of {row.name}: expected one of {allowed}")
    diameter, spacing, pixel = scene.numbers(row, _RANGES, seed, size, around=2 * ROOM_MM)
    key = (str(row.name), seed)
    scan = (row["scan_id"], seed)
    chest, lung, scanner = scene.draw_scan(scan, spacing, spacing, pixel, contrast=True)
    lesion = _Lesion(key, codes, diameter, chest, size, spacing)
    chest, grid = lesion.chest, lesion.grid
    around = surroundings(generator("wall", *key), chest, grid)
    clear = (lesion.window, np.clip(lesion.surface / CLEARANCE_MM - 0.25, 0, 1))
    volume, blood = scene.made_up_lung(key, chest, lung, lesion.centre, grid, clear)
    if codes["vessel_convergence"] == 2:
        blood = np.maximum(blood, fill(lesion.convergence(), grid))
    volume += blood * (chest.blood - 5 - volume)
    share = lesion.fill_in(volume)
    if codes["spiculation_length"] != 1:
        burrs = fill(lesion.strands(), grid)
        volume = np.maximum(volume, volume + burrs * (0 - volume))
    if codes["pleural_indentation"] == 2 and codes["lesion_type"] != EFFUSION:
        around, ends = lesion.indent(around)
        line = fill(bent(ends, np.full((2, 1), 0.6)), grid)
        volume = np.maximum(volume, volume + line * (20 - volume))
    return scene.finish(key, volume, share, around, grid, scanner)


def _place(rng: Generator, chest: Chest, codes: Codes, diameter: float) -> tuple[Chest, Array]:
    """A place in the lobe: at the wall where the pleura is drawn in, and for some of the others."""
    kind, indented = codes["lesion_type"], codes["pleural_indentation"] == 2
    near = rng.random() < 0.4 or indented
    gap = float(rng.uniform(*(NEAR_MM if near else FREE_MM)))
    radius = diameter / 2
    if kind == EFFUSION:
        radius, gap = 0.0, 4.0
    elif kind == AIR and not indented:
        gap = float(rng.uniform(0.8, 3.0))
    facing = "wall" if near or kind == AIR else "any"
    facing = "back" if kind == EFFUSION else facing
    return scene.find_place(rng, chest, radius, gap, facing, codes["lesion_location"])


def _shape(rng: Generator, codes: Codes) -> Blobs:
    if codes["lobulation_presence"] == 2:
        # a core with seven to ten balls around it, so that arcs meet in notches (4.1.5)
        k = int(rng.integers(7, 11))
        out = scene.sphere(k) + 0.12 * rng.standard_normal((k, 3))
        centres, radii = out * rng.uniform(0.6, 0.72, (k, 1)), rng.uniform(0.3, 0.42, k)
        return scene.stretched(rng, (0, 0, 0, 0.68), *np.column_stack((centres, radii)))
    if codes["lesion_type"] == CONSOLIDATION:
        # balls run together at random in a slab: the airspaces that are filled
        k = int(rng.integers(5, 9))
        centres = rng.uniform(-0.62, 0.62, (k, 3)) * np.array([0.8, 0.6, 1.0])
        centres[0] = 0
        stretch = np.exp(0.12 * rng.standard_normal(3))
        return Blobs(centres, rng.uniform(0.28, 0.5, k), stretch, float(rng.uniform(0, np.pi)))
    return scene.stretched(rng, (0, 0, 0, 1))


class _Lesion:
    """A lesion at its place, in its window of the fine planes."""

    def __init__(
        self, key: Key, codes: Codes, diameter: float, chest: Chest, size: int, spacing: float
    ) -> None:
        rng, self.rng = generator("form", *key), generator("signs", *key)
        self.codes, self.diameter, kind = codes, diameter, codes["lesion_type"]
        self.shape = shape = _shape(rng, codes).with_diameter(diameter)
        chest, centre = _place(generator("place", *key), chest, codes, diameter)
        self.chest, self.centre = chest, centre
        self.root = hilum(self.rng, chest, float(centre[2]))  # where its vessels come from
        reach = np.abs(shape.surface()).max(axis=0)
        half_z = max(float(reach[0]) + 3.0, 6 * spacing)
        self.grid = grid = scene.grid_around(chest, centre, size, half_z, spacing)
        if kind == EFFUSION:
            reach = np.maximum(reach, diameter / 2)
        reach = reach + RIM_MM + CLEARANCE_MM + 2
        near = (np.abs(at - m) <= r for at, m, r in zip(grid.axes, centre, reach, strict=True))
        ends = [np.flatnonzero(each)[[0, -1]].tolist() for each in near]
        a, b, c = (slice(first, last + 1) for first, last in ends)
        self.window = (a, b, c)  # (z, y, x) of the fine grid
        z, y, x = scene.offsets(grid.z_fine, grid, centre)
        z, y, x = z[a], y[:, b], x[:, :, c]
        if kind == EFFUSION:
            # a lens of fluid inside the pleura, whose depth is linear between the outermost planes
            first, last = (
                chest.radial(float(at), grid.y[b, None], grid.x[None, c])[0].astype(np.float32)
                for at in grid.z_fine[[0, -1]]
            )
            share = np.linspace(0, 1, len(grid.z_fine), dtype=np.float32)[a, None, None]
            depth = first + share * (last - first)
            lens = 1 - (z * z + y * y + x * x) / np.float32((diameter / 2) ** 2)
            thick = np.float32(rng.uniform(0.2, 0.32) * diameter)
            surface = 0.8 * np.maximum(depth, -depth - thick * np.maximum(lens, np.float32(-1)))
        else:
            surface = shape.distance(z, y, x)
        # the depth of the deepest place, mm, and random fields with blobs of about half the lesion
        # and of 1.5 mm
        self.deepest = max(float(-surface.min()), 0.5 * grid.pixel)
        self.coarse, self.fine = grain(rng, surface.shape, 0.55 * self.deepest, grid)
        uneven = min((0.12 if kind == CONSOLIDATION else 0.03) * self.deepest, 1.5)
        surface = surface + np.float32(uneven) * self.coarse
        if codes["margin_clarity"] == 2:
            surface += np.float32(0.6 * min(1.0, self.deepest / 3)) * self.fine
        # signed distance to the outline, mm, negative inside; 0 there to 1 at the deepest place
        self.surface = surface.astype(np.float32)
        self.inward = np.clip(-self.surface / np.float32(self.deepest), 0, 1)

    def ball(self, off: float, radius: float) -> FloatArray:
        """Signed distance to a ball near the deepest place; lengths in shares of the depth."""
        deep = np.unravel_index(int(np.argmin(self.surface)), self.surface.shape)
        aim = self.rng.standard_normal(3)
        aim *= off * self.deepest / max(float(np.sqrt((aim**2).sum())), 1e-6)
        places = zip(self.surface.shape, deep, self.grid.voxel, aim, strict=True)
        away = [((np.arange(n) - d) * v - a).astype(np.float32) for n, d, v, a in places]
        z, y, x = np.ix_(*away)
        return np.asarray(np.sqrt(z * z + (y * y + x * x)) - np.float32(radius * self.deepest))

    def empty(self, here: FloatArray, inner: FloatArray) -> None:
        """Put air into `here`, HU, where `inner`, a signed distance, is negative."""
        air = np.clip(0.5 - inner / np.float32(self.grid.pixel), 0, 1)
        here += air * (np.float32(LUMEN_HU) - here)

    def fill_in(self, volume: FloatArray) -> FloatArray:
        """Write the lesion into `volume`, HU, and return its share of every fine voxel."""
        codes, rng, deepest = self.codes, self.rng, self.deepest
        here, kind = volume[self.window], codes["lesion_type"]
        unclear = codes["margin_clarity"] == 2
        edge = min(UNCLEAR_MM, 0.4 * deepest) if unclear else CLEAR_MM
        edge = max(edge, 0.29 * self.grid.pixel)
        part = ndtr(-self.surface / np.float32(edge)).astype(np.float32)
        if unclear:
            rim = np.exp(-((np.maximum(self.surface, 0) / np.float32(RIM_MM)) ** 2))
            here += np.float32(0.45) * rim * np.clip(1 + 0.5 * self.fine, 0, 2) * (-430 - here)
        here += part * (self.density() - here)
        if kind == AIR:
            wall = min(float(rng.uniform(1.0, 1.6)), 0.35 * deepest)
            self.empty(here, self.surface + np.float32(wall))
        if kind == CONSOLIDATION:
            bronchi = fill(self.bronchi(), self.grid)[self.window]
            here += bronchi * part * (self.inward > 0.05) * (-930 - here)
        if codes["cavity"] == 2:  # its inner wall is uneven and not quite in the middle
            ball = self.ball(0.15, float(rng.uniform(0.5, 0.68)))
            inner = ball + np.float32(0.08 * deepest) * self.coarse
            wall = min(1.5, 0.3 * deepest)
            self.empty(here, np.maximum(inner, self.surface + np.float32(wall)))
        share = np.zeros_like(volume)
        share[self.window] = part
        return share

    def density(self) -> FloatArray:
        """HU without holes; calcium in one or two clumps (2), or in nearly all of it (3)."""
        rng, kind = self.rng, self.codes["lesion_type"]
        calcium = self.codes["calcification_extent"]
        level = float(rng.standard_normal())
        if kind == GLASS:
            hu = -570 + 40 * level + 35 * self.fine + 25 * self.coarse
        else:
            of_kind = {EFFUSION: (8, 5, 3), AIR: (-30, 20, 10)}
            mean, spread, rough = of_kind.get(kind, (38, 12, 10))
            hu = mean + spread * level + rough * self.fine
        hu = np.asarray(hu, np.float32)
        if calcium == 1:
            return hu
        peak = np.float32(np.clip(600 * np.exp(0.35 * rng.standard_normal()), 350, 1500))
        if calcium == 3:
            share = np.clip((self.inward * self.deepest - 0.3) / self.grid.pixel + 0.5, 0, 1)
        else:
            clumps = [self.ball(0.45, 0.4) for _ in range(int(rng.integers(1, 3)))]
            rough = np.minimum.reduce(clumps) + np.float32(0.12 * self.deepest) * self.coarse
            share = np.clip(0.5 - rough / self.grid.pixel, 0, 1)
        return np.asarray(hu + share * (peak * (1 + 0.12 * self.fine) - hu), np.float32)

    def bronchi(self) -> Tubes:
        """Air-filled bronchi that fan out through a consolidation from the side of the hilum."""
        rng, deepest, centre = self.rng, self.deepest, self.centre
        towards = unit(self.root - centre)
        n = 5
        start = centre + 0.7 * deepest * towards + 0.15 * deepest * rng.standard_normal((n, 3))
        aim = -towards + 0.55 * rng.standard_normal((n, 3))
        end = start + deepest * rng.uniform(1.1, 1.8, (n, 1)) * aim
        width = rng.uniform(0.9, 1.5, n)
        return bent((start, end), (width, 0.6 * width))

    def strands(self) -> Tubes:
        """Spicules: straight, unbranched, thicker at the lesion (4.1.6)."""
        rng, count = self.rng, int(np.clip(10 + 0.8 * self.diameter, 14, 44))
        out = scene.directions(rng, count)
        at = self.shape.reach(out, self.diameter)[:, None] * out
        aim = unit(out + rng.standard_normal((count, 3)) * np.array([0.05, 0.2, 0.2]))
        length = rng.uniform(*STRANDS_MM[self.codes["spiculation_length"]], (count, 1))
        width = rng.uniform(0.6, 1.0, count)
        ends = (at - 0.8 * aim + self.centre, at + length * aim + self.centre)
        return bent(ends, (width, 0.3 * width))

    def convergence(self) -> Tubes:
        """Three to five vessels that bend and end in the edge, one of them from the hilum."""
        rng, count = self.rng, int(self.rng.integers(3, 6))
        out = scene.directions(rng, count)
        out[1] = unit(self.root - self.centre)
        at = (self.shape.reach(out, self.diameter)[:, None] - 1.0) * out + self.centre
        bend = rng.standard_normal((count, 3)) * np.array([0.1, 0.35, 0.35])
        far = rng.uniform(30, 45, (count, 1))
        far[1] = 60
        thick = float(np.clip(0.07 * self.diameter, 0.8, 1.7)) * rng.uniform(0.85, 1.25, count)
        growth = np.where(np.arange(count) == 1, 0.4, -0.6)
        along = (1.0, 0.55, 0.2, 0.0)
        knots = [at + s * far * (out + s * bend) for s in along]
        return bent(knots, [thick * (1 + s * growth) for s in along])

    def indent(self, around: Around) -> tuple[Around, list[Array]]:
        """Draw the pleura in: a trumpet on the wall whose tip points at the lesion (4.1.9).

        Its profile is `height * exp(-distance from the axis / width)`, and grows with the gap
        between lesion and wall. Also returns the ends of the line from the lesion to its tip.
        """
        grid, centre = self.grid, self.centre
        outwards, to_wall = scene.nearest_wall(self.chest, centre)
        start = float(self.shape.reach(outwards[None], self.diameter)[0])
        gap = max(to_wall - start, 1.0)
        height, width = 0.55 * gap + 1.0, 0.3 * gap + 1.0
        z, y, x = scene.offsets(grid.z_slices, grid, centre)
        _, down, right = outwards.astype(np.float32)
        along, across = down * y + right * x, right * y - down * x
        away = np.sqrt(z**2 + across**2)
        drawn = np.float32(height) * np.exp(-away / np.float32(width)) * (along > 0)
        before, hu = around
        depth = (before + drawn).astype(np.float32)
        new = (depth > -1.5 * grid.pixel) & (before < 0)
        ends = [centre[None] + at * outwards for at in (start - 1.0, to_wall)]
        return (depth, np.where(new, np.float32(PLEURA_HU), hu)), ends
