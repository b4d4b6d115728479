"""What a predictor scores that never sees the image: the numbers to lay beside a model's.

A constant, the diameter alone, or the readers' other ratings: each is fitted on the
training part of every fold and scored on the part left out, on the folds that the model
is scored on. The scores are those of `scoring`, which scores models too. `lesion_id` may be
a column of `nodules` or its index.

The intervals are from resampling patients with the predictions held fixed. They say how
far the score depends on who is in the data, and not how it would move if the predictor
were fitted again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, QuantileRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler

from lesionlab.attributes import RATING_NAMES
from lesionlab.statistics.intervals import Estimate
from lesionlab.statistics.scoring import (
    check_columns,
    check_labels,
    score_classification,
    score_regression,
)

Rule = Literal["median", "mean"]
FitPredict = Callable[[pd.DataFrame, pd.DataFrame], NDArray[np.float64]]
OTHER_RATINGS = tuple(name for name in RATING_NAMES if name != "malignancy")


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """What a baseline predicted out of fold, and how it scored.

    Attributes:
        name: What it is, e.g. `diameter`.
        predictions: One row per lesion: lesion_id, patient, fold, truth, and `prediction` with
            `constant` (regression) or `score` (classification, a probability).
        scores: Each metric with its interval, from `score_regression` or `score_classification`.
        n_dropped: Lesions left out for want of a truth or of what the prediction is made from.
    """

    name: str
    predictions: pd.DataFrame
    scores: dict[str, Estimate]
    n_dropped: int


def constant_error(
    nodules: pd.DataFrame,
    attribute: str,
    *,
    folds: pd.Series[Any],
    rule: Rule = "median",
    n_resamples: int = 2000,
    seed: int = 0,
) -> Baseline:
    """Predict one and the same rating for every nodule: the median (or mean) of the training part.

    The median is the constant with the smallest mean absolute error, and so the bar for a MAE.

    Args:
        nodules: One row per nodule: lesion_id, patient and `attribute`.
        attribute: Rating to predict.
        folds: lesion_id -> fold number; each fold is predicted from the others.
        rule: `median` or `mean`.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        The baseline; its skill is 0 by definition under the median.

    Raises:
        KeyError: A column is missing.
        ValueError: Unknown `rule`, or `folds` with a lesion twice, without a nodule that has a
            rating, or with a single fold.
    """
    if rule not in ("median", "mean"):
        raise ValueError(f"rule must be 'median' or 'mean', got {rule!r}")

    def fit_predict(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
        return np.full(len(test), train["truth"].agg(rule))

    return _regression(rule, nodules, attribute, [], folds, fit_predict, n_resamples, seed)


def diameter_regression(
    nodules: pd.DataFrame,
    attribute: str,
    *,
    folds: pd.Series[Any],
    diameter: str = "diameter",
    n_resamples: int = 2000,
    seed: int = 0,
) -> Baseline:
    """Predict a rating from the diameter alone: median regression on a spline of its logarithm.

    The fit minimises the mean absolute error, which is what it is scored by, so that the
    baseline is as strong as one variable can be made without effort: a cubic spline with five
    knots at quantiles of the training part, constant beyond the outermost ones.

    Args:
        nodules: One row per nodule: lesion_id, patient, `attribute` and `diameter`.
        attribute: Rating to predict.
        folds: lesion_id -> fold number; each fold is predicted from the others.
        diameter: Column of the diameter in mm, above 0.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        The baseline.

    Raises:
        KeyError: A column is missing.
        ValueError: A diameter that is not above 0, or bad `folds` as in `constant_error`.
    """

    def fit_predict(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
        model = make_pipeline(
            SplineTransformer(n_knots=5, degree=3, knots="quantile", extrapolation="constant"),
            # the spline's columns sum to 1: they hold the intercept already
            QuantileRegressor(quantile=0.5, alpha=0, fit_intercept=False, solver="highs"),
        )
        model.fit(_log(train, diameter), train["truth"])
        return np.asarray(model.predict(_log(test, diameter)), dtype=float)

    return _regression(
        "diameter", nodules, attribute, [diameter], folds, fit_predict, n_resamples, seed
    )


def majority_classifier(
    nodules: pd.DataFrame,
    labels: pd.Series[Any],
    *,
    folds: pd.Series[Any],
    n_resamples: int = 2000,
    seed: int = 0,
) -> Baseline:
    """Give every nodule the more frequent class of the training part.

    The score is that class, 0 or 1, and not its frequency: over the folds a frequency would vary
    against the frequency in the part left out and push the pooled AUC below the 0.5 that a
    constant deserves.

    Args:
        nodules: One row per nodule: lesion_id and patient.
        labels: lesion_id -> 0 benign, 1 malignant; nodules without one are left out.
        folds: lesion_id -> fold number; each fold is predicted from the others.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        The baseline.

    Raises:
        KeyError: A column is missing.
        ValueError: Labels other than 0 and 1, a single class, or bad `folds` as in
            `constant_error`.
    """

    def fit_predict(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
        return np.full(len(test), float(train["truth"].mean() >= 0.5))

    return _classification("majority", nodules, labels, [], folds, fit_predict, n_resamples, seed)


def diameter_classifier(
    nodules: pd.DataFrame,
    labels: pd.Series[Any],
    *,
    folds: pd.Series[Any],
    diameter: str = "diameter",
    n_resamples: int = 2000,
    seed: int = 0,
) -> Baseline:
    """Classify malignancy from the diameter alone: logistic regression on its logarithm.

    Args:
        nodules: One row per nodule: lesion_id, patient and `diameter`.
        labels: lesion_id -> 0 benign, 1 malignant; nodules without one are left out.
        folds: lesion_id -> fold number; each fold is predicted from the others.
        diameter: Column of the diameter in mm, above 0.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        The baseline.

    Raises:
        KeyError: A column is missing.
        ValueError: A diameter that is not above 0, or bad labels or folds as in
            `majority_classifier`.
    """

    def fit_predict(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
        return _logistic(_log(train, diameter), train["truth"], _log(test, diameter))

    return _classification(
        "diameter", nodules, labels, [diameter], folds, fit_predict, n_resamples, seed
    )


def ratings_classifier(
    nodules: pd.DataFrame,
    labels: pd.Series[Any],
    *,
    folds: pd.Series[Any],
    attributes: Sequence[str] = OTHER_RATINGS,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Baseline:
    """Classify malignancy from the readers' other ratings: logistic regression on all eight.

    The readers who gave these ratings gave the label too, so that this is no honest competitor of
    a model that sees images; it says how much of the label is in the words for the nodule.

    Args:
        nodules: One row per nodule: lesion_id, patient and the attributes (mean ratings).
        labels: lesion_id -> 0 benign, 1 malignant; nodules without one are left out.
        folds: lesion_id -> fold number; each fold is predicted from the others.
        attributes: Ratings to use; malignancy, which makes the label, is refused.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        The baseline.

    Raises:
        KeyError: A column is missing.
        ValueError: No attributes or malignancy among them, or bad labels or folds as in
            `majority_classifier`.
    """
    names = list(attributes)
    if not names or "malignancy" in names:
        raise ValueError(f"attributes must be some ratings other than malignancy, got {names}")

    def fit_predict(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
        return _logistic(train[names].to_numpy(), train["truth"], test[names].to_numpy())

    return _classification("ratings", nodules, labels, names, folds, fit_predict, n_resamples, seed)


def _regression(
    name: str,
    nodules: pd.DataFrame,
    attribute: str,
    predictors: list[str],
    folds: pd.Series[Any],
    fit_predict: FitPredict,
    n_resamples: int,
    seed: int,
) -> Baseline:
    nodules = _with_ids(nodules, [attribute, *predictors])
    table, n_dropped = _with_folds(nodules, nodules[attribute], predictors, folds)

    def median(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
        return np.full(len(test), train["truth"].median())

    predictions = table[["lesion_id", "patient", "fold", "truth"]].assign(
        prediction=_out_of_fold(table, fit_predict), constant=_out_of_fold(table, median)
    )
    scores = score_regression(predictions, n_resamples=n_resamples, seed=seed)
    return Baseline(name=name, predictions=predictions, scores=scores, n_dropped=n_dropped)


def _classification(
    name: str,
    nodules: pd.DataFrame,
    labels: pd.Series[Any],
    predictors: list[str],
    folds: pd.Series[Any],
    fit_predict: FitPredict,
    n_resamples: int,
    seed: int,
) -> Baseline:
    nodules = _with_ids(nodules, predictors)
    _check_unique("labels", labels)
    check_labels(labels.dropna())
    truth = nodules["lesion_id"].map(labels)
    table, n_dropped = _with_folds(nodules, truth, predictors, folds)
    predictions = table[["lesion_id", "patient", "fold", "truth"]].assign(
        score=_out_of_fold(table, fit_predict)
    )
    scores = score_classification(predictions, n_resamples=n_resamples, seed=seed)
    return Baseline(name=name, predictions=predictions, scores=scores, n_dropped=n_dropped)


def _with_ids(nodules: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Take `lesion_id` from the index if it is there, and refuse a table without what is needed."""
    if "lesion_id" not in nodules.columns and nodules.index.name == "lesion_id":
        nodules = nodules.reset_index()
    check_columns(nodules, ["lesion_id", "patient", *columns])
    return nodules


def _with_folds(
    nodules: pd.DataFrame, truth: pd.Series[Any], predictors: list[str], folds: pd.Series[Any]
) -> tuple[pd.DataFrame, int]:
    """Put truth and fold beside the predictors; leave out incomplete nodules and count them."""
    _check_unique("folds", folds)
    table = nodules[["lesion_id", "patient", *predictors]].assign(truth=truth.astype(float))
    complete = table.dropna(subset=["truth", *predictors]).reset_index(drop=True)
    complete["fold"] = complete["lesion_id"].map(folds)
    without = complete.loc[complete["fold"].isna(), "lesion_id"]
    if len(without):
        raise ValueError(f"folds has no fold for {len(without)} lesions, such as {without.iloc[0]}")
    if complete["fold"].nunique() < 2:
        raise ValueError(f"folds must have at least two folds, got {complete['fold'].nunique()}")
    return complete, len(nodules) - len(complete)


def _out_of_fold(table: pd.DataFrame, fit_predict: FitPredict) -> NDArray[np.float64]:
    predicted = np.full(len(table), np.nan)
    for fold in table["fold"].unique():
        left_out = (table["fold"] == fold).to_numpy()
        predicted[left_out] = fit_predict(table[~left_out], table[left_out])
    return predicted


def _logistic(train: Any, truth: pd.Series[Any], test: Any) -> NDArray[np.float64]:
    if truth.nunique() < 2:
        raise ValueError("a training part has a single class; use fewer or stratified folds")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, truth)
    return np.asarray(model.predict_proba(test)[:, 1], dtype=float)


def _log(rows: pd.DataFrame, diameter: str) -> NDArray[np.float64]:
    values = rows[diameter].to_numpy(dtype=float)
    if not (values > 0).all():
        raise ValueError(f"{diameter} must be above 0 mm, got {values.min()}")
    logarithm: NDArray[np.float64] = np.log(values)[:, None]  # (lesions, 1)
    return logarithm


def _check_unique(name: str, series: pd.Series[Any]) -> None:
    if not series.index.is_unique:
        raise ValueError(f"{name} has {int(series.index.duplicated().sum())} lesions twice")
