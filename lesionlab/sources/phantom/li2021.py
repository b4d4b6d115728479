"""Phantom lesions with Li 2021's nine categories, in place of the private data set.

    from lesionlab.sources import phantom_li2021
    table = phantom_li2021.lesions()                     # 2,014 lesions of 355 scans
    crop = phantom_li2021.phantom(table.index[0], seed=0)

`lesions` draws a table with the printed counts (Table 2) and the dependencies that section 4.2
states; `lesionlab.sources.phantom._joint` says which, and what is ours. `render` draws the CT.

**The renderer sees the labels here**, all nine of them, because they are what is rendered: a cavity
is a hole, a long spicule is long. A model that does well on these phantoms shows that its code
works, not that readers can be imitated: there is no reader who errs, and each sign is drawn as
section 4.1 describes it, mostly plainly. What is rendered:

- type: mass (31 to 58 mm), nodule (4 to 29 mm), ground glass (-640 to -500 HU), air containing
  space (a thin wall under the pleura around air), consolidation (patches run together with air in
  the bronchi), pleural effusion (fluid on the chest wall). The paper's sizes go to 191 mm;
- location: the lesion lies in that lobe of the chest, whose wall, heart and fissures are around it;
  code 0 lies across the oblique fissure;
- margin: an edge of 0.3 mm; or of 1.4 mm, ragged, with a rim of ground glass;
- calcification above 100 HU of a part, or of nearly all;
- lobulation: arcs with notches; spiculation: strands of 2 to 5 or 6 to 13 mm, outside the mask;
- cavity: a hole with an uneven wall;
- vessel convergence: three to five vessels that end in the lesion. Other vessels stay away from
  all lesions, which real ones do not;
- pleural indentation: a trumpet of pleura, and a strand from its tip to the lesion. Not drawn for
  an effusion, which lies on the pleura.

A sign needs room: it raises the smallest diameter of a nodule (`SMALLEST`). Lesions of one scan
share patient and scanner, but not their signs.
"""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pandas as pd

from lesionlab import published
from lesionlab.attributes import LI_CATEGORIES
from lesionlab.crops import Crop
from lesionlab.sources.phantom._fields import generator
from lesionlab.sources.phantom._joint import (
    AIR,
    CONSOLIDATION,
    EFFUSION,
    GLASS,
    MASS,
    NODULE,
    apportion,
    draw_codes,
)
from lesionlab.sources.phantom._li import draw_lesion
from lesionlab.sources.phantom._scene import draw_scan, number, whole

__all__ = ["N_LESIONS", "lesions", "phantom", "render"]

N_LESIONS = 2014
"""Lesions of the paper's experiments (section 6)."""

ROOM_MM = 8.0
"""Lung that a crop shows at least on every side of a lesion, mm."""

# Smallest and largest diameter by lesion type; between them the logarithm is uniform.
DIAMETERS = MappingProxyType(
    {
        MASS: (31.0, 58.0),
        NODULE: (4.0, 29.0),
        GLASS: (6.0, 28.0),
        AIR: (8.0, 40.0),
        CONSOLIDATION: (20.0, 52.0),
        EFFUSION: (36.0, 58.0),
    }
)
# Smallest diameter at which a sign can be seen. Lesions "less than 1 cm in diameter have fewer
# vessel convergence signs" (4.1.8): of those with the sign, one in eight may be smaller.
SMALLEST = MappingProxyType(
    {
        "calcification_extent": {2: 8.0, 3: 4.0},
        "lobulation_presence": {2: 8.0},
        "cavity": {2: 12.0},
        "vessel_convergence": {2: 10.0},
    }
)
EXCEPTION = 0.125

CODES = tuple(attribute.name for attribute in LI_CATEGORIES)
_RANGES = {  # mm
    "diameter": (2.0, 80.0),
    "slice_thickness": (0.5, 5.0),
    "pixel_spacing": (0.15, 1.5),
}


def lesions(n: int = N_LESIONS, *, seed: int = 0) -> pd.DataFrame:
    """Draw a table of lesions.

    Args:
        n: How many. Counts of other numbers than 2,014 are the printed ones in proportion.
        seed: Another seed gives other lesions with the same counts.

    Returns:
        One row per lesion, index `lesion_id`: `patient`, `scan_id` (a patient has one scan), the
        nine codes named as in `lesionlab.attributes.LI_CATEGORIES`, `diameter` (larger side in
        plane), `slice_thickness` (as the distance of slices) and `pixel_spacing` in mm.

    Raises:
        ValueError: `n` is not a whole number above 0, or `seed` not a whole number.
    """
    whole("n", n, 1)
    whole("seed", seed, 0)
    rng = generator("li2021", "table", n, seed)
    codes = pd.DataFrame(draw_codes(rng, n))
    codes["diameter"] = _diameters(rng, codes)
    codes = codes.iloc[rng.permutation(n)].reset_index(drop=True)
    printed = {k: published.fact("li2021", f"n_{k}_experiments") for k in ("volumes", "lesions")}
    n_scans = max(1, round(n * printed["volumes"] / printed["lesions"]))
    per_scan = 1 + apportion(rng.gamma(1.2, size=n_scans), n - n_scans)
    scan = np.repeat(np.arange(n_scans), per_scan)
    number = np.arange(n) - np.repeat(np.cumsum(per_scan) - per_scan, per_scan)
    thickness = rng.choice([1.0, 1.5, 2.0], n_scans, p=[0.35, 0.15, 0.5])
    pixel = np.round(rng.uniform(0.62, 0.85, n_scans), 3)
    codes.insert(0, "patient", [f"LI-{k + 1:04d}" for k in scan])
    codes.insert(1, "scan_id", [f"LI-{k + 1:04d}-S1" for k in scan])
    codes["slice_thickness"], codes["pixel_spacing"] = thickness[scan], pixel[scan]
    codes.index = pd.Index(
        [f"{s}-L{k + 1:02d}" for s, k in zip(codes["scan_id"], number, strict=True)],
        name="lesion_id",
    )
    return codes


def phantom(lesion_id: str, *, n: int = N_LESIONS, seed: int = 0, size: int = 128) -> Crop:
    """Render one lesion of `lesions(n, seed=seed)`; see `render`.

    Raises:
        LookupError: No lesion of that table has the id.
        ValueError: As in `lesions` and `render`.
    """
    table = _table(n, seed)
    if lesion_id not in table.index:
        raise LookupError(
            f"lesion_id={lesion_id!r}: expected one of lesions({n}, seed={seed}), "
            f"such as {table.index[0]!r}"
        )
    return render(cast("pd.Series[Any]", table.loc[lesion_id]), seed=seed, size=size)


def render(lesion: pd.Series[Any], *, seed: int = 0, size: int = 128) -> Crop:
    """Render the CT of one lesion.

    The same bytes for the same row and seed, in any order and process.

    Args:
        lesion: A row of `lesions`. Codes may be changed to see what that changes.
        seed: Another seed gives another patient and another form.
        size: Rows and columns of the crop, pixels.

    Returns:
        A crop of the tier `phantom` with one mask: the lesion with what is in it, without its
        strands. Slices reach 3 mm beyond it, and six at least.

    Raises:
        KeyError: A column is missing.
        ValueError: A value is not on its scale, or the lesion does not fit into `size`.
    """
    codes, (diameter, thickness, pixel) = _checked(lesion)
    whole("seed", seed, 0)
    whole("size", size, 32)
    least = diameter + 2 * ROOM_MM
    if least > size * pixel:
        raise ValueError(
            f"size={size}: {lesion.name} with {ROOM_MM:.0f} mm around it is {least:.1f} mm wide, "
            f"expected {int(np.ceil(least / pixel))} pixels or more"
        )
    scan = draw_scan(lesion["scan_id"], seed, thickness=thickness, spacing=thickness, pixel=pixel)
    return draw_lesion(
        str(lesion.name), codes, scan, diameter=diameter, spacing=thickness, size=size, seed=seed
    )


def _diameters(rng: np.random.Generator, codes: pd.DataFrame) -> Any:
    """(n,) mm, within the type's range, and not below what its signs need."""
    low, high = np.array([DIAMETERS[code] for code in codes["lesion_type"]]).T
    spared = rng.random(len(codes)) < EXCEPTION
    for name, smallest in SMALLEST.items():
        needed = codes[name].map(smallest).fillna(0).to_numpy()
        if name == "vessel_convergence":
            needed = np.where(spared, 0.6 * needed, needed)
        low = np.maximum(low, needed)
    return np.round(low * (high / low) ** rng.random(len(codes)), 2)


def _checked(lesion: pd.Series[Any]) -> tuple[dict[str, int], tuple[float, ...]]:
    missing = [k for k in ("scan_id", *CODES, *_RANGES) if k not in lesion.index]
    if missing:
        raise KeyError(
            f"lesion has no column {missing}; expected a row of phantom_li2021.lesions()"
        )
    codes = {}
    for attribute in LI_CATEGORIES:
        allowed = sorted({*attribute.codes, *attribute.unknown})
        value = lesion[attribute.name]
        if value not in allowed:
            raise ValueError(
                f"{attribute.name} of {lesion.name}: expected one of {allowed}, got {value!r}"
            )
        codes[attribute.name] = int(value)
    numbers = tuple(
        number(f"{name} of {lesion.name}", lesion[name], low, high)
        for name, (low, high) in _RANGES.items()
    )
    return codes, numbers


@lru_cache(maxsize=4)
def _table(n: int, seed: int) -> pd.DataFrame:
    return lesions(n, seed=seed)
