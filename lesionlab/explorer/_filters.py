"""Which lesions to look at: a table of them, and conditions on its columns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {
        "at least": operator.ge,
        "at most": operator.le,
        "equal to": operator.eq,
        "not equal to": operator.ne,
    }
)
"""How a column's value may stand to a filter's; words know the last two only."""

MEASURES = ("n_readers", "n_slices", "diameter")
"""Columns of a table of lesions that can be filtered by, beside the readers' ratings."""


@dataclass(frozen=True)
class Filter:
    """One condition on one column of a table of lesions.

    `relation` is one of `RELATIONS`, `value` a number for a column of numbers, else a word.
    """

    column: str
    relation: str
    value: float | str

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:g}"
        return f"{self.column} {self.relation} {value}"


def parsed(table: pd.DataFrame, column: str, relation: str, text: str) -> Filter:
    """A filter from what was typed; `ValueError` if that is no number where one is needed."""
    if not _is_number(table[column]):
        return Filter(column, relation, text.strip())
    try:
        return Filter(column, relation, float(text.replace(",", ".")))
    except ValueError:
        raise ValueError(f"{column}: expected a number, got {text!r}") from None


def relations(table: pd.DataFrame, column: str) -> tuple[str, ...]:
    """Those of `RELATIONS` that go with a column: words have no order."""
    return tuple(RELATIONS)[0 if _is_number(table[column]) else 2 :]


def matching(table: pd.DataFrame, filters: Iterable[Filter]) -> pd.DataFrame:
    """The rows that fulfil every filter; a missing value fulfils none.

    Raises:
        ValueError: There is no such column or relation, or the value is of another kind.

    >>> rows = pd.DataFrame({"margin": [1.0, 4.5, np.nan], "tier": ["phantom", "dicom", "dicom"]})
    >>> matching(rows, [Filter("margin", "at least", 2), Filter("tier", "equal to", "dicom")])
       margin   tier
    1     4.5  dicom
    """
    kept = np.ones(len(table), np.bool_)
    for one in filters:
        if one.column not in table:
            raise ValueError(f"column={one.column!r}: expected one of {', '.join(map(str, table))}")
        values, known = table[one.column], relations(table, one.column)
        if one.relation not in known:
            raise ValueError(f"{one.column}, {one.relation!r}: expected one of {', '.join(known)}")
        if _is_number(values) is isinstance(one.value, str):
            kind = "a number" if _is_number(values) else "a word"
            raise ValueError(f"{one.column}: expected {kind}, got {one.value!r}")
        found = RELATIONS[one.relation](values, one.value).to_numpy(dtype=np.bool_, na_value=False)
        kept &= found & values.notna().to_numpy()
    return table[kept]


def rated(table: pd.DataFrame) -> list[str]:
    """What readers have rated: NAME for each column `NAME_readings`."""
    names = [str(column) for column in table]
    return [name.removesuffix("_readings") for name in names if name.endswith("_readings")]


def lesion_table(
    lesion_ids: Sequence[str], ratings: pd.DataFrame, *, tier: Mapping[str, str] | str | None = None
) -> pd.DataFrame:
    """What lesions can be chosen by, as far as it is known.

    `ratings` has one row per lesion, as `lesionlab.sources.lidc.nodules`; lesions that are not in
    it have gaps. `tier` is where the voxels come from, of each lesion, or of all.

    Returns:
        Index lesion_id; the readers' mean ratings under their names, `…, range` (the largest
        minus the smallest of at least two readings), those of `MEASURES` that are there, tier.
    """
    rows = ratings.reindex(pd.Index(lesion_ids, name="lesion_id"))
    names = rated(rows)
    columns: dict[str, Any] = {name: rows[name] for name in names if name in rows}
    columns |= {f"{name}, range": rows[f"{name}_readings"].map(_range) for name in names}
    columns |= {name: rows[name] for name in MEASURES if name in rows}
    table = pd.DataFrame(columns, index=rows.index).astype(float)
    if tier is not None:
        table["tier"] = tier if isinstance(tier, str) else [tier.get(i) for i in lesion_ids]
    return table


def errors(predictions: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """How far a model is off, lesion by lesion.

    `predictions` are as `lesionlab.training.outcomes.Outcome.predictions`: one row per lesion,
    lesion_id, predictions under the targets' names, and the truth under `…_truth`.

    Returns:
        Index lesion_id; |prediction − truth| of each target, and their mean as `error`.
    """
    needed = ["lesion_id", *targets, *(f"{name}_truth" for name in targets)]
    if missing := [name for name in needed if name not in predictions]:
        raise ValueError(f"predictions: no column {', '.join(missing)}")
    rows = predictions.set_index("lesion_id")
    off = {f"error in {name}": (rows[name] - rows[f"{name}_truth"]).abs() for name in targets}
    table = pd.DataFrame(off).assign(error=pd.DataFrame(off).mean(axis=1))
    return table if len(targets) > 1 else table[["error"]]


def _range(readings: Any) -> float:
    values = np.asarray([] if np.ndim(readings) == 0 else readings, dtype=float)
    values = values[~np.isnan(values)]
    return float(np.ptp(values)) if len(values) > 1 else float("nan")


def _is_number(values: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_numeric_dtype(values))
