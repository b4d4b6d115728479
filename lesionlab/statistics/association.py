"""How categories go together: chi-square and conditional probability.

Li 2021 (section 4.2) tests all pairs of nine categorical attributes with chi-square and
shows the conditional probabilities of their 27 categories. For attributes as numbers see
`correlation`.

The p-values take rows as independent. Nodules of one patient are not, so that small
p-values are somewhat too small; the effect sizes do not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lesionlab.statistics.scoring import check_columns


def chi_square(
    x: pd.Series[Any], y: pd.Series[Any], *, n_resamples: int = 9_999, seed: int = 0
) -> dict[str, Any]:
    """Test whether two categorical attributes are independent, with SciPy's `chi2_contingency`.

    The statistic is the sum of (observed - expected)^2 / expected, eq. 1 of Li 2021, which equals
    its eq. 2. The degrees of freedom are (R - 1)(C - 1); the middle part of the paper's eq. 3 has a
    sign wrong, its right-hand side is this.

    Departs from the paper: with expected counts below 5 the chi-square distribution is a poor
    approximation. Then p is (1 + tables at least as extreme) / (1 + n_resamples) among random
    tables with both margins fixed, as shuffling one column gives them. And the strength is given as
    Cramér's V, because the statistic itself grows with N.

    `x` and `y` are categories on the same index, one per lesion, NaN for a missing one; round mean
    ratings first. `n_resamples` random tables are drawn where they are needed, by `seed`.

    Returns:
        statistic; df; p; p_method (`asymptotic`, `permutation`, or `undefined`, with p NaN, where
        an attribute has a single category); cramers_v, corrected for bias (Bergsma 2013), from 0 to
        1; n, the rows with both values; n_dropped, the others; n_expected_below_5, cells;
        smallest_expected, the lowest expected count.
    """
    if not x.index.equals(y.index):
        raise ValueError("x and y must have the same index, in the same order")
    both = x.notna() & y.notna()
    n = int(both.sum())
    if n == 0:
        raise ValueError("x and y have no row in which both are given")
    observed = pd.crosstab(x[both].to_numpy(), y[both].to_numpy()).to_numpy()
    rows, columns = observed.shape
    expected = stats.contingency.expected_freq(observed)
    few = int((expected < 5).sum())
    df = (rows - 1) * (columns - 1)  # eq. 3
    statistic, p, method = 0.0, np.nan, "undefined"
    if rows > 1 and columns > 1:
        # random tables with these margins have the distribution of shuffling, and are quicker
        drawn = stats.MonteCarloMethod(n_resamples, rng=np.random.default_rng(seed))
        test = stats.chi2_contingency(observed, correction=False, method=drawn if few else None)
        statistic, p = float(test.statistic), float(test.pvalue)  # eq. 1
        method = "permutation" if few else "asymptotic"
    return {
        "statistic": statistic,
        "df": df,
        "p": p,
        "p_method": method,
        "cramers_v": _cramers_v(statistic, rows, columns, n),
        "n": n,
        "n_dropped": len(x) - n,
        "n_expected_below_5": few,
        "smallest_expected": float(expected.min()),
    }


def _cramers_v(statistic: float, rows: int, columns: int, n: int) -> float:
    """Bergsma (2013), eq. 2: V without the bias that grows with the table and shrinks with n."""
    if n < 2:
        return float("nan")
    phi2 = max(0.0, statistic / n - (rows - 1) * (columns - 1) / (n - 1))
    side = min(k - (k - 1) ** 2 / (n - 1) for k in (rows, columns))
    # one category, or every row its own
    return float(np.sqrt(phi2 / (side - 1))) if side > 1 else float("nan")


def chi_square_matrix(frame: pd.DataFrame, columns: Sequence[str], **options: Any) -> pd.DataFrame:
    """Chi-square for every pair of attributes (Li 2021, Fig. 2A), with what the figure leaves out.

    `frame` has one row per lesion and categories in `columns`; `options` are n_resamples and seed
    of `chi_square`. Each pair starts from the seed anew, so that a row equals the single call.

    Returns:
        One row per pair: first, second, what `chi_square` gives, and p_holm (Holm over all pairs).
        `square` makes a matrix of one column.
    """
    check_pairs(frame, columns)
    rows = [
        {"first": first, "second": second} | chi_square(frame[first], frame[second], **options)
        for first, second in combinations(columns, 2)
    ]
    table = pd.DataFrame(rows)
    table.insert(list(table).index("cramers_v"), "p_holm", holm(table["p"]))
    return table


def square(tidy: pd.DataFrame, value: str) -> pd.DataFrame:
    """Turn a table of pairs (columns first, second, `value`) into a symmetric matrix.

    The attributes keep the order in which they first appear; the diagonal and absent pairs are NaN.
    """
    turned = tidy.rename(columns={"first": "second", "second": "first"})
    both = pd.concat([tidy, turned]).pivot(index="first", columns="second", values=value)
    names = list(dict.fromkeys([*tidy["first"], *tidy["second"]]))
    matrix = both.reindex(index=names, columns=names).astype(float)
    return matrix.rename_axis(index=None, columns=None)


def conditional_probability(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """P(row category | column category) for all categories of all attributes (Li 2021, eq. 4).

    Counted over the lesions in which both attributes are given. P(X|X) is 1; two categories of
    one attribute exclude each other, so that their P is 0.

    Returns:
        Square DataFrame (27 x 27 for Li's nine attributes); both axes are a MultiIndex
        (attribute, category), sorted. Down a column, the categories of each attribute sum to 1.

    Example:
        >>> lesions = pd.DataFrame({"margin": [1, 1, 2, 2], "cavity": [0, 1, 0, 0]})
        >>> table = conditional_probability(lesions, ["margin", "cavity"])
        >>> table.loc[("cavity", 1), ("margin", 1)]
        np.float64(0.5)
    """
    check_pairs(frame, columns)
    has = {c: pd.get_dummies(frame[c], dtype=float) for c in columns}  # by category, sorted
    x = pd.concat(has, axis=1, names=["attribute", "category"])  # (lesion, category), 0 or 1
    known = frame[x.columns.get_level_values("attribute")].notna().to_numpy(dtype=float)
    # f(X and Y) over the lesions with Y in which the attribute of X is known
    return (x.T @ x).div(known.T @ x.to_numpy())  # eq. 4


def holm(p: pd.Series[Any]) -> pd.Series[Any]:
    """Adjust p-values for their number by Holm's step-down method (1979).

    NaN stays NaN and does not count as a test.

    Example:
        >>> holm(pd.Series([0.01, float("nan"), 0.04])).tolist()
        [0.02, nan, 0.04]
    """
    # statsmodels' multipletests gives the same, but collects all garbage at every call
    known = p.dropna().sort_values()
    if not known.between(0, 1).all():
        raise ValueError(f"p must be between 0 and 1, got {known.iloc[0]} to {known.iloc[-1]}")
    steps = known * np.arange(len(known), 0, -1)
    return steps.cummax().clip(upper=1).reindex(p.index)


def check_pairs(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse columns that are missing, repeated, or fewer than two."""
    check_columns(frame, columns)
    if len(columns) < 2 or len(set(columns)) < len(columns):
        raise ValueError(f"columns must be at least two different names, got {list(columns)}")
