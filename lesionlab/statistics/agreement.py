"""How far apart the readers of a nodule are, when nobody knows which reader is which.

LIDC's readers are anonymous, one to four per nodule, and "reader 1" of one nodule is not
"reader 1" of the next. So readings can only be compared *within* a nodule, in no order. A nodule
with a single reading says nothing about agreement and is left out; a missing rating (NaN) is left
out for its attribute alone.

Every function takes `readings`, one row per reading with `lesion_id` and the rating columns, and
`attributes`, the columns to look at. The tables that they return have one row per attribute, with
`n_nodules`, and with `n_missing`, the readings without a rating of it. They raise `KeyError`
where a column is missing, and `ValueError` for gaps in `lesion_id` and for a rating that is not a
number.

How much of the agreement is more than chance is in `reliability`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import pandas as pd

from lesionlab import _names
from lesionlab.attributes import RATING_NAMES
from lesionlab.statistics.scoring import check_columns, check_complete

Weighting = Literal["pooled", "nodule"]


def shared_ratings(readings: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """Columns lesion_id and rating of the nodules in which two readers or more gave a rating."""
    check_columns(readings, ["lesion_id", attribute])
    check_complete(readings, ["lesion_id"])
    try:
        ratings = readings[attribute].astype(float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"ratings of {attribute!r} must be numbers: {error}") from error
    rated = pd.DataFrame({"lesion_id": readings["lesion_id"], "rating": ratings}).dropna()
    return rated[rated["lesion_id"].duplicated(keep=False)]


def per_attribute(
    readings: pd.DataFrame,
    attributes: Sequence[str],
    row: Callable[[str, pd.DataFrame], dict[str, Any]],
) -> pd.DataFrame:
    """The table of `row(attribute, shared_ratings(…))`, with n_nodules and n_missing."""
    if isinstance(attributes, str):
        raise ValueError(f"attributes must be a sequence of names, got the string {attributes!r}")
    rows = []
    for attribute in attributes:
        rated = shared_ratings(readings, attribute)
        counts = {"n_nodules": rated["lesion_id"].nunique()}
        counts["n_missing"] = int(readings[attribute].isna().sum())
        rows.append(row(attribute, rated) | counts)
    return pd.DataFrame(rows, index=pd.Index(list(attributes), name="attribute"))


def reader_pairs(readings: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """All k (k - 1) / 2 pairs of the k readings of each nodule: lesion_id, first, second.

    Which of a pair comes first means nothing.

    Example:
        >>> readings = pd.DataFrame({"lesion_id": ["a", "a", "a", "b"], "margin": [1, 2, 4, 5]})
        >>> reader_pairs(readings, "margin")[["first", "second"]].to_numpy().tolist()
        [[1.0, 2.0], [1.0, 4.0], [2.0, 4.0]]
    """
    return pairs_of(shared_ratings(readings, attribute))


def pairs_of(rated: pd.DataFrame) -> pd.DataFrame:
    """The pairs of `reader_pairs`, from the table of `shared_ratings`."""
    rated = rated.assign(reader=rated.groupby("lesion_id").cumcount())
    pairs = rated.merge(rated, on="lesion_id", suffixes=("_first", "_second"))
    pairs = pairs[pairs["reader_first"] < pairs["reader_second"]]
    names = {"rating_first": "first", "rating_second": "second"}
    return pairs.rename(columns=names)[["lesion_id", "first", "second"]].reset_index(drop=True)


def pairwise_difference(
    readings: pd.DataFrame,
    attributes: Sequence[str] = RATING_NAMES,
    *,
    weighting: Weighting = "pooled",
) -> pd.DataFrame:
    """How far apart two readers of the same nodule are: the mean absolute difference, and shares.

    The difference is the row "IB" (inter-observer variation) of Fu 2021 (Table 4) and Liu 2020
    (Table III). Neither says how pairs are weighted. `pooled` is the mean over all pairs
    of all nodules, so that a nodule with four readers counts six times; `nodule` is the mean of
    the nodules' own means, so that each counts once. On all readings `pooled` is within 0.01 of
    every number in Fu's row.

    This cannot be compared with the error of a model that predicts the readers' mean: the
    difference of two readers has the noise of both. See `one_against_rest`. For nominal attributes
    (calcification, internal structure) the size of a difference has no meaning; the papers print
    it all the same.

    Columns value (rating steps), equal and within_one (shares of pairs with the same rating and at
    most one step apart, which means something for ordinal attributes only), n_pairs, n_nodules,
    n_missing.
    """

    def row(_: str, rated: pd.DataFrame) -> dict[str, Any]:
        pairs = pairs_of(rated)
        distance = (pairs["first"] - pairs["second"]).abs()
        parts = {"value": distance, "equal": distance == 0, "within_one": distance <= 1}
        means = {k: _mean(part, pairs["lesion_id"], weighting) for k, part in parts.items()}
        return means | {"n_pairs": len(pairs)}

    return per_attribute(readings, attributes, row)


def one_against_rest(
    readings: pd.DataFrame,
    attributes: Sequence[str] = RATING_NAMES,
    *,
    weighting: Weighting = "pooled",
) -> pd.DataFrame:
    """Mean absolute difference between one reader and the mean of the others of the nodule.

    The human error to lay beside that of a model that is scored against the readers' mean: the
    reader is left out of the reference. It is still somewhat larger than a model's would be at
    equal skill, since the reference here has one reader less and so more noise. `weighting` is
    that of `pairwise_difference`; columns value, n_readings, n_nodules, n_missing.
    """

    def row(_: str, rated: pd.DataFrame) -> dict[str, Any]:
        own, of_nodule = rated["rating"], rated.groupby("lesion_id")["rating"]
        others = (of_nodule.transform("sum") - own) / (of_nodule.transform("count") - 1)
        distance = (own - others).abs()
        return {"value": _mean(distance, rated["lesion_id"], weighting), "n_readings": len(rated)}

    return per_attribute(readings, attributes, row)


def _mean(distance: pd.Series[float], nodule: pd.Series[Any], weighting: Weighting) -> float:
    _names.one_of("weighting", weighting, get_args(Weighting))
    return float((distance if weighting == "pooled" else distance.groupby(nodule).mean()).mean())
