"""Li et al. 2021: how well its models do, class by class and level by level, beside what it prints.

    by_class(outcome.predictions, targets)                   # five measures, with intervals
    compare(outcome.predictions, other, targets)             # which of two models is better
    beside(4, {"self_2d": outcome.scores, …}, tier="phantom")
    chi_square_matrix(named(table), ATTRIBUTES)              # Fig. 2A, by `statistics.association`

Predictions, scores and folds are those of `lesionlab.training.outcomes.Outcome`, and `targets`
those of its experiment. **The printed columns are not what eq. 5 to 7 define**: a class's
"accuracy" is its recall, "sensitivity" its precision, "specificity" its negative predictive value;
the note of the published tables has the proof. Here each measure has its own name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
import torch

from lesionlab import published
from lesionlab.attributes import category, title
from lesionlab.crops import Tier
from lesionlab.papers import _shared
from lesionlab.papers.li2021 import ATTRIBUTES, NAMES, TABLES, VARIANTS, Li2021, target
from lesionlab.statistics.intervals import Array, Resampling
from lesionlab.statistics.scoring import class_measures, mean_of_known
from lesionlab.training.studies import Plan
from lesionlab.training.targets import TRUTH, Targets

if TYPE_CHECKING:
    from lesionlab.training.outcomes import Outcome
    from lesionlab.training.studies import Trained

MEASURES = ("recall", "precision", "npv", "specificity", "accuracy")

HELD = {"accuracy": "recall", "sensitivity": "precision", "specificity": "npv"}
"""By the head of a printed column: what its numbers are."""

EQUATIONS = {"accuracy": "accuracy", "sensitivity": "recall", "specificity": "specificity"}
"""By the head of a printed column: what eq. 5 to 7 say that it is."""

MEAN = "mean"
LEVELS = ("low", "middle", "high")
FEW = 20
"""A class of fewer lesions is shown, and judged by nobody."""


def named(table: pd.DataFrame) -> pd.DataFrame:
    """Li's categories of a table in the paper's words and order; no word for location 0.

    As `statistics.association` takes them: for all nine, `conditional_probability` is the 27 × 27
    matrix of Fig. 2B.
    """
    found = {}
    for name in (a for a in ATTRIBUTES if a in table):
        words = category(name).words
        order = pd.CategoricalDtype(list(words.values()), ordered=True)
        found[name] = table[name].map(dict(words)).astype(order)
    return pd.DataFrame(found)


# --- measures with intervals --------------------------------------------------------------------


def by_class(
    predictions: pd.DataFrame, targets: Targets, *, least: int = FEW, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """`MEASURES` of each class, and their means over classes, attributes and levels.

    An attribute's row `mean` is over its classes, a level's over its attributes (section 1), and
    that of `all` over all attributes, as in the last rows of Tables 3 and 4. Classes with fewer
    than `least` lesions count for no mean, and an attribute with one other class has none; the
    paper leaves out none.

    Returns:
        Index attribute (or low, middle, high, all), category, measure; columns value, low, high,
        lesions (of the class; all with a label for a mean), judged, n and n_groups (patients).
    """
    calls = _calls(predictions, targets)
    found = _shared.intervals(
        lambda weights: _measures(calls, weights, least), predictions["patient"], **how
    )
    found = found.rename_axis(["attribute", "category", "measure"])
    counts = {(a, c): n for a, classes in _counts(calls).items() for c, n in classes.items()}
    counts |= {(a, MEAN): sum(classes.values()) for a, classes in _counts(calls).items()}
    lesions = [counts.get((a, c), len(predictions)) for a, c, _ in found.index]
    means = found.index.get_level_values("category") == MEAN
    judged = np.where(means, found["value"].notna(), np.array(lesions) >= least)
    return found.assign(lesions=lesions, judged=judged)


def compare(
    predictions: pd.DataFrame,
    others: pd.DataFrame,
    targets: Targets,
    *,
    least: int = FEW,
    **how: Unpack[Resampling],
) -> pd.DataFrame:
    """One model minus another on the same lesions, in the rows of `by_class`, as value, low, high.

    Both are weighed by the same draws of patients. `ValueError` if the lesions differ.
    """
    others = others.set_index("lesion_id").reindex(predictions["lesion_id"]).reset_index()
    if len(predictions) == 0 or others["patient"].isna().any():
        raise ValueError("others: expected predictions of the same lesions")
    one, two = _calls(predictions, targets), _calls(others, targets)

    def statistics(weights: Array) -> dict[Any, Array]:
        a, b = _measures(one, weights, least), _measures(two, weights, least)
        return {key: a[key] - b[key] for key in a}

    found = _shared.intervals(statistics, predictions["patient"], **how)
    return found.rename_axis(["attribute", "category", "measure"])


def recall_gap(one: Outcome, other: Outcome, **how: Unpack[Resampling]) -> pd.DataFrame:
    """Mean recall of one kept run minus that of another, on the lesions that both have.

    Rows for the heads, and `all`; columns as of `compare`.
    """
    shared = one.predictions[one.predictions["lesion_id"].isin(other.predictions["lesion_id"])]
    targets = Plan(**one.about["plan"]).experiment.targets
    found = compare(shared, other.predictions, targets, **how)
    recalls: Any = found.xs((MEAN, "recall"), level=("category", "measure"))
    return pd.DataFrame(recalls.drop(index=list(LEVELS)))


def against_baselines(scores: pd.DataFrame, *, metric: str = "macro_recall") -> pd.DataFrame:
    """Each head against what sees no image: the more frequent class, and the diameter alone.

    By the mean recall of its classes, which is what the paper calls their accuracy; `"accuracy"`
    asks whether it is right more often than one who always says the most frequent class.

    Returns:
        Index attribute; columns level, value, low, high, majority, diameter, above (the lower end
        of the interval is above the majority), n and n_groups (patients).
    """
    known = _shared.scores_of(scores).xs(metric, level="metric")
    model = known.loc["model"]
    table = model[["value", "low", "high"]].rename_axis("attribute")
    table.insert(0, "level", [category(str(name)).level for name in table.index])
    for name in ("majority", "diameter"):
        rows = known[known.index.get_level_values("predictor") == name]
        table[name] = rows["value"].droplevel("predictor")
    return table.assign(
        above=table["low"] > table["majority"], n=model["n"], n_groups=model["n_groups"]
    )


Calls = dict[str, tuple[tuple[str, ...], Array, Array]]  # by attribute: classes, truth, call


def _calls(predictions: pd.DataFrame, targets: Targets) -> Calls:
    """By attribute, its classes' names, and (lesion, class) which is true, and which is called."""
    found: Calls = {}
    for one in targets:
        truth = predictions[one.name + TRUTH].to_numpy(dtype=float)[:, None] == np.array(one.codes)
        known = truth.any(axis=1, keepdims=True)
        called = np.eye(len(one.codes))[predictions[list(one.columns)].to_numpy().argmax(axis=1)]
        names = tuple(one.classes[code] for code in one.codes)
        found[one.name] = names, truth.astype(float), called * known
    return found


def _counts(calls: Calls) -> dict[str, dict[str, int]]:
    return {
        name: dict(zip(classes, truth.sum(0).astype(int).tolist(), strict=True))
        for name, (classes, truth, _) in calls.items()
    }


def _measures(calls: Calls, weights: Array, least: int) -> dict[Any, Array]:
    """(resample,) by attribute, category and measure."""
    found: dict[Any, Array] = {}
    for name, (classes, truth, called) in calls.items():
        each = class_measures(*(weights @ of for of in (truth, called, truth * called)))
        judged = truth.sum(0) >= least
        judged &= judged.sum() > 1  # the recall of a single class says nothing
        for measure in MEASURES:
            values = each[measure]
            found |= {(name, c, measure): values[:, k] for k, c in enumerate(classes)}
            found[name, MEAN, measure] = _mean(list(values[:, judged].T), len(weights))
    levels = {level: [a for a in calls if category(a).level == level] for level in LEVELS}
    for level, names in (levels | {"all": list(calls)}).items():
        for measure in MEASURES:
            means = [found[name, MEAN, measure] for name in names]
            found[level, MEAN, measure] = _mean(means, len(weights))
    return found


def _mean(values: Sequence[Array], n: int) -> Array:
    """(n,) the mean of what is not NaN, also of no values at all."""
    return mean_of_known(np.stack([*values, np.full(n, np.nan)]), axis=0)


# --- the paper's tables -------------------------------------------------------------------------


def beside(
    number: int | str,
    results: Mapping[str, pd.DataFrame],
    *,
    tier: Tier,
    holds: Mapping[str, str] = HELD,
) -> pd.DataFrame:
    """Table 3 or 4 beside the scores of runs, by variant; a row for each class.

    `holds` says which measure stands under a printed head: what the printed numbers are (`HELD`),
    or what eq. 5 to 7 define (`EQUATIONS`). Columns are called by both, as "accuracy (recall), 2D".
    The last row is the mean over attributes of the mean over their classes. As `_shared.beside`.
    """
    printed = published.table("li2021", number)
    variants = TABLES[str(printed.attrs["table"])]
    model = str(printed.columns[2])  # "mode" or "model"
    heads = {f"{head} ({holds[head]}), {m}": (head, m) for head in HELD for m in variants}
    rows = dict.fromkeys(zip(printed["attribute"], printed["category"], strict=True))
    by_row = printed.set_index(["attribute", "category", model])
    names: dict[str, Any] = {_row(*row): row for row in rows}
    wide = pd.DataFrame(
        {c: [by_row.loc[(*row, m), head] for row in rows] for c, (head, m) in heads.items()},
        index=pd.Index(list(names), name="class"),
    )
    wide.attrs = printed.attrs

    def cell(row: str, column: str) -> tuple[str, str, str]:
        (attribute, word), (head, model) = names[row], heads[column]
        if not word:
            return variants[model], f"macro_{holds[head]}", MEAN
        of = target(category(attribute))
        return variants[model], f"{holds[head]}_{of.classes.index(word)}", attribute

    runs = {v: _averaged(scores) for v, scores in results.items() if v in variants.values()}
    return _shared.beside(wide, runs, cell, columns=list(heads), tier=tier, baselines=False)


def _row(attribute: Any, word: Any) -> str:
    return f"{title(attribute)}: {word}" if word else "Average"


def _averaged(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with the mean over the attributes; all of as many lesions as the run has."""
    macro = scores[scores["metric"].str.startswith("macro_")]
    means = macro.groupby(["predictor", "metric"], as_index=False)["value"].mean()
    every: pd.DataFrame = pd.concat([scores, means.assign(target=MEAN)], ignore_index=True)
    return every.assign(n=scores["n"].max(), n_groups=scores["n_groups"].max())


def called(variant: str, data: str) -> str:
    """What a row of kept runs is called; most are narrow, so that only all channels are named."""
    words, narrow, _ = NAMES[variant].partition(", narrow")
    return f"{words}, {data}" + ("" if narrow else ", all channels")


def of_kept(runs: Mapping[tuple[str, str], Outcome]) -> pd.DataFrame:
    """Mean recall of each head of kept runs, by variant and data, above those who see no image."""
    rows: dict[str, Any] = {}
    blind: dict[str, Any] = {}
    for (variant, data), run in runs.items():
        scored = against_baselines(run.scores)
        counts = {"folds": len(run.folds), "lesions": len(run.predictions)}
        rows[called(variant, data)] = {**counts, **scored["value"]}
        for who in ("majority", "diameter"):
            blind[f"{who.capitalize()} alone, {data}"] = scored[who].to_dict()
    table = pd.DataFrame.from_dict(rows | blind, orient="index")
    table.insert(2, "mean", table.iloc[:, 2:].mean(axis=1))
    return table


def data_beside(number: int | str, lesions: pd.DataFrame, *, tier: Tier) -> pd.DataFrame:
    """Table 1 or 2 beside a table of lesions: its size and its classes."""
    printed = published.table("li2021", number)
    if str(printed.attrs["table"]) == "1":
        ours: dict[str, float] = {"scans": lesions["scan_id"].nunique(), "lesions": len(lesions)}
        columns = {"lesion_size": "diameter"} | {k: k for k in ("slice_thickness", "pixel_spacing")}
        for head, column in columns.items():
            ours |= {f"{head}_{end}": lesions[column].agg(end) for end in ("min", "max")}
        # the second row of LISS has the name of the first
        printed = printed.drop_duplicates("dataset").set_index("dataset")
        return _shared.joined(printed, pd.DataFrame(ours, index=["Ours"]), tier=tier)
    if str(printed.attrs["table"]) != "2":
        raise LookupError(f"number={number!r}: expected 1 or 2; `beside` has the others")
    rows = [_row(*pair) for pair in zip(printed["attribute"], printed["category"], strict=True)]
    words = named(lesions)
    counts = {
        _row(name, word): n for name in words for word, n in words[name].value_counts().items()
    }
    shown = printed[["lesions"]].set_axis(pd.Index(rows, name="class"))
    shown.attrs = printed.attrs
    return _shared.joined(shown, pd.DataFrame({"lesions": counts}), tier=tier)


# --- training -----------------------------------------------------------------------------------


def parameters(attributes: Sequence[str] = ATTRIBUTES) -> pd.Series[int]:
    """Parameters of every variant with these heads, without making one."""
    with torch.device("meta"):
        models = {v: Li2021(v, attributes=tuple(attributes)).model(0) for v in VARIANTS}
    found = {v: sum(p.numel() for p in model.parameters()) for v, model in models.items()}
    return pd.Series(found, name="parameters").rename_axis("variant")


def seconds(variants: Iterable[str], *, n: int = 4) -> pd.Series[float]:
    """Seconds of a training step for each of `n` lesions on this CPU, by variant (6.1).

    Forward, loss and gradient, on random images; the better of two steps after a first one.
    """
    found = {}
    for variant in variants:
        design = VARIANTS[variant]
        model: Any = Li2021(variant).model(0).train()
        images, times = torch.rand(n, design.n_slices, *[design.size] * design.axes), []
        for _ in range(3):
            start = time.perf_counter()
            sum(scores.square().mean() for scores in model(images).logits.values()).backward()
            times.append(time.perf_counter() - start)
        found[variant] = min(times[1:]) / n
    return pd.Series(found, name="seconds").rename_axis("variant")


def competition(history: pd.DataFrame) -> pd.DataFrame:
    """Do heads compete while training (5.2)? Each head's loss against that of all, by epoch.

    "When the loss value is stable, the accuracy of some attributes increases while the accuracy of
    other attributes decreases." Here by the training losses of `Fitted.history`.

    Returns:
        Index epoch, from the second on; columns change (of the summed loss), falling and rising
        (the heads' changes summed by sign) and n_rising.
    """
    heads = history[[f"loss_{name}" for name in ATTRIBUTES if f"loss_{name}" in history]]
    steps = heads.diff().iloc[1:]
    return pd.DataFrame(
        {
            "change": history["loss"].diff().iloc[1:],
            "falling": steps.clip(upper=0).sum(axis=1),
            "rising": steps.clip(lower=0).sum(axis=1),
            "n_rising": (steps > 0).sum(axis=1),
        }
    )


def summary(folds: Iterable[Trained], predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What is kept beside a run's scores: `by_class`, and LIDC's thresholds if it rests on them."""
    experiment: Any = next(iter(folds)).experiment
    found = {"classes": by_class(predictions, experiment.targets)}
    if experiment.thresholds is not None:
        rule = pd.Series(asdict(experiment.thresholds), name="value")
        found["thresholds"] = rule.rename_axis("threshold").to_frame()
    return found
