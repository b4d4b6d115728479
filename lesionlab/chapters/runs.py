"""Runs that were made: what each was given, what came of it, and in what they differ.

from lesionlab.chapters import runs

found = runs.find("runs")                    # notebooks that were run, and trainings
runs.table(found)                            # a row for each
chosen = runs.choose(found, ["fu2021"], kind="notebook")
runs.differences(chosen)                     # the parameters that are not the same in all
runs.scores(chosen, ["errors.*.mae"])        # a row per score and run
runs.over_seeds(runs.scores(chosen))         # mean and SD where only the seed differs
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd

from lesionlab.chapters._runs_reading import Kind, Run, find
from lesionlab.cli import _names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Kind",
    "Run",
    "choose",
    "differences",
    "find",
    "labels",
    "over_seeds",
    "plot",
    "scores",
    "table",
]

MOST_PANELS = 12


def table(found: Iterable[Run]) -> pd.DataFrame:
    """One row per run: kind, name, preset, run (its label), changed (in words), when, and so on.

    Args:
        found: As `find` gives them.

    Returns:
        Columns kind, name, preset, run, changed, when, seconds, commit, dirty, version, state, why.
    """
    names = ("seconds", "commit", "dirty", "version", "state", "why")
    rows = [
        {
            "kind": run.kind,
            "name": run.name,
            "preset": run.preset,
            "run": run.label,
            "changed": ", ".join(f"{k}={v}" for k, v in run.changed.items()),
            "when": run.when,
            **{name: getattr(run, name) for name in names},
        }
        for run in found
    ]
    return pd.DataFrame(rows)


def choose(found: Sequence[Run], names: Sequence[str], *, kind: Kind | None = None) -> list[Run]:
    """The runs that are asked for, which must be of one notebook, or of one paper's models.

    Args:
        found: As `find` gives them.
        names: Of notebooks or papers, for all their runs; of single runs by label, by
            `NAME/LABEL`, or by their file or folder.
        kind: Which kind is meant where a notebook and a paper have the same name.

    Raises:
        ValueError: A name is of no run, or the runs cannot be compared.
    """
    if kind not in (None, *get_args(Kind)):
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(get_args(Kind))}")
    chosen: dict[Path, Run] = {}
    for name in names:
        own = [run for run in found if name in (run.name, run.label, f"{run.name}/{run.label}")]
        at = Path(name).resolve()
        own = own or [run for run in found if at in (p := run.path.resolve(), *p.parents)]
        if not own:
            there = list(dict.fromkeys([r.name for r in found] + [r.label for r in found]))
            raise ValueError(
                f"there is no run {name!r}{_names.close(name, there)}; expected a notebook, a "
                f"paper, or one of the runs {_names.listed(there)}"
            )
        chosen |= {run.path: run for run in own if kind in (None, run.kind)}
    if not chosen:
        raise ValueError(f"kind={kind!r}: none of the runs of {', '.join(names)} is of this kind")
    several = list(dict.fromkeys((run.kind, run.name) for run in chosen.values()))
    if len({k for k, _ in several}) > 1:
        raise ValueError(
            f"{', '.join(names)}: there are runs of a notebook and of trainings, which have "
            "nothing to compare; choose a kind, notebook or training"
        )
    if len(several) > 1:
        raise ValueError(
            f"the runs are of {', '.join(name for _, name in several)}: expected runs of one "
            "notebook, or of the models of one paper"
        )
    return list(chosen.values())


def labels(chosen: Sequence[Run]) -> list[str]:
    """What to call each run: by its folder or, where two have the same name, by its path."""
    short = [run.label for run in chosen]
    return [
        str(run.path.parent) if short.count(label) > 1 else label
        for run, label in zip(chosen, short, strict=True)
    ]


def _parameters(run: Run) -> dict[str, Any]:
    kind = "set" if run.kind == "notebook" else "preset"
    return {kind: run.preset, **run.parameters, "lesionlab": run.version}


def differences(chosen: Sequence[Run]) -> pd.DataFrame:
    """The parameters that are not the same in all runs.

    Args:
        chosen: As `choose` gives them.

    Returns:
        Index parameter (with set or preset, and the version of lesionlab), a column per run in
        the order of `chosen`, named as by `labels`; None where a run has no such parameter.
    """
    given = [_parameters(run) for run in chosen]
    every = dict.fromkeys(name for one in given for name in one)
    rows = {name: [one.get(name) for one in given] for name in every}
    differ = {name: row for name, row in rows.items() if any(v != row[0] for v in row)}
    index = pd.Index(differ, name="parameter")
    return pd.DataFrame([*differ.values()], index=index, columns=labels(chosen), dtype=object)


def scores(chosen: Sequence[Run], patterns: Sequence[str] = ()) -> pd.DataFrame:
    """The scores of several runs, one below the other.

    Args:
        chosen: As `choose` gives them.
        patterns: Which scores: names with `*` and `?`, or parts of names. All if there is none,
            but those of baselines.

    Returns:
        Columns score, run (as `labels`), group (the parameters that differ, but the seed, in
        words), seed (None where there is none), value, low, high; by score in the order of the
        first run that has it.

    Raises:
        ValueError: No score has such a name.
    """
    seeds = [run.parameters.get("seed") for run in chosen]
    apart = differences(chosen).drop(index="seed", errors="ignore").astype(str)
    parts = []
    for label, (run, seed), (_, own) in zip(
        labels(chosen), zip(chosen, seeds, strict=True), apart.items(), strict=True
    ):
        group = ", ".join(f"{name}={value}" for name, value in own.items()) or run.name
        parts.append(run.scores.reset_index().assign(run=label, group=group, seed=seed))
    every = pd.concat(parts, ignore_index=True)
    names = list(dict.fromkeys(every["score"]))
    wanted = [name for name in names if _matches(name, patterns)]
    if not wanted:
        told = f"scores: none is called {' or '.join(map(repr, patterns))}" if patterns else (
            "the runs have no scores")  # fmt: skip
        raise ValueError(f"{told}{_names.close((*patterns, '')[0], names)}")
    rank = {name: i for i, name in enumerate(wanted)}
    found = every[every["score"].isin(wanted)]
    found = found.sort_values("score", key=lambda names: names.map(rank), kind="stable")
    columns = ["score", "run", "group", "seed", "value", "low", "high"]
    return found[columns].reset_index(drop=True)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    if not patterns:
        return not name.endswith(")")  # a baseline
    return any(fnmatch.fnmatchcase(name, p) or p in name for p in patterns)


def over_seeds(found: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the seeds of runs that differ in nothing else.

    Args:
        found: As `scores` gives them.

    Returns:
        Index (score, group), columns mean, sd (of the sample) and n; only where there are two
        seeds or more.
    """
    grouped = found.dropna(subset="value").groupby(["score", "group"], sort=False)
    made = grouped.agg(mean=("value", "mean"), sd=("value", "std"), n=("seed", "nunique"))
    return made[made["n"] > 1]


def plot(found: pd.DataFrame) -> Figure:
    """Scores over seeds: a panel per score, a point per run, mean and SD of runs alike.

    Args:
        found: As `scores` gives them.

    Raises:
        ValueError: There are more scores than panels fit on a page.
    """
    import seaborn as sns
    from matplotlib.figure import Figure

    names, groups = (list(dict.fromkeys(found[column])) for column in ("score", "group"))
    if len(names) > MOST_PANELS:
        raise ValueError(
            f"{len(names)} scores to plot: expected at most {MOST_PANELS}, choose with a pattern"
        )
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    size = (columns * max(2.5, 0.6 * len(groups) + 1.5), rows * 2.5 + 0.7)
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for i, (ax, name) in enumerate(zip(panels, names, strict=False)):
        own = found[found["score"] == name]
        how: dict[str, Any] = {"data": own, "x": "group", "y": "value", "order": groups, "ax": ax}
        sns.stripplot(**how, size=6, alpha=0.6, jitter=0.1)
        line: dict[str, Any] = {"linestyle": "none", "marker": "_", "color": "black"}
        sns.pointplot(**how, **line, errorbar="sd", capsize=0.1)
        ax.set(title=name, xlabel="", ylabel="")
        # named once, below the lowest panel of each column
        ax.tick_params(axis="x", rotation=30, labelbottom=i + columns >= len(names))
        ax.spines[["top", "right"]].set_visible(False)
    for ax in panels[len(names) :]:
        ax.remove()
    return figure
