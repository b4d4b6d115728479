"""Lei 2020, scores and paired tests (4.7): see `lesionlab.papers.lei2020.analyses`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from lesionlab.cohorts import Cohort, malignancy_label
from lesionlab.splits import By
from lesionlab.statistics.association import holm
from lesionlab.statistics.baselines import diameter_classifier, ratings_classifier
from lesionlab.statistics.intervals import Estimate, bootstrap_weights_over_groups
from lesionlab.statistics.paired import paired
from lesionlab.statistics.scoring import check_columns, score_binary, weighted_auc

MEASURES = ("accuracy", "sensitivity", "specificity", "precision", "f1", "auc")
"""What `classification` measures. The paper prints the first three."""

Array = npt.NDArray[np.float64]


def classification(
    predictions: pd.DataFrame, *, threshold: float = 0.5, n_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """How well malignancy is told, with the paper's measures and those that it leaves out.

    Sensitivity is recall. Precision and F1 depend on how many lesions are malignant, AUC on no
    threshold.

    Args:
        predictions: As `Outcome.predictions`: patient, malignancy (a probability),
            malignancy_truth (0 or 1).
        threshold: From which probability on a lesion is called malignant.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        Index `MEASURES`; columns value, low, high (fractions), n (lesions), n_groups (patients).

    Raises:
        KeyError: A column is missing.
        ValueError: As `statistics.scoring.score_binary`.
    """
    check_columns(predictions, ["patient", "malignancy", "malignancy_truth"])
    columns = {"malignancy": "score", "malignancy_truth": "truth"}
    rows = predictions[["patient", *columns]].rename(columns=columns)
    how: Any = {"n_resamples": n_resamples, "seed": seed}
    found = score_binary(rows, threshold=threshold, **how)
    table = [
        {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "n_groups": e.n_groups}
        for e in (found[name] for name in MEASURES)
    ]
    return pd.DataFrame(table, index=pd.Index(MEASURES, name="measure"))


def on_fold(
    frames: Mapping[str, pd.DataFrame], fold: int, *, n_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Scores on the lesions of one fold, so that runs on more folds go beside runs on that one.

    Args:
        frames: Predictor (`"model"`, and others that see no image, as from `without_images`) to
            its predictions, as in `classification`, with the column fold.
        fold: Which.
        n_resamples: As in `classification`.
        seed: As in `classification`.

    Returns:
        As `Outcome.scores`, with the measures of `MEASURES`.

    Raises:
        KeyError: A column is missing.
        ValueError: A predictor has no lesion of the fold, or as `classification`.
    """
    parts = []
    for predictor, frame in frames.items():
        check_columns(frame, ["fold"])
        rows = frame[frame["fold"] == fold]
        if rows.empty:
            raise ValueError(f"fold={fold!r}: {predictor!r} has the folds {set(frame['fold'])}")
        found = classification(rows, n_resamples=n_resamples, seed=seed)
        found = found.rename_axis("metric").reset_index()
        parts.append(found.assign(target="malignancy", predictor=predictor))
    columns = ["target", "predictor", "metric", "value", "low", "high", "n", "n_groups"]
    return pd.concat(parts, ignore_index=True)[columns]


def within_folds(predictions: pd.DataFrame, *, n_resamples: int = 2000, seed: int = 0) -> Estimate:
    """The AUC within each fold, averaged over the folds.

    Each fold has a network of its own. One may call most lesions malignant where another calls
    hardly any. An AUC over all folds ranks the lesions of all these networks together, and so it
    mixes how well they rank with how alike their levels are. This one compares only lesions that
    the same network was tested on.

    Args:
        predictions: As in `classification`, with the column fold.
        n_resamples: As in `classification`.
        seed: As in `classification`.

    Raises:
        KeyError: A column is missing.
        ValueError: There is a single patient.
    """
    check_columns(predictions, ["patient", "fold", "malignancy", "malignancy_truth"])
    scores = predictions["malignancy"].to_numpy(dtype=float)
    malignant = (predictions["malignancy_truth"] == 1).to_numpy()
    auc = weighted_auc(scores, malignant, predictions["fold"].to_numpy())
    return bootstrap_weights_over_groups(
        lambda weights: {"auc": auc(weights)}, predictions["patient"],
        n_resamples=n_resamples, seed=seed, undefined="nan",
    )["auc"]  # fmt: skip


def compare(
    predictions: Mapping[str, pd.DataFrame],
    *,
    reference: str = "hesam",
    threshold: float = 0.5,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One model against others on the same lesions: the paper's test, and tests of being better.

    Section 4.7 compares the *probabilities* of two models by Wilcoxon's signed-rank test, and
    takes p < 0.01 for "significantly different … and more separable". That test asks whether one
    model says higher numbers than the other on the whole. It knows no truth: a model that adds
    0.01 to each probability differs as significantly, and is no better. So beside it stand
    McNemar's test, of who is right where one of the two is wrong (exact, over lesions as if they
    were independent), the same Wilcoxon test of |probability − truth| by patient (from
    `statistics.paired`), and the difference of the AUCs with an interval over patients: of all
    lesions ranked together, and of the means of `within_folds`.

    Args:
        predictions: Variant to its out-of-fold predictions, as `Outcome.predictions`.
        reference: The variant that the others are compared with.
        threshold: From which probability on a lesion is called malignant.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        Index variant; columns n, n_groups; p_probability (the paper's test); only_reference and
        only_other (lesions that one alone gets right), p_mcnemar, p_mcnemar_holm; p_error;
        auc_difference (reference − other: above 0 the reference is better) with low and high; and
        within_difference with within_low and within_high, the same of the AUC within folds.

    Raises:
        KeyError: A column is missing.
        ValueError: `reference` is not there, there is no other, or they are on other lesions or
            in other folds.
    """
    if reference not in predictions or len(predictions) < 2:
        raise ValueError(
            f"reference={reference!r}: expected it and another among {list(predictions)}"
        )
    rows = {}
    for variant, other in predictions.items():
        if variant == reference:
            continue
        ours = predictions[reference]
        errors = paired(ours, other, ["malignancy"], n_resamples=1)  # checks both tables
        a, b = (f.set_index("lesion_id").sort_index() for f in (ours, other))
        for frame in (a, b):
            check_columns(frame, ["fold"])
        if not a["fold"].equals(b["fold"]):
            raise ValueError(f"predictions of {variant!r}: their folds are not those of the other")
        malignant = (a["malignancy_truth"] == 1).to_numpy()
        first, second = (f["malignancy"].to_numpy(dtype=float) for f in (a, b))
        right_a, right_b = ((p >= threshold) == malignant for p in (first, second))
        only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
        pooled, within = _auc_differences(
            first, second, malignant, a, n_resamples=n_resamples, seed=seed
        )
        rows[variant] = {
            "n": pooled.n, "n_groups": pooled.n_groups,
            "p_probability": signed_rank(first, second),
            "only_reference": only_a, "only_other": only_b, "p_mcnemar": mcnemar(only_a, only_b),
            "p_error": float(errors["p"]["malignancy"]),
            "auc_difference": pooled.value, "low": pooled.low, "high": pooled.high,
            "within_difference": within.value, "within_low": within.low, "within_high": within.high,
        }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")
    table.insert(list(table).index("p_mcnemar") + 1, "p_mcnemar_holm", holm(table["p_mcnemar"]))
    return table


def without_images(
    predictions: pd.DataFrame, cohort: Cohort, *, by: By = "patient"
) -> dict[str, pd.DataFrame]:
    """What the diameter alone, and the readers' other ratings, predict of a model's lesions.

    Both are the baselines of `statistics.baselines`, learned on the folds that the model was not
    tested on, in the form that `compare` takes: so a model can be held against them on the same
    lesions.

    Args:
        predictions: As `Outcome.predictions`.
        cohort: The paper's, which the lesions and their folds are of.
        by: What the folds of the run were by.

    Returns:
        `"diameter"` and `"ratings"` to predictions like the given ones.

    Raises:
        KeyError: A column is missing.
        ValueError: A lesion is not in the cohort, or has no class in it.
    """
    check_columns(predictions, ["lesion_id", "patient", "malignancy", "malignancy_truth"])
    nodules, labels = cohort.table.rename_axis("lesion_id"), malignancy_label(cohort.table)
    how: Any = {"folds": cohort.folds(by=by), "n_resamples": 1}
    found = {}
    for name, classifier in (("diameter", diameter_classifier), ("ratings", ratings_classifier)):
        baseline = classifier(nodules, labels, **how).predictions.set_index("lesion_id")
        own = baseline.reindex(predictions["lesion_id"])
        if own["score"].isna().any():
            missing = own.index[own["score"].isna()][0]
            raise ValueError(f"predictions: {missing!r} is not in the cohort {cohort.name!r}")
        found[name] = predictions.assign(malignancy=own["score"].to_numpy())
    return found


def mcnemar(only_a: int, only_b: int) -> float:
    """McNemar's test, exact: is one of two models right where the other is not more often?

    Args:
        only_a: Lesions that the first alone gets right.
        only_b: Lesions that the second alone gets right.

    Returns:
        The two-sided p-value; 1 where they never differ.

    Raises:
        ValueError: A count below 0.

    >>> mcnemar(5, 0)  # 2 · (1/2)^5
    0.0625
    """
    if only_a < 0 or only_b < 0:
        raise ValueError(f"only_a={only_a!r}, only_b={only_b!r}: expected counts from 0")
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def signed_rank(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Wilcoxon's signed-rank test of two models' probabilities, as in Table 5.

    Args:
        first: (lesion,).
        second: (lesion,), of the same lesions.

    Returns:
        The two-sided p-value; 1 where they are equal.

    Raises:
        ValueError: There are not as many of both.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"first, second: expected as many, got {a.shape} and {b.shape}")
    if not (a - b).any():
        return 1.0
    found: Any = stats.wilcoxon(a, b, zero_method="wilcox")
    return float(found.pvalue)


def _auc_differences(
    first: Array,
    second: Array,
    malignant: npt.NDArray[np.bool_],
    lesions: pd.DataFrame,
    **how: int,
) -> tuple[Estimate, Estimate]:
    aucs = {
        name: [weighted_auc(scores, malignant, ranked_apart) for scores in (first, second)]
        for name, ranked_apart in (("pooled", None), ("within", lesions["fold"].to_numpy()))
    }

    def differences(weights: Array) -> dict[str, Array]:
        return {name: one(weights) - other(weights) for name, (one, other) in aucs.items()}

    found = bootstrap_weights_over_groups(differences, lesions["patient"], undefined="nan", **how)
    return found["pooled"], found["within"]
