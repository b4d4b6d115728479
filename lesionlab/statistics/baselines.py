"""What a predictor scores that never sees the image: the numbers to lay beside a model's.

A constant, the diameter alone, or the readers' other ratings: each is fitted on the training part
of every fold and scored on the part left out, on the folds that the model is scored on, by the
functions of `scoring`, which score models too.

All functions take

- `nodules`: one row per nodule, with patient and what is predicted from; `lesion_id` is a column or
  the index;
- what to predict: the name of a rating, or labels by lesion_id. Nodules without it, or without
  what it is predicted from, are left out;
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
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression, QuantileRegressor
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, SplineTransformer, StandardScaler

from lesionlab.attributes import RATING_NAMES
from lesionlab.statistics.intervals import Array, Estimate, Resampling
from lesionlab.statistics.scoring import (
    check_columns,
    score_binary,
    score_multiclass,
    score_regression,
)

Labels = pd.Series  # lesion_id -> class

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
    """

    name: str
    predictions: pd.DataFrame
    scores: dict[str, Estimate]


MEDIAN = DummyRegressor(strategy="median")
SHARE = DummyRegressor(strategy="mean")


def constant_error(
    nodules: pd.DataFrame, attribute: str, *, folds: pd.Series[Any], **how: Unpack[Resampling]
) -> Baseline:
    """Predict one and the same rating for every nodule: the median of the training part.

    It is the constant with the smallest mean absolute error, and so the bar for a MAE; its skill is
    0 by definition.
    """
    table = _with_folds(nodules, attribute, [], folds)
    median = _out_of_fold(MEDIAN, table, table["truth"])
    predicted = {"prediction": median, "constant": median}
    return _scored("median", table, predicted, score_regression, how)


def diameter_regression(
    nodules: pd.DataFrame, attribute: str, *, folds: pd.Series[Any], **how: Unpack[Resampling]
) -> Baseline:
    """Predict a rating from the diameter (mm) alone, by median regression on a spline of its log.

    The fit minimises the mean absolute error, which is what it is scored by, so that the
    baseline is as strong as one variable can be made without effort: a cubic spline with five
    knots at quantiles of the training part, constant beyond the outermost ones.
    """
    table = _with_folds(nodules, attribute, ["diameter"], folds)
    model = make_pipeline(
        FunctionTransformer(_logarithm),
        SplineTransformer(n_knots=5, degree=3, knots="quantile", extrapolation="constant"),
        # the spline's columns sum to 1, so that they hold the intercept already
        QuantileRegressor(quantile=0.5, alpha=0, fit_intercept=False, solver="highs"),
    )
    predicted = {
        "prediction": _out_of_fold(model, table, table["truth"], ["diameter"]),
        "constant": _out_of_fold(MEDIAN, table, table["truth"]),
    }
    return _scored("diameter", table, predicted, score_regression, how)


def majority_classifier(
    nodules: pd.DataFrame, labels: Labels, *, folds: pd.Series[Any], **how: Unpack[Resampling]
) -> Baseline:
    """Give every nodule the more frequent of the classes 0 and 1 in the training part."""
    table = _with_folds(nodules, labels.astype(float), [], folds)
    of_ones = _out_of_fold(SHARE, table, table["truth"])
    return _scored("majority", table, {"score": (of_ones >= 0.5).astype(float)}, score_binary, how)


def diameter_classifier(
    nodules: pd.DataFrame, labels: Labels, *, folds: pd.Series[Any], **how: Unpack[Resampling]
) -> Baseline:
    """Classify malignancy from the diameter (mm) alone: logistic regression on its logarithm."""
    table = _with_folds(nodules, labels.astype(float), ["diameter"], folds)
    logistic = LogisticRegression(max_iter=1000)
    model = make_pipeline(FunctionTransformer(_logarithm), StandardScaler(), logistic)
    score = _out_of_fold(model, table, table["truth"], ["diameter"], "predict_proba")[:, 1]
    return _scored("diameter", table, {"score": score}, score_binary, how)


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
    table = _with_folds(nodules, labels.astype(float), names, folds)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    score = _out_of_fold(model, table, table["truth"], names, "predict_proba")[:, 1]
    return _scored("ratings", table, {"score": score}, score_binary, how)


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
    table = _with_folds(nodules, labels[labels.isin(list(classes))], [], folds)
    shares = {c: _out_of_fold(SHARE, table, table["truth"] == c) for c in classes}
    return _scored("majority", table, shares, partial(score_multiclass, classes=classes), how)


def _scored(
    name: str,
    table: pd.DataFrame,
    predicted: Mapping[Any, Array],
    scoring: Callable[..., dict[str, Estimate]],
    how: Resampling,
) -> Baseline:
    predictions = table[["lesion_id", "patient", "fold", "truth"]].join(pd.DataFrame(predicted))
    return Baseline(name=name, predictions=predictions, scores=scoring(predictions, **how))


def _with_folds(
    nodules: pd.DataFrame, truth: str | Labels, predictors: list[str], folds: pd.Series[Any]
) -> pd.DataFrame:
    """lesion_id, patient, fold, truth and predictors of the nodules that have all of them."""
    if "lesion_id" not in nodules.columns and nodules.index.name == "lesion_id":
        nodules = nodules.reset_index()
    rating = [truth] if isinstance(truth, str) else []
    check_columns(nodules, ["lesion_id", "patient", *predictors, *rating])
    lesion = nodules["lesion_id"]
    truths = nodules[truth].astype(float) if isinstance(truth, str) else lesion.map(truth)
    table = nodules[["lesion_id", "patient"]].assign(
        fold=lesion.map(folds), truth=truths, **nodules[predictors]
    )
    table = table.dropna(subset=["truth", *predictors]).reset_index(drop=True)
    if len(without := table.loc[table["fold"].isna(), "lesion_id"]):
        raise ValueError(f"folds has no fold for {len(without)} lesions, such as {without.iloc[0]}")
    return table


def _out_of_fold(
    model: Any,
    table: pd.DataFrame,
    target: pd.Series[Any],
    predictors: Sequence[str] = (),
    method: str = "predict",
) -> Array:
    """What a model predicts for each fold when it has learned from the others."""
    X, folds, cv = table[list(predictors)], table["fold"], LeaveOneGroupOut()
    found: Array = cross_val_predict(model, X, target, groups=folds, cv=cv, method=method)
    return found


def _logarithm(diameter: pd.DataFrame) -> Array:
    values = diameter.to_numpy(dtype=float)
    if not (values > 0).all():
        raise ValueError(f"diameter must be above 0 mm, got {values.min():g}")
    logarithm: Array = np.log(values)
    return logarithm
