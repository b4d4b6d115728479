"""Scores of predictions against the readers, each with its interval over patients.

One function for each kind of target scores the baselines and every model. Each takes a table with
one row per lesion: `patient`, `truth` (what the readers say), what was predicted, and optionally
`fold`, which of several models predicted the lesion. `**how` are options of the bootstrap.

**An AUC is taken within folds.** Each fold has a network of its own. One may call most lesions
malignant where another calls hardly any, and a ranking of all lesions together would mix how well
the networks rank with how alike their levels are. So with the column `fold` an AUC is the mean of
the folds' own AUCs. A fold in which a class does not occur is left out; `Estimate.method` says so.

Where more than 5 % of the resamples lack what a score needs, such as a class, the ends of its
interval are NaN. The functions raise `KeyError` where a column is missing, and `ValueError` for
gaps, for truths that are none, or for fewer than two patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from lesionlab.statistics.intervals import (
    Array,
    Estimate,
    Resampling,
    bootstrap_weights_over_groups,
)

Booleans = NDArray[np.bool_]


def score_regression(frame: pd.DataFrame, **how: Unpack[Resampling]) -> dict[str, Estimate]:
    """Score predicted ratings.

    mae is the mean of |prediction - truth|, rmse the root of the mean square, bias the mean of
    prediction - truth. If `frame` has the out-of-fold constant of `baselines.constant_error` in the
    column `constant`, skill is 1 - mae / mae_constant, on the same lesions and resamples.

    Args:
        frame: Columns patient, truth, prediction and optionally constant, in rating steps.
        **how: See `Resampling`.

    Returns:
        mae, rmse, bias and, with a constant, mae_constant and skill.
    """
    columns = ["truth", "prediction"] + ["constant"] * ("constant" in frame.columns)
    check_complete(frame, [*columns, "patient"])
    truth, *predicted = frame[columns].to_numpy(dtype=float).T
    error = predicted[0] - truth

    def metrics(weights: Array) -> dict[str, Array]:
        n = weights.sum(1)
        found = {
            "mae": weights @ np.abs(error) / n,
            "rmse": np.sqrt(weights @ error**2 / n),
            "bias": weights @ error / n,
        }
        if len(predicted) > 1:
            found["mae_constant"] = weights @ np.abs(predicted[1] - truth) / n
            found["skill"] = skill(found["mae"], found["mae_constant"])
        return found

    return bootstrap_weights_over_groups(metrics, frame["patient"], undefined="nan", **how)


def score_binary(frame: pd.DataFrame, *, threshold: float = 0.5, **how: Any) -> dict[str, Estimate]:
    """Score a classifier of two classes, such as benign and malignant.

    auc is the share of (malignant, benign) pairs in the right order, ties counting one half (Mann
    and Whitney), within folds. The others call a lesion malignant at `score >= threshold`.

    Args:
        frame: Columns patient, truth (0 or 1), score (higher for 1) and optionally fold.
        threshold: Where a lesion is called 1.
        **how: See `Resampling`.

    Returns:
        auc, accuracy, sensitivity (recall), specificity, precision, f1.
    """
    check_complete(frame, ["truth", "score", "patient"])
    check_labels(frame["truth"])
    positive = frame["truth"].to_numpy(dtype=float) == 1
    scores = frame["score"].to_numpy(dtype=float)
    called = scores >= threshold
    auc = weighted_auc(scores, positive, _folds(frame))

    def metrics(weights: Array) -> dict[str, Array]:
        hits, n_called, n_positive = (weights @ of for of in (called & positive, called, positive))
        with np.errstate(invalid="ignore"):
            return {
                "auc": auc(weights),
                "accuracy": weights @ (called == positive) / weights.sum(1),
                "sensitivity": hits / n_positive,
                "specificity": weights @ ~(called | positive) / (weights @ ~positive),
                "precision": hits / n_called,
                "f1": 2 * hits / (n_called + n_positive),
            }

    found = bootstrap_weights_over_groups(metrics, frame["patient"], undefined="nan", **how)
    found["auc"] = within_folds(found["auc"], [positive], _folds(frame))
    return found


def score_multiclass(
    frame: pd.DataFrame, classes: Sequence[Any], **how: Any
) -> dict[str, Estimate]:
    """Score a classifier of several classes.

    With t_k, p_k and c_k the lesions of class k, those called k, and those that are both, of n:
    recall c/t, precision c/p, specificity (n - t - p + c)/(n - t), npv (n - t - p + c)/(n - p), and
    f1 2c/(t + p). A macro score is the mean over the classes for which it is defined; weighted_f1
    weights each class by t. mcc is the correlation of truth and call (Gorodkin 2004), 0 where all
    lesions are called alike. Li 2021 (eq. 5 to 7) prints recall, precision and npv of each class
    under the names accuracy, sensitivity and specificity.

    Args:
        frame: Columns patient, truth (one of `classes`), optionally fold, and a column of
            probabilities under the name of each class. The most probable class is called, of equal
            ones the first. Leave out lesions whose class is to be ignored.
        classes: The classes in their order.
        **how: See `Resampling`.

    Returns:
        accuracy, mcc, weighted_f1, macro_recall and so on; auc, the mean over classes of the AUC of
        each class against the rest, within folds; then recall_k, precision_k, specificity_k, npv_k
        and f1_k of each class k, NaN where nothing is to be divided.
    """
    k = len(classes)
    if k < 2 or len(set(classes)) < k:
        raise ValueError(f"classes must be two or more, each once, got {list(classes)}")
    check_complete(frame, ["truth", "patient", *classes])
    codes = frame["truth"].map({label: i for i, label in enumerate(classes)})
    if codes.isna().any():
        other = frame.loc[codes.isna(), "truth"].iloc[0]
        raise ValueError(f"truth must be one of {list(classes)}, got {other!r}")
    truth = codes.to_numpy(dtype=int)
    scores = frame[list(classes)].to_numpy(dtype=float)
    called = scores.argmax(axis=1)
    is_truth, is_called = np.eye(k)[truth], np.eye(k)[called]  # (lesion, class)
    folds = _folds(frame)
    present = [code for code in range(k) if (truth == code).any()]
    aucs = [weighted_auc(scores[:, code], truth == code, folds) for code in present]

    def metrics(weights: Array) -> dict[str, Array]:
        n = weights.sum(1)[:, None]
        t, p, c = (weights @ of for of in (is_truth, is_called, is_truth * is_called))
        with np.errstate(invalid="ignore", divide="ignore"):
            each = {
                "recall": c / t,
                "precision": c / p,
                "specificity": (n - t - p + c) / (n - t),
                "npv": (n - t - p + c) / (n - p),
                "f1": 2 * c / (t + p),
            }
            size = (n[:, 0] ** 2 - (p**2).sum(1)) * (n[:, 0] ** 2 - (t**2).sum(1))
            mcc = (c.sum(1) * n[:, 0] - (t * p).sum(1)) / np.sqrt(size)
        found = {
            "accuracy": c.sum(1) / n[:, 0],
            "mcc": np.where(size > 0, mcc, 0.0),
            "weighted_f1": np.nansum(t * each["f1"], axis=1) / n[:, 0],
        }
        found |= {f"macro_{name}": _mean(values, axis=1) for name, values in each.items()}
        found["auc"] = _mean(np.array([auc(weights) for auc in aucs]), axis=0)
        for name, values in each.items():
            found |= {f"{name}_{label}": values[:, i] for i, label in enumerate(classes)}
        return found

    found = bootstrap_weights_over_groups(metrics, frame["patient"], undefined="nan", **how)
    found["auc"] = within_folds(found["auc"], [truth == code for code in present], folds)
    return found


def confusion(frame: pd.DataFrame, classes: Sequence[Any]) -> pd.DataFrame:
    """How many lesions of each class (row) were called what (column).

    Args:
        frame: Columns truth and, under the name of each class, its probability.
        classes: The classes in their order; of equal probabilities the first one counts.
    """
    called = frame[list(classes)].to_numpy().argmax(1)
    table = confusion_matrix(frame["truth"], np.asarray(classes)[called], labels=list(classes))
    return pd.DataFrame(table, pd.Index(classes, name="truth"), pd.Index(classes, name="called"))


def score_dice(frame: pd.DataFrame, **how: Unpack[Resampling]) -> dict[str, Estimate]:
    """Score segmentations by the mean Dice coefficient over lesions.

    Dice is 2 · intersection / (truth + prediction), and 1 where both masks are empty.

    Args:
        frame: Columns patient, truth, prediction and intersection: voxels of the readers' mask, of
            the predicted one, and of both.
        **how: See `Resampling`.
    """
    columns = ["truth", "prediction", "intersection"]
    check_complete(frame, [*columns, "patient"])
    truth, predicted, both = frame[columns].to_numpy(dtype=float).T
    if (both < 0).any() or (both > np.minimum(truth, predicted)).any():
        raise ValueError("intersection must be from 0 to the smaller of truth and prediction")
    total = truth + predicted
    dice = np.where(total > 0, 2 * both / np.where(total > 0, total, 1), 1.0)
    return bootstrap_weights_over_groups(
        lambda weights: {"dice": weights @ dice / weights.sum(1)}, frame["patient"], **how
    )


def weighted_auc(
    scores: Array, positive: Booleans, folds: NDArray[Any] | None = None
) -> Callable[[Array], Array]:
    """The AUC of scores, from weights (resample, lesion) to (resample,), ties counting one half.

    With `folds`, the fold of each lesion, it is the mean of the folds' own. Folds in which a class
    has no weight are left out; NaN where that is all.
    """
    if folds is not None:
        parts = [folds == fold for fold in pd.unique(folds)]
        own = [weighted_auc(scores[part], positive[part]) for part in parts]

        def mean(weights: Array) -> Array:
            found = [auc(weights[:, part]) for auc, part in zip(own, parts, strict=True)]
            return _mean(np.array(found), axis=0)

        return mean

    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of runs of equal scores

    def auc(weights: Array) -> Array:
        ones, zeros = weights * positive, weights * ~positive
        ties1 = np.add.reduceat(ones[:, order], starts, axis=1)
        ties0 = np.add.reduceat(zeros[:, order], starts, axis=1)
        below = np.cumsum(ties0, axis=1) - ties0 / 2
        with np.errstate(invalid="ignore"):
            found: Array = (ties1 * below).sum(1) / (ones.sum(1) * zeros.sum(1))
        return found

    return auc


def skill(mae: Any, mae_constant: Any) -> Any:
    """Share of the constant predictor's error that is gone: 1 - mae / mae_constant.

    1 is perfect, 0 no better than the constant, below 0 worse. NaN where the constant is perfect,
    as there is nothing left to gain. For numbers or arrays.

    Example:
        >>> float(skill(0.4, 0.8))
        0.5
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mae_constant == 0, np.nan, 1 - np.divide(mae, mae_constant))


def check_columns(frame: pd.DataFrame, columns: Sequence[Any]) -> None:
    """Refuse a table without one of the columns, by a `KeyError`."""
    if missing := [c for c in columns if c not in frame.columns]:
        raise KeyError(f"the table has no column {missing}; it has {list(frame.columns)}")


def check_complete(frame: pd.DataFrame, columns: Sequence[Any]) -> None:
    """Refuse a table without one of the columns, or (`ValueError`) with gaps in them."""
    check_columns(frame, columns)
    for column in columns:
        if frame[column].isna().any():
            raise ValueError(f"column {column!r} has {int(frame[column].isna().sum())} gaps")


def check_labels(labels: pd.Series[Any]) -> None:
    """Refuse labels other than 0 and 1, or of a single class, by a `ValueError`."""
    found = sorted(labels.unique().tolist())
    if found not in ([0, 1], [False, True]):
        raise ValueError(f"labels must be 0 and 1, both of them, got {found[:5]}")


def _folds(frame: pd.DataFrame) -> NDArray[Any] | None:
    if "fold" not in frame.columns:
        return None
    check_complete(frame, ["fold"])
    return frame["fold"].to_numpy()


def within_folds(
    estimate: Estimate, positives: Sequence[Booleans], folds: NDArray[Any] | None
) -> Estimate:
    """Say of an AUC that it is a mean over folds, and how many classes of folds it leaves out."""
    if folds is None or len(every := pd.unique(folds)) < 2:
        return estimate
    shares = [positive[folds == fold].mean() for positive in positives for fold in every]
    without = sum(share in (0, 1) for share in shares)
    words = f"; mean of the AUCs within {len(every)} folds"
    words += f", {without} of {len(shares)} left out for want of a class" * (without > 0)
    return replace(estimate, method=estimate.method + words)


def _mean(values: Array, axis: int) -> Array:
    """The mean of what is not NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        found: Array = np.where(known, values, 0.0).sum(axis) / known.sum(axis)
    return found
