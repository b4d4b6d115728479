"""Which of two models errs less, tested on the same lesions, attribute by attribute.

    both = paired(full.predictions, plain.predictions)
    both.loc["margin", ["difference", "low", "high", "p_holm"]]

Nodules of one patient resemble each other, and so do the errors on them. So the interval is from
resampling whole patients, and the test by default has one difference per patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from lesionlab.statistics.association import holm
from lesionlab.statistics.intervals import bootstrap_many_over_groups
from lesionlab.statistics.scoring import check_columns

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
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the absolute errors of two predictors on the same lesions.

    Fu 2021 (4.1) compares absolute errors by t-tests and says no more of them: `test="t"`,
    `unit="lesion"` is the nearest to it. By default Wilcoxon's signed-rank test, since absolute
    errors are skewed, on one difference per patient, the mean of those of the patient's lesions,
    since the test takes its differences as independent.

    Args:
        a: Out-of-fold predictions, as `lesionlab.training.outcomes.Outcome.predictions`: columns
            lesion_id, patient, and for each attribute its prediction under its name and the truth
            under `…_truth`.
        b: The same of another model; rows may be in another order.
        attributes: Which to compare; all that both have if None, in the order of `a`.
        test: `wilcoxon` (differences of exactly zero are left out) or `t`, both two-sided.
        unit: What is one observation of the test.
        n_resamples: Resamples of patients for the intervals.
        level: Nominal coverage of the intervals.
        seed: Seed of the resamples.

    Returns:
        Index attribute, and `mean` (over the attributes of each lesion) as the last row where
        there are two or more. Columns n (lesions), n_groups (patients), mae_a, mae_b, difference
        (mae_a − mae_b: below 0 where `a` is better) with low and high, p, and p_holm, adjusted
        for the number of attributes. The row `mean` is no further attribute: its p_holm is NaN.

    Raises:
        KeyError: A column is missing.
        ValueError: Different lesions, patients or truths; a lesion twice; gaps; attributes that
            are none or are in one of the two alone; an unknown `test` or `unit`.

    Example:
        >>> def model(*margin):
        ...     return pd.DataFrame({"lesion_id": ["n1", "n2", "n3"], "patient": ["p1", "p2", "p3"],
        ...                          "margin": margin, "margin_truth": [3.0, 3.0, 3.0]})
        >>> found = paired(model(3.5, 2.5, 4.0), model(4.0, 2.0, 4.0), n_resamples=200)
        >>> found.loc["margin", ["mae_a", "mae_b", "difference"]].round(2).tolist()
        [0.67, 1.0, -0.33]
    """
    if test not in ("wilcoxon", "t"):
        raise ValueError(f"test={test!r}: expected 'wilcoxon' or 't'")
    if unit not in ("patient", "lesion"):
        raise ValueError(f"unit={unit!r}: expected 'patient' or 'lesion'")
    names = _attributes(a, b, attributes)
    left, right = _checked("a", a, names), _checked("b", b, names)
    _check_same(left, right, names)
    errors = {
        end: pd.DataFrame({name: (frame[name] - frame[f"{name}_truth"]).abs() for name in names})
        for end, frame in (("a", left), ("b", right))
    }
    if len(names) > 1:
        for frame in errors.values():
            frame[MEAN] = frame.mean(axis=1)
    difference = errors["a"] - errors["b"]
    rows = [*names, MEAN] if len(names) > 1 else names

    def means(drawn: pd.DataFrame) -> Mapping[str, float]:
        return dict(zip(rows, drawn[rows].to_numpy().mean(axis=0).tolist(), strict=True))

    patient = left["patient"]
    intervals = bootstrap_many_over_groups(
        means, difference.assign(patient=patient), n_resamples=n_resamples, level=level, seed=seed
    )
    observed = difference.groupby(patient).mean() if unit == "patient" else difference
    table = pd.DataFrame(
        [
            {
                "n": found.n,
                "n_groups": found.n_groups,
                "mae_a": float(errors["a"][name].mean()),
                "mae_b": float(errors["b"][name].mean()),
                "difference": found.value,
                "low": found.low,
                "high": found.high,
                "p": _p(observed[name].to_numpy(dtype=float), test),
            }
            for name, found in intervals.items()
        ],
        index=pd.Index(rows, name="attribute"),
    )
    return table.assign(p_holm=holm(table["p"].where(table.index.isin(names))))


def _attributes(a: pd.DataFrame, b: pd.DataFrame, attributes: Sequence[str] | None) -> list[str]:
    if isinstance(attributes, str):
        raise ValueError(f"attributes={attributes!r}: expected a sequence of names")
    if attributes is None:
        theirs, others = ([str(c) for c in f if f"{c}_truth" in f] for f in (a, b))
        if set(theirs) != set(others):
            raise ValueError(
                f"a has the attributes {theirs}, b has {others}: name those that are meant"
            )
        attributes = theirs
    names = list(attributes)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"attributes={names}: expected at least one, each once")
    return names


def _checked(which: str, frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The columns that count, by lesion in the order of their ids."""
    columns = [*names, *(f"{name}_truth" for name in names)]
    check_columns(frame, ["lesion_id", "patient", *columns])
    if frame.empty:
        raise ValueError(f"{which}: expected at least one lesion, got none")
    for column in ("lesion_id", "patient", *columns):
        if gaps := int(frame[column].isna().sum()):
            raise ValueError(f"{which}: column {column!r} has {gaps} gaps")
    if frame["lesion_id"].duplicated().any():
        twice = frame.loc[frame["lesion_id"].duplicated(), "lesion_id"].iloc[0]
        raise ValueError(f"{which}: lesion {twice!r} is there twice")
    kept = frame[["lesion_id", "patient", *columns]].astype(dict.fromkeys(columns, float))
    # sorted, so that the resamples do not depend on the order of the rows
    return kept.set_index("lesion_id").sort_index()


def _check_same(a: pd.DataFrame, b: pd.DataFrame, names: Sequence[str]) -> None:
    if not a.index.equals(b.index):
        alone = sorted(set(a.index) ^ set(b.index), key=str)
        raise ValueError(
            f"a and b have other lesions: {len(alone)} are in one of them alone, such as "
            f"{alone[0]!r}"
        )
    if not (a["patient"].astype(str) == b["patient"].astype(str)).all():
        raise ValueError("a and b give a lesion to other patients")
    for name in names:
        apart = (a[f"{name}_truth"] - b[f"{name}_truth"]).abs() > 1e-6
        if apart.any():
            raise ValueError(
                f"a and b have other truths: {name} of {int(apart.sum())} lesions, such as "
                f"{apart.idxmax()!r}"
            )


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
