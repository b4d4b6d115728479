"""Lei 2020, its tables and tests on runs of its models, beside what it prints (section 4).

    classification(outcome.predictions)                            # what Table 2 measures, and more
    compare({"hesam": …, "cam": …})                                # Table 5, and what it leaves out
    paper_table(2, {"hesam": outcome.scores, …}, tier="phantom")   # Tables 2 to 5
    reader_accuracy(readings, draw_reader_study(…))                # Table 6

Predictions and scores are those of `lesionlab.training.outcomes.Outcome`, runs those of
`lesionlab.training.outcomes.kept`; both are given by variant. Predictions have one row per lesion:
lesion_id, patient, fold, malignancy (a probability) and malignancy_truth (0 or 1).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar

from lesionlab import _names, published, tables
from lesionlab.cohorts import Cohort, malignancy_label
from lesionlab.crops import Tier
from lesionlab.papers import _shared
from lesionlab.papers._shared import BASELINES as BASELINES
from lesionlab.papers.lei2020 import N_CHANNELS, OTHER_SETS, TABLES, variant_on
from lesionlab.splits import By
from lesionlab.statistics.association import holm
from lesionlab.statistics.baselines import diameter_classifier, ratings_classifier
from lesionlab.statistics.intervals import Estimate, Resampling
from lesionlab.statistics.paired import paired, paired_auc
from lesionlab.statistics.scoring import check_columns, score_binary
from lesionlab.training.outcomes import Outcome

PRINTED = ("accuracy", "sensitivity", "specificity")
"""What the paper prints of a model, accuracy in per cent and the other two as fractions."""

MEASURES = (*PRINTED, "precision", "f1", "auc")

HEADS = {"hesam": "HESAM", "sam": "SAM", "cam": "CAM"}
"""The paper's own three networks, by variant."""

ENDS = ["value", "low", "high"]

_NAMES = {"malignancy": "score", "malignancy_truth": "truth"}  # as `statistics.scoring` takes them


def classification(predictions: pd.DataFrame, **how: Unpack[Resampling]) -> pd.DataFrame:
    """How well malignancy is told, with the paper's measures and those that it leaves out.

    A lesion is called malignant from 0.5 on; the AUC, here of all folds together, has no threshold.
    Index `MEASURES`; columns value, low, high (fractions), n (lesions), n_groups (patients).
    """
    check_columns(predictions, ["patient", *_NAMES])
    together = predictions.rename(columns=_NAMES).drop(columns="fold", errors="ignore")
    found = _shared.estimates(score_binary(together, **how))
    return found.loc[list(MEASURES)].rename_axis("measure")


def within_folds(predictions: pd.DataFrame, **how: Unpack[Resampling]) -> Estimate:
    """The AUC within each fold, averaged over the folds: only lesions of one network are compared.

    An AUC over all folds also asks how alike the levels of their networks are.
    """
    check_columns(predictions, ["patient", "fold", *_NAMES])
    return score_binary(predictions.rename(columns=_NAMES), **how)["auc"]


def on_fold(
    frames: Mapping[str, pd.DataFrame], fold: int, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """Scores on the lesions of one fold, so that runs on more folds go beside runs on that one.

    `frames` are predictions by predictor: `"model"`, and those of `baseline_predictions`. The table
    is as `Outcome.scores`, with the measures of `MEASURES`.
    """
    parts = []
    for predictor, frame in frames.items():
        rows = frame[frame["fold"] == fold]
        if rows.empty:
            raise ValueError(f"fold={fold!r}: {predictor!r} has the folds {set(frame['fold'])}")
        found = classification(rows, **how).rename_axis("metric").reset_index()
        parts.append(found.assign(target="malignancy", predictor=predictor))
    return pd.concat(parts, ignore_index=True)


def baseline_predictions(
    predictions: pd.DataFrame, cohort: Cohort, *, by: By = "patient"
) -> dict[str, pd.DataFrame]:
    """What the diameter alone, and the readers' other ratings, predict for a model's lesions.

    The baselines learn from the folds of the paper's cohort, by patient or by nodule as in the run,
    that the model was not tested on. `"diameter"` and `"ratings"` to predictions like the given.
    """
    nodules, labels = cohort.table.rename_axis("lesion_id"), malignancy_label(cohort.table)
    found = {}
    for name, classifier in (("diameter", diameter_classifier), ("ratings", ratings_classifier)):
        baseline = classifier(nodules, labels, folds=cohort.folds(by=by))
        scores = baseline.set_index("lesion_id")["score"].reindex(predictions["lesion_id"])
        if scores.isna().any():
            missing = scores.index[scores.isna()][0]
            raise ValueError(f"predictions: {missing!r} is not in the cohort {cohort.name!r}")
        found[name] = predictions.assign(malignancy=scores.to_numpy())
    return found


def compare(
    predictions: Mapping[str, pd.DataFrame], *, reference: str = "hesam", **how: Unpack[Resampling]
) -> pd.DataFrame:
    """One model against others on the same lesions: the paper's test, and tests of being better.

    Section 4.7 compares the *probabilities* of two models by Wilcoxon's signed-rank test, and takes
    p < 0.01 for "significantly different … and more separable". That test knows no truth: a model
    that adds 0.01 to each probability differs as significantly, and is no better.

    Returns:
        Index variant; columns n, n_groups; p_probability (the paper's test); only_reference and
        only_other (lesions that one alone gets right) with p_mcnemar (exact, over lesions as if
        they were independent) and p_mcnemar_holm; p_error (Wilcoxon's test of |probability − truth|
        by patient); auc_difference (reference − other) with low and high, all lesions ranked
        together; and within_difference, within_low and within_high, of the AUC within folds.
    """
    if reference not in predictions or len(predictions) < 2:
        raise ValueError(
            f"reference={reference!r}: expected it and another among {list(predictions)}"
        )
    rows = {}
    for variant in (name for name in predictions if name != reference):
        pair = predictions[reference], predictions[variant]
        within = paired_auc(*pair, **how)["difference"]
        one, two = (frame.drop(columns="fold") for frame in pair)  # all lesions ranked together
        pooled = paired_auc(one, two, **how)["difference"]
        ours, other = (frame.set_index("lesion_id").sort_index() for frame in pair)
        gap, malignant = ours["malignancy"] - other["malignancy"], ours["malignancy_truth"] == 1
        right, right_other = ((f["malignancy"] >= 0.5) == malignant for f in (ours, other))
        only, only_other = int((right & ~right_other).sum()), int((right_other & ~right).sum())
        rows[variant] = {
            "n": pooled.n, "n_groups": pooled.n_groups,
            "p_probability": stats.wilcoxon(gap).pvalue if gap.any() else 1.0,
            "only_reference": only, "only_other": only_other,
            "p_mcnemar": float(mcnemar([[0, only], [only_other, 0]], exact=True).pvalue),
            "p_mcnemar_holm": np.nan,
            "p_error": paired(*pair, ["malignancy"], n_resamples=1).loc["malignancy", "p"],
            "auc_difference": pooled.value, "low": pooled.low, "high": pooled.high,
            "within_difference": within.value, "within_low": within.low, "within_high": within.high,
        }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")
    return table.assign(p_mcnemar_holm=holm(table["p_mcnemar"]))


def paper_table(number: int | str, runs: Mapping[str, pd.DataFrame], *, tier: Tier) -> pd.DataFrame:
    """One of the paper's Tables 2 to 5 with our numbers beside its own.

    For Tables 2, 3 and 4 `runs` are variant to its scores, as `Outcome.scores`; for Table 5 tables
    of `compare` by any name, of which the variants' p_probability is taken. Variants that the table
    has no row for are ignored. `tier`, what their voxels were, stands at the head of our numbers.

    The rows are the paper's in its order, then in Tables 2 and 3 what predictors without an image
    reach on the same lesions. Accuracy is in per cent; a last column says on how many lesions we
    are. NaN where the paper prints nothing or we ran nothing; its bounds of p are text ("< 0.01").
    """
    printed = published.table("lei2020", number)
    name = str(printed.attrs["table"])
    if name == "5":
        return _table_5(printed.set_index("method"), runs, tier)
    if name not in TABLES:
        raise LookupError(f"number={number!r}: expected one of the tables 2, 3, 4, 5")
    if name == "3":
        pools = printed["high_level_pooling"] + " / " + printed["final_pooling"]
        printed = printed[list(PRINTED)].assign(method=pools)

    def cell(row: Any, column: str) -> tuple[str, str, str]:
        metric, method = row if name == "4" else (column, row)
        variant = TABLES[name][method]
        if column.upper() in N_CHANNELS:
            variant, metric = variant_on(variant, column), "accuracy" if name == "2" else metric
        return variant, metric, "malignancy"

    printed = printed.set_index(["metric", "method"] if name == "4" else "method")
    columns = [column for column in map(str, printed) if not column.endswith("_sd")]
    return _shared.beside(
        printed, runs, cell, columns=columns, percent=["accuracy"], tier=tier, baselines=name != "4"
    )


def _table_5(printed: pd.DataFrame, runs: Mapping[str, pd.DataFrame], tier: Tier) -> pd.DataFrame:
    """HESAM against the networks of others, the p of the paper's test."""
    below = printed.filter(like="_below").rename(columns=lambda c: c.removesuffix("_below"))
    theirs = below.map(lambda p: f"< {p:g}", na_action="ignore")
    theirs.attrs = printed.attrs
    found = pd.concat([test["p_probability"] for test in runs.values()]) if runs else {}
    ours = pd.DataFrame(np.nan, index=theirs.index, columns=theirs.columns)
    for method, column in itertools.product(theirs.index, map(str, theirs)):
        variant = variant_on(TABLES["2"][method], column.removesuffix("_p"))
        ours.loc[method, column] = found.get(variant)
    return _shared.joined(theirs, ours, tier=tier)


# --- the tables of the chapter --------------------------------------------------------------------


def courses(
    folds: Mapping[str, Sequence[Mapping[str, Any]]], *, variant: str = "hesam"
) -> dict[str, pd.DataFrame]:
    """The course of training on each image set, the mean over folds, for Figure 4.

    The figure shows training and *test* curves. Here the second curve is that of the validation
    part. `folds` are by variant `Outcome.folds`, the tables as in `figures.models.histories`, with
    the median best epoch.
    """
    from lesionlab.figures.models import histories

    found = {}
    for images in N_CHANNELS:
        if (name := variant_on(variant, images)) in folds:
            parts = histories(folds[name])
            found[images] = pd.concat(parts).groupby(level=-1).mean(numeric_only=True)
            best = np.median([part.attrs["best_epoch"] for part in parts.values()])
            found[images].attrs["best_epoch"] = int(best)
    if not found:
        raise ValueError(f"folds: none of {variant!r} on any image set, got {list(folds)}")
    return found


OWN: Mapping[str, str] = {
    variant_on(head, images): f"{words}, {images}"
    for images in ("D11C", *OTHER_SETS)
    for head, words in HEADS.items()
}
"""The paper's own networks on each image set: variant to words, as "HESAM, D11C"."""


def heads_on_folds(runs: Mapping[str, Outcome], **how: Unpack[Resampling]) -> pd.DataFrame:
    """How well the paper's own networks do, accuracy beside Table 2.

    Index as "HESAM, D11C". Columns of two levels: "AUC within folds" (value, low, high), "AUC,
    together" (value), "called malignant" (fewest, most: the share of a fold's lesions, in the fold
    where it is lowest and highest), and "accuracy (%)" (Lei 2020, ours, difference).
    """
    printed: Any = published.table("lei2020", 2).set_index("method")
    rows, theirs, ours = {}, {}, {}
    for variant, words in ((v, words) for v, words in OWN.items() if v in runs):
        head, images = words.split(", ")
        predictions = runs[variant].predictions
        truth, probability = predictions["malignancy_truth"], predictions["malignancy"]
        malignant = probability >= 0.5
        theirs[words] = float(printed.loc[f"Ours-{head}", images.lower()])
        ours[words] = 100 * float((malignant == (truth == 1)).mean())
        within = within_folds(predictions, **how)
        called = malignant.groupby(predictions["fold"]).mean()
        rows[words] = {
            **{("AUC within folds", end): getattr(within, end) for end in ENDS},
            ("AUC, together", "value"): float(roc_auc_score(truth, probability)),
            ("called malignant", "fewest"): float(called.min()),
            ("called malignant", "most"): float(called.max()),
        }
    accuracy = tables.beside(theirs, ours, paper="Lei 2020", here="ours")
    return pd.concat([pd.DataFrame(rows).T, pd.concat({"accuracy (%)": accuracy}, axis=1)], axis=1)


def head_differences(
    runs: Mapping[str, Outcome], cohort: Cohort, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """SAM against CAM, HESAM against CAM, and HESAM against the diameter alone, by image set.

    Index as "SAM − CAM, D11C". Columns ("within folds", …) and ("folds together", …), each
    difference (of the AUCs, above 0 the first is better), low, high.
    """
    columns = ["within_difference", "within_low", "within_high", "auc_difference", "low", "high"]
    found = {}
    for first, second in (("sam", "cam"), ("hesam", "cam"), ("hesam", "diameter")):
        for images in N_CHANNELS:
            one = runs[variant_on(first, images)].predictions
            if second == "diameter":
                other = baseline_predictions(one, cohort)["diameter"]
            else:
                other = runs[variant_on(second, images)].predictions
            row = compare({first: one, second: other}, reference=first, **how)[columns].iloc[0]
            found[f"{HEADS[first]} − {HEADS.get(second, second)}, {images}"] = row.tolist()
    heads = itertools.product(("within folds", "folds together"), ("difference", "low", "high"))
    return pd.DataFrame.from_dict(found, orient="index", columns=pd.MultiIndex.from_tuples(heads))


def by_split(
    by_patient: Mapping[str, Outcome],
    by_nodule: Mapping[str, Outcome],
    cohort: Cohort,
    **how: Unpack[Resampling],
) -> pd.DataFrame:
    """The AUC on the first fold by patient beside that on the first fold by nodule.

    Index as "HESAM, D11C" for heads that are among both runs, and "diameter alone". Columns ("by
    patient", …) and ("by nodule", …), each value, low, high; and ("by nodule less by patient",
    "difference").
    """
    both = [v for v in OWN if v in by_patient and v in by_nodule]
    kinds: list[tuple[By, Mapping[str, Outcome]]] = [("patient", by_patient), ("nodule", by_nodule)]
    columns = {}
    for by, runs in kinds:
        frames = {OWN[v]: runs[v].predictions for v in both}
        blind = baseline_predictions(runs[both[0]].predictions, cohort, by=by)
        frames["diameter alone"] = blind["diameter"]
        scores = on_fold(frames, 0, **how).set_index("predictor")
        columns[f"by {by}"] = scores.loc[scores["metric"] == "auc", ENDS].rename_axis(None)
    change = columns["by nodule"]["value"] - columns["by patient"]["value"]
    columns["by nodule less by patient"] = change.to_frame("difference")
    return pd.concat(columns, axis=1).astype(float)


def kept_maps(runs: Mapping[str, Outcome], name: str, level: str) -> pd.DataFrame:
    """One table of `maps.analyse`, such as `"regions"`, of the three heads on D11C together.

    Grad-CAM, which two of the networks have, is named after its network.
    """
    parts = []
    for head, words in HEADS.items():
        rows = pd.DataFrame(runs[head].about["analysis"][name])
        parts.append(rows.replace({"method": {"Grad-CAM": f"Grad-CAM, {words} network"}}))
    return pd.concat(parts).set_index(["method", level])


# --- lesions to show, and the readers (Table 6) ---------------------------------------------------


def sample_lesions(
    lesion_ids: Sequence[str] | pd.Series[str], n: int, *, seed: int = 0
) -> list[str]:
    """`n` lesions, drawn; all if there are no more. The order they are given in does not matter."""
    there = sorted(set(lesion_ids))
    drawn = np.random.default_rng(seed).choice(there, min(n, len(there)), replace=False)
    return sorted(drawn.tolist())


def example_lesions(
    predictions: pd.DataFrame, *, quantiles: Sequence[float] = (0.1, 0.5, 0.9)
) -> pd.DataFrame:
    """Lesions to show, picked by rule: of each class, some called rightly and some wrongly.

    They are the nearest to each quantile of the probability of the true class. Index lesion_id,
    benign ones first; columns malignant (bool), probability (of malignant), quantile. A lesion may
    serve twice where there are few.
    """
    rows = predictions.set_index("lesion_id").sort_index()
    found = []
    for label in (0, 1):
        own = rows.loc[rows["malignancy_truth"] == label, "malignancy"].astype(float)
        if own.empty:
            raise ValueError(f"predictions: no lesion of class {label}")
        picked = _shared.nearest(own if label else 1 - own, quantiles)
        probability = own.loc[picked.index]
        found.append(picked.assign(malignant=bool(label), probability=probability.to_numpy()))
    return pd.concat(found)[["malignant", "probability", "quantile"]]


def draw_reader_study(
    predictions: pd.DataFrame, readings: pd.DataFrame, *, each: int = 10, seed: int = 0
) -> list[str]:
    """Nodules for a reader comparison as in 4.8: `each` malignant and as many benign, drawn.

    The paper's twenty were rated by at least three doctors *and* were all classified rightly by its
    model and by the radiologists of its study. Here only the first holds: of nodules chosen for
    being right, no accuracy can be learned. `predictions` say which are malignant.
    """
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


def reader_accuracy(
    readings: pd.DataFrame,
    lesion_ids: Sequence[str],
    *,
    truth: Literal["all", "others"] = "all",
    shuffle: int | None = None,
) -> pd.DataFrame:
    """Each "doctor" against the label, as in Table 6, from `readings`, one row per reading.

    LIDC's readers are anonymous: nothing says that the first reader of one scan and that of another
    are the same person. "Dr. 1" is a column of a table: with a seed, `shuffle`, the readings of
    each nodule are put into other columns. And the label is the mean of the readers' own ratings,
    which a reader agrees with more than with what the others say (`truth="others"`). Where a mean
    or a rating is 3, it does not count.

    Returns:
        Index doctor, `Dr. 1` to `Dr. 4`, or as many as a nodule has readings, and `all`. Columns n
        (nodules that count), accuracy (per cent), false_positives, false_negatives.
    """
    _names.one_of("truth", truth, ("all", "others"))
    known = readings.dropna(subset="malignancy").set_index("lesion_id")["malignancy"]
    if missing := set(lesion_ids) - set(known.index):
        raise ValueError(f"readings: none of lesion {min(missing)!r}")
    given = known.loc[list(lesion_ids)].astype(float)
    own = given.groupby(level=0, sort=False)
    size, mean = own.transform("size"), own.transform("mean")
    if truth == "others":
        mean = (own.transform("sum") - given) / (size - 1)  # NaN for a single reader
    doctor = own.cumcount()
    if shuffle is not None:
        rng = np.random.default_rng(shuffle)
        doctor[:] = np.concatenate([rng.permutation(max(4, n))[:n] for n in own.size()])
    called, malignant, counts = given > 3, mean > 3, (given != 3) & (mean != 3) & mean.notna()
    rows = {f"Dr. {k + 1}": counts & (doctor == k) for k in range(max(4, size.max()))}
    table = {
        name: {
            "n": int(part.sum()),
            "accuracy": 100 * float((called == malignant)[part].mean()),
            "false_positives": int((called & ~malignant)[part].sum()),
            "false_negatives": int((~called & malignant)[part].sum()),
        }
        for name, part in (rows | {"all": counts}).items()
    }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("doctor")
