"""The vocabularies: what a radiologist can say about a lung lesion, as frozen records.

Two vocabularies live here. `LIDC_RATINGS` are the nine ratings that each reader of
LIDC-IDRI gave to each nodule (Fu 2021, Liu 2020 and Lei 2020 learn from them);
`LI_CATEGORIES` are the nine categories of Li 2021. Both are data, not code: other
modules ask them for names, scales and words and never spell these out again.

Example:
    >>> margin = rating("margin")
    >>> margin.words[5], margin.kind, (margin.minimum, margin.maximum)
    ('Sharp', 'ordinal', (1, 5))
    >>> margin.to_unit(3.0)
    0.5
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from lesionlab import _names

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One attribute of a lesion: its scale, its words, and what is known to be wrong with it.

    Attributes:
        name: Name of the column in every table, in `snake_case`.
        short: The abbreviation that the papers print (`Sub`, `IS`, …).
        title: Name in running text.
        words: What each code means, in the order of the scale.
        kind: `ordinal` when the order of the codes means something, else `nominal`.
        level: Where one has to look (Li 2021, section 1): `low` for local features of the
            lesion, `middle` for the lesion and what surrounds it, `high` for the whole.
        meaning: What a radiologist means by it.
        faults: Known faults of the data, each one sentence.
        unknown: Codes that stand for "not applicable", outside the scale.
    """

    name: str
    short: str
    title: str
    words: Mapping[int, str]
    kind: Literal["ordinal", "nominal"]
    level: Literal["low", "middle", "high"]
    meaning: str
    faults: tuple[str, ...] = ()
    unknown: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        codes = list(self.words)
        if codes != list(range(codes[0], codes[0] + len(codes))):
            raise ValueError(f"words of {self.name!r} must have consecutive codes, got {codes}")
        object.__setattr__(self, "words", MappingProxyType(dict(self.words)))
        object.__setattr__(self, "unknown", MappingProxyType(dict(self.unknown)))

    @property
    def codes(self) -> tuple[int, ...]:
        """The codes of the scale, ascending."""
        return tuple(self.words)

    @property
    def minimum(self) -> int:
        """The lowest code."""
        return self.codes[0]

    @property
    def maximum(self) -> int:
        """The highest code."""
        return self.codes[-1]

    def to_unit(self, value: Any) -> Any:
        """Rescale from the attribute's own scale to [0, 1].

        `(value - minimum) / (maximum - minimum)`: 1 to 5 for most ratings, 1 to 4 for internal
        structure, 1 to 6 for calcification. Fu 2021 (section 3.1) and Liu 2020 (section III.A.3)
        rescale to [0, 1] without giving the formula.

        Args:
            value: A number, NumPy array, pandas object or tensor.
        """
        return (value - self.minimum) / (self.maximum - self.minimum)

    def from_unit(self, value: Any) -> Any:
        """Rescale from [0, 1] back to the attribute's own scale; the inverse of `to_unit`."""
        return value * (self.maximum - self.minimum) + self.minimum


def _ladder(words: str) -> dict[int, str]:
    """Number the words of a scale from 1."""
    return dict(enumerate(words.split("; "), start=1))


_FIRST_RELEASE = (
    "The first release (399 cases) is reported to hold cases in which the sites "
    "did not use this scale alike; the chapter compares it with the rest."
)
_NOMINAL_MEAN = "The codes have no order, so a mean over readers is not a reading that anyone gave."

LIDC_RATINGS: tuple[Attribute, ...] = (
    Attribute(
        name="subtlety",
        short="Sub",
        title="Subtlety",
        words=_ladder(
            "Extremely subtle; Moderately subtle; Fairly subtle; Moderately obvious; Obvious"
        ),
        kind="ordinal",
        level="high",
        meaning="How hard the nodule is to find, from its contrast with what surrounds it.",
        faults=(
            "The scale runs against its name: 5 is the obvious nodule, 1 the subtle one.",
            "What surrounds a nodule is needed to judge it, and a tight crop leaves that out.",
        ),
    ),
    Attribute(
        name="internal_structure",
        short="IS",
        title="Internal structure",
        words=_ladder("Soft tissue; Fluid; Fat; Air"),
        kind="nominal",
        level="middle",
        meaning="What the nodule is made of inside.",
        faults=(
            _NOMINAL_MEAN,
            "One reading has the value 5, outside the scale: it is dropped, logged and counted.",
            "Nearly all readings are soft tissue, so a constant answer is nearly always right.",
        ),
    ),
    Attribute(
        name="calcification",
        short="Cal",
        title="Calcification",
        words=_ladder("Popcorn; Laminated; Solid; Non-central; Central; Absent"),
        kind="nominal",
        level="middle",
        meaning="The pattern of calcium; popcorn, laminated, solid and central speak for benign.",
        faults=(
            _NOMINAL_MEAN,
            "6 means none, not most: a mean of 4.5 can be one reader's solid and one's absent.",
            "pylidc's documentation leaves out code 5, but readings with it exist.",
        ),
    ),
    Attribute(
        name="sphericity",
        short="Sph",
        title="Sphericity",
        words=_ladder("Linear; Ovoid/linear; Ovoid; Ovoid/round; Round"),
        kind="ordinal",
        level="low",
        meaning="How round the nodule is in three dimensions.",
        faults=("Only 1, 3 and 5 were given words; 2 and 4 are the steps between.",),
    ),
    Attribute(
        name="margin",
        short="Mar",
        title="Margin",
        words=_ladder("Poorly defined; Near poorly defined; Medium; Near sharp; Sharp"),
        kind="ordinal",
        level="low",
        meaning="How well the boundary of the nodule can be seen.",
        faults=("The scale runs towards the harmless side: 5 is the sharp margin.",),
    ),
    Attribute(
        name="lobulation",
        short="Lob",
        title="Lobulation",
        words=_ladder("None; Nearly none; Medium; Near marked; Marked"),
        kind="ordinal",
        level="low",
        meaning="How far the outline bulges in rounded lobes, as growth at uneven speed makes it.",
        faults=(_FIRST_RELEASE,),
    ),
    Attribute(
        name="spiculation",
        short="Spi",
        title="Spiculation",
        words=_ladder("None; Nearly none; Medium; Near marked; Marked"),
        kind="ordinal",
        level="low",
        meaning="How far thin straight strands radiate from the margin into the lung.",
        faults=(
            _FIRST_RELEASE,
            "Readers often leave the strands outside the contour that they draw.",
        ),
    ),
    Attribute(
        name="texture",
        short="Tex",
        title="Texture",
        words=_ladder(
            "Non-solid (ground glass); Non-solid/mixed; Part-solid/mixed; Solid/mixed; Solid"
        ),
        kind="ordinal",
        level="low",
        meaning="How solid the nodule is: ground glass lets vessels show through, solid does not.",
        faults=("Most readings are solid: the other four steps share what is left.",),
    ),
    Attribute(
        name="malignancy",
        short="Mal",
        title="Malignancy",
        words=_ladder(
            "Highly unlikely; Moderately unlikely; Indeterminate; "
            "Moderately suspicious; Highly suspicious"
        ),
        kind="ordinal",
        level="high",
        meaning="How likely cancer seems, had the scan come from a 60-year-old male smoker.",
        faults=(
            "An impression from the image, not pathology: no biopsy stands behind the number.",
        ),
    ),
)
"""The nine ratings of LIDC-IDRI in the order that the papers print (Fu 2021, Fig. 3)."""

# Li 2021 gives no codes but one: location 0 for lesions in several lobes. Codes here count from 1
# in the order of the paper's Table 2, so that 0 stays free for that.
LI_CATEGORIES: tuple[Attribute, ...] = (
    Attribute(
        name="lesion_type",
        short="Type",
        title="Lesion type",
        words=_ladder(
            "Placeholder; Nodule; Ground glass opacity; Air containing space; "
            "Mutation; Pleural effusion"
        ),
        kind="nominal",
        level="high",
        meaning="What the lesion is as a whole. A placeholder is a mass (space-occupying lesion, "
        "30 mm or more; below that it is a nodule), a mutation is a consolidation.",
        faults=("Nodule and placeholder differ by diameter alone.",),
    ),
    Attribute(
        name="lesion_location",
        short="Loc",
        title="Lesion location",
        words=_ladder("Right upper; Right middle; Right lower; Left upper; Left lower"),
        kind="nominal",
        level="high",
        meaning="The lobe that holds the lesion.",
        unknown={0: "Several lobes"},
        faults=("Lesions across lobes have code 0 and count for no class.",),
    ),
    Attribute(
        name="margin_clarity",
        short="Mar",
        title="Margin",
        words=_ladder("Clear; Unclear"),
        kind="nominal",
        level="low",
        meaning="Whether the outer boundary is clear; inflammation blurs it as cancer does.",
    ),
    Attribute(
        name="calcification_extent",
        short="Cal",
        title="Calcification",
        words=_ladder("None; Partial; Total"),
        kind="ordinal",
        level="middle",
        meaning="How much of the lesion is calcified (mediastinal window, above about 100 HU).",
        faults=("62 partial and 50 total among 2,014 lesions: too few to learn from.",),
    ),
    Attribute(
        name="lobulation_presence",
        short="Lob",
        title="Lobulation",
        words=_ladder("Without; With"),
        kind="nominal",
        level="low",
        meaning="Whether the outline has several rounded bulges with notches between.",
    ),
    Attribute(
        name="spiculation_length",
        short="Spi",
        title="Spiculation",
        words=_ladder("None; Long; Short"),
        kind="nominal",
        level="low",
        meaning="Straight, unbranched strands from the margin; short up to 5 mm, long beyond.",
        faults=(
            "The paper's order is none, long, short, so the codes are not in order of length.",
        ),
    ),
    Attribute(
        name="cavity",
        short="Cav",
        title="Cavity",
        words=_ladder("Without; With"),
        kind="nominal",
        level="middle",
        meaning="A hole inside; walls under 4 mm are mostly benign, over 15 mm mostly malignant.",
        faults=("90 lesions of 2,014 have one.",),
    ),
    Attribute(
        name="vessel_convergence",
        short="Ves",
        title="Vessel convergence",
        words=_ladder("Without; With"),
        kind="nominal",
        level="middle",
        meaning="Vessels that run to, end at, or pass through the lesion at its edge.",
    ),
    Attribute(
        name="pleural_indentation",
        short="Ple",
        title="Pleural indentation",
        words=_ladder("Without; With"),
        kind="nominal",
        level="middle",
        meaning="The pleura drawn in towards the lesion: a small triangle whose tip points at it.",
    ),
)
"""The nine categories of Li 2021 (section 4.1, Table 2): 27 classes in all."""

RATING_NAMES: tuple[str, ...] = tuple(a.name for a in LIDC_RATINGS)
"""Names of the nine LIDC ratings, which are the column names of every table."""


_TITLES = {a.name: a.title for a in (*LIDC_RATINGS, *LI_CATEGORIES)}


def rating(name: str) -> Attribute:
    """The LIDC rating of that name (or short name).

    Raises:
        LookupError: There is no such rating.
    """
    return _find(name, LIDC_RATINGS, "LIDC rating")


def category(name: str) -> Attribute:
    """The category of Li 2021 of that name.

    Raises:
        LookupError: There is no such category.
    """
    return _find(name, LI_CATEGORIES, "category of Li 2021")


def title(name: str) -> str:
    """How to call a column in a table or figure: an attribute's title, else the name itself."""
    return _TITLES.get(name, name)


def dictionary(attributes: Iterable[Attribute] = LIDC_RATINGS) -> pd.DataFrame:
    """The data dictionary as a table: one row per attribute, for reading and for the book."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {
            "attribute": a.title,
            "short": a.short,
            "scale": f"{a.minimum}–{a.maximum}",
            "kind": a.kind,
            "level": a.level,
            "steps": ", ".join(f"{code} {word}" for code, word in a.words.items()),
            "meaning": a.meaning,
            "known faults": " ".join(a.faults),
        }
        for a in attributes
    ]
    return pd.DataFrame(rows).set_index("attribute")


def _find(name: str, attributes: tuple[Attribute, ...], what: str) -> Attribute:
    for attribute in attributes:
        if name in (attribute.name, attribute.short):
            return attribute
    names = [a.name for a in attributes]
    hint = _names.close(name, names) or f"; there are {', '.join(names)}"
    raise LookupError(f"no {what} is called {name!r}{hint}")
