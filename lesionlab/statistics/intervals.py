"""Estimates with their intervals: by a bootstrap over patients, and Wilson's for a share.

The nodules of one patient resemble each other, so that an interval that treats rows as independent
is too narrow. Here whole patients are drawn. A draw is a row of weights: how often each row counts.

Example:
    >>> error, patient = np.array([0.0, 1.0, 2.0, 1.0]), pd.Series(["a", "a", "b", "c"])
    >>> found = bootstrap_weights_over_groups(
    ...     lambda weights: {"mae": weights @ error / weights.sum(1)}, patient, n_resamples=500)
    >>> found["mae"].value, found["mae"].n_groups
    (1.0, 3)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

MAX_UNDEFINED = 0.05
"""Largest share of resamples that may give NaN; with more, a statistic has no interval."""

CHUNK = 100
"""Resamples that are weighed at once: a few MB for a cohort."""

Array = NDArray[np.float64]


class Resampling(TypedDict, total=False):
    """The options `**how` of all functions with intervals; see `bootstrap_weights_over_groups`."""

    n_resamples: int
    level: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval; prints as `0.84 [0.82, 0.86]`, and with digits as a float does.

    `low` and `high` are NaN if there is no interval, `level` is its nominal coverage, and `method`
    says in words how it was made. `n` rows and `n_groups` independent patients are behind it.

    Example:
        >>> e = Estimate(value=0.84, low=0.82, high=0.861, level=0.95, n=9, n_groups=3, method="")
        >>> print(e, f"{e:.3f}")
        0.84 [0.82, 0.86] 0.840 [0.820, 0.861]
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    n_groups: int
    method: str

    def __str__(self) -> str:
        return format(self, "")

    def __format__(self, spec: str) -> str:
        spec = spec or "z.2f"  # z: no "-0.00"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def wilson(hits: int, n: int, *, level: float = 0.95) -> Estimate:
    """A share of independent cases with Wilson's score interval (Wilson 1927).

    It has a width even where all cases or none are hits, and suits few cases. Where cases of one
    patient resemble each other it is too narrow: count one of each.

    Example:
        >>> print(wilson(12, 20), wilson(5, 5))
        0.60 [0.39, 0.78] 1.00 [0.57, 1.00]
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"hits={hits}, n={n}: expected one case or more, and hits among them")
    ends = binomtest(hits, n).proportion_ci(level, method="wilson")
    return Estimate(
        value=hits / n,
        low=float(ends.low),
        high=float(ends.high),
        level=level,
        n=n,
        n_groups=n,
        method="Wilson",
    )


def bootstrap_weights_over_groups(
    statistics: Callable[[Array], Mapping[str, Array]],
    groups: pd.Series[Any],
    *,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Statistics with their percentile intervals from a cluster bootstrap.

    As many groups are drawn with replacement as there are; a group that is drawn twice brings all
    its rows twice. The interval goes from the (1 - level)/2 to the (1 + level)/2 quantile of the
    statistic over the resamples (Efron's percentile interval). It assumes no normality, and its
    coverage is a little low when there are only a few groups.

    A statistic may be undefined (NaN) on a resample, such as a recall where no positive was drawn.
    Such resamples are left out and counted in `Estimate.method`; where they are more than 5 %,
    both ends of the interval are NaN.

    Args:
        statistics: From weights (resample, row), how often each row was drawn, to a number per
            resample (resample,) under the name of each statistic. It may divide 0 by 0.
        groups: The patient of each row; two patients or more. Its name stands in `method`.
        n_resamples: At least 1.
        level: Nominal coverage, inside (0, 1).
        seed: The same seed draws the same groups, so that two statistics of the same rows can be
            compared resample by resample.
    """
    if not 0 < level < 1 or n_resamples < 1:
        raise ValueError(
            f"level={level}, n_resamples={n_resamples}: expected inside (0, 1), and at least 1"
        )
    if groups.isna().any():
        raise ValueError(f"column {groups.name!r} has {groups.isna().sum()} gaps")
    codes, names = pd.factorize(groups)
    n_groups = len(names)
    if n_groups < 2:
        raise ValueError(f"a bootstrap needs two groups or more in {groups.name!r}, got {n_groups}")

    rng = np.random.default_rng(seed)
    parts = []
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = {k: float(v[0]) for k, v in statistics(np.ones((1, len(codes)))).items()}
        for done in range(0, n_resamples, CHUNK):
            chosen = [
                np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
                for _ in range(min(CHUNK, n_resamples - done))
            ]
            found = statistics(np.array(chosen, dtype=np.float64)[:, codes])
            parts.append(np.stack([found[name] for name in observed], axis=1))
    draws = np.concatenate(parts)  # (resample, statistic)

    missed = np.isnan(draws).sum(axis=0)
    draws[:, missed > MAX_UNDEFINED * n_resamples] = np.nan
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # nothing but NaN
        low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    method = f"percentile bootstrap over {groups.name}, {n_resamples} resamples"
    return {
        name: Estimate(
            value=value,
            low=float(low[i]),
            high=float(high[i]),
            level=level,
            n=len(codes),
            n_groups=n_groups,
            method=method + f", {missed[i]} undefined" * bool(missed[i]),
        )
        for i, (name, value) in enumerate(observed.items())
    }
