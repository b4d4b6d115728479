"""Which lesions to look at: a table of them, and conditions on its columns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "at least": operator.ge,
    "at most": operator.le,
    "equal to": operator.eq,
    "not equal to": operator.ne,
}
"""How a column's value may stand to a filter's; words are ordered by their letters."""

MEASURES = ("n_readers", "n_slices", "diameter")
"""Columns of a table of lesions that can be filtered by, beside the readers' ratings."""


Filter = tuple[str, str, float | str]
"""Column, one of `RELATIONS`, and a value (for a column of numbers a number), as typed or not."""


def matching(table: pd.DataFrame, filters: Iterable[Filter]) -> pd.DataFrame:
    """The rows that fulfil every filter; a missing value fulfils none.

    Raises:
        ValueError: There is no such column or relation, or a number is needed.

    >>> rows = pd.DataFrame({"margin": [1.0, 4.5, np.nan], "tier": ["phantom", "dicom", "dicom"]})
    >>> matching(rows, [("margin", "at least", 2), ("tier", "equal to", "dicom")])
       margin   tier
    1     4.5  dicom
    """
    kept = np.ones(len(table), np.bool_)
    for column, relation, typed in filters:
        if column not in table:
            raise ValueError(f"column={column!r}: expected one of {', '.join(map(str, table))}")
        if relation not in RELATIONS:
            raise ValueError(f"{relation!r}: expected one of {', '.join(RELATIONS)}")
        values, value = table[column], str(typed).strip()
        known = values.notna().to_numpy()
        if pd.api.types.is_numeric_dtype(values):
            try:
                found = RELATIONS[relation](values, float(value.replace(",", ".")))
            except ValueError:
                raise ValueError(f"{column}: expected a number, got {value!r}") from None
        else:
            found = RELATIONS[relation](values.astype(str), value)
        kept &= known & found.to_numpy(dtype=np.bool_, na_value=False)
    return table[kept]


def readings(rows: pd.DataFrame) -> pd.DataFrame:
    """What readers gave: a column NAME of arrays without gaps for each column `NAME_readings`."""
    named = {name: str(name).removesuffix("_readings") for name in rows}
    given = {short: rows[name].map(_given) for name, short in named.items() if short != name}
    return pd.DataFrame(given, index=rows.index)


def lesion_table(lesion_ids: Sequence[str], ratings: pd.DataFrame) -> pd.DataFrame:
    """What lesions can be chosen by, as far as it is known.

    `ratings` has one row per lesion, as `lesionlab.sources.lidc.nodules`; lesions that are not in
    it have gaps. The columns are the readers' mean ratings under their names, `…, range` (the
    largest minus the smallest of at least two readings), and those of `MEASURES` that are there.
    """
    rows = ratings.reindex(pd.Index(lesion_ids, name="lesion_id"))
    said = readings(rows)
    ranges = said.map(lambda x: np.ptp(x) if len(x) > 1 else np.nan).add_suffix(", range")
    sizes = rows.filter(items=MEASURES)
    return pd.concat([rows.filter(items=list(said)), ranges, sizes], axis=1).astype(float)


def _given(values: Any) -> npt.NDArray[np.float64]:
    values = np.asarray([] if np.ndim(values) == 0 else values, np.float64)
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
