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
from typing import Literal, Unpack, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from lesionlab import _names
from lesionlab.statistics.association import holm
from lesionlab.statistics.intervals import (
    Array,
    Estimate,
    Resampling,
    bootstrap_weights_over_groups,
)
from lesionlab.statistics.scoring import check_complete, check_labels, folds_of, weighted_auc

Test = Literal["wilcoxon", "t"]
Unit = Literal["patient", "lesion"]

MEAN = "mean"
"""Name of the row for the mean over all attributes."""


def paired(
    a: pd.DataFrame,
    b: pd.DataFrame,
    attributes: Sequence[str],
    *,
    test: Test = "wilcoxon",
    unit: Unit = "patient",
    **how: Unpack[Resampling],
) -> pd.DataFrame:
    """Compare the absolute errors of two predictors on the same lesions.

    Fu 2021 (4.1) compares absolute errors by t-tests and says no more of them: `test="t"`,
    `unit="lesion"` is the nearest to it. By default Wilcoxon's signed-rank test, since absolute
    errors are skewed, on one difference per patient, the mean of those of the patient's lesions,
    since the test takes its differences as independent. Both tests are two-sided; Wilcoxon's leaves
    out differences of exactly zero.

    Returns:
        Index attribute, and `mean` (over the attributes of each lesion) as the last row where
        there are two or more. Columns n (lesions), n_groups (patients), mae_a, mae_b, difference
        (mae_a − mae_b: below 0 where `a` is better) with low and high, p, and p_holm, adjusted
        for the number of attributes. The row `mean` is no further attribute: its p_holm is NaN.
    """
    _names.one_of("test", test, get_args(Test))
    _names.one_of("unit", unit, get_args(Unit))
    names = list(attributes)
    if isinstance(attributes, str) or not names or len(set(names)) < len(names):
        raise ValueError(f"attributes={attributes!r}: expected a sequence of names, each once")
    both = _matched(a, b, names, ["lesion_id", "patient"])
    rows = [*names, MEAN] if len(names) > 1 else names
    errors = []
    for side in ("_a", "_b"):
        error = pd.DataFrame({n: (both[n + side] - both[f"{n}_truth{side}"]).abs() for n in names})
        errors.append(error.assign(**{MEAN: error.mean(axis=1)})[rows])
    difference, patient = errors[0] - errors[1], both["patient"]
    values = difference.to_numpy()
    intervals = bootstrap_weights_over_groups(
        lambda weights: dict(zip(rows, (weights @ values).T / weights.sum(1), strict=True)),
        patient,
        **how,
    )
    observed = difference.groupby(patient).mean() if unit == "patient" else difference
    table = pd.DataFrame([vars(found) for found in intervals.values()], index=rows)
    table = table[["n", "n_groups"]].assign(
        mae_a=errors[0].mean(),
        mae_b=errors[1].mean(),
        difference=table["value"],
        low=table["low"],
        high=table["high"],
        p=observed.apply(lambda column: _p(column.to_numpy(dtype=float), test)),
    )
    of_attributes = table["p"].where(table.index.isin(names))
    return table.assign(p_holm=holm(of_attributes)).rename_axis("attribute")


def paired_auc(
    a: pd.DataFrame, b: pd.DataFrame, attribute: str = "malignancy", **how: Unpack[Resampling]
) -> dict[str, Estimate]:
    """Compare the AUCs of two classifiers on the same lesions.

    The truth is 0 or 1. With the column fold, which both tables must have then, each AUC is the
    mean of the folds' own, as in `scoring`, in every resample too.

    Returns:
        auc_a, auc_b, and difference (auc_a − auc_b: above 0 where `a` is better).
    """
    fold = ["fold"] if "fold" in a or "fold" in b else []
    both = _matched(a, b, [attribute], ["lesion_id", "patient", *fold])
    truth, folds = both[f"{attribute}_truth_a"], folds_of(both)
    check_labels(truth)
    positive = (truth == 1).to_numpy()
    one, other = (both[attribute + side].to_numpy() for side in ("_a", "_b"))

    def metrics(weights: Array) -> dict[str, Array]:
        auc_a, auc_b = (weighted_auc(s, positive, weights, folds) for s in (one, other))
        return {"auc_a": auc_a, "auc_b": auc_b, "difference": auc_a - auc_b}

    return bootstrap_weights_over_groups(metrics, both["patient"], **how)


def _matched(
    a: pd.DataFrame, b: pd.DataFrame, names: Sequence[str], keys: list[str]
) -> pd.DataFrame:
    """One row per lesion, sorted: the keys, and the numbers of both tables under `…_a`, `…_b`."""
    numbers = [*names, *(f"{name}_truth" for name in names)]
    for name, frame in {"a": a, "b": b}.items():
        check_complete(frame, [*keys, *numbers])
        if (twice := frame["lesion_id"].duplicated()).any():
            lesion = frame.loc[twice, "lesion_id"].iloc[0]
            raise ValueError(f"{name}: expected each lesion once, {lesion!r} is there twice")
    left, right = (f[[*keys, *numbers]].astype(dict.fromkeys(numbers, float)) for f in (a, b))
    both = left.merge(
        right,
        how="outer",  # sorts by the keys, so that resamples do not depend on the order of rows
        on=keys,
        suffixes=("_a", "_b"),
        indicator="in",
    )
    if len(alone := both.loc[both["in"] != "both", "lesion_id"]):
        raise ValueError(
            f"a and b have other lesions, or another {' or '.join(keys[1:])} for some: "
            f"{len(alone)} rows, such as {alone.iloc[0]!r}"
        )
    for name in names:
        apart = (both[f"{name}_truth_a"] - both[f"{name}_truth_b"]).abs() > 1e-6
        if apart.any():
            raise ValueError(f"a and b have other truths: {name} of {int(apart.sum())} lesions")
    return both


def _p(differences: NDArray[np.float64], test: Test) -> float:
    """Two-sided p-value of differences being zero on the whole; NaN for a single one."""
    if not differences.any():
        return 1.0  # the same errors everywhere: neither test is defined there
    if len(differences) < 2:
        return float("nan")
    if test == "t" and np.ptp(differences) == 0:
        return 0.0  # a constant difference: t is infinite
    tested = (
        stats.wilcoxon(differences) if test == "wilcoxon" else stats.ttest_1samp(differences, 0)
    )
    return float(tested.pvalue)
