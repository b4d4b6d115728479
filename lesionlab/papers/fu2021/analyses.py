"""What Fu et al. 2021 do with their models (section 4): errors compared, lesions picked, Fig. 2.

    ablation({"full": …, "no_attention": …})                       # the asterisks of Table 1
    auxiliary_against_final(seen, outcome.predictions)             # Table 3

Predictions and scores are those of `lesionlab.training.outcomes.Outcome`. What the attention says
is in `attention`, the paper's tables beside ours in `tables`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lesionlab.papers.fu2021.attention import (
    Attention,
    attention_agreement,
    describe,
    ends_against_middle,
    mean_weights,
    position_profile,
)
from lesionlab.papers.fu2021.model import Network
from lesionlab.papers.fu2021.samples import ATTRIBUTES
from lesionlab.sources.phantom import drawn_ratings
from lesionlab.statistics.baselines import diameter_regression
from lesionlab.statistics.correlation import correlation_matrix
from lesionlab.statistics.intervals import bootstrap_weights_over_groups
from lesionlab.statistics.paired import Test, Unit, paired
from lesionlab.statistics.scoring import skill

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lesionlab.training.studies import Trained

# --- errors compared, lesions picked ------------------------------------------------------------


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
        predictions: Predictions of the same run, for the truths.
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
        ValueError: There are no auxiliary scores, the lesions or the final scores are not those
            of the run, or as `paired`.
    """
    if attention.auxiliary is None:
        raise ValueError("attention: the model has no auxiliary heads")
    names = list(attention.attributes if attributes is None else attributes)
    run = predictions.set_index("lesion_id")
    if sorted(run.index) != sorted(attention.lesion_ids):
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


def summary(
    folds: Iterable[Trained], predictions: pd.DataFrame, *, n_resamples: int = 2000
) -> dict[str, pd.DataFrame]:
    """What the models of a run looked at, as the tables that its figures need.

    Args:
        folds: What `studies.trained` gave.
        predictions: Predictions of the same run, as `Outcome.predictions`.
        n_resamples: Resamples of patients for the intervals.

    Returns:
        As far as the variant has the parts: ends (`ends_against_middle`), profile
        (`position_profile`), weights (`mean_weights`), agreement (`attention_agreement`, with the
        correlations of the readers' mean ratings over the same lesions), auxiliary
        (`auxiliary_against_final`).
    """
    seen = Attention.join(describe(fold.experiment, fold.weights, fold.samples) for fold in folds)
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
        is_class = rows["malignancy_truth"].isin([0, 1]).all()
        rated = [name for name in seen.attributes if not (is_class and name == "malignancy")]
        found["auxiliary"] = auxiliary_against_final(
            seen, predictions, rated, n_resamples=n_resamples, tolerance=0.1
        )
    return found


def against_diameter(
    predictions: pd.DataFrame,
    table: pd.DataFrame,
    folds: pd.Series[int],
    attributes: Sequence[str] = ATTRIBUTES,
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The errors of a model against those of the diameter alone, on the same lesions.

    For each fold, the diameter's predictions are learned from all lesions of the other folds.

    Args:
        predictions: Of one run, as `Outcome.predictions`.
        table: The cohort, with diameters.
        folds: lesion_id -> fold, those of the run.
        attributes: Which to compare.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        As `lesionlab.statistics.paired.paired`, with mae_model and mae_diameter; a difference
        (model − diameter) below 0 says that the model is better.

    Raises:
        KeyError: A column is missing.
        ValueError: A lesion is not in the cohort or in another fold, or as `paired`.
    """
    names = list(attributes)
    lesions = predictions["lesion_id"]
    if (wrong := predictions["fold"] != lesions.map(folds)).any():
        raise ValueError(f"folds: {lesions[wrong].iloc[0]} was predicted in another fold")
    parts = []
    for fold, asked in predictions.groupby("fold"):
        part = asked[["lesion_id", "patient", *(f"{name}_truth" for name in names)]].copy()
        for name in names:
            # two parts only: this fold, and all others to learn from
            found = diameter_regression(table, name, folds=folds == fold, n_resamples=2)
            said = found.predictions.set_index("lesion_id")["prediction"]
            part[name] = part["lesion_id"].map(said)
        parts.append(part)
    compared = paired(predictions, pd.concat(parts), names, n_resamples=n_resamples, seed=seed)
    return compared.rename(columns={"mae_a": "mae_model", "mae_b": "mae_diameter"})


def visible(
    table: pd.DataFrame,
    folds: pd.Series[int],
    *,
    test: Collection[int] = (0,),
    seed: int = 0,
    n_resamples: int = 1000,
) -> pd.DataFrame:
    """What could be read off phantoms at best: errors of one who knows the rendered rating.

    A phantom shows one reader's ratings, the target is the mean of all readers. Whoever reads the
    shown rating without a fault can say, for each of its steps, the median target of the training
    lesions that show it. Where that is not clearly better than a constant, nothing can be seen.

    Args:
        table: The cohort or a part of it, as `lesionlab.sources.lidc.nodules`.
        folds: lesion_id -> fold.
        test: Folds whose lesions are predicted, from all the others.
        seed: Of the phantoms, and of the resamples.
        n_resamples: For the intervals.

    Returns:
        Index attribute, those that are rendered; columns constant and known (mean absolute errors,
        rating steps), skill (1 − known / constant), low and high (95 % interval of constant −
        known over patients; one lesion that differs from all others leaves it at 0), n (lesions).

    Raises:
        KeyError: A column is missing.
        ValueError: There is nothing to predict, or nothing to learn from.
    """
    tested = folds.reindex(table.index).isin(test).to_numpy()
    if not tested.any() or tested.all():
        raise ValueError(f"test={tuple(test)}: {tested.sum()} of {len(tested)} lesions are tested")
    shown = pd.DataFrame({name: drawn_ratings(row, seed=seed) for name, row in table.iterrows()}).T
    rows = {}
    for name in (a for a in ATTRIBUTES if a in shown):
        truth = table[name].astype(float)
        known = truth.notna().to_numpy()
        learned, asked = truth[known & ~tested], truth[known & tested]
        steps = learned.groupby(shown.loc[learned.index, name]).median()
        constant = float(learned.median())
        said = shown.loc[asked.index, name].map(steps).fillna(constant).astype(float)
        row = {"constant": (asked - constant).abs().mean(), "known": (asked - said).abs().mean()}
        gain = ((asked - constant).abs() - (asked - said).abs()).to_numpy()
        interval = bootstrap_weights_over_groups(
            lambda weights, gain=gain: {"gain": weights @ gain / weights.sum(1)},  # type: ignore[misc]
            table.loc[asked.index, "patient"],
            n_resamples=n_resamples,
            seed=seed,
        )["gain"]
        row |= {"skill": skill(row["known"], row["constant"])}
        rows[name] = row | {"low": interval.low, "high": interval.high, "n": len(asked)}
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("attribute")
    return found.astype({"n": int})


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
    """
    rows = predictions.set_index("lesion_id").sort_index()
    off = [(rows[name] - rows[f"{name}_truth"]).abs() for name in attributes]
    error = pd.concat(off, axis=1).mean(axis=1, skipna=False)
    picked = [str((error - float(error.quantile(q))).abs().idxmin()) for q in quantiles]
    return pd.DataFrame(
        {"quantile": list(quantiles), "error": error.loc[picked].to_numpy()},
        index=pd.Index(picked, name="lesion_id"),
    )


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
        KeyError: The lesion is not among the predictions.
    """
    values: Any = predictions.set_index("lesion_id").loc[lesion_id]
    names = [name for name in ATTRIBUTES if name in values and f"{name}_truth" in values]
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
        table["readers"] = [sorted(own[name].dropna().astype(float)) for name in names]
    return table


PARTS = (
    ("CNN", "backbone", "256\nper slice", ""),
    ("SAM", "slices", "256", "one weight\nper slice"),
    ("ASCMM", "modulation", "9 ×\n256", "9 auxiliary scores\n(training only)"),
    ("CAAM", "attention", "9 ×\n256", "9 × 9 weights"),
    ("output", "heads", "9\nscores", ""),
)
"""The paper's name, ours in `Network`, what comes out for one nodule, and what beside."""


def architecture(network: Network) -> Figure:
    """The parts of the full network in the order in which a nodule passes them (figure 2).

    Args:
        network: The full one; its classes and numbers of parameters are written into the boxes.
    """
    from lesionlab.figures.readers import BLUE, GREEN, ORANGE, _figure

    grey = "#666666"
    colours = (grey, BLUE, GREEN, ORANGE, grey)
    figure = _figure(7.2, 2.1)
    ax = figure.subplots()
    ax.set(xlim=(-0.78, 5.05), ylim=(-1.25, 0.85))
    ax.axis("off")
    arrow = {"arrowstyle": "->", "color": grey}
    ax.annotate("", (0, 0), (-0.75, 0), arrowprops=arrow)
    ax.text(-0.42, 0.12, "64 × 64\nper slice", ha="center", fontsize=8)
    for x, ((name, part, out, beside), colour) in enumerate(zip(PARTS, colours, strict=True)):
        module = network.get_submodule(part)
        ours = re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", type(module).__name__)
        count = sum(p.numel() for p in module.parameters())
        ax.text(x + 0.3, 0.62, name, ha="center", fontsize=10, fontweight="bold", color=colour)
        ax.text(x + 0.3, 0, f"{ours}\n{count:,}", ha="center", va="center", fontsize=8,
                bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": colour})  # fmt: skip
        ax.annotate("", (x + 1, 0), (x + 0.62, 0), arrowprops=arrow)
        ax.text(x + 0.82, 0.12, out, ha="center", fontsize=8)
        if beside:
            ax.annotate("", (x + 0.3, -0.82), (x + 0.3, -0.5), arrowprops=arrow)
            ax.text(x + 0.3, -0.87, beside, ha="center", va="top", fontsize=8)
    return figure
