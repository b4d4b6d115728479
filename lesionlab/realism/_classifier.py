"""How well a classifier tells phantoms from real slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lesionlab.crops import Crop
from lesionlab.realism._features import FEATURES, features
from lesionlab.realism._pairs import Array
from lesionlab.statistics.intervals import Estimate
from lesionlab.statistics.scoring import score_classification

Model = Literal["boosting", "logistic"]


def classifier_auc(
    phantoms: Sequence[Crop],
    real: Sequence[Crop],
    patients: pd.Series[str],
    *,
    model: Model = "boosting",
    columns: Sequence[str] = FEATURES,
    folds: int = 5,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[Estimate, pd.DataFrame]:
    """How well a classifier tells phantoms from real crops: the area under its curve.

    Cross-validated with all crops of a patient, phantom and real, in one fold. Probabilities of
    the folds are pooled. The interval is from resampling patients, with the predictions fixed.

    Args:
        phantoms: Crops of one tier, paired with `real` (see `pair`).
        real: Crops of the other.
        patients: lesion_id -> patient.
        model: Gradient boosting, which sees interactions, or logistic regression.
        columns: Features to use, of `FEATURES`.
        folds: Folds of the cross-validation.
        n_resamples: Resamples of patients.
        seed: Seed of the model and of the resamples.

    Returns:
        The AUC with its interval (1.0: told apart without fault, 0.5: not at all), and a table of
        the AUC that each feature reaches alone (`feature`, `auc`, at least 0.5), largest first.

    Raises:
        ValueError: The lists are not paired, a lesion has no patient, a model or a column is
            unknown, or there are fewer patients than folds.
    """
    if [c.lesion_id for c in phantoms] != [c.lesion_id for c in real]:
        raise ValueError("phantoms and real are not the same lesions in the same order; see pair()")
    return tell_apart(
        features(phantoms),
        features(real),
        patients,
        model=model,
        columns=columns,
        folds=folds,
        n_resamples=n_resamples,
        seed=seed,
    )


def tell_apart(
    phantoms: pd.DataFrame,
    real: pd.DataFrame,
    patients: pd.Series[str],
    *,
    model: Model = "boosting",
    columns: Sequence[str] = FEATURES,
    folds: int = 5,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[Estimate, pd.DataFrame]:
    """`classifier_auc` of two tables of `features`."""
    unknown = [name for name in columns if name not in FEATURES]
    if unknown or not len(columns):
        raise ValueError(f"columns={list(columns)}: expected some of {list(FEATURES)}")
    if model not in ("boosting", "logistic"):
        raise ValueError(f"model={model!r}: expected 'boosting' or 'logistic'")
    table = pd.concat([phantoms, real], ignore_index=True)
    table["truth"] = np.repeat([1, 0], [len(phantoms), len(real)])  # 1 is the phantom
    table["patient"] = table["lesion_id"].map(patients)
    if table["patient"].isna().any():
        without = table.loc[table["patient"].isna(), "lesion_id"].iloc[0]
        raise ValueError(f"patients has no patient for {without}")
    if not 2 <= folds <= table["patient"].nunique():
        raise ValueError(
            f"folds={folds}: expected 2 up to the {table['patient'].nunique()} patients there are"
        )
    table["score"] = _cross_validate(table, columns, model, folds, seed)
    auc = score_classification(table, n_resamples=n_resamples, seed=seed)["auc"]
    return auc, _single(table, columns)


def _cross_validate(
    table: pd.DataFrame, columns: Sequence[str], model: Model, folds: int, seed: int
) -> Array:
    """(row,) probability of being a phantom, from a model that saw none of the patient."""
    X, y = table[list(columns)].to_numpy(float), table["truth"].to_numpy()
    scores = np.full(len(table), np.nan)
    for train, test in GroupKFold(folds).split(X, y, table["patient"]):
        known = ~np.isnan(X[train]).all(axis=0)  # boosting cannot place a column without a value
        if model == "boosting":
            fitted = HistGradientBoostingClassifier(max_iter=150, random_state=seed)
            # one thread: sums in another order would be other numbers
            with threadpool_limits(1, user_api="openmp"):
                fitted.fit(X[train][:, known], y[train])
            scores[test] = fitted.predict_proba(X[test][:, known])[:, 1]
        else:
            linear = make_pipeline(
                SimpleImputer(strategy="median", keep_empty_features=True),
                StandardScaler(),
                LogisticRegression(max_iter=2000),
            )
            scores[test] = linear.fit(X[train], y[train]).predict_proba(X[test])[:, 1]
    return scores


def _single(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    rows = []
    truth = table["truth"].to_numpy() == 1
    for name in columns:
        values = table[name].to_numpy(float)
        known = ~np.isnan(values)
        ranks, positive = stats.rankdata(values[known]), truth[known]
        n1, n0 = int(positive.sum()), int((~positive).sum())
        u = ranks[positive].sum() - n1 * (n1 + 1) / 2
        auc = u / (n1 * n0) if n1 and n0 else 0.5
        rows.append({"feature": name, "auc": float(max(auc, 1 - auc))})
    found = pd.DataFrame(rows).sort_values("auc", ascending=False, kind="stable")
    return found.reset_index(drop=True)
