"""Fu et al. 2021: its Tables 1–5, S1 and S2 beside ours, and what Table 5 implies."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import cast, get_args

import numpy as np
import pandas as pd

from lesionlab import published, tables
from lesionlab.crops import Tier
from lesionlab.papers.fu2021 import TABLES
from lesionlab.papers.fu2021.samples import ATTRIBUTES
from lesionlab.statistics.agreement import one_against_rest, pairwise_difference
from lesionlab.statistics.paired import MEAN
from lesionlab.statistics.scoring import check_columns

PAPER = "fu2021"
ERRORS = (*ATTRIBUTES, MEAN)
"""The columns of the paper's tables of errors."""

CLASSES = ("accuracy", "sensitivity", "specificity", "precision", "auc")
"""The columns of Table 5."""

BASELINES = {
    "constant": "Constant (median)",
    "majority": "Constant (majority)",
    "diameter": "Diameter alone",
    "ratings": "The readers' other ratings",
}
"""Predictors of `Outcome.scores` that see no image, and what their rows are called."""

INTER_OBSERVER = "IB"
ONE_AGAINST_REST = "One reader against the others' mean"


def errors(scores: pd.DataFrame, *, readings: pd.DataFrame | None = None) -> pd.DataFrame:
    """The mean absolute error of each attribute with its skill, and what to hold it against.

    Args:
        scores: Of one run, as `lesionlab.training.outcomes.Outcome.scores`.
        readings: One row per reading of the lesions that were scored, for the readers' columns.

    Returns:
        Index attribute, `mean` last where the run has it; attributes that were not scored as a
        rating are left out. Columns mae, low, high (rating steps); constant, diameter (errors of
        these baselines); skill (1 − mae / constant), skill_low, skill_high, NaN where the constant
        is never wrong; n, n_groups; and from the readings inter_observer (mean difference of two
        readers, as Table 4) and one_against_rest, the like-for-like error of a reader.

    Raises:
        KeyError: A column is missing.
        ValueError: The model has no error in `scores`, or a score is there twice.
    """
    model = _of(scores, "model")
    rows = {}
    for target in dict.fromkeys(model["target"]):
        mae = _one(scores, target, "model", "mae")
        if mae is None:
            continue
        skill = _one(scores, target, "model", "skill")
        row = {"mae": mae["value"], "low": mae["low"], "high": mae["high"]}
        for name in ("constant", "diameter"):
            found = _one(scores, target, name, "mae")
            row[name] = np.nan if found is None else found["value"]
        for column, end in (("skill", "value"), ("skill_low", "low"), ("skill_high", "high")):
            row[column] = np.nan if skill is None else skill[end]
        rows[target] = row | {"n": mae["n"], "n_groups": mae["n_groups"]}
    if not rows:
        raise ValueError("scores: the model has no row with the metric 'mae'")
    table = pd.DataFrame(rows).T.astype(float).astype({"n": int, "n_groups": int})
    table = table.loc[[name for name in ERRORS if name in table.index]].rename_axis("attribute")
    if readings is not None:
        for name, values in readers(readings).items():
            column = "inter_observer" if name == INTER_OBSERVER else "one_against_rest"
            table[column] = values.reindex(table.index)
    return table


def readers(readings: pd.DataFrame) -> dict[str, pd.Series[float]]:
    """Two rows for Table 4: the paper's IB, and the error of a reader against the others' mean.

    Args:
        readings: One row per reading: `lesion_id` and the nine ratings.

    Returns:
        Under the name of a row, the value of each attribute and their mean.

    Raises:
        KeyError: A column is missing.
        ValueError: As `statistics.agreement.pairwise_difference`.
    """
    found = {
        INTER_OBSERVER: pairwise_difference(readings, ATTRIBUTES)["value"],
        ONE_AGAINST_REST: one_against_rest(readings, ATTRIBUTES)["value"],
    }
    return {
        name: pd.concat([values, pd.Series({MEAN: values.mean(skipna=False)})])
        for name, values in found.items()
    }


def auxiliary_rows(comparison: pd.DataFrame) -> dict[str, Mapping[Hashable, float]]:
    """The two rows of Table 3 from `analyses.auxiliary_against_final`, for `beside(others=…)`."""
    return {
        "Auxiliary": comparison["mae_auxiliary"].to_dict(),
        "Final": comparison["mae_final"].to_dict(),
    }


def by_variant(
    results: Mapping[str, pd.DataFrame], *, metric: str = "mae", predictor: str = "model"
) -> pd.DataFrame:
    """One metric of several runs: a row per variant, a column per attribute, `mean` the last.

    Args:
        results: Variant to its scores, as `Outcome.scores`.
        metric: `mae`, `skill`, `bias`, ….
        predictor: `model` or a baseline.

    Returns:
        NaN where a variant does not score an attribute.

    Raises:
        KeyError: A column is missing.
        ValueError: A score is there twice.
    """
    rows = {}
    for variant, scores in results.items():
        found = _of(scores, predictor)
        found = found[found["metric"] == metric]
        if found["target"].duplicated().any():
            raise ValueError(f"scores of {variant!r}: {metric} of a target is there twice")
        rows[variant] = found.set_index("target")["value"]
    table = pd.DataFrame(rows, index=list(ERRORS), dtype=float).T
    return table.rename_axis("variant").dropna(axis="columns", how="all")


def beside(
    number: int | str,
    results: Mapping[str, pd.DataFrame],
    *,
    tier: Tier,
    others: Mapping[str, Mapping[Hashable, float] | pd.Series[float]] | None = None,
    baselines: bool = True,
) -> pd.DataFrame:
    """One of the paper's tables with our numbers beside its own, as `lesionlab.tables.beside`.

    Args:
        number: 1, 2, 3, 4, 5, `"S1"` or `"S2"`.
        results: Variant of `fu2021.VARIANTS` to the scores of its run; those that the table has
            no row for are ignored, those that are missing are not run.
        tier: What the voxels of these runs were; it stands at the head of our numbers.
        others: Further rows of ours by name, under the columns of the table: `readers` for
            Table 4, `auxiliary_rows` for Table 3. A name of the paper's fills its row, another one
            adds a row.
        baselines: Add what predictors without an image reach on the same lesions.

    Returns:
        The paper's rows in its order, then those of ours that it has not. Columns (attribute,
        `"Fu 2021"`) as printed, (attribute, `"lesionlab (<tier>)"`) and (attribute,
        `"difference"`); the last says on how many lesions we are. NaN where the paper prints
        nothing or we ran nothing. `attrs` are those of `published.table`, and the tier.

    Raises:
        LookupError: There is no such table.
        KeyError: A column of `results` is missing.
        ValueError: Another tier, runs on different lesions, or a row of `others` without any of
            the table's columns.
    """
    if tier not in get_args(Tier):
        raise ValueError(f"tier={tier!r}: expected one of {', '.join(get_args(Tier))}")
    printed = published.table(PAPER, number)
    name = str(printed.attrs["table"])
    if name.startswith("Fig"):
        raise LookupError(f"number={number!r}: that is a figure, expected a table")
    key = str(printed.columns[0])
    labels = published.as_printed(PAPER, number)[key]  # "10", not 10.0
    if name == "5":  # two rows are "Xie et al. 2019"
        labels = (labels + " " + published.as_printed(PAPER, number)["reference"]).str.strip()
    columns = list(CLASSES if name == "5" else ERRORS)
    printed = printed.drop(columns=key).set_axis(pd.Index(labels, name=key))
    ours: dict[str, pd.Series[float]] = {}
    found = dict(
        _class_rows(results, baselines) if name == "5" else _rows(name, results, baselines)
    )
    _check_lesions(name, {row: scores for row, (scores, _) in found.items()})
    for row, (scores, values) in found.items():
        n = int(scores["n"].iloc[0])
        ours[row] = pd.concat([values.reindex(columns), pd.Series({"lesions": n})])
    for row, given in (others or {}).items():
        values = pd.Series(dict(given), dtype=float)
        if not values.index.isin(columns).any():
            raise ValueError(
                f"others: {row!r} has {list(values.index)}, expected some of {columns}"
            )
        ours[row] = values
    mine = pd.DataFrame(ours, index=[*columns, "lesions"], dtype=float).T
    mine["lesions"] = mine["lesions"].astype("Int64")
    here = f"lesionlab ({tier})"
    table = tables.beside(printed, mine, paper=published.PAPERS[PAPER].name, here=here)
    table.attrs = {**printed.attrs, "tier": tier}
    return table


def _rows(
    number: str, results: Mapping[str, pd.DataFrame], baselines: bool
) -> Iterator[tuple[str, tuple[pd.DataFrame, pd.Series[float]]]]:
    """Rows of a table of errors that there are runs for: the scores used, and the errors."""
    wanted = {"4": {"Proposed": "full"}, "S2": {"Proposed": "full"}, **TABLES}.get(number, {})
    used = {row: variant for row, variant in wanted.items() if variant in results}
    for row, variant in used.items():
        yield row, (_errors_of(results[variant]), _values(results, variant))
    alone = {name: f"only_{name}" for name in ATTRIBUTES}
    if number == "S2" and any(variant in results for variant in alone.values()):
        there = {name: v for name, v in alone.items() if v in results}
        parts = pd.Series({name: _values(results, v)[name] for name, v in there.items()})
        # the mean of nine networks, and of no fewer: others would not be the paper's mean
        parts[MEAN] = parts.mean() if len(parts) == len(ATTRIBUTES) else np.nan
        scores = pd.concat([_errors_of(results[v]) for v in there.values()])
        yield "Individual", (scores, parts)
    if baselines and used:
        first = next(iter(used.values()))
        for predictor in BASELINES:
            values = _values(results, first, predictor)
            if values.notna().any():
                yield BASELINES[predictor], (_errors_of(results[first]), values)


def _class_rows(
    results: Mapping[str, pd.DataFrame], baselines: bool
) -> Iterator[tuple[str, tuple[pd.DataFrame, pd.Series[float]]]]:
    """As `_rows`, for Table 5; the scores of a run have no precision."""
    scores = results.get("malignancy_class")
    if scores is None:
        return
    for predictor, row in {"model": "Proposed", **(BASELINES if baselines else {})}.items():
        found = _of(scores, predictor)
        found = found[(found["target"] == "malignancy") & found["metric"].isin(CLASSES)]
        if len(found):
            yield row, (found, 100 * found.set_index("metric")["value"])


def _values(
    results: Mapping[str, pd.DataFrame], variant: str, predictor: str = "model"
) -> pd.Series[float]:
    found = by_variant({variant: results[variant]}, predictor=predictor)
    return found.T[variant].reindex(list(ERRORS))


def _errors_of(scores: pd.DataFrame) -> pd.DataFrame:
    model = _of(scores, "model")
    return model[model["metric"] == "mae"]


def _check_lesions(number: str, used: Mapping[str, pd.DataFrame]) -> None:
    """All models of one table are scored on the same lesions, as far as counts can tell."""
    counts = {
        row: sorted({(int(n), int(g)) for n, g in zip(s["n"], s["n_groups"], strict=True)})
        for row, s in used.items()
    }
    if len({count for found in counts.values() for count in found}) > 1:
        raise ValueError(
            f"Table {number}: the runs are not on the same lesions; their (lesions, patients) are "
            f"{counts}"
        )


def _of(scores: pd.DataFrame, predictor: str) -> pd.DataFrame:
    check_columns(
        scores, ["target", "predictor", "metric", "value", "low", "high", "n", "n_groups"]
    )
    return scores[scores["predictor"] == predictor]


def _one(
    scores: pd.DataFrame, target: str, predictor: str, metric: str
) -> Mapping[str, float] | None:
    """The row of one score; None where there is none."""
    found = _of(scores, predictor)
    found = found[(found["target"] == target) & (found["metric"] == metric)]
    if len(found) > 1:
        raise ValueError(f"scores: {metric} of {target} by {predictor} is there {len(found)} times")
    return None if found.empty else cast("Mapping[str, float]", found.iloc[0].to_dict())


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
