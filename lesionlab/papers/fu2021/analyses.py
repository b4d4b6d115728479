"""What Fu et al. 2021 do with their models (section 4), on runs of `lesionlab.papers.fu2021`.

    folds = studies.trained(plan)                      # or one fold, or any weights
    seen = Attention.join(describe(f.experiment, f.weights, f.samples) for f in folds)
    ends_against_middle(seen.slices, table["patient"])             # Fig. 5, "4.7 times"
    attention_agreement(seen.matrices, correlations, ATTRIBUTES)   # Fig. 6
    auxiliary_against_final(seen, outcome.predictions)             # Table 3
    ablation({"full": …, "no_attention": …})                       # the asterisks of Table 1
    beside(1, {"full": outcome.scores, …}, tier="phantom")         # any table

Predictions and scores are those of `lesionlab.training.outcomes.Outcome`; a model is described by
the lesions that it has not seen. Attention says what a model weighs, not why it is right.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lesionlab.papers.fu2021 import ATTRIBUTES, Fu2021
from lesionlab.papers.fu2021._attention import (
    MIN_SLICES,
    Attention,
    describe,
    ends_against_middle,
    position_profile,
    slice_table,
)
from lesionlab.papers.fu2021._baselines import against_diameter, visible
from lesionlab.papers.fu2021._classes import CLASSES, classification, implied_share
from lesionlab.papers.fu2021._matrices import (
    attention_agreement,
    mean_weights,
    profile_correlations,
)
from lesionlab.papers.fu2021._tables import BASELINES, ERRORS, beside, by_variant, errors, readers
from lesionlab.statistics.agreement import disagreement
from lesionlab.statistics.correlation import correlation_matrix
from lesionlab.statistics.paired import Test, Unit, paired
from lesionlab.statistics.scoring import check_columns

if TYPE_CHECKING:
    from lesionlab.training.studies import Trained

__all__ = [
    "BASELINES",
    "CLASSES",
    "ERRORS",
    "MIN_SLICES",
    "Attention",
    "ablation",
    "against_diameter",
    "ambiguous",
    "attention_agreement",
    "auxiliary_against_final",
    "auxiliary_rows",
    "beside",
    "by_variant",
    "classification",
    "describe",
    "ends_against_middle",
    "errors",
    "examples",
    "implied_share",
    "lesion_scores",
    "mean_weights",
    "position_profile",
    "profile_correlations",
    "readers",
    "slice_table",
    "summary",
    "visible",
]


def summary(
    folds: Iterable[Trained], predictions: pd.DataFrame, *, n_resamples: int = 2000
) -> dict[str, pd.DataFrame]:
    """What the models of a run looked at, as the tables that its figures need.

    Args:
        folds: Of `studies.trained`.
        predictions: Of the same run, as `Outcome.predictions`.
        n_resamples: Resamples of patients for the intervals.

    Returns:
        As far as the variant has the parts: ends (`ends_against_middle`), profile
        (`position_profile`), weights (`mean_weights`), agreement (`attention_agreement`, with the
        correlations of the readers' mean ratings over the same lesions), auxiliary
        (`auxiliary_against_final`).
    """
    seen = Attention.join(
        describe(fold.experiment, fold.weights, fold.samples)
        for fold in folds
        if isinstance(fold.experiment, Fu2021)
    )
    rows = predictions.set_index("lesion_id")
    found: dict[str, pd.DataFrame] = {}
    if seen.slices is not None:
        how: dict[str, Any] = {"n_resamples": n_resamples}
        found["ends"] = ends_against_middle(seen.slices, rows["patient"], **how)
        found["profile"] = position_profile(seen.slices, rows["patient"], **how)
    if seen.matrices is not None:
        found["weights"] = mean_weights(seen.matrices, seen.attributes)
        truths = rows[[f"{name}_truth" for name in seen.attributes]]
        truths.columns = pd.Index(seen.attributes)
        correlations = correlation_matrix(truths, seen.attributes)
        found["agreement"] = attention_agreement(seen.matrices, correlations, seen.attributes)
    if seen.auxiliary is not None:
        rated = [name for name in seen.attributes if Fu2021().tasks[name] == "regression"]
        found["auxiliary"] = auxiliary_against_final(
            seen, predictions, rated, n_resamples=n_resamples, tolerance=0.1
        )
    return found


def ablation(
    predictions: Mapping[str, pd.DataFrame],
    *,
    reference: str = "no_attention",
    attributes: Sequence[str] = ATTRIBUTES,
    test: Test = "wilcoxon",
    unit: Unit = "patient",
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Each variant against one of them on the same lesions (Table 1, the asterisks; section 4.1).

    The paper says "t-tests which compared the absolute errors" and marks means of p < 0.05:
    `test="t", unit="lesion"`, row `mean`. See `lesionlab.statistics.paired` for what is done here.

    Args:
        predictions: Variant to its out-of-fold predictions, as `Outcome.predictions`.
        reference: The variant that the others are compared with.
        attributes: Which to compare.
        test: As in `paired`.
        unit: As in `paired`.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        Index (variant, attribute), columns as `paired`, where a is the variant and b the
        reference: a difference below 0 is an improvement. Holm's method adjusts for the
        attributes of one variant, not for the number of variants.

    Raises:
        KeyError: A column is missing.
        ValueError: `reference` is not there, there is no other variant, or as `paired`.
    """
    if reference not in predictions or len(predictions) < 2:
        raise ValueError(
            f"reference={reference!r}: expected it and another among {list(predictions)}"
        )
    return pd.concat(
        {
            variant: paired(frame, predictions[reference], attributes, test=test, unit=unit,
                            n_resamples=n_resamples, seed=seed)
            for variant, frame in predictions.items()
            if variant != reference
        },
        names=["variant", "attribute"],
    )  # fmt: skip


def auxiliary_against_final(
    attention: Attention,
    predictions: pd.DataFrame,
    attributes: Sequence[str] | None = None,
    *,
    tolerance: float = 0.01,
    test: Test = "wilcoxon",
    unit: Unit = "patient",
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The errors of the auxiliary heads against those of the final ones (Table 3).

    Args:
        attention: What the run's models say of its test lesions, with auxiliary scores.
        predictions: Of the same run, for the truths, as `Outcome.predictions`.
        attributes: Which to compare; all that are scored if None. Leave malignancy out where it
            is a class.
        tolerance: How far the final scores may be from the run's own, in rating steps: another
            device rounds differently, another model is farther off.
        test: As in `paired`.
        unit: As in `paired`.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        As `paired`, with mae_auxiliary and mae_final; a difference (auxiliary − final) above 0
        says that the final scores are better.

    Raises:
        KeyError: A column is missing.
        ValueError: There are no auxiliary scores, the lesions or the final scores are not those
            of the run, or as `paired`.
    """
    if attention.auxiliary is None:
        raise ValueError("attention: the model has no auxiliary heads")
    names = list(attention.attributes if attributes is None else attributes)
    if missing := [name for name in names if name not in attention.attributes]:
        raise ValueError(f"attributes: {missing} are not scored, only {list(attention.attributes)}")
    check_columns(predictions, ["lesion_id", "patient", *names, *(f"{n}_truth" for n in names)])
    run = predictions.set_index("lesion_id")
    if set(run.index) != set(attention.lesion_ids) or len(run) != len(attention.lesion_ids):
        raise ValueError(
            f"attention has {len(attention.lesion_ids)} lesions and predictions {len(run)}, "
            "expected the same"
        )
    run = run.loc[list(attention.lesion_ids)]
    at = [attention.attributes.index(name) for name in names]
    gap = float(np.abs(run[names].to_numpy(dtype=float) - attention.final[:, at]).max())
    if not gap <= tolerance:
        raise ValueError(
            f"attention: final scores are up to {gap:.3g} from those of the run, expected at most "
            f"{tolerance:g}: these are other weights, or samples"
        )
    auxiliary = run.assign(**dict(zip(names, attention.auxiliary[:, at].T, strict=True)))
    found = paired(
        auxiliary.reset_index(), predictions, names,
        test=test, unit=unit, n_resamples=n_resamples, seed=seed,
    )  # fmt: skip
    return found.rename(columns={"mae_a": "mae_auxiliary", "mae_b": "mae_final"})


def auxiliary_rows(comparison: pd.DataFrame) -> dict[str, Mapping[Hashable, float]]:
    """The two rows of Table 3, for `beside(3, {}, others=…)`.

    Args:
        comparison: Of `auxiliary_against_final`.
    """
    return {
        "Auxiliary": comparison["mae_auxiliary"].to_dict(),
        "Final": comparison["mae_final"].to_dict(),
    }


def examples(
    predictions: pd.DataFrame,
    attributes: Sequence[str] = ATTRIBUTES,
    *,
    quantiles: Sequence[float] = (0.1, 0.5, 0.9),
) -> pd.DataFrame:
    """Lesions to show as Fig. 7 does, picked by rule: well, middling and badly scored ones.

    The paper does not say how it chose.

    Args:
        predictions: As `Outcome.predictions`.
        attributes: Over which the error of a lesion is averaged.
        quantiles: Of that error over all lesions; for each the lesion that is nearest to it.

    Returns:
        Index lesion_id, columns quantile and error (rating steps), in the order of `quantiles`; a
        lesion may serve twice where there are few.

    Raises:
        KeyError: A column is missing.
        ValueError: Gaps, no lesions, or a quantile outside of 0 to 1.
    """
    names = list(attributes)
    check_columns(predictions, ["lesion_id", *names, *(f"{name}_truth" for name in names)])
    if not quantiles or not all(0 <= q <= 1 for q in quantiles):
        raise ValueError(f"quantiles={quantiles!r}: expected some of 0 to 1")
    rows = predictions.set_index("lesion_id").sort_index()
    off = [(rows[name] - rows[f"{name}_truth"]).abs() for name in names]
    error = pd.concat(off, axis=1).mean(axis=1, skipna=False)
    if error.empty or error.isna().any():
        raise ValueError(
            f"predictions: {int(error.isna().sum())} of {len(error)} lesions have gaps"
        )
    picked = [str((error - float(error.quantile(q))).abs().idxmin()) for q in quantiles]
    return pd.DataFrame(
        {"quantile": list(quantiles), "error": error.loc[picked].to_numpy()},
        index=pd.Index(picked, name="lesion_id"),
    )


def ambiguous(
    readings: pd.DataFrame,
    lesions: Sequence[str],
    attribute: str = "subtlety",
    *,
    n: int = 3,
    min_readers: int = 3,
) -> pd.DataFrame:
    """Lesions whose readers differ most about one attribute, as in Fig. 8.

    Args:
        readings: One row per reading: `lesion_id` and the attribute.
        lesions: Among which to look, such as those that a model has predicted.
        attribute: Which; the paper shows subtlety.
        n: How many.
        min_readers: Readers that a lesion has at least.

    Returns:
        Index lesion_id; columns n_readers, sd, range; largest range first, then largest sd.

    Raises:
        KeyError: A column is missing.
        ValueError: No lesion has so many readers, or as `statistics.agreement.disagreement`.
    """
    among = readings[readings["lesion_id"].isin(list(lesions))]
    found = disagreement(among, [attribute]).drop(columns="attribute")
    found = found[found["n_readers"] >= min_readers]
    if found.empty:
        raise ValueError(
            f"lesions: none of {len(lesions)} has {min_readers} readers of {attribute}"
        )
    order = found.sort_values(["range", "sd", "lesion_id"], ascending=[False, False, True])
    return order.head(n).set_index("lesion_id")


def lesion_scores(
    predictions: pd.DataFrame, lesion_id: str, *, readings: pd.DataFrame | None = None
) -> pd.DataFrame:
    """What a model and the readers say of one lesion (Fig. 7 and 8).

    Args:
        predictions: As `Outcome.predictions`.
        lesion_id: Which.
        readings: One row per reading, for the readers one by one.

    Returns:
        Index attribute; columns truth (the readers' mean), predicted, error (|predicted − truth|),
        and from the readings `readers`, a list of their ratings in ascending order.

    Raises:
        KeyError: A column is missing.
        ValueError: The lesion is not there exactly once, or has no readings.
    """
    check_columns(predictions, ["lesion_id"])
    row = predictions[predictions["lesion_id"] == lesion_id]
    if len(row) != 1:
        raise ValueError(f"lesion_id={lesion_id!r}: there {len(row)} times, expected once")
    names = [c for c in ATTRIBUTES if c in row and f"{c}_truth" in row]
    if not names:
        raise KeyError(f"predictions has none of the attributes; it has {list(row)}")
    values = row.iloc[0]
    table = pd.DataFrame(
        {
            "truth": [float(values[f"{name}_truth"]) for name in names],
            "predicted": [float(values[name]) for name in names],
        },
        index=pd.Index(names, name="attribute"),
    )
    table["error"] = (table["predicted"] - table["truth"]).abs()
    if readings is not None:
        own = readings[readings["lesion_id"] == lesion_id]
        if own.empty:
            raise ValueError(f"readings: none of lesion {lesion_id!r}")
        table["readers"] = [sorted(own[name].dropna().astype(float)) for name in names]
    return table
