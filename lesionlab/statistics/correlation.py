"""How attributes go together as numbers: correlation, and how alike two such matrices are.

Fu 2021 (Fig. 6) lays the correlations of the readers' scores beside the attention
weights of a model and compares them by eye; `matrix_agreement` puts a number on it.
For attributes as categories see `association`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

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
    matrix = correlation_matrix(frame, columns)
    rows = []
    for first, second in combinations(columns, 2):
        pair = frame[[first, second]].dropna().to_numpy(dtype=float)
        defined = len(pair) >= 3 and (np.ptp(pair, axis=0) > 0).all()
        p = float(stats.pearsonr(pair[:, 0], pair[:, 1]).pvalue) if defined else np.nan
        r = matrix.loc[first, second] if defined else np.nan
        rows.append({"first": first, "second": second, "r": r, "p": p, "n": len(pair)})
    table = pd.DataFrame(rows)
    table.insert(4, "p_holm", holm(table["p"]))
    return table


@dataclass(frozen=True)
class MatrixAgreement:
    """How alike two symmetric matrices are: correlations of the n entries above the diagonal.

    Their p-values are Mantel's, one-sided (more alike than by chance); see `matrix_agreement`.
    """

    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float
    n: int


def matrix_agreement(
    a: pd.DataFrame | ArrayLike,
    b: pd.DataFrame | ArrayLike,
    *,
    n_resamples: int = 9_999,
    seed: int = 0,
) -> MatrixAgreement:
    """Compare two symmetric matrices over the same attributes by Mantel's test (1967).

    The entries above the diagonal are correlated. Each attribute is in many of them, so that they
    are not independent, and the p-value comes from relabelling the attributes of one matrix (rows
    and columns together): p = (1 + relabellings at least as alike) / (1 + n_resamples). Fu 2021
    (Fig. 6) makes this comparison by eye.

    Args:
        a: Symmetric finite matrix, at least 3 x 3; the diagonal does not count.
        b: Another of the same shape. Two DataFrames are matched by label. Attention weights are
            not symmetric: average them with their transpose first.
        n_resamples: Number of random relabellings.
        seed: Seed of the relabellings.

    Returns:
        Both correlations with their p-values; NaN when a matrix is constant off the diagonal.
    """
    if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        if set(a.index) != set(b.index) or set(a.columns) != set(b.columns):
            raise ValueError(f"a and b have other labels: {list(a.index)} and {list(b.index)}")
        b = b.loc[a.index, a.columns]
    left, right = _symmetric("a", a), _symmetric("b", b)
    if left.shape != right.shape:
        raise ValueError(f"a and b must have the same shape, got {left.shape} and {right.shape}")
    k = len(left)
    above = np.triu_indices(k, 1)
    rng = np.random.default_rng(seed)
    # the first "relabelling" is the one that was observed
    labels = np.vstack(
        [np.arange(k), rng.permuted(np.tile(np.arange(k), (n_resamples, 1)), axis=1)]
    )

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
    return MatrixAgreement(*pearson, *spearman, n=len(x))


def _symmetric(name: str, matrix: pd.DataFrame | ArrayLike) -> NDArray[np.float64]:
    values = np.array(matrix, dtype=float)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 3:
        raise ValueError(f"{name} must be a square matrix of at least 3 x 3, got {values.shape}")
    np.fill_diagonal(values, 0.0)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has NaN or infinite entries off the diagonal")
    if not np.allclose(values, values.T):
        raise ValueError(f"{name} is not symmetric; average it with its transpose first")
    return values
