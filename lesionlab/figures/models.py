"""Plots of what trained models do: learning, errors by attribute, attention, single lesions.

`tier`, where the voxels come from, is written below a figure.

A paper's printed numbers are marks of their own beside ours, never points of one series with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from lesionlab.attributes import rating
from lesionlab.crops import Tier
from lesionlab.figures import _draw as draw
from lesionlab.figures.readers import intervals

METRICS = {
    "mae": "mean absolute error (rating steps)",
    "skill": "skill, 1 − error / error of the constant",
    "auc": "AUC",
}
PREDICTORS = {
    "constant": "constant (median)",
    "majority": "constant (majority)",
    "diameter": "diameter alone",
    "ratings": "the readers' other ratings",
}
MOST_SLICES = 8  # of more, `example` shows evenly spaced ones with the first and the last


@draw.styled
def architecture(network: nn.Module, parts: Sequence[tuple[str, str, str]], *inputs: Any) -> Figure:
    """The parts of a network, in the order in which the inputs pass them.

    The boxes say the class of each part and how many parameters it has. Before each box stands the
    shape of what goes in, without the axis of lesions or slices. All of it is asked of the network.

    Args:
        network: In evaluation mode.
        parts: The paper's name of each part, ours in the network (`head.local`), and what else
            comes out of it, in words.
        inputs: Those of a batch.
    """
    entered, left = [""] * len(parts), list[str]()
    hooks = []
    for i, (_, part, _) in enumerate(parts):

        def note(_module: Any, given: Any, i: int = i) -> None:
            entered[i] = _shape(given)

        hooks.append(network.get_submodule(part).register_forward_pre_hook(note))
    last = network.get_submodule(parts[-1][1])
    hooks.append(last.register_forward_hook(lambda _m, _given, out: left.append(_shape(out))))
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    entered[0] = _shape(inputs)
    figure = draw.blank(1.5 * len(parts), 2.1)
    ax = figure.subplots()
    ax.set(xlim=(-0.55, len(parts) + 0.05), ylim=(-1.25, 0.85))
    ax.axis("off")
    middle: Any = {"ha": "center", "fontsize": 8}
    arrow = {"arrowstyle": "->", "color": draw.GREY}
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": draw.BLUE}
    for x, (name, part, beside) in enumerate(parts):
        module = network.get_submodule(part)
        ours = re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", type(module).__name__)
        count = sum(p.numel() for p in module.parameters())
        ax.text(x + 0.3, 0.62, name, fontweight="bold", **middle)
        ax.text(x + 0.3, 0, f"{ours}\n{count:,}", va="center", bbox=box, **middle)
        if beside:
            ax.text(x + 0.3, -0.87, beside, va="top", **middle)
            ax.annotate("", (x + 0.3, -0.82), (x + 0.3, -0.5), arrowprops=arrow)
    for x, shape in enumerate(entered + left):
        ax.annotate("", (x, 0), (x - 0.38, 0), arrowprops=arrow)
        ax.text(x - 0.18, 0.12, shape, **middle)
    return figure


def _shape(out: Any) -> str:
    """The shape of the first tensor in what a part gets or gives, without its first axis."""
    while not isinstance(out, torch.Tensor):
        out = next(iter(vars(out).values() if is_dataclass(out) else out))
    return " ×\n".join(map(str, out.shape[1:]))


def histories(folds: Sequence[Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """The course of training of each fold, from `Outcome.folds` or a file of results.

    Each of `folds` has `fold`, `history` (rows with `epoch`) and `best_epoch`. The result is the
    name of a fold to its history, index epoch; `attrs["best_epoch"]` is the epoch that was kept.
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


@draw.styled
def learning_curves(courses: Mapping[str, pd.DataFrame], *, tier: Tier | None = None) -> Figure:
    """The loss of the training part and what was measured to select, epoch by epoch.

    `courses` are as `histories`: columns loss, and `validation_…` or `test_…` where a part was
    measured; the epoch that was kept gets a dot.
    """
    columns = dict.fromkeys(str(c) for course in courses.values() for c in course)
    panels = ["loss", *(c for c in columns if c.startswith(("validation_", "test_")))]
    figure, axes = draw.row(len(panels), 3.7 * len(panels), 2.9)
    for ax, column in zip(axes, panels, strict=True):
        for name, course in courses.items():
            values = course.get(column, pd.Series(np.nan, course.index)).astype(float)
            (line,) = ax.plot(values.index, values, linewidth=1.2, label=name)
            kept = values.reindex([course.attrs.get("best_epoch", 0)])
            ax.plot(kept.index, kept, "o", color=line.get_color())
        part, _, metric = column.partition("_")
        title = "loss of the training part" if part == "loss" else f"{part} part"
        ax.set(title=title, xlabel="epoch", ylabel=METRICS.get(metric, metric) or "loss")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="y")
    if len(courses) > 1:
        draw.legend(figure, columns=5)
    return draw.note(figure, tier)


@draw.styled
def scores(
    table: pd.DataFrame,
    *,
    metric: str = "mae",
    predictors: Sequence[str] = ("model", "constant", "diameter"),
    marks: Mapping[str, Mapping[str, float]] | None = None,
    tier: Tier | None = None,
) -> Figure:
    """One metric of each target by several predictors, with intervals.

    Args:
        table: As `training.outcomes.Outcome.scores`, or several runs' one after the other with a
            predictor's name for each.
        metric: Which metric.
        predictors: At most four; those that are not there are left out.
        marks: Sets of points to compare with by name, as target → value: a paper's printed
            row, the difference between two readers. Targets that are not there are left out.
        tier: Where the voxels come from.
    """
    wanted = table[(table["metric"] == metric) & table["predictor"].isin(list(predictors))]
    if wanted.empty:
        raise ValueError(f"metric={metric!r}: no score of {', '.join(predictors)}")
    targets = list(dict.fromkeys(wanted["target"]))
    rows = wanted.pivot(index="target", columns="predictor", values=["value", "low", "high"])
    rows = rows.reindex(targets).swaplevel(axis=1).rename(columns=PREDICTORS)
    found = [PREDICTORS.get(name, name) for name in predictors if name in set(wanted["predictor"])]
    points: Any = {
        name: pd.Series(values, dtype=float).reindex(targets).dropna().to_dict()
        for name, values in (marks or {}).items()
    }
    label = METRICS.get(metric, metric)
    return draw.note(intervals(rows, xlabel=label, groups=found, marks=points), tier)


@draw.styled
def slice_profile(profile: pd.DataFrame, *, tier: Tier | None = None) -> Figure:
    """The mean weight of a slice by where in the nodule it lies (Fu 2021, Fig. 5 over all nodules).

    `profile` has the index position in the nodule, 0 to 1, and the columns value, low, high.
    """
    figure, (ax,) = draw.row(1, 6, 2.9)
    x = profile.index.to_numpy(dtype=float)
    ax.fill_between(x, profile["low"], profile["high"], alpha=0.2, linewidth=0)
    ax.plot(x, profile["value"], "o-")
    ax.axhline(1, color=draw.GREY, linestyle="--", linewidth=1)
    ax.set_xticks([0, 0.5, 1], ["first slice", "middle", "last slice"])
    ax.set(ylim=(0, None), ylabel="weight × number of slices (1: all alike)")
    return draw.note(figure, tier)


@draw.styled
def example(
    images: npt.ArrayLike,
    lesion: pd.DataFrame,
    *,
    weights: npt.ArrayLike,
    title: str = "",
    tier: Tier | None = None,
) -> Figure:
    """One nodule: its slices with their weights, and what the model and the readers say of it.

    After Fu 2021, Fig. 5, 7 and 8, which show the three apart. `images` are (slice, row, column),
    HU, and `weights` (slice,) of sum 1. `lesion` has the index attribute and the columns truth,
    predicted, and readers (a list of ratings) if there are any.
    """
    stack, share = np.asarray(images, dtype=float), np.asarray(weights, dtype=float)
    if stack.ndim != 3 or share.shape != (len(stack),) or not stack.size:
        raise ValueError(
            f"images, weights: shapes {stack.shape} and {share.shape}, expected (slice, row, "
            "column) with at least one slice, and a weight for each"
        )
    n = min(MOST_SLICES, len(stack))
    shown = np.linspace(0, len(stack) - 1, n).round().astype(int)
    figure = draw.blank(7.4, 4.4)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.7, 2.7))
    axes = parts[0].subplots(2, max(n, 6), height_ratios=(2, 1))
    for ax in axes[:, n:].flat:
        ax.set_visible(False)
    even = 1 / len(stack)
    for image, ax, k in zip(axes[0], axes[1], shown, strict=False):
        draw.grey(image, stack[k], None, draw.WINDOW)
        image.set_title(f"{k + 1} of {len(stack)}", pad=2)
        ax.bar([0], [share[k]], width=0.5)
        ax.axhline(even, color=draw.GREY, linestyle="--", linewidth=0.8)
        ax.annotate(f"{share[k]:.2f}", (0, max(share[k], even)), xytext=(0, 1),
                    textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
        draw.bare(ax, spines=False).spines["bottom"].set_visible(True)
        ax.set(xlim=(-0.5, 0.5), ylim=(0, 1.25 * max(float(share.max()), even)))
    axes[1, 0].set_ylabel("weight")
    _dumbbells(parts[1].subplots(), lesion)
    if title:
        figure.suptitle(title)
    return draw.note(figure, tier)


def _dumbbells(ax: Axes, lesion: pd.DataFrame) -> None:
    """The readers' mean and the model's score of each attribute, on a scale of its own."""
    for y, (name, row) in enumerate(lesion.iterrows()):
        scale = rating(str(name))
        if not scale.minimum <= row["truth"] <= scale.maximum:
            raise ValueError(
                f"lesion: {name} is {row['truth']:g}, outside of its scale; leave it out"
            )
        ax.plot(scale.to_unit(np.array(scale.codes)), np.full(len(scale.codes), y), "|-",
                color="#DDDDDD", markersize=6, zorder=0)  # fmt: skip
        if "readers" in lesion:
            given = scale.to_unit(np.asarray(row["readers"], dtype=float))
            ax.plot(given, np.full(len(given), y), "o", color=draw.ORANGE, alpha=0.35,
                    markeredgewidth=0, label="" if y else "one reader")  # fmt: skip
        truth, predicted = scale.to_unit(row["truth"]), scale.to_unit(row["predicted"])
        ax.plot([truth, predicted], [y, y], color="#555555", linewidth=1.2)
        ax.plot([truth], [y], "o", color=draw.ORANGE, markersize=6,
                label="" if y else "readers' mean")  # fmt: skip
        ax.plot([predicted], [y], "D", color=draw.BLUE, label="" if y else "model", markersize=5)
        ax.text(1.08, y, f"{row['truth']:.1f} → {row['predicted']:.1f}", va="center", fontsize=8)
    ax.set_yticks(range(len(lesion)), [rating(str(n)).title for n in lesion.index])
    ax.set_xticks([0, 1], ["lowest", "highest"])
    ax.set_xlim(-0.05, 1.32)
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3, handletextpad=0.1,
              columnspacing=0.8)  # fmt: skip
