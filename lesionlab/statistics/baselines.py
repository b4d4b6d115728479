"""What a predictor predicts that never sees the image: what to lay beside a model's predictions.

A constant, the diameter alone, or the readers' other ratings: each is fitted on the training part
of every fold and predicts the part left out, on the folds that the model is scored on. The tables
go to the functions of `scoring`, which score models too.

All functions take

- `nodules`: one row per nodule, with patient and what is predicted from; `lesion_id` is a column or
  the index;
- what to predict: the name of a rating, or labels by lesion_id. Nodules without it, or without
  what it is predicted from, are left out;
- `folds`: lesion_id -> fold number; each fold is predicted from the others.

All give one row per lesion: lesion_id, patient, fold, truth, and what was predicted. They raise
`KeyError` where a column is missing, and `ValueError` for folds or labels that do not go with the
nodules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression, QuantileRegressor
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, SplineTransformer, StandardScaler

from lesionlab.attributes import RATING_NAMES
from lesionlab.statistics.intervals import Array
from lesionlab.statistics.scoring import check_columns, check_labels

Labels = pd.Series  # lesion_id -> class
Folds = pd.Series  # lesion_id -> fold number

OTHER_RATINGS = tuple(name for name in RATING_NAMES if name != "malignancy")

MEDIAN = DummyRegressor(strategy="median")
SHARE = DummyRegressor(strategy="mean")


def constant_regression(nodules: pd.DataFrame, attribute: str, *, folds: Folds) -> pd.DataFrame:
    """Predict one and the same rating for every nodule: the median of the training part.

    It is the constant with the smallest mean absolute error, and so the bar for a MAE; its skill is
    0 by definition. The columns `prediction` and `constant` are the same.
    """
    table = _with_folds(nodules, attribute, [], folds)
    median = _out_of_fold(MEDIAN, table, table["truth"])
    return table.assign(prediction=median, constant=median)


def constant_within(values: Array, width: float = 1.0) -> tuple[float, float]:
    """Of all constants the one that is within `width` of most values, and the share of those.

    Papers print the share of ratings that are predicted within one step of the readers' mean.
    """
    known = np.sort(values[np.isfinite(values)])
    if not len(known):
        raise ValueError("values: expected a finite one or more")
    # the best window of 2 × width begins at a value; a bit is for ends that meet in floating point
    last = np.searchsorted(known, known + 2 * width + 1e-9, side="right")
    counts = last - np.arange(len(known))
    first = int(counts.argmax())
    return float(known[first] + width), float(counts[first] / len(known))


def diameter_regression(nodules: pd.DataFrame, attribute: str, *, folds: Folds) -> pd.DataFrame:
    """Predict a rating from the diameter (mm) alone, by median regression on a spline of its log.

    The fit minimises the mean absolute error, which is what it is scored by, so that the
    baseline is as strong as one variable can be made without effort: a cubic spline with five
    knots at quantiles of the training part, constant beyond the outermost ones. The columns are
    `prediction`, and `constant` as in `constant_regression`.
    """
    table = _with_folds(nodules, attribute, ["diameter"], folds)
    model = make_pipeline(
        FunctionTransformer(_logarithm),
        SplineTransformer(n_knots=5, degree=3, knots="quantile", extrapolation="constant"),
        # the spline's columns sum to 1, so that they hold the intercept already
        QuantileRegressor(quantile=0.5, alpha=0, fit_intercept=False, solver="highs"),
    )
    return table.drop(columns="diameter").assign(
        prediction=_out_of_fold(model, table, table["truth"], ["diameter"]),
        constant=_out_of_fold(MEDIAN, table, table["truth"]),
    )


def majority_classifier(nodules: pd.DataFrame, labels: Labels, *, folds: Folds) -> pd.DataFrame:
    """Give every nodule, as `score`, the more frequent of 0 and 1 in the training part."""
    table = _with_folds(nodules, labels.astype(float), [], folds)
    if not table["truth"].isin([0, 1]).all():  # one class alone has a majority as well
        raise ValueError(f"labels must be 0 and 1, got {sorted(table['truth'].unique())[:5]}")
    return table.assign(score=(_out_of_fold(SHARE, table, table["truth"]) >= 0.5).astype(float))


def diameter_classifier(nodules: pd.DataFrame, labels: Labels, *, folds: Folds) -> pd.DataFrame:
    """Classify malignancy from the diameter (mm) alone: logistic regression on its logarithm.

    The column `score` is the probability of class 1.
    """
    return _logistic(nodules, labels, ["diameter"], folds, FunctionTransformer(_logarithm))


def ratings_classifier(
    nodules: pd.DataFrame,
    labels: Labels,
    *,
    folds: Folds,
    attributes: Sequence[str] = OTHER_RATINGS,
) -> pd.DataFrame:
    """Classify malignancy from the readers' other ratings: logistic regression on all `attributes`.

    The readers who gave these ratings gave the label too, so that this is no honest competitor of
    a model that sees images; it says how much of the label is in the words for the nodule.
    Malignancy, which makes the label, is refused. The column `score` is the probability of class 1.
    """
    names = list(attributes)
    if not names or "malignancy" in names:
        raise ValueError(f"attributes must be some ratings other than malignancy, got {names}")
    return _logistic(nodules, labels, names, folds)


def majority_multiclass(
    nodules: pd.DataFrame, labels: Labels, *, folds: Folds, classes: Sequence[Any]
) -> pd.DataFrame:
    """Give every nodule the frequencies of the `classes` in the training part as probabilities.

    Each class has a column of them under its name. Nodules with another label, such as one that is
    to be ignored, are left out. All nodules of a fold get the same, so that the AUC within folds is
    0.5.
    """
    table = _with_folds(nodules, labels[labels.isin(list(classes))], [], folds)
    shares = {c: _out_of_fold(SHARE, table, table["truth"] == c) for c in classes}
    return table.join(pd.DataFrame(shares))


def diameter_multiclass(
    nodules: pd.DataFrame, labels: Labels, *, folds: Folds, classes: Sequence[Any]
) -> pd.DataFrame:
    """Classify into several classes from the diameter (mm) alone: logistic regression on its log.

    Every class counts the same, as in the loss of Li 2021, or a rare one would never be called.
    Columns and the nodules that are left out are as in `majority_multiclass`; a class that a
    training part lacks has the probability 0.
    """
    table = _with_folds(nodules, labels[labels.isin(list(classes))], ["diameter"], folds)
    said = pd.DataFrame(0.0, table.index, list(classes))
    for fold, asked in table.groupby("fold"):
        learned = table[table["fold"] != fold]
        found = learned["truth"].unique()
        if len(found) == 1:
            said.loc[asked.index, found] = 1.0
            continue
        model = make_pipeline(
            FunctionTransformer(_logarithm),
            StandardScaler(),
            LogisticRegression(max_iter=1000, class_weight="balanced"),
        ).fit(learned[["diameter"]], learned["truth"])
        said.loc[asked.index, model.classes_] = model.predict_proba(asked[["diameter"]])
    return table.drop(columns="diameter").join(said)


def _logistic(
    nodules: pd.DataFrame, labels: Labels, predictors: list[str], folds: Folds, *first: Any
) -> pd.DataFrame:
    table = _with_folds(nodules, labels.astype(float), predictors, folds)
    check_labels(table["truth"])
    model = make_pipeline(*first, StandardScaler(), LogisticRegression(max_iter=1000))
    shares = _out_of_fold(model, table, table["truth"], predictors, "predict_proba")
    return table.drop(columns=predictors).assign(score=shares[:, 1])


def _with_folds(
    nodules: pd.DataFrame, truth: str | Labels, predictors: list[str], folds: Folds
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
