"""Intervals around predictions that hold what they promise: split-conformal prediction.

Half of the lesions that a model has not seen calibrate: the interval reaches as far to both sides
of a prediction as their absolute errors mostly do. The other half tests it. Papadopoulos et al.,
ECML 2002; the level is exact on average over draws of exchangeable lesions (Vovk 2012). Halves are
by patient, as lesions of one patient are alike, so that exchangeable are, strictly, patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Shares of lesions that are promised; 0.9 is shown where one is."""


def reach(errors: npt.ArrayLike, level: float) -> float:
    """How far an interval goes to both sides: the k-th smallest error, k = ceil((n + 1) level).

    Args:
        errors: (lesion,) absolute errors of the lesions that calibrate, without NaN.
        level: Share of lesions that is promised.

    Returns:
        Infinity where there are too few lesions for the level.

    >>> [reach(range(1, 10), level) for level in (0.5, 0.9, 0.95)]
    [5.0, 9.0, inf]
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: expected a share between 0 and 1")
    ordered = np.sort(np.asarray(errors, np.float64))
    if np.isnan(ordered).any():
        raise ValueError("errors: expected numbers, got NaN")
    k = _rank(len(ordered), level)
    return float(ordered[k - 1]) if k <= len(ordered) else math.inf


def _rank(n: int, level: float) -> int:
    return math.ceil(round((n + 1) * level, 9))  # 10 × 0.9 is 9, and not a little more


def halves(patients: pd.Series[str], seed: int = 0) -> npt.NDArray[np.bool_]:
    """(lesion,) True where a lesion's patient is in the half that calibrates."""
    every = np.array(sorted(set(patients)))
    chosen = np.random.default_rng(seed).permutation(every)[: len(every) // 2]
    found: npt.NDArray[np.bool_] = patients.isin(chosen).to_numpy()
    return found


def calibrate(
    predictions: pd.DataFrame,
    targets: Iterable[str],
    *,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> pd.DataFrame:
    """The reach of the intervals of each target, and what they cover on the half that tests.

    Args:
        predictions: As `Outcome.predictions`, of lesions that the model has not seen.
        targets: Which ratings.
        levels: Shares of lesions that are promised.
        seed: Which patients calibrate.

    Returns:
        A row for each target and level: target, level, reach; n_calibrated, n_tested (lesions);
        covered (share); low, high: between them the share lies in 95 of 100 draws if the promise
        holds, by the beta-binomial law.
    """
    first, rows = halves(predictions["patient"], seed), []
    for target in targets:
        errors = (predictions[target] - predictions[f"{target}_truth"]).abs()
        known = errors.notna().to_numpy()
        own, others = errors[known & first], errors[known & ~first]
        for level in levels:
            q, k, n = reach(own, level), _rank(len(own), level), len(own)
            law = stats.betabinom(len(others), k, max(n + 1 - k, 1e-9))
            row = {"target": target, "level": level, "reach": q}
            row |= {"n_calibrated": n, "n_tested": len(others), "covered": (others <= q).mean()}
            rows.append(row | dict(zip(("low", "high"), expected(law, len(others)), strict=True)))
    return pd.DataFrame(rows)


def expected(law: stats.rv_frozen, n: int, share: float = 0.95) -> tuple[float, float]:
    """The ends of the shares of n that a law of counts gives in so many of all draws."""
    low, high = law.ppf([(1 - share) / 2, (1 + share) / 2])
    return float(low / n), float(high / n)
