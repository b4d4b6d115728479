"""The two vocabularies: what a radiologist can say about a lung lesion, as frozen records.

`LIDC_RATINGS` are the nine ratings that each reader of LIDC-IDRI gave to each nodule (Fu 2021,
Liu 2020 and Lei 2020 learn from them); `LI_CATEGORIES` are the nine categories of Li 2021. Both are
data, in `attributes.toml`.

    >>> margin = rating("margin")
    >>> margin.words[5], margin.kind, (margin.minimum, margin.maximum)
    ('Sharp', 'ordinal', (1, 5))
    >>> margin.to_unit(3.0)
    0.5
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from statistics import multimode
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from lesionlab import _names

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One attribute of a lesion: its scale, its words, and what is known to be wrong with it.

    `level` is where one has to look (Li 2021, section 1): `low` for local features of the lesion,
    `middle` for the lesion and what surrounds it, `high` for the whole.
    """

    name: str  # of the column in every table
    short: str  # the abbreviation that the papers print (`Sub`, `IS`, …)
    title: str  # in running text
    words: Mapping[int, str]  # what each code means, in the order of the scale
    kind: Literal["ordinal", "nominal"]  # whether the order of the codes means something
    level: Literal["low", "middle", "high"]
    meaning: str
    faults: tuple[str, ...]  # of the data, each one sentence
    unknown: Mapping[int, str]  # codes for "not applicable", outside the scale

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

        `(value - minimum) / (maximum - minimum)`, of a number, array, pandas object or tensor.
        Fu 2021 (section 3.1) and Liu 2020 (section III.A.3) rescale without giving the formula.
        """
        return (value - self.minimum) / (self.maximum - self.minimum)

    def from_unit(self, value: Any) -> Any:
        """Rescale from [0, 1] back to the attribute's own scale; the inverse of `to_unit`."""
        return value * (self.maximum - self.minimum) + self.minimum


def _read(vocabulary: str) -> tuple[Attribute, ...]:
    """One of the vocabularies in `attributes.toml`, whose words count from 1."""
    source = resources.files("lesionlab").joinpath("attributes.toml").read_text(encoding="utf-8")
    records: list[dict[str, Any]] = tomllib.loads(source)[vocabulary]
    for record in records:
        unknown = {int(code): word for code, word in record.get("unknown", {}).items()}
        record["words"] = MappingProxyType(dict(enumerate(record["words"], start=1)))
        record["unknown"] = MappingProxyType(unknown)
        record["faults"] = tuple(record.get("faults", ()))
    return tuple(Attribute(**record) for record in records)


LIDC_RATINGS = _read("lidc")
"""The nine ratings of LIDC-IDRI in the order that the papers print (Fu 2021, Fig. 3)."""

LI_CATEGORIES = _read("li2021")
"""The nine categories of Li 2021 (section 4.1, Table 2): 27 classes in all."""

RATING_NAMES: tuple[str, ...] = tuple(a.name for a in LIDC_RATINGS)
"""Names of the nine LIDC ratings, which are the column names of every table."""

_TITLES = {a.name: a.title for a in (*LIDC_RATINGS, *LI_CATEGORIES)}


def rating(name: str) -> Attribute:
    """The LIDC rating of that name (or short name); a `LookupError` if there is none."""
    return _find(name, LIDC_RATINGS, "LIDC rating")


def category(name: str) -> Attribute:
    """The category of Li 2021 of that name; a `LookupError` if there is none."""
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


def majority(codes: Iterable[int]) -> int | None:
    """The code that most readers gave; of equally many, the lowest; None where nobody told."""
    return min(multimode(codes), default=None)


def _find(name: str, attributes: tuple[Attribute, ...], what: str) -> Attribute:
    for attribute in attributes:
        if name in (attribute.name, attribute.short):
            return attribute
    names = [a.name for a in attributes]
    hint = _names.close(name, names) or f"; there are {', '.join(names)}"
    raise LookupError(f"no {what} is called {name!r}{hint}")
