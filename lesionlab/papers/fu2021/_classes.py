"""Fu 2021, malignancy as a class (Table 5): see `lesionlab.papers.fu2021.analyses`."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd

from lesionlab import published
from lesionlab.statistics.intervals import Estimate, bootstrap_over_groups
from lesionlab.statistics.scoring import check_columns, score_classification

CLASSES = ("accuracy", "sensitivity", "specificity", "precision", "auc")
"""The columns of Table 5."""


def classification(
    predictions: pd.DataFrame,
    *,
    scale: Literal["class", "rating"] = "class",
    cut: float = 3.0,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Malignancy as a class, in the columns of Table 5.

    Args:
        predictions: As `Outcome.predictions`: lesion_id, patient, malignancy, malignancy_truth.
        scale: `class`: the truth is 0 or 1 and the prediction a probability, as the variant
            `malignancy_class` gives. `rating`: both are ratings; lesions whose mean rating is
            `cut` are left out, above it malignant, and the prediction is cut there, too.
        cut: Where ratings are cut.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        Rows accuracy, sensitivity, specificity, precision, auc; columns value, low, high in per
        cent, n (lesions), n_groups (patients). Malignant is the positive class.

    Raises:
        KeyError: A column is missing.
        ValueError: An unknown `scale`, or as `statistics.scoring.score_classification`.
    """
    if scale not in ("class", "rating"):
        raise ValueError(f"scale={scale!r}: expected 'class' or 'rating'")
    check_columns(predictions, ["patient", "malignancy", "malignancy_truth"])
    rows = predictions[["patient"]].assign(
        truth=predictions["malignancy_truth"].astype(float),
        score=predictions["malignancy"].astype(float),
    )
    threshold = 0.5
    if scale == "rating":
        rows = rows[rows["truth"] != cut]  # NaN stays, and is refused below
        rows["truth"] = (rows["truth"] > cut).astype(float).where(rows["truth"].notna())
        # a prediction of exactly the cut is as malignant as benign; `>=` calls it malignant
        threshold = cut
    how: Any = {"n_resamples": n_resamples, "seed": seed}
    found = score_classification(rows, threshold=threshold, **how)

    def precision(drawn: pd.DataFrame) -> float:
        called = drawn["score"] >= threshold
        return float(drawn.loc[called, "truth"].mean())

    found["precision"] = bootstrap_over_groups(precision, rows, undefined="nan", **how)
    return pd.DataFrame([_percent(found[name]) for name in CLASSES], index=pd.Index(CLASSES))


def _percent(found: Estimate) -> dict[str, float | int]:
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return {k: 100 * v for k, v in ends.items()} | {"n": found.n, "n_groups": found.n_groups}


def implied_share(printed: pd.DataFrame | None = None) -> pd.DataFrame:
    """The share of the positive class that accuracy, sensitivity and specificity imply (Table 5).

    Accuracy is sensitivity × share + specificity × (1 − share). With it follows the precision that
    goes with them, share × sensitivity / (called positive), to hold against the printed one.
    Printed numbers that are means over folds need not fit exactly.

    Args:
        printed: Columns accuracy, sensitivity, specificity in per cent with one decimal, and
            precision if it is there; the paper's Table 5 if None.

    Returns:
        Columns share, with the low and high that rounding to 0.1 % allows, and precision, all in
        per cent; `printed` beside it. A share outside of 0 to 100 says that the printed numbers
        are not mutually consistent.

    Raises:
        KeyError: A column is missing.
    """
    if printed is None:
        table = published.table("fu2021", 5)
        printed = table.set_index((table["method"] + " " + table["reference"]).str.strip())
    check_columns(printed, ["accuracy", "sensitivity", "specificity"])
    accuracy, sensitivity, specificity = (
        printed[name].astype(float) for name in ("accuracy", "sensitivity", "specificity")
    )
    gap = sensitivity - specificity
    share = (accuracy - specificity) / gap.where(gap != 0)
    half = 0.05
    corners = [
        (accuracy + a * half - specificity - c * half) / (gap + (b - c) * half).where(gap != 0)
        for a in (-1, 1)
        for b in (-1, 1)
        for c in (-1, 1)
    ]
    # where rounding may turn the sign of the difference, any share is possible
    sure = gap.abs() > 2 * half
    right = share * sensitivity
    possible = share.between(0, 1)
    table = pd.DataFrame(
        {
            "share": 100 * share,
            "low": 100 * pd.concat(corners, axis=1).min(axis=1).where(sure),
            "high": 100 * pd.concat(corners, axis=1).max(axis=1).where(sure),
            "precision": (100 * right / (right + (1 - share) * (100 - specificity))).where(
                possible
            ),
        }
    )
    if "precision" in printed:
        table["printed"] = printed["precision"].astype(float)
    return table
