"""What several papers have in common: labels, lesions to show, and a printed table beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch

from lesionlab import _names, published, tables
from lesionlab.cohorts import malignancy_label
from lesionlab.crops import Tier
from lesionlab.statistics.scoring import check_columns
from lesionlab.training.paper import Experiment
from lesionlab.training.targets import Target

BASELINES = {
    "constant": "Constant (median)",
    "majority": "Constant (majority)",
    "diameter": "Diameter alone",
    "ratings": "The readers' other ratings",
}
"""Predictors of `Outcome.scores` that see no image, and what their rows are called."""


class Designed(Experiment):
    """An experiment whose variants differ in the parts of the model.

    Attributes:
        designs: The parts by variant, each a dataclass.

    Raises:
        ValueError: There is no such variant.
    """

    designs: Mapping[str, Any]

    def __post_init__(self) -> None:
        _names.one_of("variant", self.variant, self.designs)

    def settings(self) -> dict[str, Any]:
        """The fields, and the parts of the model."""
        return super().settings() | {"design": asdict(self.designs[self.variant])}


def labels(table: pd.DataFrame, targets: Sequence[Target]) -> torch.Tensor:
    """(lesion, target) float32: mean ratings in rating steps, or 0 benign and 1 malignant.

    NaN where a rating is, or where a lesion with a mean malignancy of 3 is neither class.
    """
    columns = [malignancy_label(table) if t.kind == "binary" else table[t.name] for t in targets]
    values = [column.to_numpy(dtype=np.float32, na_value=np.nan) for column in columns]
    return torch.from_numpy(np.stack(values, axis=1))


def nearest(values: pd.Series[float], quantiles: Sequence[float]) -> list[str]:
    """For each quantile of the values, the lesion (of the index) that is nearest to it."""
    return [str((values - float(values.quantile(q))).abs().idxmin()) for q in quantiles]


def scores_of(scores: pd.DataFrame, predictor: str = "model") -> pd.DataFrame:
    """The rows of `Outcome.scores` by one predictor, index (metric, target), each once."""
    check_columns(scores, ["target", "predictor", "metric", "value", "n", "n_groups"])
    found = scores[scores["predictor"] == predictor].set_index(["metric", "target"])
    if found.index.has_duplicates:
        twice = found.index[found.index.duplicated()][0]
        raise ValueError(f"scores: {twice} by {predictor} is there twice")
    return found


def malignancy_scores(scores: pd.DataFrame, predictor: str = "model") -> pd.DataFrame:
    """`scores_of` for malignancy alone, index metric."""
    return scores_of(scores, predictor).query("target == 'malignancy'").droplevel("target")


def beside(
    printed: pd.DataFrame,
    ours: pd.DataFrame,
    *,
    tier: Tier,
    used: Mapping[str, pd.DataFrame],
    attrs: Mapping[Any, Any],
) -> pd.DataFrame:
    """A paper's printed table beside ours, as `lesionlab.tables.beside`, the tier at our head.

    `used` are the scores that `ours` was made from, by name: `ValueError` if they are not of the
    same lesions, as far as the columns n and n_groups can tell. `attrs` are those of
    `published.table`.
    """
    if tier not in get_args(Tier):
        raise ValueError(f"tier={tier!r}: expected one of {', '.join(get_args(Tier))}")
    sizes = {
        name: sorted({(int(n), int(g)) for n, g in zip(s["n"], s["n_groups"], strict=True)})
        for name, s in used.items()
    }
    if len({size for found in sizes.values() for size in found}) > 1:
        raise ValueError(
            f"Table {attrs['table']}: the runs are not on the same lesions; their "
            f"(lesions, patients) are {sizes}"
        )
    paper = published.PAPERS[str(attrs["paper"])].name
    table = tables.beside(printed, ours, paper=paper, here=f"lesionlab ({tier})")
    table.attrs = {**attrs, "tier": tier}
    return table
