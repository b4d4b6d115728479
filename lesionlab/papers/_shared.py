"""What several papers have in common: labels, errors, intervals, a printed table beside ours."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Unpack, get_args

import numpy as np
import pandas as pd
import torch

from lesionlab import _names, published, tables
from lesionlab.attributes import Attribute, rating
from lesionlab.cohorts import malignancy_label
from lesionlab.crops import Tier
from lesionlab.statistics.intervals import (
    Array,
    Estimate,
    Resampling,
    bootstrap_weights_over_groups,
)
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
    """An experiment whose variants differ in the parts of the model: `designs`, dataclasses."""

    designs: Mapping[str, Any]

    def __post_init__(self) -> None:
        _names.one_of("variant", self.variant, self.designs)

    @property
    def design(self) -> Any:
        """Which parts the model has."""
        return self.designs[self.variant]

    def settings(self) -> dict[str, Any]:
        """The fields, and the parts of the model."""
        return super().settings() | {"design": asdict(self.design)}

    @classmethod
    def labels(cls, table: pd.DataFrame, variant: str = "") -> torch.Tensor:
        """(lesion, target) float32, what a variant learns; the paper's own variant by default.

        Mean ratings in rating steps, or 0 benign and 1 malignant. It is NaN where a rating is
        missing, or where a lesion with a mean malignancy of 3 is neither class.
        """
        make: Any = cls
        targets = (make(variant) if variant else make()).targets
        columns = [
            malignancy_label(table) if t.kind == "binary" else table[t.name] for t in targets
        ]
        values = [column.to_numpy(dtype=np.float32, na_value=np.nan) for column in columns]
        return torch.from_numpy(np.stack(values, axis=1))

    def rated(self, target: Target) -> Attribute:
        """Whose steps a target is in: the rating of its name."""
        return rating(target.name)

    def scale(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(target,) the lowest value and the width of each target's scale; 0 and 1 of a class."""
        ends = [
            (0, 1) if t.kind == "binary" else (self.rated(t).minimum, self.rated(t).maximum)
            for t in self.targets
        ]
        low, high = torch.tensor(ends, dtype=torch.float32, device=like.device).unbind(1)
        return low, high - low


def squared_errors(scores: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(scores − truth)²`, 0 where the truth is missing."""
    return (scores - truth.where(truth.isfinite(), scores.detach())).square()


def nearest(values: pd.Series[float], quantiles: Sequence[float]) -> pd.DataFrame:
    """For each quantile of the values, the lesion (the index) that is nearest, with its value."""
    at = [str((values - float(values.quantile(q))).abs().idxmin()) for q in quantiles]
    return values.loc[at].to_frame().rename_axis("lesion_id").assign(quantile=list(quantiles))


def patients_of(lesion_ids: Iterable[str], patients: pd.Series[str]) -> pd.Series[str]:
    """The patient of each lesion; `ValueError` if `patients`, by lesion, has none for one."""
    found = patients.reindex(pd.Index(lesion_ids, name="lesion_id")).rename("patient")
    if found.isna().any():
        raise ValueError(f"patients: none for {found.index[found.isna()][0]!r}")
    return found


def intervals(
    statistics: Callable[[Array], Mapping[Any, Array]],
    patients: pd.Series[str],
    **how: Unpack[Resampling],
) -> pd.DataFrame:
    """Statistics as in `bootstrap_weights_over_groups`, with intervals, as `estimates`.

    The ends are NaN where there is one patient only.
    """
    if patients.nunique() > 1:
        return estimates(bootstrap_weights_over_groups(statistics, patients, **how))
    alone = {name: float(v[0]) for name, v in statistics(np.ones((1, len(patients)))).items()}
    table = pd.DataFrame({"value": alone, "low": np.nan, "high": np.nan})
    return table.assign(n=len(patients), n_groups=1)


def roc(frame: pd.DataFrame, *, points: int = 101, **how: Unpack[Resampling]) -> pd.DataFrame:
    """The ROC curve of calls, with its band over patients.

    For several folds it is the mean of their own curves, as their networks are calibrated
    differently.

    Args:
        frame: Columns score, truth (bool), fold, patient.
        points: So many false positive rates from 0 to 1.
        how: Keyword arguments of `resampling`.

    Returns:
        Index false_positive_rate; columns value (the true positive rate), low, high, n, n_groups.
    """
    grid = np.linspace(0, 1, points)
    score, positive = frame["score"].to_numpy(), frame["truth"].to_numpy(dtype=bool)

    def curve(weights: Array, rows: Any) -> Array:
        order = rows[np.argsort(-score[rows], kind="stable")]
        ends = np.flatnonzero(np.diff(score[order], append=-np.inf))  # of runs of equal scores
        rates = []
        for of in (~positive, positive):
            counts = np.cumsum(weights[:, order] * of[order], axis=1)[:, ends]
            rates.append(np.pad(counts / counts[:, -1:], ((0, 0), (1, 0))))
        return np.stack([np.interp(grid, *pair) for pair in zip(*rates, strict=True)])

    def statistics(weights: Array) -> dict[Any, Array]:
        folds = [np.flatnonzero(frame["fold"] == k) for k in frame["fold"].unique()]
        with np.errstate(invalid="ignore"):
            heights = np.mean([curve(weights, rows) for rows in folds], axis=0)
        return {float(x): heights[:, i] for i, x in enumerate(grid)}

    return intervals(statistics, frame["patient"], **how).rename_axis("false_positive_rate")


def ratios(
    top: pd.DataFrame,
    bottom: pd.DataFrame | float,
    patients: pd.Series[str],
    **how: Unpack[Resampling],
) -> pd.DataFrame:
    """The sum of each column over the lesions, divided by that of the other table, as `intervals`.

    With `bottom=1.0` it is the mean over the lesions. NaN where 0 is divided by 0.
    """
    above = top.to_numpy(dtype=float)
    below = np.broadcast_to(np.asarray(bottom, dtype=float), above.shape)

    def statistics(weights: Array) -> dict[Any, Array]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return dict(zip(top.columns, (weights @ above / (weights @ below)).T, strict=True))

    return intervals(statistics, patients, **how)


def estimates(found: Mapping[Any, Estimate]) -> pd.DataFrame:
    """Numbers with their intervals, one in each row: value, low, high, n, n_groups."""
    rows = pd.DataFrame.from_dict({name: vars(one) for name, one in found.items()}, orient="index")
    return rows[["value", "low", "high", "n", "n_groups"]]


def scores_of(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of `Outcome.scores`, index (predictor, metric, target), each once."""
    check_columns(scores, ["predictor", "metric", "target", "value", "n", "n_groups"])
    found = scores.set_index(["predictor", "metric", "target"])
    if found.index.has_duplicates:
        twice = found.index[found.index.duplicated()][0]
        raise ValueError(f"scores: {twice} is there twice")
    return found


def beside(
    printed: pd.DataFrame,
    runs: Mapping[str, pd.DataFrame],
    cell: Callable[[Any, str], tuple[str | None, str, str]],
    *,
    columns: Sequence[str],
    tier: Tier,
    percent: Collection[str] = (),
    baselines: bool = True,
    others: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """A paper's printed table beside the scores of runs, by variant, as `joined`.

    `printed` has the names of its rows as the index, and the `attrs` of `published.table`. `cell`
    says for a row and a column which variant, metric and target our number is; it stays empty where
    that variant was not run. `columns` are those in which we have numbers; a last one says on how
    many lesions. `percent` are the metrics that the paper prints in per cent, `baselines` adds
    predictors without an image, in each column beside the first run with a number there, and
    `others` are further rows of ours by name: columns to numbers.

    `ValueError` if the runs are not on the same lesions, as far as n and n_groups can tell, or if
    `others` have none of the columns.
    """
    known = {variant: scores_of(scores) for variant, scores in runs.items()}
    rows: dict[Any, dict[str, float]] = {}
    sizes: dict[str, set[tuple[int, int]]] = {}
    for row, column in itertools.product(printed.index, columns):
        variant, metric, target = cell(row, column)
        scores: Any = known.get(variant or "", pd.DataFrame())
        for predictor, name in {"model": row, **(BASELINES if baselines else {})}.items():
            if (predictor, metric, target) in scores.index:
                score = scores.loc[(predictor, metric, target)]
                value = float(score["value"]) * (100 if metric in percent else 1)
                rows.setdefault(name, {}).setdefault(column, value)
                if predictor == "model":
                    size = int(score["n"]), int(score["n_groups"])
                    sizes.setdefault(str(variant), set()).add(size)
    if len(different := set().union(*sizes.values())) > 1:
        raise ValueError(
            f"Table {printed.attrs['table']}: the runs are not on the same lesions; their "
            f"(lesions, patients) are {sizes}"
        )
    for values, (n, _) in itertools.product(rows.values(), different):
        values["lesions"] = n
    for row, given in (others or {}).items():
        rows[row] = {column: given[column] for column in columns if column in given}
        if not rows[row]:
            raise ValueError(
                f"others: {row!r} has {list(given.keys())}, expected some of {columns}"
            )
    ours = pd.DataFrame(rows, index=[*columns, "lesions"], dtype=float).T
    return joined(printed, ours.astype({"lesions": "Int64"}), tier=tier)


def joined(printed: pd.DataFrame, ours: pd.DataFrame, *, tier: Tier) -> pd.DataFrame:
    """A paper's printed table beside numbers of ours, as `lesionlab.tables.beside`.

    Columns are (name, the paper), (name, `"lesionlab (<tier>)"`) and (name, `"difference"`).
    """
    _names.one_of("tier", tier, get_args(Tier))
    paper = published.PAPERS[str(printed.attrs["paper"])].name
    table = tables.beside(printed, ours, paper=paper, here=f"lesionlab ({tier})")
    table = table.rename_axis(printed.index.names)
    table.attrs = {**printed.attrs, "tier": tier}
    return table
