"""Scores of predictions against the readers, each with its interval over patients.

One function for each kind of target scores the baselines and every model. Each takes a table with
one row per lesion: `patient`, `truth` (what the readers say), what was predicted, and optionally
`fold`, which of several models predicted the lesion. `**how` are options of the bootstrap.

**An AUC is taken within folds.** Each fold has a network of its own. One may call most lesions
malignant where another calls hardly any, and a ranking of all lesions together would mix how well
the networks rank with how alike their levels are. So with the column `fold` an AUC is the mean of
the folds' own AUCs. A fold in which a class does not occur is left out.

The functions raise `KeyError` where a column is missing, and `ValueError` for gaps, for truths
outside of the scale, or for fewer than two patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Score predicted ratings, in rating steps.

    mae is the mean of |prediction - truth|, rmse the root of the mean square, bias the mean of
    prediction - truth. If `frame` has the column `constant` of `baselines.constant_regression`, its
    error is mae_constant and skill is 1 - mae / mae_constant, on the same lesions and resamples.
    The other columns are patient, truth and prediction.
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

    return bootstrap_weights_over_groups(metrics, frame["patient"], **how)


def score_binary(frame: pd.DataFrame, *, threshold: float = 0.5, **how: Any) -> dict[str, Estimate]:
    """Score a classifier of two classes, such as benign and malignant.

    auc is the share of (malignant, benign) pairs in the right order, ties counting one half (Mann
    and Whitney), within folds. The others call a lesion malignant at `score >= threshold`.

    The columns are patient, truth (0 or 1), score (higher for 1) and optionally fold.

    Returns:
        auc, accuracy, sensitivity (recall), specificity, precision, f1.
    """
    check_complete(frame, ["truth", "score", "patient"])
    check_labels(frame["truth"])
    positive = frame["truth"].to_numpy(dtype=float) == 1
    scores, folds = frame["score"].to_numpy(dtype=float), folds_of(frame)
    called = scores >= threshold

    def metrics(weights: Array) -> dict[str, Array]:
        hits, n_called, n_positive = (weights @ of for of in (called & positive, called, positive))
        return {
            "auc": weighted_auc(scores, positive, weights, folds),
            "accuracy": weights @ (called == positive) / weights.sum(1),
            "sensitivity": hits / n_positive,
            "specificity": weights @ ~(called | positive) / (weights @ ~positive),
            "precision": hits / n_called,
            "f1": 2 * hits / (n_called + n_positive),
        }

    return bootstrap_weights_over_groups(metrics, frame["patient"], **how)


def score_multiclass(
    frame: pd.DataFrame, classes: Sequence[Any], **how: Any
) -> dict[str, Estimate]:
    """Score a classifier of several classes.

    Those of each class are `class_measures`. A macro score is the mean over the classes for which
    it is defined; weighted_f1 weights each class by its lesions. mcc is the correlation of truth
    and call (Gorodkin 2004), 0 where all lesions are called alike.

    The columns are patient, truth (one of `classes`), optionally fold, and one of probabilities
    under the name of each class. The most probable class is called, of equal ones the first. Leave
    out lesions whose class is to be ignored.

    Returns:
        accuracy, mcc, weighted_f1, macro_recall and so on; auc, the mean over classes of the AUC of
        each class against the rest, within folds; then recall_k, precision_k, specificity_k, npv_k,
        f1_k and accuracy_k of each class k.
    """
    metrics = multiclass_statistics(frame, classes)
    return bootstrap_weights_over_groups(metrics, frame["patient"], **how)


def multiclass_statistics(
    frame: pd.DataFrame, classes: Sequence[Any]
) -> Callable[[Array], dict[str, Array]]:
    """What `score_multiclass` gives, as a function of weights (resample, lesion)."""
    k = len(classes)
    if k < 2 or len(set(classes)) < k:
        raise ValueError(f"classes must be two or more, each once, got {list(classes)}")
    check_complete(frame, ["truth", "patient", *classes])
    codes = frame["truth"].map({label: i for i, label in enumerate(classes)})
    if codes.isna().any():
        other = frame.loc[codes.isna(), "truth"].iloc[0]
        raise ValueError(f"truth must be one of {list(classes)}, got {other!r}")
    truth, folds = codes.to_numpy(dtype=int), folds_of(frame)
    scores = frame[list(classes)].to_numpy(dtype=float)
    is_truth, is_called = np.eye(k)[truth], np.eye(k)[scores.argmax(axis=1)]  # (lesion, class)

    def metrics(weights: Array) -> dict[str, Array]:
        n = weights.sum(1)[:, None]
        t, p, c = (weights @ of for of in (is_truth, is_called, is_truth * is_called))
        each = class_measures(t, p, c)
        size = (n[:, 0] ** 2 - (p**2).sum(1)) * (n[:, 0] ** 2 - (t**2).sum(1))
        mcc = (c.sum(1) * n[:, 0] - (t * p).sum(1)) / np.sqrt(size)
        found = {
            "accuracy": c.sum(1) / n[:, 0],
            "mcc": np.where(size > 0, mcc, 0.0),
            "weighted_f1": np.nansum(t * each["f1"], axis=1) / n[:, 0],
        }
        found |= {f"macro_{name}": mean_of_known(values, axis=1) for name, values in each.items()}
        present = np.unique(truth)
        aucs = [weighted_auc(scores[:, i], truth == i, weights, folds) for i in present]
        found["auc"] = mean_of_known(np.array(aucs), axis=0)
        for name, values in each.items():
            found |= {f"{name}_{label}": values[:, i] for i, label in enumerate(classes)}
        return found

    return metrics


def class_measures(t: Array, p: Array, c: Array) -> dict[str, Array]:
    """What is measured of each class against the rest: (resample, class) by name.

    t, p and c, each (resample, class), are the lesions of a class, those called so, and those that
    are both, of n in a resample; each is of one class. The measures are recall c/t, precision c/p,
    specificity (n - t - p + c)/(n - t), npv (n - t - p + c)/(n - p), f1 2c/(t + p) and accuracy
    (n - t - p + 2c)/n. The last, recall and specificity are eq. 5 to 7 of
    Li 2021; the numbers that it prints are recall, precision and npv, under the names accuracy,
    sensitivity and specificity.
    """
    n = t.sum(1, keepdims=True)
    return {
        "recall": c / t,
        "precision": c / p,
        "specificity": (n - t - p + c) / (n - t),
        "npv": (n - t - p + c) / (n - p),
        "f1": 2 * c / (t + p),
        "accuracy": (n - t - p + 2 * c) / n,
    }


def confusion(frame: pd.DataFrame, classes: Sequence[Any]) -> pd.DataFrame:
    """How many lesions of each class (row) were called what (column); see `score_multiclass`."""
    called = frame[list(classes)].to_numpy().argmax(1)
    table = confusion_matrix(frame["truth"], np.asarray(classes)[called], labels=list(classes))
    return pd.DataFrame(table, pd.Index(classes, name="truth"), pd.Index(classes, name="called"))


def score_dice(frame: pd.DataFrame, **how: Unpack[Resampling]) -> dict[str, Estimate]:
    """Score segmentations by the mean Dice coefficient over lesions.

    Dice is 2 · intersection / (truth + prediction), and 1 where both masks are empty. The columns
    are patient and the voxels of the readers' mask (truth), of the predicted one (prediction), and
    of both (intersection).
    """
    columns = ["truth", "prediction", "intersection"]
    check_complete(frame, [*columns, "patient"])
    truth, predicted, both = frame[columns].to_numpy(dtype=float).T
    if (both < 0).any() or (both > np.minimum(truth, predicted)).any():
        raise ValueError("intersection must be from 0 to the smaller of truth and prediction")
    total = truth + predicted
    dice = np.divide(2 * both, total, out=np.ones_like(total), where=total > 0)
    return bootstrap_weights_over_groups(
        lambda weights: {"dice": weights @ dice / weights.sum(1)}, frame["patient"], **how
    )


def weighted_auc(scores: Array, positive: Booleans, weights: Array, folds: NDArray[Any]) -> Array:
    """The AUC of scores within folds, from weights (resample, lesion) to (resample,).

    Ties count one half. A fold in which a class has no weight is left out of the mean; NaN where no
    fold is left.
    """
    aucs = []
    for fold in pd.unique(folds):
        part = np.flatnonzero(folds == fold)
        part = part[np.argsort(scores[part], kind="stable")]
        starts = np.flatnonzero(np.diff(scores[part], prepend=-np.inf))  # of runs of equal scores
        ones = np.add.reduceat(weights[:, part] * positive[part], starts, axis=1)
        zeros = np.add.reduceat(weights[:, part] * ~positive[part], starts, axis=1)
        below = np.cumsum(zeros, axis=1) - zeros / 2  # the zeros that a one of each run exceeds
        aucs.append((ones * below).sum(1) / (ones.sum(1) * zeros.sum(1)))
    return mean_of_known(np.array(aucs), axis=0)


def skill(mae: Any, mae_constant: Any) -> Any:
    """Share of the constant predictor's error that is gone: 1 - mae / mae_constant.

    1 is perfect, 0 no better than the constant, below 0 worse. NaN where the constant is perfect,
    as there is nothing left to gain. For numbers or arrays.

    Example:
        >>> float(skill(0.4, 0.8))
        0.5
    """
    return 1 - mae / np.where(mae_constant == 0, np.nan, mae_constant)


def check_columns(frame: pd.DataFrame, columns: Sequence[Any]) -> None:
    """Refuse a table without one of the columns, by a `KeyError`."""
    if missing := [c for c in columns if c not in frame.columns]:
        raise KeyError(f"the table has no column {missing}; it has {list(frame.columns)}")


def check_complete(frame: pd.DataFrame, columns: Sequence[Any]) -> None:
    """Refuse a table without one of the columns, or (`ValueError`) with gaps in them."""
    check_columns(frame, columns)
    for column in columns:
        if gaps := int(frame[column].isna().sum()):
            raise ValueError(f"column {column!r} has {gaps} gaps")


def check_labels(labels: pd.Series[Any]) -> None:
    """Refuse labels other than 0 and 1, or of a single class, by a `ValueError`."""
    found = sorted(labels.unique().tolist())
    if found not in ([0, 1], [False, True]):
        raise ValueError(f"labels must be 0 and 1, both of them, got {found[:5]}")


def folds_of(frame: pd.DataFrame) -> NDArray[Any]:
    """The fold of each lesion; one and the same where the table has no column `fold`."""
    if "fold" not in frame.columns:
        return np.zeros(len(frame))
    check_complete(frame, ["fold"])
    return frame["fold"].to_numpy()


def mean_of_known(values: Array, axis: int) -> Array:
    """The mean of what is not NaN; NaN where nothing is left."""
    mean: Any = np.ma.masked_invalid(values).mean(axis)
    return np.ma.filled(mean, np.nan)
