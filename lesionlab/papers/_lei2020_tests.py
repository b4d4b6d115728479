"""Lei 2020, paired tests (4.7) and readers (4.8): see `lesionlab.papers.lei2020_analyses`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
from lesionlab.statistics.scoring import check_columns, score_classification, weighted_auc

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
        ValueError: As `statistics.scoring.score_classification`.
    """
    check_columns(predictions, ["patient", "malignancy", "malignancy_truth"])
    columns = {"malignancy": "score", "malignancy_truth": "truth"}
    rows = predictions[["patient", *columns]].rename(columns=columns)
    how: Any = {"n_resamples": n_resamples, "seed": seed}
    found = score_classification(rows, threshold=threshold, **how)
    called = (rows["score"] >= threshold).to_numpy()
    malignant = (rows["truth"] == 1).to_numpy()

    def others(weights: Array) -> dict[str, Array]:
        hits = weights @ (called & malignant)
        with np.errstate(invalid="ignore"):
            return {
                "precision": hits / (weights @ called),
                "f1": 2 * hits / (weights @ called + weights @ malignant),
            }

    found |= bootstrap_weights_over_groups(others, rows["patient"], undefined="nan", **how)
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
    `statistics.paired`), and the difference of the AUCs with an interval over patients.

    Args:
        predictions: Variant to its out-of-fold predictions, as `Outcome.predictions`.
        reference: The variant that the others are compared with.
        threshold: From which probability on a lesion is called malignant.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        Index variant; columns n, n_groups; p_probability (the paper's test); only_reference and
        only_other (lesions that one alone gets right), p_mcnemar, p_mcnemar_holm; p_error; and
        auc_difference (reference − other: above 0 the reference is better) with low and high.

    Raises:
        KeyError: A column is missing.
        ValueError: `reference` is not there, there is no other, or they are on other lesions.
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
        malignant = (a["malignancy_truth"] == 1).to_numpy()
        first, second = (f["malignancy"].to_numpy(dtype=float) for f in (a, b))
        right_a, right_b = ((p >= threshold) == malignant for p in (first, second))
        only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
        difference = _auc_difference(
            first, second, malignant, a["patient"], n_resamples=n_resamples, seed=seed
        )
        rows[variant] = {
            "n": difference.n, "n_groups": difference.n_groups,
            "p_probability": signed_rank(first, second),
            "only_reference": only_a, "only_other": only_b, "p_mcnemar": mcnemar(only_a, only_b),
            "p_error": float(errors["p"]["malignancy"]),
            "auc_difference": difference.value, "low": difference.low, "high": difference.high,
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


def _auc_difference(
    first: Array,
    second: Array,
    malignant: npt.NDArray[np.bool_],
    patients: pd.Series[str],
    **how: int,
) -> Estimate:
    one, other = (weighted_auc(scores, malignant) for scores in (first, second))

    def difference(weights: Array) -> dict[str, Array]:
        return {"auc": one(weights) - other(weights)}

    return bootstrap_weights_over_groups(difference, patients, undefined="nan", **how)["auc"]


def twenty(
    predictions: pd.DataFrame, readings: pd.DataFrame, *, each: int = 10, seed: int = 0
) -> list[str]:
    """Nodules for a reader comparison as in 4.8: ten malignant and ten benign, drawn.

    The paper's twenty were rated by at least three doctors *and* were all classified rightly by
    its model and by the radiologists of its study. Here only the first holds: of nodules chosen
    for being right, no accuracy can be learned.

    Args:
        predictions: As `Outcome.predictions`; which lesions there are, and which are malignant.
        readings: One row per reading: lesion_id, malignancy.
        each: How many of each kind.
        seed: Of the draw.

    Returns:
        Their ids, sorted.

    Raises:
        KeyError: A column is missing.
        ValueError: There are not so many.
    """
    check_columns(predictions, ["lesion_id", "malignancy_truth"])
    check_columns(readings, ["lesion_id", "malignancy"])
    count = readings.dropna(subset="malignancy").groupby("lesion_id").size()
    rows = predictions[predictions["lesion_id"].map(count).fillna(0) >= 3]
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for label in (0, 1):
        there = sorted(rows.loc[rows["malignancy_truth"] == label, "lesion_id"])
        if len(there) < each:
            raise ValueError(f"each={each!r}: only {len(there)} nodules of class {label}")
        chosen += rng.choice(there, each, replace=False).tolist()
    return sorted(chosen)


def doctors(
    readings: pd.DataFrame,
    lesion_ids: Sequence[str],
    *,
    truth: Literal["all", "others"] = "all",
    shuffle: int | None = None,
) -> pd.DataFrame:
    """Each "doctor" against the label, as in Table 6.

    LIDC's readers are anonymous: nothing says that the first reader of one scan and that of another
    are the same person, and more than four radiologists took part. "Dr. 1" is a column of a table,
    not a person: `shuffle` puts the readings of each nodule into other columns, which changes all
    four rows and nothing about the readers. And the label is the mean of the readers' own ratings,
    which a reader agrees with more than with what the others say: `truth="others"`.

    Args:
        readings: One row per reading: lesion_id, malignancy (1 to 5); the order of a nodule's
            readings is that of the columns.
        lesion_ids: Which nodules.
        truth: `"all"`: the mean of all readers, 3 is the border (the paper). `"others"`: of all but
            the doctor; nodules where that is 3 do not count.
        shuffle: Seed of another order of the readings; as they are if None.

    Returns:
        Index doctor, `Dr. 1` to `Dr. 4`, or as many as a nodule has readings, and `all`, over all
        readings. Columns n (nodules that the doctor rated, and not with 3), accuracy (per cent, NaN
        where there are none), false_positives, false_negatives.

    Raises:
        KeyError: A column is missing.
        ValueError: An unknown `truth`, or a nodule without readings.
    """
    if truth not in ("all", "others"):
        raise ValueError(f"truth={truth!r}: expected 'all' or 'others'")
    check_columns(readings, ["lesion_id", "malignancy"])
    rng = None if shuffle is None else np.random.default_rng(shuffle)
    by_lesion = readings.dropna(subset="malignancy").groupby("lesion_id", sort=False)["malignancy"]
    groups = {name: values.to_numpy(dtype=float) for name, values in by_lesion}
    rows = []
    for name in lesion_ids:
        if name not in groups:
            raise ValueError(f"readings: none of lesion {name!r}")
        own = groups[name]
        at = np.arange(len(own)) if rng is None else rng.permutation(max(4, len(own)))[: len(own)]
        for i, given in enumerate(own):
            rest = own if truth == "all" else np.delete(own, i)
            middle = rest.mean() if len(rest) else 3.0
            if given != 3 and middle != 3:
                rows.append((int(at[i]) + 1, bool(given > 3), bool(middle > 3)))
    found = pd.DataFrame(rows, columns=["doctor", "called", "malignant"])
    most = max([4, *(len(groups[name]) for name in lesion_ids)])
    parts = {f"Dr. {k}": found[found["doctor"] == k] for k in range(1, most + 1)}
    table = {
        name: {
            "n": len(part),
            "accuracy": 100 * float((part["called"] == part["malignant"]).mean()),
            "false_positives": int((part["called"] & ~part["malignant"]).sum()),
            "false_negatives": int((~part["called"] & part["malignant"]).sum()),
        }
        for name, part in {**parts, "all": found}.items()
    }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("doctor")
