"""Which lesions to look at: a table of them, and conditions on its columns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from lesionlab.attributes import RATING_NAMES

RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {
        "at least": operator.ge,
        "at most": operator.le,
        "equal to": operator.eq,
        "not equal to": operator.ne,
    }
)
"""How a value may stand to a filter's; words know the last two only."""

MEASURES = ("n_readers", "n_slices", "diameter")


@dataclass(frozen=True)
class Filter:
    """One condition on one column of a table of lesions.

    Attributes:
        column: Which column.
        relation: One of `RELATIONS`.
        value: A number for a column of numbers, else a word.
    """

    column: str
    relation: str
    value: float | str

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:g}"
        return f"{self.column} {self.relation} {value}"


def parsed(table: pd.DataFrame, column: str, relation: str, text: str) -> Filter:
    """A filter from what was typed.

    Raises:
        ValueError: There is no such column or relation, or the text is not of the column's kind.
    """
    _check(table, column, relation)
    if not _is_number(table[column]):
        return Filter(column, relation, text.strip())
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        raise ValueError(f"{column}: expected a number, got {text!r}") from None
    return Filter(column, relation, value)


def relations(table: pd.DataFrame, column: str) -> tuple[str, ...]:
    """Those of `RELATIONS` that go with a column: words have no order."""
    return tuple(RELATIONS)[0 if _is_number(table[column]) else 2 :]


def matching(table: pd.DataFrame, filters: Iterable[Filter]) -> pd.DataFrame:
    """The rows that fulfil every filter; a missing value fulfils none.

    Args:
        table: Of any columns.
        filters: Conditions; without one all rows stay.

    Raises:
        ValueError: There is no such column or relation, or the value is of another kind.

    >>> rows = pd.DataFrame({"margin": [1.0, 4.5, np.nan], "tier": ["phantom", "dicom", "dicom"]})
    >>> matching(rows, [Filter("margin", "at least", 2), Filter("tier", "equal to", "dicom")])
       margin   tier
    1     4.5  dicom
    """
    kept = np.ones(len(table), np.bool_)
    for one in filters:
        _check(table, one.column, one.relation)
        values = table[one.column]
        number = _is_number(values)
        if number is isinstance(one.value, str):
            kind = "a number" if number else "a word"
            raise ValueError(f"{one.column}: expected {kind}, got {one.value!r}")
        if one.relation not in relations(table, one.column):
            raise ValueError(f"{one.column}: words have no order, so {one.relation!r} does not go")
        found = RELATIONS[one.relation](values, one.value).to_numpy(dtype=np.bool_, na_value=False)
        kept &= found & values.notna().to_numpy()
    return table[kept]


def lesion_table(
    lesion_ids: Sequence[str], ratings: pd.DataFrame, *, tier: Mapping[str, str] | str | None = None
) -> pd.DataFrame:
    """What lesions can be chosen by, as far as it is known.

    Args:
        lesion_ids: Which lesions, in this order.
        ratings: One row per lesion, as `lesionlab.sources.lidc.nodules`; lesions that are not in
            it have gaps.
        tier: Where the voxels come from; of each lesion, or of all.

    Returns:
        Index lesion_id; the readers' mean ratings under their names, `…, range` (the largest
        minus the smallest of at least two readings), n_readers, n_slices, diameter (mm), tier.
    """
    index = pd.Index(lesion_ids, name="lesion_id")
    rows = ratings.reindex(index)
    columns: dict[str, Any] = {name: rows[name] for name in RATING_NAMES if name in rows}
    for name in RATING_NAMES:
        if (each := f"{name}_readings") in rows:
            columns[f"{name}, range"] = [_range(readings) for readings in rows[each]]
    columns |= {name: rows[name] for name in MEASURES if name in rows}
    table = pd.DataFrame(columns, index=index)
    number = table.select_dtypes("number").columns
    table[number] = table[number].astype(float)
    if tier is not None:
        table["tier"] = tier if isinstance(tier, str) else [tier.get(i) for i in lesion_ids]
    return table


def errors(predictions: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """How far a model is off, lesion by lesion.

    Args:
        predictions: One row per lesion: lesion_id, predictions under the targets' names, and the
            truth under `…_truth`, as `lesionlab.training.outcomes.Outcome.predictions`.
        targets: Which.

    Returns:
        Index lesion_id; |prediction − truth| of each target, and their mean as `error`.

    Raises:
        ValueError: A column is missing.
    """
    needed = ["lesion_id", *targets, *(f"{name}_truth" for name in targets)]
    if missing := [name for name in needed if name not in predictions]:
        raise ValueError(f"predictions: no column {', '.join(missing)}")
    rows = predictions.set_index("lesion_id")
    off = {name: (rows[name] - rows[f"{name}_truth"]).abs() for name in targets}
    each = pd.DataFrame(off)
    named = each.rename(columns="error in {}".format)
    return named.assign(error=each.mean(axis=1)) if len(targets) > 1 else each.set_axis(
        ["error"], axis=1
    )  # fmt: skip


def _range(readings: Any) -> float:
    values = np.asarray([] if np.ndim(readings) == 0 else readings, dtype=float)
    values = values[~np.isnan(values)]
    return float(np.ptp(values)) if len(values) > 1 else float("nan")


def _is_number(values: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_numeric_dtype(values))


def _check(table: pd.DataFrame, column: str, relation: str) -> None:
    if column not in table:
        raise ValueError(f"column={column!r}: expected one of {', '.join(map(str, table))}")
    if relation not in RELATIONS:
        raise ValueError(f"relation={relation!r}: expected one of {', '.join(RELATIONS)}")
