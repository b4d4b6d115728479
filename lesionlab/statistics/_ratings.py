"""The ratings of one attribute in a form that all measures of agreement share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ratings:
    """The ratings of one attribute in nodules with two readings or more, sorted by nodule."""

    attribute: str
    values: NDArray[np.float64]  # (readings,)
    nodule: NDArray[np.intp]  # (readings,) 0 … n_nodules - 1, ascending
    lesions: NDArray[Any]  # (n_nodules,) their lesion_id
    n_missing: int

    @property
    def n_nodules(self) -> int:
        """Number of nodules with two ratings or more."""
        return len(self.lesions)

    @classmethod
    def of(cls, readings: pd.DataFrame, attribute: str) -> Ratings:
        """Take one attribute out of a table of readings, and check it.

        Raises:
            KeyError: `lesion_id` or the attribute is no column.
            ValueError: Gaps in `lesion_id`, or a rating that is not a number.
        """
        absent = [c for c in ("lesion_id", attribute) if c not in readings.columns]
        if absent:
            raise KeyError(f"readings has no column {absent}; it has {list(readings.columns)}")
        if readings["lesion_id"].isna().any():
            raise ValueError(f"lesion_id has {int(readings['lesion_id'].isna().sum())} gaps")
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

    def blocks(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """For each number of readers k: the nodules that have it and their ratings (nodules, k)."""
        k = np.bincount(self.nodule)
        for size in np.unique(k):
            nodule = np.flatnonzero(k == size)
            yield nodule, self.values[k[self.nodule] == size].reshape(len(nodule), size)


@dataclass(frozen=True)
class Pairs:
    """Two ratings of the same nodule each, all arrays (pairs,)."""

    nodule: NDArray[np.intp]
    first: NDArray[np.float64]
    second: NDArray[np.float64]


def pairs_of(shared: Ratings) -> Pairs:
    """All unordered pairs of ratings within nodules: k (k - 1) / 2 of a nodule with k."""
    nodule, first, second = [np.empty(0, dtype=np.intp)], [np.empty(0)], [np.empty(0)]
    for of_block, block in shared.blocks():
        i, j = np.triu_indices(block.shape[1], 1)
        nodule.append(np.repeat(of_block, len(i)))
        first.append(block[:, i].ravel())
        second.append(block[:, j].ravel())
    return Pairs(np.concatenate(nodule), np.concatenate(first), np.concatenate(second))


def per_attribute(
    readings: pd.DataFrame,
    attributes: Sequence[str],
    row: Callable[[Ratings], dict[str, Any]],
) -> pd.DataFrame:
    """Lay `row` of each attribute under one another, with the number of missing ratings."""
    if isinstance(attributes, str):
        raise ValueError(f"attributes must be a sequence of names, got the string {attributes!r}")
    rows = []
    for attribute in attributes:
        shared = Ratings.of(readings, attribute)
        rows.append(row(shared) | {"n_missing": shared.n_missing})
    return pd.DataFrame(rows, index=pd.Index(list(attributes), name="attribute"))
