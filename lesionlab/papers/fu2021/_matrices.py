"""Fu 2021, weights between attributes (Fig. 6): see `lesionlab.papers.fu2021.analyses`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from lesionlab.statistics.correlation import matrix_agreement

Array = npt.NDArray[np.float64]
Normalise = Literal["mean", "lesion"]


def mean_weights(
    matrices: Array, attributes: Sequence[str], *, normalise: Normalise = "mean"
) -> pd.DataFrame:
    """The weight of each attribute for each, as magnitudes with rows of sum 1 (Fig. 6b, c).

    Args:
        matrices: (lesion, attribute t, attribute k), raw.
        attributes: Their names.
        normalise: `mean`: the rows of the mean over lesions, as "normalised mean CAAM weights"
            reads. `lesion`: the rows of each lesion (`fu2021.shares`), and then the mean, in
            which weights of different signs do not cancel out.

    Returns:
        Row t, column k: "the weight of attribute j for attribute i".

    Raises:
        ValueError: Another shape, values that are not finite, or an unknown `normalise`.
    """
    if normalise not in ("mean", "lesion"):
        raise ValueError(f"normalise={normalise!r}: expected 'mean' or 'lesion'")
    values = _matrices(matrices, attributes)
    magnitude = np.abs(values.mean(axis=0, keepdims=True) if normalise == "mean" else values)
    total = magnitude.sum(axis=-1, keepdims=True)
    shares = np.divide(magnitude, total, out=np.full_like(magnitude, np.nan), where=total > 0)
    return _square(_nanmean(shares), attributes)


def profile_correlations(matrices: Array, attributes: Sequence[str]) -> pd.DataFrame:
    """How alike two attributes' weights are: their correlation per nodule, averaged (Fig. 6d, e).

    The paper shows "normalised mean correlations" without a formula; here they are the mean of
    Pearson's r over the nodules.

    Args:
        matrices: (lesion, attribute t, attribute k), raw.
        attributes: Their names.

    Returns:
        Symmetric, 1 on the diagonal. A nodule counts for the pairs in which neither attribute
        has the same weight for all; NaN where no nodule does.

    Raises:
        ValueError: Another shape, or values that are not finite.
    """
    values = _matrices(matrices, attributes)
    centred = values - values.mean(axis=-1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=-1, keepdims=True))
    flat = length <= 1e-12 * np.abs(values).max(axis=-1, keepdims=True)
    unit = np.divide(centred, length, out=np.full_like(values, np.nan), where=~flat)
    r = np.clip(unit @ unit.transpose(0, 2, 1), -1, 1)  # (lesion, t, t')
    return _square(_nanmean(r), attributes)


def attention_agreement(
    matrices: Array,
    correlations: pd.DataFrame,
    attributes: Sequence[str],
    *,
    normalise: Normalise = "mean",
    n_resamples: int = 9_999,
    seed: int = 0,
) -> pd.DataFrame:
    """How far the attention weights resemble the correlations of the readers' ratings (Fig. 6).

    The paper compares by eye; here by `statistics.correlation.matrix_agreement`, against the
    magnitudes of the readers' correlations that its Fig. 6a shows. The diagonal does not count,
    and the weights are averaged with their transpose, as Mantel's test wants symmetric matrices.

    Args:
        matrices: (lesion, attribute t, attribute k), raw.
        correlations: Of the readers' ratings, square, as `correlation_matrix`; signs are dropped.
        attributes: Names of t and k.
        normalise: As in `mean_weights`.
        n_resamples: Random relabellings for the p-values.
        seed: Seed of the relabellings.

    Returns:
        Rows weights (Fig. 6b, c) and profiles (the magnitudes of Fig. 6d, e); columns pearson,
        pearson_p, spearman, spearman_p, n (pairs), n_attributes. An attribute without
        correlations (a constant rating) is left out.

    Raises:
        KeyError: `correlations` lacks an attribute.
        ValueError: As `matrix_agreement`, or fewer than three attributes are left.
    """
    names = list(attributes)
    missing = [name for name in names if name not in correlations or name not in correlations.index]
    if missing:
        raise KeyError(f"correlations has no attribute {missing}; it has {list(correlations)}")
    readers = correlations.loc[names, names].abs()
    seen = {
        "weights": mean_weights(matrices, names, normalise=normalise),
        "profiles": profile_correlations(matrices, names).abs(),
    }
    rows = {}
    for what, matrix in seen.items():
        symmetric = (matrix + matrix.T) / 2
        known = [n for n in names if not _undefined(n, readers) and not _undefined(n, symmetric)]
        if len(known) < 3:
            raise ValueError(
                f"{what}: {len(known)} attributes have correlations, expected 3 or more"
            )
        found = matrix_agreement(
            symmetric.loc[known, known], readers.loc[known, known],
            n_resamples=n_resamples, seed=seed,
        )  # fmt: skip
        rows[what] = {
            "pearson": found.pearson,
            "pearson_p": found.pearson_p,
            "spearman": found.spearman,
            "spearman_p": found.spearman_p,
            "n": found.n,
            "n_attributes": len(known),
        }
    return pd.DataFrame(rows).T.astype({"n": int, "n_attributes": int})


def _undefined(name: str, matrix: pd.DataFrame) -> bool:
    return bool(matrix.loc[name].drop(name).isna().all())


def _matrices(matrices: Array, attributes: Sequence[str]) -> Array:
    values = np.asarray(matrices, dtype=float)
    k = len(attributes)
    if values.ndim != 3 or values.shape[1:] != (k, k) or not len(values):
        raise ValueError(f"matrices: shape {values.shape}, expected (lesion, {k}, {k})")
    if not np.isfinite(values).all():
        raise ValueError("matrices: some values are not finite")
    return values


def _nanmean(values: Array) -> Array:
    """The mean over lesions of what is defined, without numpy's warning where nothing is."""
    known = np.isfinite(values)
    n = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    mean: Array = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
    return mean


def _square(values: Array, attributes: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(values, index=list(attributes), columns=list(attributes))
