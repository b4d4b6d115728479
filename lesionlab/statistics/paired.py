"""Which of two models errs less, tested on the same lesions, attribute by attribute.

Nodules of one patient resemble each other, and so do the errors on them. So the interval is from
resampling whole patients, and the test by default has one difference per patient.

Both functions take two tables of out-of-fold predictions of the same lesions, in any order of rows:
lesion_id, patient, for each attribute its prediction under its name and the truth under `…_truth`,
and for AUCs within folds the column fold. They raise `KeyError` where a column is missing, and
`ValueError` where the tables do not go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from lesionlab.statistics.association import holm
from lesionlab.statistics.intervals import (
    Array,
    Estimate,
    Resampling,
    bootstrap_weights_over_groups,
)
from lesionlab.statistics.scoring import check_complete, check_labels, weighted_auc, within_folds

Test = Literal["wilcoxon", "t"]
Unit = Literal["patient", "lesion"]

MEAN = "mean"
"""Name of the row for the mean over all attributes."""


def paired(
    a: pd.DataFrame,
    b: pd.DataFrame,
    attributes: Sequence[str] | None = None,
    *,
    test: Test = "wilcoxon",
    unit: Unit = "patient",
    **how: Unpack[Resampling],
) -> pd.DataFrame:
    """Compare the absolute errors of two predictors on the same lesions.

    Fu 2021 (4.1) compares absolute errors by t-tests and says no more of them: `test="t"`,
    `unit="lesion"` is the nearest to it. By default Wilcoxon's signed-rank test, since absolute
    errors are skewed, on one difference per patient, the mean of those of the patient's lesions,
    since the test takes its differences as independent.

    Args:
        a: Predictions of one model.
        b: Predictions of another.
        attributes: Which to compare; all that both have if None, in the order of `a`.
        test: `wilcoxon` (differences of exactly zero are left out) or `t`, both two-sided.
        unit: What is one observation of the test.
        **how: See `Resampling`.

    Returns:
        Index attribute, and `mean` (over the attributes of each lesion) as the last row where
        there are two or more. Columns n (lesions), n_groups (patients), mae_a, mae_b, difference
        (mae_a − mae_b: below 0 where `a` is better) with low and high, p, and p_holm, adjusted
        for the number of attributes. The row `mean` is no further attribute: its p_holm is NaN.
    """
    if test not in ("wilcoxon", "t"):
        raise ValueError(f"test={test!r}: expected 'wilcoxon' or 't'")
    if unit not in ("patient", "lesion"):
        raise ValueError(f"unit={unit!r}: expected 'patient' or 'lesion'")
    names = _attributes(a, b, attributes)
    left, right = _matched(a, b, names)
    rows = [*names, MEAN] if len(names) > 1 else names
    errors = []
    for frame in (left, right):
        error = pd.DataFrame({name: (frame[name] - frame[f"{name}_truth"]).abs() for name in names})
        errors.append(error.assign(**{MEAN: error.mean(axis=1)})[rows])
    difference = errors[0] - errors[1]
    patient = left["patient"]
    values = difference.to_numpy()
    intervals = bootstrap_weights_over_groups(
        lambda weights: dict(zip(rows, (weights @ values).T / weights.sum(1), strict=True)),
        patient,
        **how,
    )
    observed = difference.groupby(patient).mean() if unit == "patient" else difference
    table = pd.DataFrame(
        {
            "n": len(left),
            "n_groups": patient.nunique(),
            "mae_a": errors[0].mean(),
            "mae_b": errors[1].mean(),
            "difference": {name: found.value for name, found in intervals.items()},
            "low": {name: found.low for name, found in intervals.items()},
            "high": {name: found.high for name, found in intervals.items()},
            "p": observed.apply(lambda column: _p(column.to_numpy(dtype=float), test)),
        },
        index=pd.Index(rows, name="attribute"),
    )
    return table.assign(p_holm=holm(table["p"].where(table.index.isin(names))))


def paired_auc(
    a: pd.DataFrame, b: pd.DataFrame, attribute: str = "malignancy", **how: Unpack[Resampling]
) -> dict[str, Estimate]:
    """Compare the AUCs of two classifiers on the same lesions.

    Args:
        a: Predictions of one model, the truth 0 or 1. With the column fold, each AUC is the mean of
            the folds' own, as in `scoring`, in every resample too.
        b: Predictions of another, on the same folds.
        attribute: What both predict.
        **how: See `Resampling`.

    Returns:
        auc_a, auc_b, and difference (auc_a − auc_b: above 0 where `a` is better).
    """
    fold = ["fold"] if "fold" in a or "fold" in b else []
    left, right = _matched(a, b, [attribute], ["patient", *fold])
    truth = left[f"{attribute}_truth"]
    check_labels(truth)
    positive = (truth == 1).to_numpy()
    folds = left["fold"].to_numpy() if fold else None
    one, other = (weighted_auc(f[attribute].to_numpy(), positive, folds) for f in (left, right))

    def metrics(weights: Array) -> dict[str, Array]:
        auc_a, auc_b = one(weights), other(weights)
        return {"auc_a": auc_a, "auc_b": auc_b, "difference": auc_a - auc_b}

    found = bootstrap_weights_over_groups(metrics, left["patient"], undefined="nan", **how)
    return {name: within_folds(auc, [positive], folds) for name, auc in found.items()}


def _attributes(a: pd.DataFrame, b: pd.DataFrame, attributes: Sequence[str] | None) -> list[str]:
    if isinstance(attributes, str):
        raise ValueError(f"attributes={attributes!r}: expected a sequence of names")
    if attributes is None:
        attributes, others = ([str(c) for c in f if f"{c}_truth" in f] for f in (a, b))
        if set(attributes) != set(others):
            raise ValueError(f"a has {attributes}, b has {others}: name those that are meant")
    names = list(attributes)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"attributes={names}: expected at least one, each once")
    return names


def _matched(
    a: pd.DataFrame, b: pd.DataFrame, names: Sequence[str], alike: Sequence[str] = ("patient",)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The columns that count of both tables, by lesion in the order of their ids."""
    numbers = [*names, *(f"{name}_truth" for name in names)]
    kept = []
    for which, frame in (("a", a), ("b", b)):
        columns = ["lesion_id", *alike, *numbers]
        check_complete(frame, columns)
        if frame.empty:
            raise ValueError(f"{which}: expected at least one lesion, got none")
        again = frame.loc[frame["lesion_id"].duplicated(), "lesion_id"]
        if len(again):
            raise ValueError(f"{which}: lesion {again.iloc[0]!r} is there twice")
        # sorted, so that the resamples do not depend on the order of the rows
        table = frame[columns].astype(dict.fromkeys(numbers, float))
        kept.append(table.set_index("lesion_id").sort_index())
    left, right = kept
    if alone := sorted(set(left.index) ^ set(right.index), key=str):
        raise ValueError(f"a and b have other lesions: {len(alone)}, such as {alone[0]!r}")
    for column in alike:
        if not (left[column].astype(str) == right[column].astype(str)).all():
            raise ValueError(f"a and b have another {column} for some lesions")
    for name in names:
        apart = (left[f"{name}_truth"] - right[f"{name}_truth"]).abs() > 1e-6
        if apart.any():
            raise ValueError(f"a and b have other truths: {name} of {int(apart.sum())} lesions")
    return left, right


def _p(differences: NDArray[np.float64], test: Test) -> float:
    """Two-sided p-value of differences being zero on the whole; NaN for a single one."""
    if not differences.any():
        return 1.0  # the same errors everywhere: neither test is defined there
    if len(differences) < 2:
        return float("nan")
    if test == "wilcoxon":
        found: Any = stats.wilcoxon(differences, zero_method="wilcox")
    elif np.ptp(differences) == 0:
        return 0.0  # a constant difference: t is infinite
    else:
        found = stats.ttest_1samp(differences, 0.0)
    return float(found.pvalue)
