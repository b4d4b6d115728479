"""Plots of what trained models do: learning, errors by attribute, attention, single lesions.

As in `lesionlab.figures`: tables and arrays in, matplotlib figures out, nothing displayed here. A
paper's printed numbers are marks of their own beside ours, never points of one series with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lesionlab.attributes import rating
from lesionlab.crops import Tier
from lesionlab.figures.readers import BLUE, GREEN, GREY, ORANGE, _cells, _figure, _plain, intervals
from lesionlab.figures.samples import _note

METRICS = {
    "mae": "mean absolute error (rating steps)",
    "skill": "skill, 1 − error / error of the constant",
    "auc": "AUC",
}
PREDICTORS = {
    "model": "model",
    "constant": "constant (median)",
    "majority": "constant (majority)",
    "diameter": "diameter alone",
    "ratings": "the readers' other ratings",
}
FOLD_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", GREY)


def histories(folds: Sequence[Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """The course of training of each fold, from `Outcome.folds` or a file of results.

    Args:
        folds: Each with `fold`, `history` (rows with `epoch`) and `best_epoch`.

    Returns:
        Name of a fold to its history, index epoch; `attrs["best_epoch"]` the epoch that was kept.

    Raises:
        ValueError: A fold has no history.
    """
    found = {}
    for fold in folds:
        rows = pd.DataFrame(fold.get("history") or [])
        if "epoch" not in rows:
            raise ValueError(f"folds: fold {fold.get('fold')!r} has no history")
        rows = rows.astype({"epoch": int}).set_index("epoch")
        rows.attrs["best_epoch"] = int(fold["best_epoch"])
        found[f"fold {fold['fold']}"] = rows
    return found


def learning_curves(courses: Mapping[str, pd.DataFrame], *, tier: Tier | None = None) -> Figure:
    """The loss of the training part and what was measured to select, epoch by epoch.

    Args:
        courses: As `histories`: columns loss, and `validation_…` or `test_…` where a part was
            measured; the epoch that was kept gets a dot.
        tier: Where the voxels come from; written below.

    Raises:
        ValueError: There is none, or one without a loss.
    """
    if not courses:
        raise ValueError("courses: expected at least one, got none")
    for name, course in courses.items():
        if "loss" not in course:
            raise ValueError(f"courses: {name} has no column 'loss'; it has {list(course)}")
    columns = [str(c) for course in courses.values() for c in course]
    measured = [c for c in dict.fromkeys(columns) if c.startswith(("validation_", "test_"))]
    panels = ["loss", *measured]
    figure = _figure(3.7 * len(panels), 2.9)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, column in zip(grid, panels, strict=True):
        for number, (name, course) in enumerate(courses.items()):
            if column not in course:
                continue
            colour = FOLD_COLOURS[number % len(FOLD_COLOURS)]
            values = course[column].astype(float)
            ax.plot(values.index, values, color=colour, linewidth=1.2, label=name)
            best = int(course.attrs.get("best_epoch", 0))
            if best in values.index:
                ax.plot([best], [values[best]], "o", color=colour, markersize=4)
        part, _, metric = column.partition("_")
        unit = METRICS.get(metric, metric)
        ax.set_title(
            "loss of the training part" if column == "loss" else f"{part} part", fontsize=9
        )
        ax.set_xlabel("epoch", fontsize=8)
        ax.set_ylabel("loss" if column == "loss" else unit, fontsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _plain(ax).grid(axis="y", alpha=0.3)
    if len(courses) > 1:
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)),
                      frameon=False, fontsize=8)  # fmt: skip
    return _note(figure, tier)


def scores(
    table: pd.DataFrame,
    *,
    metric: str = "mae",
    predictors: Sequence[str] = ("model", "constant", "diameter"),
    marks: Mapping[str, Mapping[str, float]] | None = None,
    tier: Tier | None = None,
) -> Figure:
    """One metric of each attribute by several predictors, with intervals.

    Args:
        table: As `lesionlab.training.outcomes.Outcome.scores`, or several runs' one after the
            other with a predictor's name for each.
        metric: Which.
        predictors: Which, at most four; those that are not there are left out.
        marks: Sets of points to compare with by name, as attribute → value: a paper's printed
            row, the difference between two readers. Attributes that are not there are left out.
        tier: Where the voxels come from; written below.

    Raises:
        ValueError: No score of that metric, or more than four predictors.
    """
    if len(predictors) > 4:
        raise ValueError(f"predictors: {len(predictors)}, expected at most 4")
    wanted = table[(table["metric"] == metric) & table["predictor"].isin(list(predictors))]
    if wanted.empty:
        raise ValueError(f"metric={metric!r}: no score of {', '.join(predictors)}")
    there = [name for name in predictors if (wanted["predictor"] == name).any()]
    targets = list(dict.fromkeys(wanted["target"]))
    columns: dict[tuple[str, str], pd.Series[float]] = {}
    for predictor in there:
        rows = wanted[wanted["predictor"] == predictor].set_index("target").reindex(targets)
        name = PREDICTORS.get(predictor, predictor)
        columns |= {(name, end): rows[end].astype(float) for end in ("value", "low", "high")}
    points = {
        name: {k: float(v) for k, v in values.items() if k in targets and np.isfinite(v)}
        for name, values in (marks or {}).items()
    }
    groups = [PREDICTORS.get(name, name) for name in there]
    label = METRICS.get(metric, metric)
    figure = intervals(pd.DataFrame(columns), xlabel=label, groups=groups, marks=points)
    return _note(figure, tier)


def slice_profile(
    profile: pd.DataFrame,
    *,
    ends: pd.DataFrame | None = None,
    printed: Mapping[str, float] | None = None,
    tier: Tier | None = None,
) -> Figure:
    """The mean weight of a slice by where in the nodule it lies (Fu 2021, Fig. 5 over all nodules).

    Args:
        profile: As `fu2021_analyses.position_profile`: index position, value, low, high.
        ends: As `fu2021_analyses.ends_against_middle`, drawn beside it.
        printed: `end` and `inner` as the paper prints them, drawn as diamonds beside `ends`.
        tier: Where the voxels come from; written below.
    """
    figure = _figure(7.2 if ends is not None else 5, 2.9)
    if ends is None:
        left = figure.subplots()
    else:
        left, right = figure.subplots(1, 2, width_ratios=(2.4, 1), sharey=True)
        _ends(right, ends, printed or {})
    x = profile.index.to_numpy(dtype=float)
    low, value, high = (profile[name].to_numpy(dtype=float) for name in ("low", "value", "high"))
    left.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0)
    left.plot(x, value, "o-", color=BLUE, markersize=4)
    left.axhline(1, color=GREY, linestyle="--", linewidth=1)
    left.annotate("all slices alike", (0.5, 1), xytext=(0, 3), textcoords="offset points",
                  ha="center", fontsize=7.5, color="#555555")  # fmt: skip
    left.set_xticks([0, 0.5, 1], ["first slice", "middle", "last slice"])
    left.set_ylabel("weight × number of slices")
    left.set_ylim(bottom=0)
    _plain(left)
    return _note(figure, tier)


def _ends(ax: Axes, ends: pd.DataFrame, printed: Mapping[str, float]) -> None:
    rows = [name for name in ("end", "inner") if name in ends.index]
    value, low, high = (
        ends.loc[rows, name].to_numpy(dtype=float) for name in ("value", "low", "high")
    )
    at = np.arange(len(rows))
    ax.errorbar(at, value, yerr=np.abs([value - low, high - value]), fmt="o", color=BLUE,
                markersize=5, label="lesionlab")  # fmt: skip
    theirs = [(i, printed[name]) for i, name in enumerate(rows) if name in printed]
    if theirs:
        x, y = zip(*theirs, strict=True)
        ax.plot(np.array(x) + 0.18, y, "D", color=ORANGE, markersize=5, label="Fu 2021")
        ax.legend(frameon=False, fontsize=8)
    ax.axhline(1, color=GREY, linestyle="--", linewidth=1)
    names = {"end": "first and last", "inner": "between"}
    ax.set_xticks(at, [names[name] for name in rows])
    ax.set_xlim(-0.5, len(rows) - 0.5)
    _plain(ax)


def attribute_matrices(
    matrices: Mapping[str, pd.DataFrame],
    *,
    limits: Mapping[str, tuple[float, float]] | None = None,
    colours: Mapping[str, str] | None = None,
    decimals: int = 2,
    tier: Tier | None = None,
) -> Figure:
    """Matrices between attributes side by side with their values (Fu 2021, Fig. 6 and S2).

    Args:
        matrices: Title to a square matrix named by attributes; NaN cells stay empty.
        limits: By title, the values at the ends of its colour scale; its own smallest and largest
            value off the diagonal otherwise.
        colours: By title, a matplotlib map; `viridis` otherwise.
        decimals: Of the written values.
        tier: Where the voxels come from; written below.

    Raises:
        ValueError: There is none, or one is not square.
    """
    if not matrices:
        raise ValueError("matrices: expected at least one, got none")
    figure = _figure(4.1 * len(matrices), 4)
    grid = figure.subplots(1, len(matrices), squeeze=False)[0]
    for ax, (name, matrix) in zip(grid, matrices.items(), strict=True):
        values = matrix.to_numpy(dtype=float)
        if values.shape[0] != values.shape[1] or list(matrix.index) != list(matrix.columns):
            raise ValueError(f"matrices: {name!r} has the shape {values.shape}, expected square")
        ends = (limits or {}).get(name) or _range(values)
        names = [rating(str(n)).short for n in matrix.index]
        ax.tick_params(labelsize=8)
        _cells(ax, matrix, names, ends, (colours or {}).get(name, "viridis"), decimals,
               fontsize=7.5, bar={"shrink": 0.7})  # fmt: skip
        ax.set_title(name, fontsize=9)
    for ax in figure.axes:  # colour bars too
        ax.tick_params(labelsize=8)
    return _note(figure, tier)


def _range(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    off = values[~np.eye(len(values), dtype=bool)]
    off = off[np.isfinite(off)]
    return (float(off.min()), float(off.max())) if len(off) else (0.0, 1.0)


def example(
    images: npt.ArrayLike,
    lesion: pd.DataFrame,
    *,
    weights: npt.ArrayLike | None = None,
    title: str = "",
    window: tuple[float, float] = (-1024.0, 400.0),
    at_most: int = 8,
    tier: Tier | None = None,
) -> Figure:
    """One nodule: its slices with their weights, and what the model and the readers say of it.

    After Fu 2021, Fig. 5, 7 and 8, which show the three apart.

    Args:
        images: (slice, row, column), HU: the nodule's samples before normalisation.
        lesion: As `fu2021_analyses.lesion_scores`: index attribute; truth, predicted, and readers
            (a list of ratings) if it is there.
        weights: (slice,), of sum 1; no bars if None.
        title: What stands above, such as the lesion's id.
        window: HU that are black and white.
        at_most: Slices to show; of more, so many evenly spaced ones with the first and the last.
        tier: Where the voxels come from; written below.

    Raises:
        ValueError: Another shape, not one weight per slice, no slice to show, or a truth outside of
            its scale (a class is none).
    """
    stack = np.asarray(images, dtype=float)
    if stack.ndim != 3 or not len(stack):
        raise ValueError(f"images: shape {stack.shape}, expected (slice, row, column)")
    share = None if weights is None else np.asarray(weights, dtype=float)
    if share is not None and share.shape != (len(stack),):
        raise ValueError(f"weights: shape {share.shape}, expected one for each of {len(stack)}")
    if at_most < 1:
        raise ValueError(f"at_most={at_most!r}: expected 1 or more")
    shown = np.unique(np.linspace(0, len(stack) - 1, min(at_most, len(stack))).round().astype(int))
    wide = max(len(shown), 6)
    figure = _figure(7.4, 4.4)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.7, 2.7))
    above, below = parts
    rows = 1 if share is None else 2
    grid = above.subplots(rows, wide, squeeze=False, height_ratios=(2, 1)[:rows])
    for ax in grid[:, len(shown) :].ravel():
        ax.set_visible(False)
    for ax, k in zip(grid[0], shown, strict=False):
        ax.imshow(stack[k], cmap="gray", vmin=window[0], vmax=window[1], interpolation="nearest")
        ax.set_title(f"{k + 1} of {len(stack)}", fontsize=8, pad=2)
        ax.set_xticks([])
        ax.set_yticks([])
    if share is not None:
        top = 1.25 * max(float(share.max()), 1 / len(stack))
        for ax, k in zip(grid[1], shown, strict=False):
            ax.bar([0], [share[k]], width=0.5, color=BLUE)
            ax.axhline(1 / len(stack), color=GREY, linestyle="--", linewidth=0.8)
            ax.annotate(f"{share[k]:.2f}", (0, max(share[k], 1 / len(stack))), xytext=(0, 1),
                        textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
            ax.set(xlim=(-0.5, 0.5), ylim=(0, top))
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[["top", "left", "right"]].set_visible(False)
        grid[1, 0].set_ylabel("weight", fontsize=8)
    _dumbbells(below.subplots(), lesion)
    if title:
        figure.suptitle(title, fontsize=9)
    return _note(figure, tier)


def _dumbbells(ax: Axes, lesion: pd.DataFrame) -> None:
    """The readers' mean and the model's score of each attribute, on a scale of its own."""
    for y, (name, row) in enumerate(lesion.iterrows()):
        scale = rating(str(name))
        span = scale.maximum - scale.minimum
        if not scale.minimum <= row["truth"] <= scale.maximum:
            raise ValueError(
                f"lesion: {name} is {row['truth']:g}, outside of its scale; leave it out"
            )

        def place(value: Any, low: int = scale.minimum, span: int = span) -> Any:
            return (np.asarray(value, dtype=float) - low) / span

        ax.plot(place(scale.codes), np.full(len(scale.codes), y), "|-", color="#DDDDDD",
                markersize=6, zorder=0)  # fmt: skip
        if "readers" in lesion:
            given = np.asarray(row["readers"], dtype=float)
            ax.plot(place(given), np.full(len(given), y), "o", color=ORANGE, alpha=0.35,
                    markersize=4, markeredgewidth=0, label="" if y else "one reader")  # fmt: skip
        ends = place([row["truth"], row["predicted"]])
        ax.plot(ends, [y, y], color="#555555", linewidth=1.2)
        ax.plot(ends[:1], [y], "o", color=ORANGE, label="" if y else "readers' mean")
        ax.plot(ends[1:], [y], "D", color=BLUE, label="" if y else "model", markersize=5)
        text = f"{row['truth']:.1f} → {row['predicted']:.1f}"
        ax.text(1.08, y, text, va="center", fontsize=8)
    ax.set_yticks(range(len(lesion)), [rating(str(n)).title for n in lesion.index], fontsize=8)
    ax.set_xticks([0, 1], ["lowest", "highest"], fontsize=8)
    ax.set_xlim(-0.05, 1.32)
    ax.invert_yaxis()
    ax.spines[["top", "right", "bottom", "left"]].set_visible(False)
    ax.tick_params(length=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3, frameon=False, fontsize=8,
              handletextpad=0.1, columnspacing=0.8)  # fmt: skip
