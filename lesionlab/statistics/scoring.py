"""Scores of predictions against the readers, each with its interval over patients.

The same two functions score the baselines and every model, so that two numbers beside
each other were made alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lesionlab.statistics.intervals import Estimate, bootstrap_weights_over_groups


def score_regression(
    frame: pd.DataFrame,
    *,
    truth: str = "truth",
    prediction: str = "prediction",
    constant: str = "constant",
    group: str = "patient",
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Score predicted ratings, of a baseline or of a model.

    mae is the mean of |prediction - truth|, rmse the root of the mean square, bias the mean of
    prediction - truth. If `frame` has the out-of-fold constant of `constant_error` in the column
    `constant`, skill is 1 - mae / (mae of the constant), on the same lesions and resamples.

    Args:
        frame: One row per lesion with the columns named below.
        truth: Column of the mean rating of the readers, in rating steps.
        prediction: Column of the prediction, in rating steps.
        constant: Column of the constant predictor's prediction; skill is left out without it.
        group: Column of the patient.
        n_resamples: Resamples of patients.
        level: Nominal coverage of the intervals.
        seed: Seed of the resamples.

    Returns:
        Estimates under mae, rmse, bias and, with a constant, mae_constant and skill. Where the
        constant is never wrong, skill is NaN; where it is never wrong in more than 5 % of the
        resamples, as happens with internal structure, its interval is NaN.

    Raises:
        KeyError: A column is missing.
        ValueError: Gaps in a column, or as in `bootstrap_over_groups`.
    """
    columns = [truth, prediction] + [constant] * (constant in frame.columns)
    _check_complete(frame, [*columns, group])

    values = frame[columns].to_numpy(dtype=float)
    error = values[:, 1] - values[:, 0]
    gap = np.abs(values[:, 2] - values[:, 0]) if constant in columns else None

    def metrics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        n = weights.sum(1)
        found = {
            "mae": weights @ np.abs(error) / n,
            "rmse": np.sqrt(weights @ error**2 / n),
            "bias": weights @ error / n,
        }
        if gap is not None:
            found["mae_constant"] = weights @ gap / n
            found["skill"] = skills(found["mae"], found["mae_constant"])
        return found

    return bootstrap_weights_over_groups(
        metrics,
        frame[group],
        n_resamples=n_resamples,
        level=level,
        seed=seed,
        undefined="nan",
    )


def score_classification(
    frame: pd.DataFrame,
    *,
    truth: str = "truth",
    score: str = "score",
    threshold: float = 0.5,
    group: str = "patient",
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Score a malignancy classifier, a baseline's or a model's.

    auc is the share of (malignant, benign) pairs in the right order, ties counting one half
    (Mann and Whitney); the others call a lesion malignant at `score >= threshold`.

    Args:
        frame: One row per lesion with the columns named below.
        truth: Column of the label, 0 benign and 1 malignant.
        score: Column of the score, higher for malignant.
        threshold: Where a lesion is called malignant.
        group: Column of the patient.
        n_resamples: Resamples of patients.
        level: Nominal coverage of the intervals.
        seed: Seed of the resamples.

    Returns:
        Estimates under auc, accuracy, sensitivity, specificity; an interval is NaN when more than
        5 % of the resamples lack the class that it needs.

    Raises:
        KeyError: A column is missing.
        ValueError: Gaps, a label other than 0 and 1, a single class, or as in
            `bootstrap_over_groups`.
    """
    _check_complete(frame, [truth, score, group])
    check_labels(frame[truth])

    # scikit-learn has these too, and the tests hold the two equal; here all resamples are counted
    # together, each lesion as often as it was drawn
    malignant = frame[truth].to_numpy(dtype=float) == 1
    scores = frame[score].to_numpy(dtype=float)
    called = scores >= threshold
    auc = weighted_auc(scores, malignant)

    def metrics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        with np.errstate(invalid="ignore"):
            return {
                "auc": auc(weights),
                "accuracy": weights @ (called == malignant) / weights.sum(1),
                "sensitivity": weights @ (malignant & called) / (weights @ malignant),
                "specificity": weights @ ~(malignant | called) / (weights @ ~malignant),
            }

    return bootstrap_weights_over_groups(
        metrics,
        frame[group],
        n_resamples=n_resamples,
        level=level,
        seed=seed,
        undefined="nan",
    )


def weighted_auc(
    scores: NDArray[np.float64], malignant: NDArray[np.bool_]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """The AUC of scores as a function of how often each lesion counts.

    Args:
        scores: (lesion,) higher for malignant; ties count one half.
        malignant: (lesion,).

    Returns:
        From (resample, lesion) weights to (resample,) AUC, NaN where a class has no weight.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of runs of equal scores

    def auc(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        positive, negative = weights * malignant, weights * ~malignant
        ties1 = np.add.reduceat(positive[:, order], starts, axis=1)
        ties0 = np.add.reduceat(negative[:, order], starts, axis=1)
        below = np.cumsum(ties0, axis=1) - ties0 / 2
        with np.errstate(invalid="ignore"):
            found: NDArray[np.float64] = (ties1 * below).sum(1) / (
                positive.sum(1) * negative.sum(1)
            )
        return found

    return auc


def skill(mae: float, mae_constant: float) -> float:
    """Share of the constant predictor's error that is gone: 1 - mae / mae_constant.

    1 is perfect, 0 no better than the constant, below 0 worse. NaN when the constant is perfect,
    as there is nothing left to gain.

    Args:
        mae: Mean absolute error of the predictor.
        mae_constant: Mean absolute error of the constant predictor on the same lesions.

    Raises:
        ValueError: An error below 0.

    Example:
        >>> skill(0.4, 0.8)
        0.5
    """
    for name, value in (("mae", mae), ("mae_constant", mae_constant)):
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    return float("nan") if mae_constant == 0 else 1 - mae / mae_constant


def skills(mae: NDArray[np.float64], mae_constant: NDArray[np.float64]) -> NDArray[np.float64]:
    """`skill` of many errors at once."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mae_constant == 0, np.nan, 1 - mae / mae_constant)


def check_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a table without one of the columns.

    Raises:
        KeyError: A column is missing.
    """
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise KeyError(f"the table has no column {missing}; it has {list(frame.columns)}")


def _check_complete(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    check_columns(frame, columns)
    for column in columns:
        if frame[column].isna().any():
            raise ValueError(f"column {column!r} has {int(frame[column].isna().sum())} gaps")


def check_labels(labels: pd.Series[Any]) -> None:
    """Refuse labels other than 0 and 1, or of a single class.

    Raises:
        ValueError: The labels are not 0 and 1, both of them.
    """
    found = sorted(labels.unique().tolist())
    if found not in ([0, 1], [False, True]):
        raise ValueError(f"labels must be 0 and 1, both of them, got {found[:5]}")
