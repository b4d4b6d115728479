"""Lei 2020, Tables 2–6 and Figure 4 beside ours: see `lesionlab.papers.lei2020.analyses`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from lesionlab import published, tables
from lesionlab.crops import Tier
from lesionlab.papers.lei2020 import N_CHANNELS, TABLES
from lesionlab.statistics.scoring import check_columns

PAPER = "lei2020"
IMAGE_SETS = tuple(name.lower() for name in N_CHANNELS)
MEASURES = ("accuracy", "sensitivity", "specificity")
"""What the paper prints of a model, accuracy in per cent and the other two as fractions."""

BASELINES = {
    "majority": "Constant (majority)",
    "diameter": "Diameter alone",
    "ratings": "The readers' other ratings",
}
"""Predictors of `Outcome.scores` that see no image, and what their rows are called."""

TESTED = {
    row: TABLES["2"][row]
    for row in ("PN-SAMP", "SAG-C", "ResNet18", "ResNet34", "VGG16", "DenseNet121")
}
"""The rows of Table 5, as variants on D11C."""


def on(variant: str, images: str) -> str:
    """The name of a variant on one of the image sets.

    >>> on("hesam", "D11C"), on("hesam", "d1c")
    ('hesam', 'hesam_d1c')

    Raises:
        ValueError: There is no such image set.
    """
    if (name := images.lower()) not in IMAGE_SETS:
        raise ValueError(f"images={images!r}: expected one of {', '.join(N_CHANNELS)}")
    return variant if name == "d11c" else f"{variant}_{name}"


def beside(
    number: int | str,
    runs: Mapping[str, pd.DataFrame],
    *,
    tier: Tier,
    baselines: bool = True,
) -> pd.DataFrame:
    """One of the paper's tables with our numbers beside its own, as `lesionlab.tables.beside`.

    Args:
        number: 2, 3 or 4: variant to its scores, as `Outcome.scores`. 5: variant on D11C to its
            p, and with `_d1c`, … on the others, under `p_probability` of `compare`'s table. 6:
            the table of `doctors` under any one name.
        runs: See above. Variants that the table has no row for are ignored, those that are missing
            are not run.
        tier: What the voxels of these runs were; it stands at the head of our numbers. Readers
            saw real scans: for Table 6 say `"dicom"`.
        baselines: Add to Tables 2 and 3 what predictors without an image reach on the same lesions.

    Returns:
        The paper's rows in its order, then ours that it has not. Columns (name, `"Lei 2020"`) as
        printed, (name, `"lesionlab (<tier>)"`) and (name, `"difference"`), accuracy in per cent;
        the last says on how many lesions we are. In Table 5, where the paper prints bounds, those
        are text ("< 0.01"). NaN where the paper prints nothing or we ran nothing. `attrs` are
        those of `published.table`, and the tier.

    Raises:
        LookupError: There is no such table, or none to put numbers beside.
        KeyError: A column is missing.
        ValueError: Another tier, or runs on different lesions.
    """
    if tier not in get_args(Tier):
        raise ValueError(f"tier={tier!r}: expected one of {', '.join(get_args(Tier))}")
    printed = published.table(PAPER, number)
    name = str(printed.attrs["table"])
    makers: dict[str, Any] = {"2": _two, "3": _three, "4": _four, "5": _five, "6": _six}
    if name not in makers:
        raise LookupError(f"number={number!r}: expected one of the tables {', '.join(makers)}")
    if name in ("2", "3", "4"):
        _check_lesions(name, runs)
    theirs, ours = makers[name](printed, runs)
    if baselines and name in ("2", "3") and runs:
        for row, values in _baselines(name, runs):
            ours.loc[row, list(values)] = list(values.values())
    if "lesions" in ours:
        ours["lesions"] = ours["lesions"].astype("Int64")
    here = f"lesionlab ({tier})"
    table = tables.beside(theirs, ours, paper=published.PAPERS[PAPER].name, here=here)
    table.attrs = {**printed.attrs, "tier": tier}
    return table


Parts = tuple[pd.DataFrame, pd.DataFrame]


def _two(printed: pd.DataFrame, runs: Mapping[str, pd.DataFrame]) -> Parts:
    theirs = printed.set_index("method")
    columns = [*IMAGE_SETS, "sensitivity", "specificity"]
    ours = pd.DataFrame(np.nan, index=list(TABLES["2"]), columns=[*columns, "lesions"])
    for row, variant in TABLES["2"].items():
        for images in IMAGE_SETS:
            if (name := on(variant, images)) in runs:
                ours.loc[row, images] = _measured(runs[name])["accuracy"]
        if variant in runs:
            found = _measured(runs[variant])
            ours.loc[row, list(MEASURES[1:])] = [found[name] for name in MEASURES[1:]]
        there = [n for n in (on(variant, images) for images in IMAGE_SETS) if n in runs]
        if there:
            ours.loc[row, "lesions"] = _measured(runs[there[0]])["lesions"]
    return theirs, ours


def _three(printed: pd.DataFrame, runs: Mapping[str, pd.DataFrame]) -> Parts:
    labels = printed["high_level_pooling"] + " / " + printed["final_pooling"]
    theirs = printed[list(MEASURES)].set_axis(pd.Index(labels, name="method"))
    ours = pd.DataFrame(np.nan, index=list(TABLES["3"]), columns=[*MEASURES, "lesions"])
    for row, variant in TABLES["3"].items():
        if variant in runs:
            found = _measured(runs[variant])
            ours.loc[row] = [found[str(name)] for name in ours]
    return theirs, ours


def _four(printed: pd.DataFrame, runs: Mapping[str, pd.DataFrame]) -> Parts:
    theirs = printed.set_index(["metric", "method"])
    ours = pd.DataFrame(np.nan, index=theirs.index, columns=[*IMAGE_SETS])
    for metric, row in zip(printed["metric"], printed["method"], strict=True):
        for images in IMAGE_SETS:
            if (name := on(TABLES["4"][row], images)) in runs:
                ours.loc[(metric, row), images] = _measured(runs[name])[metric]
    return theirs, ours


def _five(printed: pd.DataFrame, runs: Mapping[str, pd.DataFrame]) -> Parts:
    columns = [f"{name}_p" for name in IMAGE_SETS]
    bounds = printed.set_index("method")[[f"{name}_below" for name in columns]]
    theirs = bounds.set_axis(columns, axis=1).map(lambda p: f"< {p:g}", na_action="ignore")
    ours = pd.DataFrame(np.nan, index=theirs.index, columns=columns)
    found = {
        str(variant): float(p)
        for table in runs.values()
        for variant, p in table["p_probability"].items()
    }
    for row, variant in TESTED.items():
        for images in IMAGE_SETS:
            if (name := on(variant, images)) in found:
                ours.loc[row, f"{images}_p"] = found[name]
    return theirs, ours


def _six(printed: pd.DataFrame, runs: Mapping[str, pd.DataFrame]) -> Parts:
    if len(runs) != 1:
        raise ValueError(f"runs: {len(runs)}, expected one table of `doctors`")
    return printed.set_index("doctor"), next(iter(runs.values()))


def _measured(scores: pd.DataFrame, predictor: str = "model") -> dict[str, float]:
    """The paper's measures of malignancy, in its units, and how many lesions."""
    check_columns(scores, ["target", "predictor", "metric", "value", "n", "n_groups"])
    rows = scores[(scores["target"] == "malignancy") & (scores["predictor"] == predictor)]
    values = rows.set_index("metric")
    if not values.index.is_unique:
        raise ValueError(f"scores: a metric of {predictor!r} is there twice")
    if values.empty:
        return {}
    found = {name: float(values["value"][name]) for name in MEASURES}
    return found | {"accuracy": 100 * found["accuracy"], "lesions": int(values["n"].iloc[0])}


def _baselines(
    number: str, runs: Mapping[str, pd.DataFrame]
) -> Iterator[tuple[str, dict[str, float]]]:
    """They see no image: one number for all image sets, so it stands under D11C alone."""
    scores = next(
        (runs[v] for v in TABLES[number].values() if v in runs), next(iter(runs.values()))
    )
    for predictor, row in BASELINES.items():
        if found := _measured(scores, predictor):
            if number == "2":
                found["d11c"] = found.pop("accuracy")
            yield row, found


def _check_lesions(number: str, runs: Mapping[str, pd.DataFrame]) -> None:
    """All models of one table are scored on the same lesions, as far as counts can tell."""
    wanted = {on(v, images) for v in TABLES[number].values() for images in IMAGE_SETS}
    counts = {
        name: sorted({(int(n), int(g)) for n, g in zip(s["n"], s["n_groups"], strict=True)})
        for name, s in runs.items()
        if name in wanted
    }
    if len({count for found in counts.values() for count in found}) > 1:
        raise ValueError(
            f"Table {number}: the runs are not on the same lesions; their (lesions, patients) are "
            f"{counts}"
        )


def courses(
    folds: Mapping[str, Sequence[Mapping[str, Any]]], *, variant: str = "hesam"
) -> dict[str, pd.DataFrame]:
    """The course of training on D1C, D3C, D11C and D21C, for Figure 4.

    The figure shows training and *test* curves, from which its authors see overfitting. Here the
    second curve is that of the validation part: the test part is read once, when all is chosen.

    Args:
        folds: Variant to `Outcome.folds`, or to what a kept run has of them.
        variant: Which model; those of its four image sets that are there are shown.

    Returns:
        By image set, the mean over folds: index epoch, columns as in `figures_models.histories`,
        `attrs["best_epoch"]` the median of the epochs that were kept.

    Raises:
        ValueError: None is there, or a fold has no history.
    """
    from lesionlab.figures.models import histories

    found = {}
    for images in N_CHANNELS:
        if (name := on(variant, images)) not in folds:
            continue
        parts = list(histories(folds[name]).values())
        numbers = pd.concat(
            [part.select_dtypes("number") for part in parts], keys=range(len(parts))
        )
        mean = numbers.groupby(level=-1).mean()
        mean.attrs["best_epoch"] = int(np.median([part.attrs["best_epoch"] for part in parts]))
        found[images] = mean
    if not found:
        raise ValueError(f"folds: none of {variant!r} on any image set, got {list(folds)}")
    return found
