"""Fu et al. 2021: its Tables 1 to 5, S1 and S2 beside ours.

Scores are those of `lesionlab.training.outcomes.Outcome`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lesionlab import published
from lesionlab.crops import Tier
from lesionlab.papers import _shared
from lesionlab.papers.fu2021 import TABLES
from lesionlab.papers.fu2021.samples import ATTRIBUTES
from lesionlab.statistics.agreement import one_against_rest, pairwise_difference
from lesionlab.statistics.paired import MEAN

ERRORS = (*ATTRIBUTES, MEAN)
"""The columns of the paper's tables of errors."""

CLASSES = ("accuracy", "sensitivity", "specificity", "precision", "auc")
"""The columns of Table 5."""

ROWS: Mapping[str, Mapping[str, str]] = {
    **TABLES,
    "4": {"Proposed": "full"},
    "5": {"Proposed": "malignancy_class"},
    "S2": {"Proposed": "full", "Individual": "individual"},
}
"""By table and row of the paper, the variant; `individual` is a network for each attribute."""


def errors(scores: pd.DataFrame, *, readings: pd.DataFrame | None = None) -> pd.DataFrame:
    """The mean absolute error of each attribute with its skill, and what to hold it against.

    `readings`, one row per reading of the lesions that were scored, are for the readers' columns.

    Returns:
        Index attribute, `mean` last where the run has it, without attributes that were not scored
        as a rating. Columns mae, low, high (rating steps); constant, diameter (errors of these
        baselines); skill (1 − mae / constant), skill_low, skill_high, NaN where the constant is
        never wrong; n, n_groups; and from the readings inter_observer (mean difference of two
        readers, as Table 4) and one_against_rest, the like-for-like error of a reader.
    """
    known = _shared.scores_of(scores)

    def by_target(predictor: str, metric: str) -> pd.DataFrame:
        return known.query("predictor == @predictor and metric == @metric").droplevel([0, 1])

    mae, skill = by_target("model", "mae"), by_target("model", "skill")
    if mae.empty:
        raise ValueError("scores: the model has no row with the metric 'mae'")
    table = mae.loc[[name for name in ERRORS if name in mae.index], ["value", "low", "high"]]
    table = table.astype(float).rename(columns={"value": "mae"}).rename_axis("attribute")
    for name in ("constant", "diameter"):
        table[name] = by_target(name, "mae")["value"]
    for column, end in (("skill", "value"), ("skill_low", "low"), ("skill_high", "high")):
        table[column] = skill[end]
    table = table.join(mae[["n", "n_groups"]].astype(int))
    if readings is not None:
        table["inter_observer"], table["one_against_rest"] = readers(readings).values()
    return table


def readers(readings: pd.DataFrame) -> dict[str, pd.Series[float]]:
    """Two rows for Table 4: the paper's IB, and the error of a reader against the others' mean.

    `readings` have one row per reading; each row of the table has all attributes and the mean.
    """
    found = {
        "IB": pairwise_difference(readings, ATTRIBUTES)["value"],
        "One reader against the others' mean": one_against_rest(readings, ATTRIBUTES)["value"],
    }
    return {
        name: pd.concat([values, pd.Series({MEAN: values.mean(skipna=False)})])
        for name, values in found.items()
    }


def beside(
    number: int | str,
    results: Mapping[str, pd.DataFrame],
    *,
    tier: Tier,
    others: Mapping[str, Any] | None = None,
    baselines: bool = True,
) -> pd.DataFrame:
    """One of the paper's tables with our numbers beside its own.

    Args:
        number: 1, 2, 3, 4, 5, `"S1"` or `"S2"`.
        results: Variant of `fu2021.VARIANTS` to the scores of its run; those that the table has
            no row for are ignored. `ValueError` if they are on different lesions.
        tier: What the voxels of these runs were; it stands at the head of our numbers.
        others: Further rows of ours by name, under the columns of the table: `readers` for
            Table 4, the errors of `analyses.auxiliary_against_final` for Table 3, as "Auxiliary"
            and "Final". A name of the paper's fills its row.
        baselines: Add what predictors without an image reach on the same lesions.

    Returns:
        The paper's rows in its order, then those of ours that it has not. Columns (attribute,
        `"Fu 2021"`), (attribute, `"lesionlab (<tier>)"`) and (attribute, `"difference"`), and on
        how many lesions we are. NaN where the paper prints nothing or we ran nothing.
    """
    printed = published.table("fu2021", number)
    name, key = str(printed.attrs["table"]), str(printed.columns[0])
    if name.startswith("Fig"):
        raise LookupError(f"number={number!r}: that is a figure, expected a table")
    words = published.as_printed("fu2021", number)
    labels = words[key]  # "10", not 10.0
    if name == "5":  # two rows are "Xie et al. 2019"
        labels = (labels + " " + words["reference"]).str.strip()
    wanted = ROWS.get(name, {})
    runs = {v: results[v] for v in wanted.values() if v in results}
    if name == "S2" and (individual := _individual(results)):
        runs["individual"] = pd.concat(individual)

    def cell(row: str, column: str) -> tuple[str | None, str, str]:
        metric, target = (column, "malignancy") if name == "5" else ("mae", column)
        return wanted.get(row), metric, target

    return _shared.beside(
        printed.drop(columns=key).set_axis(pd.Index(labels, name=key)),
        runs, cell, columns=CLASSES if name == "5" else ERRORS, percent=CLASSES,
        tier=tier, others=others, baselines=baselines,
    )  # fmt: skip


def _individual(results: Mapping[str, pd.DataFrame]) -> list[pd.DataFrame]:
    """The scores of the networks for one attribute each, and their mean if all nine were run."""
    alone = {name: results[f"only_{name}"] for name in ATTRIBUTES if f"only_{name}" in results}
    parts = [scores[scores["target"] == name] for name, scores in alone.items()]
    if len(parts) == len(ATTRIBUTES):
        means = pd.concat(parts).groupby(["predictor", "metric"])[["value", "n", "n_groups"]].mean()
        parts.append(means.reset_index().assign(target=MEAN))
    return parts
