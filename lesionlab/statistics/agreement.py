"""How far apart the readers of a nodule are, when nobody knows which reader is which.

LIDC's readers are anonymous, one to four per nodule, and "reader 1" of one nodule is not
"reader 1" of the next. What can be compared are therefore readings *within* a nodule, in
no order. A nodule with a single reading says nothing about agreement and is left out
everywhere, and so is a missing rating (NaN), for its attribute alone.

Every function takes `readings`, one row per reading with `lesion_id` and the rating columns, and
`attributes`, the columns to look at. The tables that they return have one row per attribute, with
`n_nodules` and with `n_missing`, the readings without a rating of it. They raise `KeyError`
where a column is missing, and `ValueError` for gaps in `lesion_id` and for a rating that is not a
number.

How much of the agreement is more than chance is in `reliability`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lesionlab.attributes import RATING_NAMES
from lesionlab.statistics.scoring import check_columns

Weighting = Literal["pooled", "nodule"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ratings:
    """The ratings of one attribute in nodules with two readings or more, sorted by nodule."""

    attribute: str
    values: Array  # (readings,)
    nodule: NDArray[np.intp]  # (readings,) 0 … n_nodules - 1, ascending
    lesions: NDArray[Any]  # (n_nodules,) their lesion_id
    n_missing: int

    @classmethod
    def of(cls, readings: pd.DataFrame, attribute: str) -> Ratings:
        """Take one attribute out of a table of readings, and check it."""
        check_columns(readings, ["lesion_id", attribute])
        if gaps := int(readings["lesion_id"].isna().sum()):
            raise ValueError(f"lesion_id has {gaps} gaps")
        try:
            values = readings[attribute].to_numpy(dtype=float, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise ValueError(f"ratings of {attribute!r} must be numbers: {error}") from error
        known = ~np.isnan(values)
        codes, names = pd.factorize(readings["lesion_id"])
        shared = known & (np.bincount(codes[known], minlength=len(names)) >= 2)[codes]
        kept, nodule = np.unique(codes[shared], return_inverse=True)
        order = np.argsort(nodule, kind="stable")
        return cls(
            attribute=attribute,
            values=values[shared][order],
            nodule=nodule[order],
            lesions=np.asarray(names)[kept],
            n_missing=int((~known).sum()),
        )

    def pairs(self) -> tuple[NDArray[np.intp], Array, Array]:
        """(pair,) the nodule, one rating and the other, for all k (k - 1) / 2 pairs of a nodule."""
        nodule, first, second = [np.empty(0, dtype=np.intp)], [np.empty(0)], [np.empty(0)]
        readers = np.bincount(self.nodule)
        for k in np.unique(readers):
            which = np.flatnonzero(readers == k)
            ratings = self.values[readers[self.nodule] == k].reshape(len(which), k)
            i, j = np.triu_indices(k, 1)
            nodule.append(np.repeat(which, len(i)))
            first.append(ratings[:, i].ravel())
            second.append(ratings[:, j].ravel())
        return np.concatenate(nodule), np.concatenate(first), np.concatenate(second)


def per_attribute(
    readings: pd.DataFrame,
    attributes: Sequence[str],
    row: Callable[[Ratings], dict[str, Any]],
) -> pd.DataFrame:
    """The table of `row` of each attribute, with the number of nodules and of missing ratings."""
    if isinstance(attributes, str):
        raise ValueError(f"attributes must be a sequence of names, got the string {attributes!r}")
    rows = []
    for attribute in attributes:
        found = Ratings.of(readings, attribute)
        counts = {"n_nodules": len(found.lesions), "n_missing": found.n_missing}
        rows.append(row(found) | counts)
    return pd.DataFrame(rows, index=pd.Index(list(attributes), name="attribute"))


def reader_pairs(readings: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """All k (k - 1) / 2 pairs of the k readings of each nodule, one row per pair.

    Returns:
        Columns lesion_id, patient (if `readings` has it), first, second. Which of a pair comes
        first means nothing.

    Example:
        >>> readings = pd.DataFrame({"lesion_id": ["a", "a", "a", "b"], "margin": [1, 2, 4, 5]})
        >>> reader_pairs(readings, "margin")[["first", "second"]].to_numpy().tolist()
        [[1.0, 2.0], [1.0, 4.0], [2.0, 4.0]]
    """
    ratings = Ratings.of(readings, attribute)
    nodule, first, second = ratings.pairs()
    table = pd.DataFrame({"lesion_id": ratings.lesions[nodule]})
    if "patient" in readings.columns:
        patient = readings.drop_duplicates("lesion_id").set_index("lesion_id")["patient"]
        table["patient"] = table["lesion_id"].map(patient)
    return table.assign(first=first, second=second)


def pairwise_difference(
    readings: pd.DataFrame,
    attributes: Sequence[str] = RATING_NAMES,
    *,
    weighting: Weighting = "pooled",
) -> pd.DataFrame:
    """Mean absolute difference between two readers of the same nodule.

    The row "IB" (inter-observer variation over all pairs of readers) of Fu 2021 (Table 4) and
    Liu 2020 (Table III). Neither says how pairs are weighted. `pooled` is the mean over all pairs
    of all nodules, so that a nodule with four readers counts six times; `nodule` is the mean of
    the nodules' own means, so that each counts once. On all readings `pooled` is within 0.01 of
    every number in Fu's row.

    This is no like-for-like error of a model that predicts the readers' mean: the difference of
    two readers has the noise of both. See `one_against_rest`. For nominal attributes
    (calcification, internal structure) the size of a difference has no meaning; the papers print
    it all the same.

    Returns:
        Columns value (rating steps), n_pairs, n_nodules, n_missing.

    Example:
        >>> readings = pd.DataFrame({"lesion_id": ["a", "a", "a", "b", "b"],
        ...                          "margin": [1, 2, 4, 5, 5]})
        >>> pairwise_difference(readings, ["margin"]).loc["margin", "value"]  # (1 + 3 + 2 + 0) / 4
        np.float64(1.5)
    """

    def row(ratings: Ratings) -> dict[str, Any]:
        nodule, first, second = ratings.pairs()
        return {"value": _mean(np.abs(first - second), nodule, weighting), "n_pairs": len(nodule)}

    return per_attribute(readings, attributes, row)


def one_against_rest(
    readings: pd.DataFrame,
    attributes: Sequence[str] = RATING_NAMES,
    *,
    weighting: Weighting = "pooled",
) -> pd.DataFrame:
    """Mean absolute difference between one reader and the mean of the others of the nodule.

    The like-for-like human error beside a model that is scored against the readers' mean: the
    reader is left out of the reference. It is still somewhat larger than a model's would be at
    equal skill, since the reference here has one reader less and so more noise. `weighting` is
    that of `pairwise_difference`; columns value, n_readings, n_nodules, n_missing.
    """

    def row(ratings: Ratings) -> dict[str, Any]:
        given, nodule = ratings.values, ratings.nodule
        total, k = np.bincount(nodule, weights=given), np.bincount(nodule)
        distance = np.abs(given - (total[nodule] - given) / (k[nodule] - 1))
        return {"value": _mean(distance, nodule, weighting), "n_readings": len(given)}

    return per_attribute(readings, attributes, row)


def exact_agreement(
    readings: pd.DataFrame, attributes: Sequence[str] = RATING_NAMES
) -> pd.DataFrame:
    """Share of reader pairs that gave the same rating, and that were at most one step apart.

    "One step" means something for ordinal attributes only. Columns equal, within_one, n_pairs,
    n_nodules, n_missing.
    """

    def row(ratings: Ratings) -> dict[str, Any]:
        nodule, first, second = ratings.pairs()
        distance = np.abs(first - second)
        return {
            "equal": _mean(distance == 0, nodule),
            "within_one": _mean(distance <= 1, nodule),
            "n_pairs": len(nodule),
        }

    return per_attribute(readings, attributes, row)


def _mean(
    distance: NDArray[Any], nodule: NDArray[np.intp], weighting: Weighting = "pooled"
) -> float:
    if weighting not in ("pooled", "nodule"):
        raise ValueError(f"weighting must be 'pooled' or 'nodule', got {weighting!r}")
    if len(distance) == 0:
        return float("nan")
    if weighting == "pooled":
        return float(distance.mean())
    return float((np.bincount(nodule, weights=distance) / np.bincount(nodule)).mean())
