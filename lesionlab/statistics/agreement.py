"""How far apart the readers of a nodule are, when nobody knows which reader is which.

LIDC's readers are anonymous, one to four per nodule, and "reader 1" of one nodule is not
"reader 1" of the next. What can be compared are therefore readings *within* a nodule, in
no order. A nodule with a single reading says nothing about agreement and is left out
everywhere, and so is a missing rating (NaN), for its attribute alone.

Every function takes `readings`, one row per reading with `lesion_id` and the rating
columns. The tables by attribute have the counts behind each number; `n_missing` counts
the readings without a rating of that attribute.

For an interval, resample patients with `intervals.bootstrap_over_groups(...,
distinct=["lesion_id"])`, or resample the rows of `reader_pairs`, which is quicker.
How much of the agreement is more than chance is in `reliability`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lesionlab.attributes import RATING_NAMES
from lesionlab.statistics._ratings import Ratings, pairs_of, per_attribute

Weighting = Literal["pooled", "nodule"]


def reader_pairs(readings: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """All unordered pairs of readings of the same nodule, one row per pair.

    A nodule with k readings gives k (k - 1) / 2 pairs.

    Args:
        readings: One row per reading: `lesion_id`, `attribute`, and `patient` if it is there.
        attribute: Column of the rating.

    Returns:
        Columns lesion_id, patient (if `readings` has it), first, second. Which of a pair comes
        first means nothing.

    Raises:
        KeyError: A column is missing.
        ValueError: Gaps in `lesion_id`, or a rating that is not a number.

    Example:
        >>> readings = pd.DataFrame({"lesion_id": ["a", "a", "a", "b"], "margin": [1, 2, 4, 5]})
        >>> reader_pairs(readings, "margin")[["first", "second"]].to_numpy().tolist()
        [[1.0, 2.0], [1.0, 4.0], [2.0, 4.0]]
    """
    shared = Ratings.of(readings, attribute)
    pairs = pairs_of(shared)
    table = pd.DataFrame({"lesion_id": shared.lesions[pairs.nodule]})
    if "patient" in readings.columns:
        patient = readings.drop_duplicates("lesion_id").set_index("lesion_id")["patient"]
        table["patient"] = table["lesion_id"].map(patient)
    return table.assign(first=pairs.first, second=pairs.second)


def pairwise_difference(
    readings: pd.DataFrame,
    attributes: Sequence[str] = RATING_NAMES,
    *,
    weighting: Weighting = "pooled",
) -> pd.DataFrame:
    """Mean absolute difference between two readers of the same nodule.

    The row "IB" (inter-observer variation over all pairs of readers) of Fu 2021 (Table 4) and
    Liu 2020 (Table III). Neither says how pairs are weighted: `pooled` is the mean over all pairs
    of all nodules, so that a nodule with four readers counts six times; `nodule` is the mean of
    the nodules' own means, so that each counts once. On all readings `pooled` is within 0.01 of
    every number in Fu's row.

    This is no like-for-like error of a model that predicts the readers' mean: the difference of
    two readers has the noise of both. See `one_against_rest`.

    Args:
        readings: One row per reading: `lesion_id` and the attributes.
        attributes: Columns of ratings. For nominal ones (calcification, internal structure)
            the size of a difference has no meaning; the papers print it all the same.
        weighting: `pooled` or `nodule`.

    Returns:
        Index attribute; columns value (rating steps), n_pairs, n_nodules, n_missing.

    Raises:
        KeyError: A column is missing.
        ValueError: Unknown `weighting`, gaps in `lesion_id`, or a rating that is not a number.

    Example:
        >>> readings = pd.DataFrame({"lesion_id": ["a", "a", "a", "b", "b"],
        ...                          "margin": [1, 2, 4, 5, 5]})
        >>> pairwise_difference(readings, ["margin"]).loc["margin", "value"]  # (1 + 3 + 2 + 0) / 4
        np.float64(1.5)
    """
    _check_weighting(weighting)

    def row(shared: Ratings) -> dict[str, Any]:
        pairs = pairs_of(shared)
        distance = np.abs(pairs.first - pairs.second)
        return {
            "value": _mean(distance, pairs.nodule, weighting),
            "n_pairs": len(distance),
            "n_nodules": shared.n_nodules,
        }

    return per_attribute(readings, attributes, row)


def one_against_rest(
    readings: pd.DataFrame,
    attributes: Sequence[str] = RATING_NAMES,
    *,
    weighting: Weighting = "pooled",
    reference: Literal["mean", "median"] = "mean",
) -> pd.DataFrame:
    """Mean absolute difference between one reader and the mean of the others of the nodule.

    The like-for-like human error beside a model that is scored against the readers' mean: the
    reader is left out of the reference. It is still somewhat larger than a model's would be at
    equal skill, since the reference here has one reader less and so more noise.

    Args:
        readings: One row per reading: `lesion_id` and the attributes.
        attributes: Columns of ratings.
        weighting: `pooled` (mean over readings) or `nodule` (mean of the nodules' own means).
        reference: `mean` or `median` of the other readers.

    Returns:
        Index attribute; columns value, n_readings, n_nodules, n_missing.

    Raises:
        KeyError: A column is missing.
        ValueError: Unknown `weighting` or `reference`, gaps in `lesion_id`, or a rating that is
            not a number.

    Example:
        >>> readings = pd.DataFrame({"lesion_id": ["a", "a", "a"], "margin": [1, 2, 6]})
        >>> one_against_rest(readings, ["margin"]).loc["margin", "value"]  # (3 + 1.5 + 4.5) / 3
        np.float64(3.0)
    """
    _check_weighting(weighting)
    if reference not in ("mean", "median"):
        raise ValueError(f"reference must be 'mean' or 'median', got {reference!r}")

    def row(shared: Ratings) -> dict[str, Any]:
        distances, nodules = [], []
        for nodule, block in shared.blocks():  # block: (nodules, k readers)
            k = block.shape[1]
            for i in range(k):
                others = np.delete(block, i, axis=1)
                middle = others.mean(axis=1) if reference == "mean" else np.median(others, axis=1)
                distances.append(np.abs(block[:, i] - middle))
                nodules.append(nodule)
        distance = np.concatenate(distances) if distances else np.empty(0)
        nodule = np.concatenate(nodules) if nodules else np.empty(0, dtype=np.intp)
        return {
            "value": _mean(distance, nodule, weighting),
            "n_readings": len(distance),
            "n_nodules": shared.n_nodules,
        }

    return per_attribute(readings, attributes, row)


def exact_agreement(
    readings: pd.DataFrame, attributes: Sequence[str] = RATING_NAMES
) -> pd.DataFrame:
    """Share of reader pairs that gave the same rating, and that were at most one step apart.

    Args:
        readings: One row per reading: `lesion_id` and the attributes.
        attributes: Columns of ratings. "One step" means something for ordinal ones only.

    Returns:
        Index attribute; columns equal, within_one, n_pairs, n_nodules, n_missing.

    Raises:
        KeyError: A column is missing.
        ValueError: Gaps in `lesion_id`, or a rating that is not a number.
    """

    def row(shared: Ratings) -> dict[str, Any]:
        pairs = pairs_of(shared)
        distance = np.abs(pairs.first - pairs.second)
        return {
            "equal": _mean(distance == 0, pairs.nodule, "pooled"),
            "within_one": _mean(distance <= 1, pairs.nodule, "pooled"),
            "n_pairs": len(distance),
            "n_nodules": shared.n_nodules,
        }

    return per_attribute(readings, attributes, row)


def disagreement(readings: pd.DataFrame, attributes: Sequence[str] = RATING_NAMES) -> pd.DataFrame:
    """How far apart the readers of each single nodule are.

    Args:
        readings: One row per reading: `lesion_id` and the attributes.
        attributes: Columns of ratings.

    Returns:
        One row per attribute and nodule with at least two readers: lesion_id, attribute,
        n_readers, sd (with n - 1), range (largest minus smallest rating).

    Raises:
        KeyError: A column is missing.
        ValueError: Gaps in `lesion_id`, or a rating that is not a number.
    """
    tables = []
    for attribute in attributes:
        shared = Ratings.of(readings, attribute)
        of_nodule = pd.Series(shared.values).groupby(shared.nodule)
        tables.append(
            pd.DataFrame(
                {
                    "lesion_id": shared.lesions,
                    "attribute": attribute,
                    "n_readers": of_nodule.size().to_numpy(),
                    "sd": of_nodule.std().to_numpy(),
                    "range": (of_nodule.max() - of_nodule.min()).to_numpy(),
                }
            )
        )
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
