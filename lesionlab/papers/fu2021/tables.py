"""Fu et al. 2021: its Tables 1–5, S1 and S2 beside ours.

Scores are those of `lesionlab.training.outcomes.Outcome`. What lacks a column is refused with
`KeyError`, a score that is there twice with `ValueError`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping

import numpy as np
import pandas as pd

from lesionlab import published
from lesionlab.crops import Tier
from lesionlab.papers import _shared
from lesionlab.papers._shared import BASELINES, malignancy_scores, scores_of
from lesionlab.papers.fu2021 import TABLES
from lesionlab.papers.fu2021.samples import ATTRIBUTES
from lesionlab.statistics.agreement import one_against_rest, pairwise_difference
from lesionlab.statistics.paired import MEAN

ERRORS = (*ATTRIBUTES, MEAN)
"""The columns of the paper's tables of errors."""

CLASSES = ("accuracy", "sensitivity", "specificity", "precision", "auc")
"""The columns of Table 5."""

INTER_OBSERVER = "IB"
ONE_AGAINST_REST = "One reader against the others' mean"


def errors(scores: pd.DataFrame, *, readings: pd.DataFrame | None = None) -> pd.DataFrame:
    """The mean absolute error of each attribute with its skill, and what to hold it against.

    Args:
        scores: Scores of one run.
        readings: One row per reading of the lesions that were scored, for the readers' columns.

    Returns:
        Index attribute, `mean` last where the run has it; attributes that were not scored as a
        rating are left out. Columns mae, low, high (rating steps); constant, diameter (errors of
        these baselines); skill (1 − mae / constant), skill_low, skill_high, NaN where the constant
        is never wrong; n, n_groups; and from the readings inter_observer (mean difference of two
        readers, as Table 4) and one_against_rest, the like-for-like error of a reader.
    """
    mae = _metric(scores, "mae")
    if mae.empty:
        raise ValueError("scores: the model has no row with the metric 'mae'")
    table = mae.loc[[name for name in ERRORS if name in mae.index], ["value", "low", "high"]]
    table = table.astype(float).rename(columns={"value": "mae"}).rename_axis("attribute")
    for name in ("constant", "diameter"):
        table[name] = _metric(scores, "mae", name)["value"]
    skill = _metric(scores, "skill")
    for column, end in (("skill", "value"), ("skill_low", "low"), ("skill_high", "high")):
        table[column] = skill[end]
    table = table.join(mae[["n", "n_groups"]].astype(int))
    if readings is not None:
        said = readers(readings)
        table["inter_observer"] = said[INTER_OBSERVER]
        table["one_against_rest"] = said[ONE_AGAINST_REST]
    return table


def readers(readings: pd.DataFrame) -> dict[str, pd.Series[float]]:
    """Two rows for Table 4: the paper's IB, and the error of a reader against the others' mean.

    From `readings`, one row per reading: by the name of the row, each attribute's value and the
    mean.
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
            Table 4, `auxiliary_rows` for Table 3. A name of the paper's fills its row.
        baselines: Add what predictors without an image reach on the same lesions.

    Returns:
        The paper's rows in its order, then those of ours that it has not. Columns (attribute,
        `"Fu 2021"`) as printed, (attribute, `"lesionlab (<tier>)"`) and (attribute,
        `"difference"`); the last says on how many lesions we are. NaN where the paper prints
        nothing or we ran nothing. `attrs` are those of `published.table`, and the tier.

    Raises:
        LookupError: There is no such table.
        ValueError: The runs are on different lesions, or `others` do not fit the table.
    """
    printed = published.table("fu2021", number)
    attrs, name, key = printed.attrs, str(printed.attrs["table"]), str(printed.columns[0])
    if name.startswith("Fig"):
        raise LookupError(f"number={number!r}: that is a figure, expected a table")
    words = published.as_printed("fu2021", number)
    labels = words[key]  # "10", not 10.0
    if name == "5":  # two rows are "Xie et al. 2019"
        labels = (labels + " " + words["reference"]).str.strip()
    columns = list(CLASSES if name == "5" else ERRORS)
    rows = _class_rows(results, baselines) if name == "5" else _rows(name, results, baselines)
    ours, used = {}, {}
    for row, scores, values in rows:
        used[row] = scores
        ours[row] = values.reindex([*columns, "lesions"])
        ours[row]["lesions"] = scores["n"].iloc[0]
    for row, given in (others or {}).items():
        ours[row] = pd.Series(dict(given), dtype=float)
        if not ours[row].index.isin(columns).any():
            raise ValueError(
                f"others: {row!r} has {list(ours[row].index)}, expected some of {columns}"
            )
    mine = pd.DataFrame(ours, index=[*columns, "lesions"], dtype=float).T
    return _shared.beside(
        printed.drop(columns=key).set_axis(pd.Index(labels, name=key)),
        mine.astype({"lesions": "Int64"}),
        tier=tier,
        used=used,
        attrs=attrs,
    )


Row = tuple[str, pd.DataFrame, "pd.Series[float]"]
"""Its name, the scores that it was made from, and its values by column."""


def _metric(scores: pd.DataFrame, metric: str, predictor: str = "model") -> pd.DataFrame:
    """One metric of one predictor, index target; empty where there is none."""
    return scores_of(scores, predictor).query("metric == @metric").droplevel("metric")


def _rows(number: str, results: Mapping[str, pd.DataFrame], baselines: bool) -> Iterator[Row]:
    """Rows of a table of errors that there are runs for."""
    wanted = {"4": {"Proposed": "full"}, "S2": {"Proposed": "full"}, **TABLES}.get(number, {})
    used = {row: results[variant] for row, variant in wanted.items() if variant in results}
    for row, scores in used.items():
        found = _metric(scores, "mae")
        yield row, found, found["value"]
    alone = {name: f"only_{name}" for name in ATTRIBUTES if f"only_{name}" in results}
    if number == "S2" and alone:
        parts = [_metric(results[v], "mae").loc[[name]] for name, v in alone.items()]
        values = pd.concat(parts)["value"]
        # the mean of nine networks, and of no fewer: others would not be the paper's mean
        values[MEAN] = values.mean() if len(parts) == len(ATTRIBUTES) else np.nan
        yield "Individual", pd.concat(parts), values
    if baselines and used:
        first = next(iter(used.values()))
        for predictor, row in BASELINES.items():
            found = _metric(first, "mae", predictor)
            if len(found):
                yield row, _metric(first, "mae"), found["value"]


def _class_rows(results: Mapping[str, pd.DataFrame], baselines: bool) -> Iterator[Row]:
    """As `_rows`, for Table 5, in per cent; the scores of a run have no precision."""
    if (scores := results.get("malignancy_class")) is None:
        return
    for predictor, row in {"model": "Proposed", **(BASELINES if baselines else {})}.items():
        found = malignancy_scores(scores, predictor)
        found = found[found.index.isin(CLASSES)]
        if len(found):
            yield row, found, 100 * found["value"]
