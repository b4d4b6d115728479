"""Fu 2021, what can be said without a network: see `lesionlab.papers.fu2021.analyses`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd

from lesionlab.papers.fu2021 import ATTRIBUTES
from lesionlab.sources.phantom import drawn_ratings
from lesionlab.statistics.baselines import diameter_regression
from lesionlab.statistics.intervals import bootstrap_weights_over_groups
from lesionlab.statistics.paired import paired
from lesionlab.statistics.scoring import check_columns, skill


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
    check_columns(predictions, ["lesion_id", "patient", "fold", *(f"{n}_truth" for n in names)])
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
