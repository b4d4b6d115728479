"""How categories go together: chi-square and conditional probability.

Li 2021 (section 4.2) tests all pairs of nine categorical attributes with chi-square and
shows the conditional probabilities of their 27 categories. Both are here for any table
with one column per attribute. For attributes as numbers see `correlation`.

The p-values take rows as independent. Nodules of one patient are not, so that small
p-values are somewhat too small; the effect sizes do not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from lesionlab.statistics.scoring import check_columns

PValue = Literal["auto", "asymptotic", "permutation"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChiSquare:
    """The chi-square test of independence of two categorical attributes.

    Attributes:
        statistic: Pearson's chi-square (Li 2021, eq. 1 and 2), no continuity correction.
        df: Degrees of freedom, (R - 1)(C - 1).
        p: p-value; NaN when an attribute has a single category.
        p_method: `asymptotic`, `permutation`, or `undefined` for a single category.
        cramers_v: Cramér's V, corrected for bias (Bergsma 2013), from 0 to 1.
        n: Number of rows with both values.
        n_dropped: Number of rows without one of them.
        n_expected_below_5: Cells whose expected count is below 5.
        observed: Counts, R categories of x by C categories of y.
        expected: Counts that independence would give, same shape.
    """

    statistic: float
    df: int
    p: float
    p_method: str
    cramers_v: float
    n: int
    n_dropped: int
    n_expected_below_5: int
    observed: pd.DataFrame
    expected: pd.DataFrame


def chi_square(
    x: pd.Series[Any],
    y: pd.Series[Any],
    *,
    p_value: PValue = "auto",
    n_resamples: int = 9_999,
    seed: int = 0,
) -> ChiSquare:
    """Test whether two categorical attributes are independent, with SciPy's `chi2_contingency`.

    The statistic is the sum of (observed - expected)^2 / expected, eq. 1 of Li 2021, which equals
    its eq. 2. The degrees of freedom are (R - 1)(C - 1); the middle part of the paper's eq. 3 has a
    sign wrong, its right-hand side is this.

    Departs from the paper: with expected counts below 5 the chi-square distribution is a poor
    approximation, so that `auto` then compares with random tables of the same margins, and the
    strength is given as Cramér's V, because the statistic itself grows with N.

    Args:
        x: Categories, one per lesion (integers, strings; NaN for a missing one). Mean ratings
            have too many values to be categories: round them first.
        y: The same for the other attribute, on the same index.
        p_value: `asymptotic` from the chi-square distribution; `permutation` from `n_resamples`
            random tables with both margins fixed, as shuffling one column gives them (p =
            (1 + tables at least as extreme) / (1 + n_resamples)); `auto` is asymptotic when no
            expected count is below 5 and permutation otherwise.
        n_resamples: Number of random tables.
        seed: Seed of the random tables.

    Raises:
        ValueError: Different indices, no row with both values, or an option out of range.

    Example:
        >>> test = chi_square(pd.Series([1, 1, 2, 2] * 10), pd.Series([0, 0, 0, 1] * 10))
        >>> round(test.statistic, 3), test.df, test.n
        (13.333, 1, 40)
    """
    if p_value not in ("auto", "asymptotic", "permutation"):
        raise ValueError(f"p_value must be 'auto', 'asymptotic' or 'permutation', got {p_value!r}")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    if not x.index.equals(y.index):
        raise ValueError("x and y must have the same index, in the same order")
    both = x.notna() & y.notna()
    n = int(both.sum())
    if n == 0:
        raise ValueError("x and y have no row in which both are given")
    x_codes, x_names = pd.factorize(x[both], sort=True)
    y_codes, y_names = pd.factorize(y[both], sort=True)
    rows, columns = len(x_names), len(y_names)
    observed = np.bincount(x_codes * columns + y_codes, minlength=rows * columns)
    observed = observed.reshape(rows, columns)
    expected = stats.contingency.expected_freq(observed)
    few = int((expected < 5).sum())
    drawn = p_value == "permutation" or (p_value == "auto" and few > 0)
    if rows == 1 or columns == 1:
        statistic, p, method = 0.0, np.nan, "undefined"
    else:
        # random tables of given margins: the same distribution as shuffling, and quicker
        how = stats.MonteCarloMethod(n_resamples, rng=np.random.default_rng(seed))
        test = stats.chi2_contingency(observed, correction=False, method=how if drawn else None)
        statistic, p = float(test.statistic), float(test.pvalue)
        method = "permutation" if drawn else "asymptotic"
    index, header = pd.Index(x_names, name=x.name), pd.Index(y_names, name=y.name)
    return ChiSquare(
        statistic=statistic,
        df=(rows - 1) * (columns - 1),
        p=p,
        p_method=method,
        cramers_v=_cramers_v(statistic, rows, columns, n),
        n=n,
        n_dropped=len(x) - n,
        n_expected_below_5=few,
        observed=pd.DataFrame(observed, index, header),
        expected=pd.DataFrame(expected, index, header),
    )


def _cramers_v(statistic: float, rows: int, columns: int, n: int) -> float:
    """Bergsma (2013), eq. 2: V without the bias that grows with the table and shrinks with n."""
    if min(rows, columns) < 2 or n < 2:
        return float("nan")
    phi2 = max(0.0, statistic / n - (rows - 1) * (columns - 1) / (n - 1))
    r = rows - (rows - 1) ** 2 / (n - 1)
    c = columns - (columns - 1) ** 2 / (n - 1)
    if min(r, c) <= 1:  # every row its own category
        return float("nan")
    return float(np.sqrt(phi2 / (min(r, c) - 1)))


def chi_square_matrix(frame: pd.DataFrame, columns: Sequence[str], **options: Any) -> pd.DataFrame:
    """Chi-square for every pair of attributes (Li 2021, Fig. 2A), with what the figure leaves out.

    Args:
        frame: One row per lesion, categories in `columns`.
        columns: Attributes, at least two; nine give 36 pairs.
        **options: p_value, n_resamples and seed of `chi_square`. Each pair starts from the seed
            anew, so that a row equals the single call.

    Returns:
        One row per pair: first, second, statistic, df, p, p_method, p_holm (Holm over all pairs),
        cramers_v, n, n_dropped, n_expected_below_5. `square` makes a matrix of one column.

    Raises:
        KeyError: A column is missing.
        ValueError: Fewer than two columns, or as in `chi_square`.
    """
    check_pairs(frame, columns)
    rows = [
        {"first": first, "second": second}
        | vars(chi_square(frame[first], frame[second], **options))
        for first, second in combinations(columns, 2)
    ]
    table = pd.DataFrame(rows).drop(columns=["observed", "expected"])
    table.insert(list(table).index("cramers_v"), "p_holm", holm(table["p"]))
    return table


def square(tidy: pd.DataFrame, value: str, *, diagonal: float = np.nan) -> pd.DataFrame:
    """Turn a table of pairs into a symmetric matrix for a heat map.

    Args:
        tidy: Table with the columns first, second and `value`, each pair once.
        value: Column to show, such as `cramers_v`.
        diagonal: What to put on the diagonal.

    Returns:
        Square DataFrame in the order in which the attributes first appear; NaN for absent pairs.

    Raises:
        ValueError: A pair appears twice, in either order.

    Example:
        >>> pairs = pd.DataFrame({"first": ["a"], "second": ["b"], "r": [0.5]})
        >>> square(pairs, "r", diagonal=1.0).loc["b"].tolist()
        [0.5, 1.0]
    """
    turned = tidy.rename(columns={"first": "second", "second": "first"})
    both = pd.concat([tidy, turned]).pivot(index="first", columns="second", values=value)
    names = list(dict.fromkeys([*tidy["first"], *tidy["second"]]))
    matrix = both.reindex(index=names, columns=names).to_numpy(dtype=float, copy=True)
    np.fill_diagonal(matrix, diagonal)
    return pd.DataFrame(matrix, index=names, columns=names)


def conditional_probability(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """P(row category | column category) for all categories of all attributes (Li 2021, eq. 4).

    Counted over the lesions in which both attributes are given. P(X|X) is 1; two categories of
    one attribute exclude each other, so that their P is 0.

    Args:
        frame: One row per lesion, categories in `columns`.
        columns: Attributes, at least two.

    Returns:
        Square DataFrame (27 x 27 for Li's nine attributes); both axes are a MultiIndex
        (attribute, category), sorted. Down a column, the categories of each attribute sum to 1.

    Raises:
        KeyError: A column is missing.
        ValueError: Fewer than two columns.

    Example:
        >>> lesions = pd.DataFrame({"margin": [1, 1, 2, 2], "cavity": [0, 1, 0, 0]})
        >>> table = conditional_probability(lesions, ["margin", "cavity"])
        >>> table.loc[("cavity", 1), ("margin", 1)]
        np.float64(0.5)
    """
    check_pairs(frame, columns)
    has, known = {}, []
    for column in columns:
        for value in sorted(frame[column].dropna().unique().tolist()):
            has[column, value] = (frame[column] == value).to_numpy(dtype=float, na_value=0.0)
            known.append(frame[column].notna().to_numpy(dtype=float))
    lesions = np.array([*has.values()])  # (category, lesion)
    joint = lesions @ lesions.T  # f(X and Y)
    # divided by the lesions of the column's category in which the row's attribute is known
    probability = joint / (np.array(known) @ lesions.T)
    axis = pd.MultiIndex.from_tuples([*has], names=["attribute", "category"])
    return pd.DataFrame(probability, index=axis, columns=axis)


def holm(p: pd.Series[Any]) -> pd.Series[Any]:
    """Adjust p-values for their number by Holm's step-down method (1979).

    NaN stays NaN and does not count as a test.

    Example:
        >>> holm(pd.Series([0.01, float("nan"), 0.04])).tolist()
        [0.02, nan, 0.04]
    """
    # not statsmodels' multipletests, which collects all garbage at every call
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
