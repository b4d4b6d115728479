"""Li's question on LIDC-IDRI: six of the nine categories from what its readers rated.

LIDC has no lobe, no vessel convergence and no pleural indentation, and of the types of a lesion
those of nodules only. Ours, not the paper's: the thresholds decide, and stand beside each result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lesionlab import cohorts
from lesionlab.attributes import LI_CATEGORIES, category, majority
from lesionlab.cohorts import Cohort

ATTRIBUTES = tuple(
    a.name
    for a in LI_CATEGORIES
    if a.name not in ("lesion_location", "vessel_convergence", "pleural_indentation")
)
"""The categories that LIDC's ratings tell, in Li's order."""

MASS, NODULE, GLASS, *_ = category("lesion_type").codes
CLEAR, UNCLEAR = category("margin_clarity").codes
NONE, LONG, SHORT = category("spiculation_length").codes
WITHOUT, WITH = category("lobulation_presence").codes
NOT, PARTLY, TOTALLY = category("calcification_extent").codes

CALCIFICATION = {1: TOTALLY, 2: TOTALLY, 3: TOTALLY, 4: PARTLY, 5: PARTLY, 6: NOT}
"""LIDC's popcorn, laminated, solid, non-central, central, absent, as an extent."""

CAVITY = {1: WITHOUT, 2: WITHOUT, 3: WITHOUT, 4: WITH}
"""LIDC's soft tissue, fluid, fat, air inside of a nodule."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where a mean over the readers becomes a category; as text, the whole rule."""

    mass_mm: float = 30.0  # a larger diameter is a mass
    glass: float = 2.0  # a texture of at most this is ground glass
    clear: float = 4.0  # a margin of at least this is clear
    lobulated: float = 3.0  # from this on
    short: float = 2.0  # spiculation from this on
    long: float = 4.0  # and from this on

    def __str__(self) -> str:
        return (
            f"Type: mass above {self.mass_mm:g} mm, else ground glass with a texture of "
            f"{self.glass:g} or less, else nodule. Margin clear from {self.clear:g}, lobulation "
            f"from {self.lobulated:g}, spiculation short from {self.short:g} and long from "
            f"{self.long:g}, of the readers' mean. By most readers, of equally many the lesser: "
            "calcification none at 6, total at 1 to 3, else partial; cavity where there is air."
        )


def categories(nodules: pd.DataFrame, thresholds: Thresholds | None = None) -> pd.DataFrame:
    """Li's codes of nodules as `lesionlab.sources.lidc.nodules` has them; NaN without a rating.

    Columns `ATTRIBUTES`. The diameter is the mean over the readers; calcification and internal
    structure are nominal, so that the readers vote.
    """
    at = thresholds or Thresholds()

    def of(rating: str, steps: Mapping[float, int], lowest: int) -> pd.Series[float]:
        """The code of the last step that is reached."""
        codes = pd.Series(float(lowest), nodules.index)
        for start, code in steps.items():
            codes = codes.mask(nodules[rating] >= start, code)
        return codes.where(nodules[rating].notna())

    glassy = nodules["texture"] <= at.glass
    kind = pd.Series(float(NODULE), nodules.index).mask(glassy, GLASS)
    found = {
        "lesion_type": kind.mask(nodules["diameter"] > at.mass_mm, MASS),
        "margin_clarity": of("margin", {at.clear: CLEAR}, UNCLEAR),
        "calcification_extent": _vote(nodules["calcification_readings"], CALCIFICATION),
        "lobulation_presence": of("lobulation", {at.lobulated: WITH}, WITHOUT),
        "spiculation_length": of("spiculation", {at.short: SHORT, at.long: LONG}, NONE),
        "cavity": _vote(nodules["internal_structure_readings"], CAVITY),
    }
    return pd.DataFrame(found)[list(ATTRIBUTES)]


def cohort(nodules: pd.DataFrame, thresholds: Thresholds | None = None) -> Cohort:
    """At most four readers and slices of at most 3 mm, as for Fu 2021, with Li's categories.

    No lesion is dropped for lying between two categories. The note says the thresholds.
    """
    at = thresholds or Thresholds()
    filters = [cohorts.readers_between(1, 4), cohorts.thickness_up_to(3)]
    found = cohorts.build(nodules, filters, name="Li's question on LIDC-IDRI", note=str(at))
    return replace(found, table=found.table.join(categories(found.table, at)))


def _vote(readings: pd.Series[Any], code_of: Mapping[int, int]) -> pd.Series[float]:
    """`majority` of the readers' codes."""
    told = [majority(code_of[one] for one in some if one in code_of) for some in readings]
    return pd.Series(told, readings.index, dtype=float)
