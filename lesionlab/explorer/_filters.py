"""Which lesions to look at: a table of them, and conditions on its columns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {
        "at least": operator.ge,
        "at most": operator.le,
        "equal to": operator.eq,
        "not equal to": operator.ne,
    }
)
"""How a column's value may stand to a filter's; words are ordered by their letters."""

MEASURES = ("n_readers", "n_slices", "diameter")
"""Columns of a table of lesions that can be filtered by, beside the readers' ratings."""


@dataclass(frozen=True)
class Filter:
    """One condition on one column of a table of lesions.

    `relation` is one of `RELATIONS`, `value` a number for a column of numbers, else a word; both
    may be as typed.
    """

    column: str
    relation: str
    value: float | str

    def __str__(self) -> str:
        return f"{self.column} {self.relation} {self.value}"


def matching(table: pd.DataFrame, filters: Iterable[Filter]) -> pd.DataFrame:
    """The rows that fulfil every filter; a missing value fulfils none.

    Raises:
        ValueError: There is no such column or relation, or a number is needed.

    >>> rows = pd.DataFrame({"margin": [1.0, 4.5, np.nan], "tier": ["phantom", "dicom", "dicom"]})
    >>> matching(rows, [Filter("margin", "at least", 2), Filter("tier", "equal to", "dicom")])
       margin   tier
    1     4.5  dicom
    """
    kept = np.ones(len(table), np.bool_)
    for one in filters:
        if one.column not in table:
            raise ValueError(f"column={one.column!r}: expected one of {', '.join(map(str, table))}")
        if one.relation not in RELATIONS:
            raise ValueError(f"{one.relation!r}: expected one of {', '.join(RELATIONS)}")
        values, value = table[one.column], str(one.value).strip()
        known = values.notna().to_numpy()
        if pd.api.types.is_numeric_dtype(values):
            try:
                found = RELATIONS[one.relation](values, float(value.replace(",", ".")))
            except ValueError:
                raise ValueError(f"{one.column}: expected a number, got {value!r}") from None
        else:
            found = RELATIONS[one.relation](values.astype(str), value)
        kept &= known & found.to_numpy(dtype=np.bool_, na_value=False)
    return table[kept]


def rated(table: pd.DataFrame) -> list[str]:
    """What readers have rated: NAME for each column `NAME_readings`."""
    names = map(str, table)
    return [name.removesuffix("_readings") for name in names if name.endswith("_readings")]


def readings(ratings: pd.DataFrame, lesion_id: str) -> dict[str, tuple[float, ...]]:
    """What readers gave a lesion, by attribute; nothing for those that nobody gave."""
    names = rated(ratings) if lesion_id in ratings.index else ()
    said = {name: _given(ratings.at[lesion_id, f"{name}_readings"]) for name in names}
    return {name: tuple(values.tolist()) for name, values in said.items() if len(values)}


def lesion_table(lesion_ids: Sequence[str], ratings: pd.DataFrame) -> pd.DataFrame:
    """What lesions can be chosen by, as far as it is known.

    `ratings` has one row per lesion, as `lesionlab.sources.lidc.nodules`; lesions that are not in
    it have gaps. The columns are the readers' mean ratings under their names, `…, range` (the
    largest minus the smallest of at least two readings), and those of `MEASURES` that are there.
    """
    rows = ratings.reindex(pd.Index(lesion_ids, name="lesion_id"))
    names = rated(rows)
    said = {f"{name}, range": rows[f"{name}_readings"].map(_given) for name in names}
    ranges = {
        name: v.map(lambda x: np.ptp(x) if len(x) > 1 else np.nan) for name, v in said.items()
    }
    columns = {name: rows[name] for name in names if name in rows} | ranges
    columns |= {name: rows[name] for name in MEASURES if name in rows}
    return pd.DataFrame(columns, index=rows.index).astype(float)


def _given(readings: Any) -> npt.NDArray[np.float64]:
    """What the readers of one lesion gave, without gaps."""
    values = np.asarray([] if np.ndim(readings) == 0 else readings, np.float64)
    known: npt.NDArray[np.float64] = values[~np.isnan(values)]
    return known


def errors(predictions: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """|prediction − truth| of each target, and their mean as `error`; index lesion_id.

    `predictions` are as `lesionlab.training.outcomes.Outcome.predictions`: one row per lesion,
    lesion_id, predictions under the targets' names, and the truth under `…_truth`.
    """
    needed = ["lesion_id", *targets, *(f"{name}_truth" for name in targets)]
    if missing := [name for name in needed if name not in predictions]:
        raise ValueError(f"predictions: no column {', '.join(missing)}")
    rows = predictions.set_index("lesion_id")
    off = {f"{name}, error": (rows[name] - rows[f"{name}_truth"]).abs() for name in targets}
    table = pd.DataFrame(off).assign(error=pd.DataFrame(off).mean(axis=1))
    return table if len(targets) > 1 else table[["error"]]
