"""How attributes go together as numbers: correlation, and how alike two such matrices are.

Fu 2021 (Fig. 6) lays the correlations of the readers' scores beside the attention
weights of a model and compares them by eye; `matrix_agreement` puts a number on it.
For attributes as categories see `association`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lesionlab.statistics.association import check_pairs, holm


def correlation_matrix(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Pearson's correlation of every pair of attributes over the rows in which both are given.

    Fu 2021 (Fig. 6a) shows the magnitudes: take `.abs()` for that. NaN for a constant attribute.
    """
    check_pairs(frame, columns)
    return frame[list(columns)].astype(float).corr()


def correlation_table(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The correlations of `correlation_matrix` as pairs, with p-values.

    Returns:
        One row per pair: first, second, r, p (two-sided), p_holm, n. r and p are NaN when an
        attribute is constant or fewer than three rows are left.
    """
    check_pairs(frame, columns)
    rows: list[dict[str, Any]] = []
    for first, second in combinations(columns, 2):
        pair = frame[[first, second]].dropna().to_numpy(dtype=float)
        defined = len(pair) >= 3 and (np.ptp(pair, axis=0) > 0).all()
        r, p = stats.pearsonr(*pair.T) if defined else (np.nan, np.nan)
        rows.append({"first": first, "second": second, "r": r, "p": p, "n": len(pair)})
    table = pd.DataFrame(rows)
    table.insert(4, "p_holm", holm(table["p"]))
    return table


def spearman(first: ArrayLike, second: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """Spearman's correlation of rows that count several times, once for each line of weights.

    Args:
        first: (row,)
        second: (row,)
        weights: (resample, row), how often each row counts, as `bootstrap_weights_over_groups`
            gives them.

    Returns:
        (resample,), NaN where all rows that count have the same value.
    """
    w = np.asarray(weights, dtype=np.float64)
    x, y = (_ranks(np.asarray(values), w) for values in (first, second))
    n = w.sum(axis=1, keepdims=True)
    x, y = (r - (w * r).sum(axis=1, keepdims=True) / n for r in (x, y))
    squares = (w * x * x).sum(axis=1) * (w * y * y).sum(axis=1)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = (w * x * y).sum(axis=1) / np.sqrt(squares)
    return found


def _ranks(values: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(resample, row): the mean rank of each row among all, equal ones sharing theirs."""
    _, place = np.unique(values, return_inverse=True)
    counts = np.zeros((place.max() + 1, len(weights)))
    np.add.at(counts, place, weights.T)
    return (counts.cumsum(axis=0) - counts / 2)[place].T


def matrix_agreement(
    a: pd.DataFrame | ArrayLike,
    b: pd.DataFrame | ArrayLike,
    *,
    n_resamples: int = 9_999,
    seed: int = 0,
) -> dict[str, float]:
    """Compare two symmetric matrices over the same attributes by Mantel's test (1967).

    The entries above the diagonal are correlated. Each attribute is in many of them, so that they
    are not independent, and the p-value comes from relabelling the attributes of one matrix (rows
    and columns together): p = (1 + relabellings at least as alike) / (1 + n_resamples).

    `a` and `b` are symmetric and finite, at least 3 x 3; their diagonals do not count. Two
    DataFrames are matched by label. Attention weights are not symmetric: average them with their
    transpose first.

    Returns:
        pearson and spearman, the correlations of the n entries above the diagonal, with pearson_p
        and spearman_p, one-sided (more alike than by chance); NaN when a matrix is constant off
        the diagonal. And n.
    """
    if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        for axis in ("index", "columns"):
            mine, its = set(getattr(a, axis)), set(getattr(b, axis))
            if mine != its:
                raise ValueError(f"a and b have other labels: {sorted(mine ^ its, key=str)}")
        b = b.loc[a.index, a.columns]
    left, right = _symmetric("a", a), _symmetric("b", b)
    if left.shape != right.shape:
        raise ValueError(f"a and b must have the same shape, got {left.shape} and {right.shape}")
    k = len(left)
    above = np.triu_indices(k, 1)
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(np.arange(k), (n_resamples, 1)), axis=1)
    labels = np.vstack([np.arange(k), shuffled])  # the observed labels come first

    def mantel(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            return float("nan"), float("nan")
        full = np.zeros((k, k))
        full[above] = stats.zscore(y)
        full += full.T
        r = full[labels[:, above[0]], labels[:, above[1]]] @ stats.zscore(x) / len(x)
        return float(r[0]), float((r >= r[0] - 1e-12).mean())

    x, y = left[above], right[above]
    pearson, spearman = mantel(x, y), mantel(stats.rankdata(x), stats.rankdata(y))
    names = ("pearson", "pearson_p", "spearman", "spearman_p", "n")
    return dict(zip(names, (*pearson, *spearman, len(x)), strict=True))


def _symmetric(name: str, matrix: pd.DataFrame | ArrayLike) -> NDArray[np.float64]:
    values = np.array(matrix, dtype=float)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 3:
        raise ValueError(f"{name} must be a square matrix of at least 3 x 3, got {values.shape}")
    np.fill_diagonal(values, 0.0)
    if not np.isfinite(values).all() or not np.allclose(values, values.T):
        raise ValueError(
            f"{name} must be finite and symmetric off the diagonal; average attention weights "
            "with their transpose first"
        )
    return values
