"""How far apart the readers of a nodule are, when nobody knows which reader is which.

LIDC's readers are anonymous, one to four per nodule, and "reader 1" of one nodule is not
"reader 1" of the next. What can be compared are therefore readings *within* a nodule, in
no order. A nodule with a single reading says nothing about agreement and is left out
everywhere, and so is a missing rating (NaN), for its attribute alone.

Every function takes `readings`, one row per reading with `lesion_id` and the rating columns, and
`attributes`, the columns to look at. A table by attribute has the counts behind each number;
`n_missing` counts the readings without a rating of that attribute. The functions raise `KeyError`
where a column is missing, and `ValueError` for gaps in `lesion_id`, for a rating that is not a
number, and for an unknown option.

For an interval, resample the rows of `reader_pairs` by patient.
How much of the agreement is more than chance is in `reliability`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

    @property
    def n_nodules(self) -> int:
        """Number of nodules with two ratings or more."""
        return len(self.lesions)

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

    def blocks(self) -> Iterator[tuple[NDArray[np.intp], Array]]:
        """For each number of readers k: the nodules that have it and their ratings (nodules, k)."""
        k = np.bincount(self.nodule)
        for size in np.unique(k):
            nodule = np.flatnonzero(k == size)
            yield nodule, self.values[k[self.nodule] == size].reshape(len(nodule), size)

    def pairs(self) -> tuple[NDArray[np.intp], Array, Array]:
        """(pair,) the nodule, one rating and the other, for all k (k - 1) / 2 pairs of a nodule."""
        nodule, first, second = [np.empty(0, dtype=np.intp)], [np.empty(0)], [np.empty(0)]
        for of_block, block in self.blocks():
            i, j = np.triu_indices(block.shape[1], 1)
            nodule.append(np.repeat(of_block, len(i)))
            first.append(block[:, i].ravel())
            second.append(block[:, j].ravel())
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
        counts = {"n_nodules": found.n_nodules, "n_missing": found.n_missing}
        rows.append(row(found) | counts)
    return pd.DataFrame(rows, index=pd.Index(list(attributes), name="attribute"))


def reader_pairs(readings: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """All unordered pairs of readings of the same nodule, one row per pair.

    A nodule with k readings gives k (k - 1) / 2 pairs.

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
        Index attribute; columns value (rating steps), n_pairs, n_nodules, n_missing.

    Example:
        >>> readings = pd.DataFrame({"lesion_id": ["a", "a", "a", "b", "b"],
        ...                          "margin": [1, 2, 4, 5, 5]})
        >>> pairwise_difference(readings, ["margin"]).loc["margin", "value"]  # (1 + 3 + 2 + 0) / 4
        np.float64(1.5)
    """

    def row(ratings: Ratings) -> dict[str, Any]:
        nodule, first, second = ratings.pairs()
        return {"value": _mean(np.abs(first - second), nodule, weighting), "n_pairs": len(nodule)}

    _check_weighting(weighting)
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
    that of `pairwise_difference`.

    Returns:
        Index attribute; columns value, n_readings, n_nodules, n_missing.

    Example:
        >>> readings = pd.DataFrame({"lesion_id": ["a", "a", "a"], "margin": [1, 2, 6]})
        >>> one_against_rest(readings, ["margin"]).loc["margin", "value"]  # (3 + 1.5 + 4.5) / 3
        np.float64(3.0)
    """

    def row(ratings: Ratings) -> dict[str, Any]:
        distances, nodules = [np.empty(0)], [np.empty(0, dtype=np.intp)]
        for nodule, block in ratings.blocks():  # block: (nodules, k readers)
            for i in range(block.shape[1]):
                others = np.delete(block, i, axis=1).mean(axis=1)
                distances.append(np.abs(block[:, i] - others))
                nodules.append(nodule)
        distance = np.concatenate(distances)
        value = _mean(distance, np.concatenate(nodules), weighting)
        return {"value": value, "n_readings": len(distance)}

    _check_weighting(weighting)
    return per_attribute(readings, attributes, row)


def exact_agreement(
    readings: pd.DataFrame, attributes: Sequence[str] = RATING_NAMES
) -> pd.DataFrame:
    """Share of reader pairs that gave the same rating, and that were at most one step apart.

    "One step" means something for ordinal attributes only.

    Returns:
        Index attribute; columns equal, within_one, n_pairs, n_nodules, n_missing.
    """

    def row(ratings: Ratings) -> dict[str, Any]:
        nodule, first, second = ratings.pairs()
        distance = np.abs(first - second)
        return {
            "equal": _mean(distance == 0, nodule, "pooled"),
            "within_one": _mean(distance <= 1, nodule, "pooled"),
            "n_pairs": len(nodule),
        }

    return per_attribute(readings, attributes, row)


def disagreement(readings: pd.DataFrame, attributes: Sequence[str] = RATING_NAMES) -> pd.DataFrame:
    """How far apart the readers of each single nodule are.

    Returns:
        One row per attribute and nodule with at least two readers: lesion_id, attribute,
        n_readers, sd (with n - 1), range (largest minus smallest rating).
    """
    tables = []
    for attribute in attributes:
        ratings = Ratings.of(readings, attribute)
        of_nodule = pd.Series(ratings.values).groupby(ratings.nodule)
        columns = {
            "lesion_id": ratings.lesions,
            "attribute": attribute,
            "n_readers": of_nodule.size(),
            "sd": of_nodule.std(),
            "range": of_nodule.max() - of_nodule.min(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _mean(distance: NDArray[Any], nodule: NDArray[np.intp], weighting: Weighting) -> float:
    if len(distance) == 0:
        return float("nan")
    if weighting == "pooled":
        return float(distance.mean())
    return float((np.bincount(nodule, weights=distance) / np.bincount(nodule)).mean())


def _check_weighting(weighting: str) -> None:
    if weighting not in ("pooled", "nodule"):
        raise ValueError(f"weighting must be 'pooled' or 'nodule', got {weighting!r}")
