"""Lei 2020, its tables and tests on runs of its models, beside what it prints (section 4).

    classification(outcome.predictions)                            # what Table 2 measures, and more
    compare({"hesam": …, "cam": …})                                # Table 5, and what it leaves out
    paper_table(2, {"hesam": outcome.scores, …}, tier="phantom")   # Tables 2 to 5

Predictions and scores are those of `lesionlab.training.outcomes.Outcome`, runs those of
`lesionlab.training.outcomes.kept`; both are given by variant. Predictions have one row per lesion:
lesion_id, patient, fold, malignancy (a probability) and malignancy_truth (0 or 1); what lacks a
column is refused with `KeyError`. Intervals are from resampling patients, as often and with the
seed that `**how` gives: `n_resamples`, `level` and `seed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from lesionlab import published, tables
from lesionlab.cohorts import Cohort, malignancy_label
from lesionlab.crops import Tier
from lesionlab.papers._shared import BASELINES, beside, malignancy_scores
from lesionlab.papers.lei2020 import N_CHANNELS, TABLES, variant_on
from lesionlab.splits import By
from lesionlab.statistics.association import holm
from lesionlab.statistics.baselines import diameter_classifier, ratings_classifier
from lesionlab.statistics.intervals import Estimate, Resampling
from lesionlab.statistics.paired import paired, paired_auc
from lesionlab.statistics.scoring import check_columns, score_binary
from lesionlab.training.outcomes import Outcome

IMAGE_SETS = tuple(name.lower() for name in N_CHANNELS)
PRINTED = ("accuracy", "sensitivity", "specificity")
"""What the paper prints of a model, accuracy in per cent and the other two as fractions."""

MEASURES = (*PRINTED, "precision", "f1", "auc")

HEADS = {"hesam": "HESAM", "sam": "SAM", "cam": "CAM"}
"""The paper's own three networks, by variant."""

ENDS = ("value", "low", "high")


def classification(predictions: pd.DataFrame, **how: Unpack[Resampling]) -> pd.DataFrame:
    """How well malignancy is told, with the paper's measures and those that it leaves out.

    Precision and F1 depend on how many lesions are malignant, AUC, here of all folds together, on
    no threshold. Others call a lesion malignant from 0.5 on. Index `MEASURES`; columns value, low,
    high (fractions), n (lesions), n_groups (patients).
    """
    found = score_binary(_scored(predictions), **how)
    columns = (*ENDS, "n", "n_groups")
    table = [{name: getattr(found[m], name) for name in columns} for m in MEASURES]
    return pd.DataFrame(table, index=pd.Index(MEASURES, name="measure"))


def _scored(predictions: pd.DataFrame, *further: str) -> pd.DataFrame:
    """The columns that `statistics.scoring` takes, under its names."""
    columns = ["patient", "malignancy", "malignancy_truth", *further]
    check_columns(predictions, columns)
    names = {"malignancy": "score", "malignancy_truth": "truth"}
    return predictions[columns].rename(columns=names)


def on_fold(
    frames: Mapping[str, pd.DataFrame], fold: int, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """Scores on the lesions of one fold, so that runs on more folds go beside runs on that one.

    `frames` are predictions by predictor: `"model"`, and others that see no image, as from
    `baseline_predictions`. The table is as `Outcome.scores`, with the measures of `MEASURES`.
    """
    parts = []
    for predictor, frame in frames.items():
        rows = frame[frame["fold"] == fold]
        if rows.empty:
            raise ValueError(f"fold={fold!r}: {predictor!r} has the folds {set(frame['fold'])}")
        found = classification(rows, **how).rename_axis("metric").reset_index()
        parts.append(found.assign(target="malignancy", predictor=predictor))
    return pd.concat(parts, ignore_index=True)


def within_folds(predictions: pd.DataFrame, **how: Unpack[Resampling]) -> Estimate:
    """The AUC within each fold, averaged over the folds.

    It compares only lesions that the same network was tested on. An AUC over all folds also asks
    how alike the levels of their networks are (see `statistics.scoring`).
    """
    return score_binary(_scored(predictions, "fold"), **how)["auc"]


def baseline_predictions(
    predictions: pd.DataFrame, cohort: Cohort, *, by: By = "patient"
) -> dict[str, pd.DataFrame]:
    """What the diameter alone, and the readers' other ratings, predict for a model's lesions.

    Both are the baselines of `statistics.baselines`, learned on the folds that the model was not
    tested on, so that a model can be held against them on the same lesions. `cohort` is the
    paper's, which the lesions and their folds are of, and `by` is what the folds of the run were
    by.

    Returns:
        `"diameter"` and `"ratings"` to predictions like the given ones.
    """
    nodules, labels = cohort.table.rename_axis("lesion_id"), malignancy_label(cohort.table)
    found = {}
    for name, classifier in (("diameter", diameter_classifier), ("ratings", ratings_classifier)):
        baseline = classifier(nodules, labels, folds=cohort.folds(by=by), n_resamples=1).predictions
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
    that adds 0.01 to each probability differs as significantly, and is no better. So beside it
    stand McNemar's test, of who is right where one of the two is wrong (exact, over lesions as if
    they were independent), the Wilcoxon test of |probability − truth| by patient (from
    `statistics.paired`), and the difference of the AUCs with an interval over patients: of all
    lesions ranked together, and of the means of `within_folds`.

    Returns:
        Index variant; columns n, n_groups; p_probability (the paper's test); only_reference and
        only_other (lesions that one alone gets right), p_mcnemar, p_mcnemar_holm; p_error;
        auc_difference (reference − other: above 0 the reference is better) with low and high; and
        within_difference with within_low and within_high, the same of the AUC within folds.
    """
    if reference not in predictions or len(predictions) < 2:
        raise ValueError(
            f"reference={reference!r}: expected it and another among {list(predictions)}"
        )
    rows = {}
    for variant in (name for name in predictions if name != reference):
        pair = predictions[reference], predictions[variant]
        within = paired_auc(pair[0], pair[1], **how)["difference"]
        whole = [frame.drop(columns="fold") for frame in pair]  # all lesions ranked together
        pooled = paired_auc(whole[0], whole[1], **how)["difference"]
        errors = paired(*pair, ["malignancy"], n_resamples=1)
        ours, other = (frame.set_index("lesion_id").sort_index() for frame in pair)
        malignant = ours["malignancy_truth"] == 1
        right, right_other = ((f["malignancy"] >= 0.5) == malignant for f in (ours, other))
        only, only_other = int((right & ~right_other).sum()), int((right_other & ~right).sum())
        rows[variant] = {
            "n": pooled.n, "n_groups": pooled.n_groups,
            "p_probability": signed_rank(ours["malignancy"], other["malignancy"]),
            "only_reference": only, "only_other": only_other,
            "p_mcnemar": float(mcnemar([[0, only], [only_other, 0]], exact=True).pvalue),
            "p_mcnemar_holm": np.nan,
            "p_error": errors["p"].loc["malignancy"],
            "auc_difference": pooled.value, "low": pooled.low, "high": pooled.high,
            "within_difference": within.value, "within_low": within.low, "within_high": within.high,
        }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")
    return table.assign(p_mcnemar_holm=holm(table["p_mcnemar"]))


def signed_rank(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Two-sided p of Wilcoxon's signed-rank test of two models' probabilities, as in Table 5."""
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if not difference.any():
        return 1.0
    found: Any = stats.wilcoxon(difference, zero_method="wilcox")
    return float(found.pvalue)


def paper_table(number: int | str, runs: Mapping[str, pd.DataFrame], *, tier: Tier) -> pd.DataFrame:
    """One of the paper's Tables 2 to 5 with our numbers beside its own, as `tables.beside`.

    Args:
        number: 2, 3 or 4: `runs` are variant to its scores, as `Outcome.scores`. 5: tables of
            `compare`, by any name, of which the variants' p_probability is taken.
        runs: See above. Variants that the table has no row for are ignored, those that are missing
            are not run.
        tier: What the voxels of these runs were; it stands at the head of our numbers.

    Returns:
        The paper's rows in its order, then in Tables 2 and 3 what predictors without an image
        reach on the same lesions. Columns (name, `"Lei 2020"`) as printed, (name,
        `"lesionlab (<tier>)"`) and (name, `"difference"`), accuracy in per cent; in Tables 2 and 3
        the last says on how many lesions we are. In Table 5, where the paper prints bounds, those
        are text ("< 0.01"). NaN where the paper prints nothing or we ran nothing. `attrs` are those
        of `published.table`, and the tier.
    """
    printed = published.table("lei2020", number)
    attrs, name = printed.attrs, str(printed.attrs["table"])
    if name not in ("2", "3", "4", "5"):
        raise LookupError(f"number={number!r}: expected one of the tables 2, 3, 4, 5")
    if name == "3":
        labels = printed["high_level_pooling"] + " / " + printed["final_pooling"]
        printed = printed[list(PRINTED)].assign(method=labels)
    theirs = printed.set_index(["metric", "method"] if name == "4" else "method")
    used: dict[str, pd.DataFrame] = {}
    if name == "5":
        theirs = theirs.filter(like="_below").rename(columns=lambda c: c.removesuffix("_below"))
        theirs = theirs.map(lambda p: f"< {p:g}", na_action="ignore")
        tests = [(v, p) for t in runs.values() for v, p in t["p_probability"].items()]
        known = {str(variant): {"p_probability": float(p)} for variant, p in tests}
    else:
        wanted = [variant_on(v, images) for v in TABLES[name].values() for images in IMAGE_SETS]
        used = {v: malignancy_scores(runs[v]) for v in wanted if v in runs}
        known = {variant: _measured(scores) for variant, scores in used.items()}
    columns = [column for column in map(str, theirs) if not column.endswith("_sd")]
    ours = pd.DataFrame(np.nan, index=theirs.index, columns=columns)
    for row in ours.index:
        for column in columns:
            variant, measure = _source(name, row, column)
            ours.loc[row, column] = known.get(variant, {}).get(measure, np.nan)
    if name in ("2", "3"):
        lesions = next((m["lesions"] for m in known.values()), np.nan)
        ours["lesions"] = np.where(ours.notna().any(axis=1), lesions, np.nan)
        # baselines see no image, so one run has the numbers for all; they stand under D11C
        for predictor, row in BASELINES.items() if known else ():
            found = malignancy_scores(runs[next(iter(known))], predictor)
            if len(found):
                measured = _measured(found)
                measured |= {"d11c": measured["accuracy"]}
                ours.loc[row] = pd.Series(measured).reindex(ours.columns)
        ours = ours.astype({"lesions": "Int64"})
    return beside(theirs, ours, tier=tier, used=used, attrs=attrs)


def _source(table: str, row: Any, column: str) -> tuple[str, str]:
    """The variant and the measure that a cell of one of the paper's tables is about."""
    if table == "4":
        return variant_on(TABLES["4"][row[1]], column), row[0]
    if table == "5":
        return variant_on(TABLES["2"][row], column.removesuffix("_p")), "p_probability"
    if column in IMAGE_SETS:
        return variant_on(TABLES[table][row], column), "accuracy"
    return TABLES[table][row], column


def _measured(scores: pd.DataFrame) -> dict[str, float]:
    """What the paper prints, in its units, from scores by metric; and on how many lesions."""
    values = scores["value"].astype(float)
    found = {name: float(values[name]) for name in PRINTED}
    return found | {"accuracy": 100 * found["accuracy"], "lesions": int(scores["n"].iloc[0])}


def courses(
    folds: Mapping[str, Sequence[Mapping[str, Any]]], *, variant: str = "hesam"
) -> dict[str, pd.DataFrame]:
    """The course of training on D1C, D3C, D11C and D21C, for Figure 4.

    The figure shows training and *test* curves, from which its authors see overfitting. Here the
    second curve is that of the validation part: the test part is read once, when all is chosen.

    `folds` are by variant those of `Outcome.folds`. The result is by image set the mean over folds:
    index epoch, columns as in `figures.models.histories`, `attrs["best_epoch"]` the median.
    """
    from lesionlab.figures.models import histories

    found = {}
    for images in N_CHANNELS:
        if (name := variant_on(variant, images)) in folds:
            parts = histories(folds[name])
            mean = pd.concat(parts).select_dtypes("number").groupby(level=-1).mean()
            best = [part.attrs["best_epoch"] for part in parts.values()]
            mean.attrs["best_epoch"] = int(np.median(best))
            found[images] = mean
    if not found:
        raise ValueError(f"folds: none of {variant!r} on any image set, got {list(folds)}")
    return found


def _heads(runs: Mapping[str, Outcome]) -> dict[str, str]:
    """The paper's own networks that were run, D11C first: variant to words, as "HESAM, D11C"."""
    wanted = {
        variant_on(head, images): f"{words}, {images}"
        for images in sorted(N_CHANNELS, key=lambda name: name != "D11C")
        for head, words in HEADS.items()
    }
    return {variant: words for variant, words in wanted.items() if variant in runs}


def heads_on_folds(runs: Mapping[str, Outcome], **how: Unpack[Resampling]) -> pd.DataFrame:
    """How well the paper's own networks do, accuracy beside Table 2.

    Index as "HESAM, D11C". Columns of two levels: "AUC within folds" (value, low, high, see
    `within_folds`), "AUC, together" (value), "called malignant" (fewest, most: the share of a
    fold's lesions, in the fold where it is lowest and highest), and "accuracy (%)" (Lei 2020, ours,
    difference).
    """
    printed: Any = published.table("lei2020", 2).set_index("method")
    rows, theirs, ours = {}, {}, {}
    for variant, words in _heads(runs).items():
        head, images = words.split(", ")
        scores = runs[variant].scores.set_index(["predictor", "metric"])["value"]
        theirs[words] = float(printed.loc[f"Ours-{head}", images.lower()])
        ours[words] = 100 * float(scores["model", "accuracy"])
        predictions = runs[variant].predictions
        within = within_folds(predictions, **how)
        called = (predictions["malignancy"] >= 0.5).groupby(predictions["fold"]).mean()
        rows[words] = {
            **{("AUC within folds", end): getattr(within, end) for end in ENDS},
            ("AUC, together", "value"): float(scores["model", "auc"]),
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
    ends = ("difference", "low", "high")
    columns = {("within folds", end): f"within_{end}" for end in ends}
    columns |= {("folds together", e): "auc_difference" if e == ends[0] else e for e in ends}
    found = {}
    for first, second in (("sam", "cam"), ("hesam", "cam"), ("hesam", "diameter")):
        for images in N_CHANNELS:
            one = runs[variant_on(first, images)].predictions
            if second == "diameter":
                other = baseline_predictions(one, cohort)["diameter"]
            else:
                other = runs[variant_on(second, images)].predictions
            row: Any = compare({first: one, second: other}, reference=first, **how).loc[second]
            name = f"{HEADS[first]} − {HEADS.get(second, second)}, {images}"
            found[name] = {key: float(row[column]) for key, column in columns.items()}
    return pd.DataFrame(found).T


def by_split(
    by_patient: Mapping[str, Outcome],
    by_nodule: Mapping[str, Outcome],
    cohort: Cohort,
    **how: Unpack[Resampling],
) -> pd.DataFrame:
    """The AUC on the first fold by patient beside that on the first fold by nodule.

    One fold beside one fold: the networks of several folds are not alike in their levels. Index as
    "HESAM, D11C" for heads that are among both runs, and "diameter alone". Columns ("by patient",
    …) and ("by nodule", …), each value, low, high; and ("by nodule less by patient", "difference").
    """
    frames = {
        words: (by_patient[v].predictions, by_nodule[v].predictions)
        for v, words in _heads(by_patient).items()
        if v in by_nodule
    }
    one, other = next(iter(frames.values()))
    frames["diameter alone"] = (
        baseline_predictions(one, cohort)["diameter"],
        baseline_predictions(other, cohort, by="nodule")["diameter"],
    )
    rows: dict[str, dict[tuple[str, str], float]] = {}
    for words, both in frames.items():
        row = rows[words] = {}
        for by, frame in zip(("by patient", "by nodule"), both, strict=True):
            auc: Any = on_fold({"model": frame}, 0, **how).set_index("metric").loc["auc"]
            row |= {(by, end): float(auc[end]) for end in ENDS}
        change = row["by nodule", "value"] - row["by patient", "value"]
        row["by nodule less by patient", "difference"] = change
    return pd.DataFrame(rows).T


def kept_maps(runs: Mapping[str, Outcome], name: str, level: str) -> pd.DataFrame:
    """One table of `maps.analyse`, such as `"regions"`, of the three heads on D11C together.

    Grad-CAM, which two of the networks have, is named after its network.
    """
    parts = []
    for head, words in HEADS.items():
        rows = pd.DataFrame(runs[head].about["analysis"][name])
        parts.append(rows.replace({"method": {"Grad-CAM": f"Grad-CAM, {words} network"}}))
    table: pd.DataFrame = pd.concat(parts)
    return table.set_index(["method", level])
