"""Estimates with their intervals: the bootstrap over patients, and Wilson's for shares.

The nodules of one patient resemble each other, and so do the readings of one nodule.
An interval that treats rows as independent is too narrow; here whole patients are
drawn, so that what hangs together stays together.

Example:
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"patient": ["a", "a", "b", "c"], "error": [0.0, 1.0, 2.0, 1.0]})
    >>> bootstrap_over_groups(lambda rows: rows["error"].mean(), frame, n_resamples=500).n_groups
    3
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MAX_UNDEFINED = 0.05
"""Largest share of resamples that may give NaN before a bootstrap is refused."""

CHUNK = 100
"""Resamples that are weighed at once: a few MB for a cohort."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval; prints as `0.84 [0.82, 0.86]`.

    `format(estimate, ".3f")` (or an f-string) sets the digits: any format code of a float does.

    Attributes:
        value: The statistic on the data as they are.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Nominal coverage, e.g. 0.95.
        n: Number of rows behind the value.
        n_groups: Number of independent groups (patients) behind it; `n` if rows are independent.
        method: How the interval was made, in words.

    Example:
        >>> e = Estimate(value=0.84, low=0.82, high=0.861, level=0.95, n=9, n_groups=3, method="")
        >>> print(e)
        0.84 [0.82, 0.86]
        >>> f"{e:.3f}"
        '0.840 [0.820, 0.861]'
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


def wilson(k: int, n: int, *, level: float = 0.95) -> Estimate:
    """A share k/n with Wilson's score interval, for rows that are independent of each other.

    Wilson (1927): the values of p that a score test does not reject; unlike the textbook
    interval it stays inside [0, 1] and does not shrink to a point at k = 0 or k = n.

    Args:
        k: Number of successes, from 0 to n.
        n: Number of trials, at least 1.
        level: Nominal coverage, inside (0, 1).

    Raises:
        ValueError: `n` is below 1, `k` outside 0..n, or `level` outside (0, 1).

    Example:
        >>> print(wilson(0, 10))
        0.00 [0.00, 0.28]
    """
    from statsmodels.stats.proportion import proportion_confint

    _check_level(level)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0 <= k <= n:
        raise ValueError(f"k must be between 0 and n = {n}, got {k}")
    low, high = proportion_confint(k, n, alpha=1 - level, method="wilson")
    # rounding can leave the exact ends at 1e-17 or 1 - 1e-16
    return Estimate(
        value=k / n,
        low=0.0 if k == 0 else float(low),
        high=1.0 if k == n else float(high),
        level=level,
        n=int(n),
        n_groups=int(n),
        method="Wilson score",
    )


def bootstrap_over_groups(
    statistic: Callable[[pd.DataFrame], float],
    frame: pd.DataFrame,
    *,
    group: str = "patient",
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    distinct: Sequence[str] = (),
    undefined: Literal["refuse", "nan"] = "refuse",
) -> Estimate:
    """A statistic with its percentile interval from a cluster bootstrap.

    As many groups are drawn with replacement as there are; a group that is drawn twice brings
    all its rows twice. The interval is from the (1 - level)/2 to the (1 + level)/2 quantile of
    the statistic over the resamples (Efron's percentile interval): no normality is assumed, and
    its coverage is a little low when there are only a few groups.

    Args:
        statistic: Function of a DataFrame with the columns of `frame` that returns a number.
        frame: One row per observation; must hold the column `group` without gaps.
        group: Column that says which rows belong together.
        n_resamples: Number of resamples.
        level: Nominal coverage, inside (0, 1).
        seed: Seed of the draws; the same seed draws the same groups, so that two statistics on
            the same rows are comparable resample by resample.
        distinct: Columns of ids that `statistic` groups by, such as `lesion_id`. Two copies of
            a patient must not merge their nodules: in these columns each copy gets ids of its
            own (integers). Leave empty when the statistic looks at rows one by one.
        undefined: What to do when the statistic is NaN on the data, or on more than 5 % of the
            resamples: `refuse`, or give NaN as the ends of the interval (`nan`).

    Returns:
        The estimate. `method` says how many resamples were undefined (NaN), if any; the interval
        is from the others.

    Raises:
        KeyError: `group` or a column of `distinct` is missing.
        ValueError: Fewer than two groups, gaps in `group` or `distinct`, a bad `level`,
            `n_resamples` or `undefined`, or a statistic that is NaN too often (see `undefined`).
    """
    return bootstrap_many_over_groups(
        lambda rows: {"value": statistic(rows)},
        frame,
        group=group,
        n_resamples=n_resamples,
        level=level,
        seed=seed,
        distinct=distinct,
        undefined=undefined,
    )["value"]


def bootstrap_many_over_groups(
    statistics: Callable[[pd.DataFrame], Mapping[str, float]],
    frame: pd.DataFrame,
    *,
    group: str = "patient",
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    distinct: Sequence[str] = (),
    undefined: Literal["refuse", "nan"] = "refuse",
) -> dict[str, Estimate]:
    """Several statistics of the same resamples at once; see `bootstrap_over_groups`.

    Args:
        statistics: Function of a DataFrame that returns a mapping of names to numbers, with the
            same names every time.
        frame: As in `bootstrap_over_groups`.
        group: As in `bootstrap_over_groups`.
        n_resamples: As in `bootstrap_over_groups`.
        level: As in `bootstrap_over_groups`.
        seed: As in `bootstrap_over_groups`.
        distinct: As in `bootstrap_over_groups`.
        undefined: As in `bootstrap_over_groups`.

    Returns:
        One estimate per name, in the order of the mapping.

    Raises:
        KeyError: As in `bootstrap_over_groups`.
        ValueError: As in `bootstrap_over_groups`.
    """
    missing = [c for c in (group, *distinct) if c not in frame.columns]
    if missing:
        raise KeyError(f"frame has no column {missing}; it has {list(frame.columns)}")
    for column in distinct:
        if frame[column].isna().any():
            raise ValueError(f"column {column!r} of frame has {frame[column].isna().sum()} gaps")
    how = _How(group, n_resamples, level, undefined)
    codes, n_groups = how.codes(frame[group])

    observed = {name: float(value) for name, value in statistics(frame.copy()).items()}
    how.check_observed(observed)
    ids = {column: pd.factorize(frame[column])[0] for column in distinct}
    draws = np.empty((n_resamples, len(observed)))
    for i, (rows, copy) in enumerate(_resamples(codes, n_groups, n_resamples, seed)):
        drawn = frame.take(rows)  # a copy: what the statistic does to it stays in it
        for column, code in ids.items():
            # one id per pair of original id and position of the patient in the draw
            drawn[column] = code[rows] * n_groups + copy
        found = statistics(drawn)
        draws[i] = [found[name] for name in observed]
    return how.estimates(observed, draws, len(frame), n_groups)


def bootstrap_weights_over_groups(
    statistics: Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]],
    groups: pd.Series[Any],
    *,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    undefined: Literal["refuse", "nan"] = "refuse",
) -> dict[str, Estimate]:
    """The resamples of `bootstrap_over_groups` as weights: how often each row was drawn.

    The same intervals as from resampled tables, some hundred times quicker where a statistic can
    be had from many rows of weights at once::

        bootstrap_weights_over_groups(
            lambda weights: {"mae": weights @ error / weights.sum(1)}, table["patient"]
        )

    Args:
        statistics: Function of (resample, row) weights that returns (resample,) numbers by name.
        groups: Which rows belong together; its name stands in the estimates' `method`.
        n_resamples: As in `bootstrap_over_groups`.
        level: As in `bootstrap_over_groups`.
        seed: As in `bootstrap_over_groups`.
        undefined: As in `bootstrap_over_groups`.

    Returns:
        One estimate per name, in the order of the mapping.

    Raises:
        ValueError: As in `bootstrap_over_groups`.
    """
    how = _How(str(groups.name), n_resamples, level, undefined)
    codes, n_groups = how.codes(groups)
    ones = np.ones((1, len(codes)))
    observed = {name: float(values[0]) for name, values in statistics(ones).items()}
    how.check_observed(observed)
    rng = np.random.default_rng(seed)
    parts = []
    for done in range(0, n_resamples, CHUNK):
        chosen = [
            np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
            for _ in range(min(CHUNK, n_resamples - done))
        ]
        found = statistics(np.array(chosen, dtype=np.float64)[:, codes])
        parts.append(np.stack([found[name] for name in observed], axis=1))
    return how.estimates(observed, np.concatenate(parts), len(codes), n_groups)


@dataclass(frozen=True)
class _How:
    """What both ways to resample share: checks before, and estimates after."""

    group: str
    n_resamples: int
    level: float
    undefined: str

    def __post_init__(self) -> None:
        _check_level(self.level)
        if self.n_resamples < 1:
            raise ValueError(f"n_resamples must be at least 1, got {self.n_resamples}")
        if self.undefined not in ("refuse", "nan"):
            raise ValueError(f"undefined must be 'refuse' or 'nan', got {self.undefined!r}")

    def codes(self, groups: pd.Series[Any]) -> tuple[NDArray[np.intp], int]:
        if groups.isna().any():
            raise ValueError(f"column {self.group!r} of frame has {groups.isna().sum()} gaps")
        codes, names = pd.factorize(groups)
        if len(names) < 2:
            raise ValueError(
                f"a bootstrap needs at least two groups in {self.group!r}, got {len(names)}"
            )
        return codes, len(names)

    def check_observed(self, observed: Mapping[str, float]) -> None:
        for name, value in observed.items():
            if np.isnan(value) and self.undefined == "refuse":
                raise ValueError(f"the statistic {name!r} is NaN on the data themselves")

    def estimates(
        self, observed: Mapping[str, float], draws: NDArray[np.float64], n: int, n_groups: int
    ) -> dict[str, Estimate]:
        found = {}
        for j, (name, value) in enumerate(observed.items()):
            low, high, missed = _percentile(draws[:, j], self.level)
            if np.isnan(low) and self.undefined == "refuse":
                raise ValueError(
                    f"the statistic {name!r} is NaN in {missed} of {self.n_resamples} resamples; "
                    f"at most {MAX_UNDEFINED:.0%} are allowed"
                )
            method = f"percentile bootstrap over {self.group}, {self.n_resamples} resamples"
            found[name] = Estimate(
                value=value,
                low=low,
                high=high,
                level=self.level,
                n=n,
                n_groups=n_groups,
                method=f"{method}, {missed} undefined" if missed else method,
            )
        return found


def _resamples(
    codes: NDArray[np.intp], n_groups: int, n_resamples: int, seed: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield for each resample the row numbers, and for each row which draw brought it."""
    rng = np.random.default_rng(seed)
    order = np.argsort(codes, kind="stable")  # rows of group 0, then of group 1, ...
    size = np.bincount(codes, minlength=n_groups)
    first = np.cumsum(size) - size
    for _ in range(n_resamples):
        chosen = rng.integers(n_groups, size=n_groups)
        length = size[chosen]
        copy = np.repeat(np.arange(n_groups), length)
        # position within its group, without a loop over groups
        within = np.arange(len(copy)) - np.repeat(np.cumsum(length) - length, length)
        yield order[first[chosen][copy] + within], copy


def _percentile(draws: NDArray[np.float64], level: float) -> tuple[float, float, int]:
    """Ends of the interval and the number of NaN; NaN ends where those are too many."""
    missed = int(np.isnan(draws).sum())
    if missed > MAX_UNDEFINED * len(draws):
        return float("nan"), float("nan"), missed
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high), missed


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be inside (0, 1), got {level}")
