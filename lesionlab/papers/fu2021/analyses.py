"""What Fu et al. 2021 do with their models (section 4): errors compared, lesions picked.

    paired(full, no_attention, ATTRIBUTES, test="t", unit="lesion")   # the asterisks of Table 1
    auxiliary_against_final(seen, outcome.predictions)                # Table 3

Predictions are those of `lesionlab.training.outcomes.Outcome`. What the attention says is in
`attention`, the paper's tables beside ours in `tables`; `paired` is that of `statistics.paired`, to
which `**how` goes. The paper marks means with p < 0.05 of "t-tests which compared the absolute
errors" (4.1), row `mean` there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.model_selection import GroupKFold

from lesionlab.papers._shared import nearest, ratios
from lesionlab.papers.fu2021.attention import (
    Attention,
    attention_agreement,
    describe,
    ends_against_middle,
    mean_weights,
    position_profile,
)
from lesionlab.papers.fu2021.samples import ATTRIBUTES
from lesionlab.sources.phantom import drawn_ratings
from lesionlab.statistics.baselines import diameter_regression
from lesionlab.statistics.correlation import correlation_matrix, spearman
from lesionlab.statistics.intervals import bootstrap_weights_over_groups
from lesionlab.statistics.paired import paired
from lesionlab.statistics.scoring import skill

if TYPE_CHECKING:
    from lesionlab.training.studies import Trained


def auxiliary_against_final(
    attention: Attention,
    predictions: pd.DataFrame,
    attributes: Sequence[str] | None = None,
    *,
    tolerance: float = 0.01,
    **how: Any,
) -> pd.DataFrame:
    """The errors of the auxiliary heads against those of the final ones (Table 3), as `paired`.

    The columns are mae_auxiliary and mae_final; a difference above 0 says that the final scores are
    better. `attention` and `predictions` are of the same run: `ValueError` if the final scores are
    farther apart than `tolerance`, in rating steps, as another device would round them. Leave
    malignancy out of the `attributes` where it is a class.
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
    found = paired(auxiliary.reset_index(), predictions, names, **how)
    return found.rename(columns={"mae_a": "mae_auxiliary", "mae_b": "mae_final"})


def summary(folds: Iterable[Trained], predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What the models of a run looked at, as the tables that its figures need.

    As far as the variant has the parts: ends (`ends_against_middle`), profile (`position_profile`),
    weights (`mean_weights`), agreement (`attention_agreement`, with the correlations of the
    readers' mean ratings over the same lesions), auxiliary (`auxiliary_against_final`).
    """
    seen = describe(folds)
    rows = predictions.set_index("lesion_id")
    found: dict[str, pd.DataFrame] = {}
    if seen.slices is not None:
        found["ends"] = ends_against_middle(seen.slices, rows["patient"])
        found["profile"] = position_profile(seen.slices, rows["patient"], n_resamples=2000)
    if seen.matrices is not None:
        found["weights"] = mean_weights(seen.matrices, seen.attributes)
        truths = rows[[f"{name}_truth" for name in seen.attributes]]
        truths.columns = pd.Index(seen.attributes)
        correlations = correlation_matrix(truths, seen.attributes)
        found["agreement"] = attention_agreement(seen.matrices, correlations, seen.attributes)
    if seen.auxiliary is not None:
        is_class = rows["malignancy_truth"].isin([0, 1]).all()
        rated = [name for name in seen.attributes if not (is_class and name == "malignancy")]
        found["auxiliary"] = auxiliary_against_final(seen, predictions, rated, tolerance=0.1)
    return found


def against_diameter(
    predictions: pd.DataFrame,
    table: pd.DataFrame,
    folds: pd.Series[int],
    attributes: Sequence[str] = ATTRIBUTES,
    **how: Any,
) -> pd.DataFrame:
    """The errors of a model against those of the diameter alone, as `paired`.

    The columns are mae_model and mae_diameter; a difference below 0 says that the model is better.
    For each fold, the diameter's predictions are learned from all lesions of the other folds.
    `table` is the cohort, with diameters, and `folds` are those of the run, by lesion.
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
            found = diameter_regression(table, name, folds=folds == fold)
            part[name] = part["lesion_id"].map(found.set_index("lesion_id")["prediction"])
        parts.append(part)
    compared = paired(predictions, pd.concat(parts), names, **how)
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
    The lesions of the folds `test` are predicted from all others of `table`. `seed` is that of the
    phantoms and of the resamples of patients.

    Returns:
        Index attribute, those that are rendered; columns constant and known (mean absolute errors,
        rating steps), skill (1 − known / constant), low and high (95 % interval of constant −
        known over patients; one lesion that differs from all others leaves it at 0), n (lesions).
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
        errors = pd.DataFrame({"constant": asked - constant, "known": asked - said}).abs()
        means = errors.mean().to_dict()
        gains = (errors["constant"] - errors["known"]).to_frame()
        patients = table.loc[asked.index, "patient"]
        found = ratios(gains, 1.0, patients, n_resamples=n_resamples, seed=seed).iloc[0]
        means["skill"] = float(skill(means["known"], means["constant"]))
        rows[name] = means | {"low": found["low"], "high": found["high"], "n": len(asked)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("attribute")


def transfer(
    predictions: pd.DataFrame,
    attributes: Sequence[str] = ATTRIBUTES,
    *,
    n_folds: int = 5,
    **how: Any,
) -> pd.DataFrame:
    """How well a model does on lesions of another kind than it was trained on.

    Such a model may put lesions in the right order on a scale that is shifted or squeezed. So its
    errors are told as they are, and after a refit: slope and offset of each rating, fitted by least
    squares on the patients of the other folds. The constant is the median of these patients.
    `**how` is that of `statistics.intervals`.

    Returns:
        Index attribute; columns rho (Spearman's) with its interval low and high over patients, and
        the mean absolute errors mae, refitted and constant, in rating steps.
    """
    found = {}
    for name in attributes:
        rows = predictions.dropna(subset=f"{name}_truth")
        said, truth = (rows[n].to_numpy(float) for n in (name, f"{name}_truth"))
        parts = GroupKFold(n_folds).split(rows, groups=rows["patient"])
        refitted, constant = np.empty_like(said), np.empty_like(said)
        for others, part in parts:
            line = stats.linregress(said[others], truth[others])
            refitted[part] = line.intercept + line.slope * said[part]
            constant[part] = np.median(truth[others])
        errors = {"mae": said, "refitted": refitted, "constant": constant}

        def rho(weights: Any, said: Any = said, truth: Any = truth) -> dict[str, Any]:
            return {"rho": spearman(said, truth, weights)}

        order = bootstrap_weights_over_groups(rho, rows["patient"], **how)["rho"]
        ends = {"rho": order.value, "low": order.low, "high": order.high}
        found[name] = ends | {k: np.abs(v - truth).mean() for k, v in errors.items()}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("attribute")


def learned_from_phantoms(n_lesions: int | None = None, **how: Any) -> pd.DataFrame:
    """What the full model says of real slices, trained on phantoms and, beside it, on real slices.

    Both are the weights that ship, tested on the same lesions of patients that neither has seen.

    Args:
        n_lesions: Draw so many of these lesions; all if None.
        **how: As in `transfer`.

    Returns:
        Columns trained (`phantom` or `slices`), attribute, and those of `transfer`.
    """
    from lesionlab import weights  # which imports what trains

    found = {}
    for data in ("phantom", "slices"):
        _, outcome = weights.evaluate(
            "fu2021/full", data=data, on="slices", n_lesions=n_lesions, n_resamples=1
        )
        found[data] = transfer(outcome.predictions, **how)
    return pd.concat(found, names=["trained"]).reset_index()


def examples(
    predictions: pd.DataFrame,
    attributes: Sequence[str] = ATTRIBUTES,
    *,
    quantiles: Sequence[float] = (0.1, 0.5, 0.9),
) -> pd.DataFrame:
    """Lesions to show as Fig. 7 does: the nearest to each quantile of the mean error.

    The error is the mean over the attributes, in rating steps. The paper does not say how it chose.
    Index lesion_id, columns quantile and error; a lesion may serve twice where there are few.
    """
    rows = predictions.set_index("lesion_id").sort_index()
    off = [(rows[name] - rows[f"{name}_truth"]).abs() for name in attributes]
    error = pd.concat(off, axis=1).mean(axis=1, skipna=False)
    return nearest(error.rename("error"), quantiles)[["quantile", "error"]]


def lesion_scores(
    predictions: pd.DataFrame, lesion_id: str, *, readings: pd.DataFrame | None = None
) -> pd.DataFrame:
    """What a model and the readers say of one lesion (Fig. 7 and 8).

    Index attribute; columns truth (the readers' mean), predicted, error (|predicted − truth|), and
    from `readings` readers, a list of their ratings in ascending order.
    """
    values: Any = predictions.set_index("lesion_id").loc[lesion_id]
    names = [name for name in ATTRIBUTES if name in values and f"{name}_truth" in values]
    table = pd.DataFrame(index=pd.Index(names, name="attribute"))
    table["truth"] = values[[f"{name}_truth" for name in names]].to_numpy(dtype=float)
    table["predicted"] = values[names].astype(float)
    table["error"] = (table["predicted"] - table["truth"]).abs()
    if readings is not None:
        own = readings[readings["lesion_id"] == lesion_id]
        table["readers"] = [sorted(own[name].dropna().astype(float)) for name in names]
    return table
