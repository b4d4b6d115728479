"""What a predictor scores that never sees the image: the numbers to lay beside a model's.

A constant, the diameter alone, or the readers' other ratings: each is fitted on the training part
of every fold and scored on the part left out, on the folds that the model is scored on, by the
functions of `scoring`, which score models too.

All functions take

- `nodules`: one row per nodule, with patient and what is predicted from; `lesion_id` is a column or
  the index;
- what to predict: the name of a rating, or labels by lesion_id. Nodules without it, or without
  what it is predicted from, are left out and counted;
- `folds`: lesion_id -> fold number; each fold is predicted from the others;
- `**how`, options of the bootstrap (`Resampling`). It resamples patients with the predictions held
  fixed, and does not say how the score would move if the predictor were fitted again.

They raise `KeyError` where a column is missing, and `ValueError` for folds or labels that do not go
with the nodules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, QuantileRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler

from lesionlab.attributes import RATING_NAMES
from lesionlab.statistics.intervals import Array, Estimate, Resampling
from lesionlab.statistics.scoring import (
    check_columns,
    check_labels,
    score_binary,
    score_multiclass,
    score_regression,
)

Labels = pd.Series  # lesion_id -> class
FitPredict = Callable[[pd.DataFrame, pd.DataFrame], Array]
"""From the rows to learn from and the rows to predict to (row,) predictions."""

OTHER_RATINGS = tuple(name for name in RATING_NAMES if name != "malignancy")


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """What a baseline predicted out of fold, and how it scored.

    Attributes:
        name: What it is, e.g. `diameter`.
        predictions: One row per lesion: lesion_id, patient, fold, truth, and `prediction` with
            `constant` (regression), `score` (two classes, a probability), or a column of
            probabilities under the name of each class.
        scores: Each metric with its interval, from the function of `scoring` for its kind.
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
    **how: Unpack[Resampling],
) -> Baseline:
    """Predict one and the same rating for every nodule: the median of the training part.

    It is the constant with the smallest mean absolute error, and so the bar for a MAE; its skill is
    0 by definition.
    """
    table = _with_folds(nodules, attribute, [], folds)
    predicted = dict.fromkeys(("prediction", "constant"), _median)
    return _scored("median", *table, predicted, score_regression, how)


def diameter_regression(
    nodules: pd.DataFrame,
    attribute: str,
    *,
    folds: pd.Series[Any],
    **how: Unpack[Resampling],
) -> Baseline:
    """Predict a rating from the diameter (mm) alone, by median regression on a spline of its log.

    The fit minimises the mean absolute error, which is what it is scored by, so that the
    baseline is as strong as one variable can be made without effort: a cubic spline with five
    knots at quantiles of the training part, constant beyond the outermost ones.
    """

    def fit_predict(train: pd.DataFrame, test: pd.DataFrame) -> Array:
        model = make_pipeline(
            SplineTransformer(n_knots=5, degree=3, knots="quantile", extrapolation="constant"),
            # the spline's columns sum to 1: they hold the intercept already
            QuantileRegressor(quantile=0.5, alpha=0, fit_intercept=False, solver="highs"),
        )
        model.fit(_log_diameter(train), train["truth"])
        return np.asarray(model.predict(_log_diameter(test)), dtype=float)

    table = _with_folds(nodules, attribute, ["diameter"], folds)
    predicted = {"prediction": fit_predict, "constant": _median}
    return _scored("diameter", *table, predicted, score_regression, how)


def majority_classifier(
    nodules: pd.DataFrame, labels: Labels, *, folds: pd.Series[Any], **how: Unpack[Resampling]
) -> Baseline:
    """Give every nodule the more frequent of the classes 0 and 1 in the training part."""

    def fit_predict(train: pd.DataFrame, test: pd.DataFrame) -> Array:
        return np.full(len(test), float(train["truth"].mean() >= 0.5))

    table = _with_folds(nodules, _binary(labels), [], folds)
    return _scored("majority", *table, {"score": fit_predict}, score_binary, how)


def diameter_classifier(
    nodules: pd.DataFrame,
    labels: Labels,
    *,
    folds: pd.Series[Any],
    **how: Unpack[Resampling],
) -> Baseline:
    """Classify malignancy from the diameter (mm) alone: logistic regression on its logarithm."""
    table = _with_folds(nodules, _binary(labels), ["diameter"], folds)
    return _scored("diameter", *table, {"score": _logistic(_log_diameter)}, score_binary, how)


def ratings_classifier(
    nodules: pd.DataFrame,
    labels: Labels,
    *,
    folds: pd.Series[Any],
    attributes: Sequence[str] = OTHER_RATINGS,
    **how: Unpack[Resampling],
) -> Baseline:
    """Classify malignancy from the readers' other ratings: logistic regression on all `attributes`.

    The readers who gave these ratings gave the label too, so that this is no honest competitor of
    a model that sees images; it says how much of the label is in the words for the nodule.
    Malignancy, which makes the label, is refused.
    """
    names = list(attributes)
    if not names or "malignancy" in names:
        raise ValueError(f"attributes must be some ratings other than malignancy, got {names}")
    table = _with_folds(nodules, _binary(labels), names, folds)
    fit_predict = _logistic(lambda rows: rows[names].to_numpy())
    return _scored("ratings", *table, {"score": fit_predict}, score_binary, how)


def majority_multiclass(
    nodules: pd.DataFrame,
    labels: Labels,
    *,
    folds: pd.Series[Any],
    classes: Sequence[Any],
    **how: Unpack[Resampling],
) -> Baseline:
    """Give every nodule the frequencies of the `classes` in the training part as probabilities.

    The most frequent class is the one that is called. Nodules with another label, such as one that
    is to be ignored, are left out. All nodules of a fold get the same, so that the AUC within
    folds is 0.5.
    """

    def share(label: Any) -> FitPredict:
        return lambda train, test: np.full(len(test), (train["truth"] == label).mean())

    table = _with_folds(nodules, labels[labels.isin(list(classes))], [], folds)
    shares = {label: share(label) for label in classes}
    return _scored("majority", *table, shares, partial(score_multiclass, classes=classes), how)


def _scored(
    name: str,
    table: pd.DataFrame,
    n_dropped: int,
    predicted: Mapping[Any, FitPredict],
    scoring: Callable[..., dict[str, Estimate]],
    how: Resampling,
) -> Baseline:
    """Predict each fold of the table from the others, by column of predictions, and score that."""
    columns = {column: _out_of_fold(table, how_to) for column, how_to in predicted.items()}
    predictions = table[["lesion_id", "patient", "fold", "truth"]].join(pd.DataFrame(columns))
    return Baseline(
        name=name, predictions=predictions, scores=scoring(predictions, **how), n_dropped=n_dropped
    )


def _with_folds(
    nodules: pd.DataFrame, truth: str | Labels, predictors: list[str], folds: pd.Series[Any]
) -> tuple[pd.DataFrame, int]:
    """lesion_id, patient, predictors, truth, fold of complete nodules; and how many are not."""
    if "lesion_id" not in nodules.columns and nodules.index.name == "lesion_id":
        nodules = nodules.reset_index()
    rating = [truth] if isinstance(truth, str) else []
    check_columns(nodules, ["lesion_id", "patient", *predictors, *rating])
    if isinstance(truth, str):
        truths = nodules[truth].astype(float)
    else:
        truths = nodules["lesion_id"].map(truth)
    table = nodules[["lesion_id", "patient", *predictors]].assign(truth=truths)
    complete = table.dropna(subset=["truth", *predictors]).reset_index(drop=True)
    complete["fold"] = complete["lesion_id"].map(folds)
    without = complete.loc[complete["fold"].isna(), "lesion_id"]
    if len(without):
        raise ValueError(f"folds has no fold for {len(without)} lesions, such as {without.iloc[0]}")
    if complete["fold"].nunique() < 2:
        raise ValueError(f"folds must have at least two folds, got {complete['fold'].nunique()}")
    return complete, len(nodules) - len(complete)


def _out_of_fold(table: pd.DataFrame, fit_predict: FitPredict) -> Array:
    predicted = np.full(len(table), np.nan)
    for fold in table["fold"].unique():
        left_out = (table["fold"] == fold).to_numpy()
        predicted[left_out] = fit_predict(table[~left_out], table[left_out])
    return predicted


def _median(train: pd.DataFrame, test: pd.DataFrame) -> Array:
    return np.full(len(test), train["truth"].median())


def _binary(labels: Labels) -> Labels:
    check_labels(labels.dropna())
    return labels.astype(float)


def _logistic(features: Callable[[pd.DataFrame], Array]) -> FitPredict:
    def fit_predict(train: pd.DataFrame, test: pd.DataFrame) -> Array:
        if train["truth"].nunique() < 2:
            raise ValueError("a training part has a single class; use fewer or stratified folds")
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(features(train), train["truth"])
        return np.asarray(model.predict_proba(features(test))[:, 1], dtype=float)

    return fit_predict


def _log_diameter(rows: pd.DataFrame) -> Array:
    values = rows["diameter"].to_numpy(dtype=float)
    if not (values > 0).all():
        raise ValueError(f"diameter must be above 0 mm, got {values.min()}")
    logarithm: Array = np.log(values)[:, None]  # (lesions, 1)
    return logarithm
