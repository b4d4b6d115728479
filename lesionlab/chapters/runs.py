"""Runs that were made: what each was given, what came of it, and in what they differ.

found = runs.find("runs")                    # notebooks that were run, and trainings
runs.table(found)                            # a row for each
chosen = runs.choose(found, ["fu2021"], kind="notebook")
runs.differences(chosen)                     # the parameters that are not the same in all
runs.scores(chosen, ["errors.*.mae"])        # a row per score and run
runs.over_seeds(runs.scores(chosen))         # mean and SD where only the seed differs
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lesionlab import _names
from lesionlab._files import read_json
from lesionlab.chapters import notebooks, parameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 12
KINDS = ("notebook", "training")  # a notebook that was executed, or one model that was trained

# as in `lesionlab.training`, which takes seconds to import; a paper says itself which variant and
# which data it takes first
_RESULTS, _FOLD = "results.json", "fold-"
_DEFAULTS = {"by": "patient", "seed": 0, "n_lesions": None, "epochs": None, "data_seed": 0}
_SCORE = ["value", "low", "high", "fold_mean", "fold_sd"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """One run, as its files describe it; what they do not say is None.

    Attributes:
        kind: One of `KINDS`.
        name: The notebook, or the paper whose model was trained.
        label: What its folder is called, such as `smoke-b00ddc95`.
        path: Its file of results; without one, the file or folder that says how far it got.
        state: `complete`, `failed`, or `unfinished: …` and `damaged: …` with the reason.
        preset: The set of parameters of the notebook, or the preset of the training.
        parameters: By name; a recipe's are called like `recipe.schedule.kind`, or
            `recipe.2.schedule.kind` in the second of several stages.
        scores: Index score; columns value, low, high, fold_mean, fold_sd (NaN where unknown). A
            notebook names its scores itself, like `errors.margin.mae`; those of a training are
            called `margin/mae`, or `margin/mae (diameter)` for a baseline.
        dirty: Whether files differed from the commit.
    """

    kind: str
    name: str
    label: str
    path: Path
    state: str = "complete"
    preset: str | None = None
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scores: pd.DataFrame = dataclasses.field(default_factory=lambda: _as_scores([]))
    seconds: float | None = None
    commit: str | None = None
    dirty: bool | None = None
    version: str | None = None

    @property
    def changed(self) -> dict[str, Any]:
        """The parameters that differ from the notebook's, or from those of `lesionlab train`."""
        given, defaults = self.parameters, dict[str, Any]()
        if self.kind == "training":
            given = {k: v for k, v in given.items() if k in ("variant", "data", *_DEFAULTS)}
            defaults = _DEFAULTS
        else:
            with contextlib.suppress(FileNotFoundError, ValueError):  # nothing to compare with
                file = notebooks.default_folder() / f"{Path(self.name).name}.ipynb"
                defaults = parameters.declared(file)
        return {k: v for k, v in given.items() if k not in defaults or v != defaults[k]}


def find(folder: str | Path = "runs") -> list[Run]:
    """All runs below a folder, also those that failed, are unfinished, or are damaged.

    Raises:
        FileNotFoundError: There is no run, or no such folder.
    """
    found = [run for path in _below(folder, "*.json") for run in _read(path)]
    for path in _below(folder, f"*{notebooks.FAILED}"):
        name, label = path.name.removesuffix(notebooks.FAILED), path.parent.name
        found.append(Run(kind="notebook", name=name, label=label, path=path, state="failed"))
    for path in {fold.parent for fold in _below(folder, f"{_FOLD}*")}:
        if not (path / _RESULTS).exists():
            done = ", ".join(p.parent.name for p in sorted(path.glob(f"{_FOLD}*/result.json")))
            state = f"unfinished: not scored; done: {done or 'no fold'}"
            name, label = path.absolute().parts[-2:]
            found.append(Run(kind="training", name=name, label=label, path=path, state=state))
    if not found:
        raise FileNotFoundError(
            f"there are no runs in {str(folder)!r}; `lesionlab notebooks run NAME -p …` and "
            "`lesionlab train PAPER` make some in runs/"
        )
    return sorted(found, key=lambda run: run.path)


def _below(folder: str | Path, pattern: str) -> Iterator[Path]:
    """Files and folders at any depth, but none that is hidden or inside a fold of a training."""
    for path in Path(folder).rglob(pattern):
        *folders, name = path.relative_to(folder).parts
        if not name.startswith(".") and not any(f.startswith((".", _FOLD)) for f in folders):
            yield path


def _read(path: Path) -> Iterator[Run]:
    """The run that a JSON file describes; none if it describes something else."""
    trained, label = path.name == _RESULTS, path.absolute().parent.name
    try:
        if not isinstance(content := read_json(path), dict):
            return
        if {"notebook", "parameters", "results"} <= set(content):
            facts = _notebook(content)
        elif {"experiment", "variant", "folds", "results"} <= set(content):
            # a training that the book keeps is one file among others
            facts, label = _training(content), label if trained else path.stem
        else:
            return
        facts |= {key: content.get(key) for key in ("commit", "dirty", "seconds")}
        version = content.get("versions", {}).get("lesionlab")
        yield Run(path=path, label=label, version=version, **facts)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        kind, name = KINDS[trained], path.parent.parent.name if trained else path.stem
        why = str(error) if str(path) in str(error) else f"{path}: {error!r}"
        yield Run(kind=kind, name=name, label=label, path=path, state=f"damaged: {why}")


def _notebook(content: Mapping[str, Any]) -> dict[str, Any]:
    scores = [{"score": k, "value": value} for k, value in _numbers(content["results"], "")]
    about = {"kind": "notebook", "name": str(content["notebook"]), "preset": content.get("set")}
    return about | {"parameters": dict(content["parameters"]), "scores": _as_scores(scores)}


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Every number that a notebook recorded, under a name with dots; not curves."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for i, row in enumerate(item for item in value if isinstance(item, dict)):
            # the words in a row of a table say which row it is
            words = [v for v in row.values() if isinstance(v, str)] or [str(i)]
            numbers = {k: v for k, v in row.items() if not isinstance(v, str)}
            yield from _numbers(numbers, ".".join([name, *words]))


def _training(content: Mapping[str, Any]) -> dict[str, Any]:
    plan = {k: v for k, v in content.get("plan", {}).items() if k not in ("paper", "folds")}
    preset = plan.pop("preset", None)
    rows = []
    for row in content["results"]:
        by = "" if row["predictor"] == "model" else f" ({row['predictor']})"
        rows.append(row | {"score": f"{row['target']}/{row['metric']}{by}"})
    split = content["split"]
    facts = {
        "variant": content["variant"],
        **plan,
        "by": split["by"],
        "seed": content["seed"],
        "folds": split["trained"],
        "lesions": content["cohort"]["lesions"],
        "precision": content["folds"][0]["identity"]["precision"],
        **dict(_flat(content["recipe"], "recipe")),
    }
    about = {"kind": "training", "name": str(content["experiment"])}
    return about | {"preset": preset, "parameters": facts, "scores": _as_scores(rows)}


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and value and all(isinstance(stage, dict) for stage in value):
        value = dict(enumerate(value, 1))
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}")
    else:
        yield name, value


def _as_scores(rows: list[dict[str, Any]]) -> pd.DataFrame:
    found = pd.DataFrame(rows, columns=["score", *_SCORE]).set_index("score")
    return found[~found.index.duplicated()].astype(float)


def table(found: Iterable[Run]) -> pd.DataFrame:
    """One row per run; its label is called run, and what was changed is in words."""
    rows = []
    for run in found:
        changed = ", ".join(f"{k}={v}" for k, v in run.changed.items())
        # when its file was last written, in the time of this machine
        when = datetime.datetime.fromtimestamp(run.path.stat().st_mtime)
        rows.append(vars(run) | {"run": run.label, "changed": changed, "when": when})
    columns = ["kind", "name", "preset", "run", "changed", "when", "seconds", "commit", "dirty"]
    return pd.DataFrame(rows)[[*columns, "version", "state"]]


def choose(found: Sequence[Run], names: Sequence[str], *, kind: str | None = None) -> list[Run]:
    """The runs that are asked for, which must be of one notebook, or of one paper's models.

    A name is that of a notebook or a paper, for all its runs; or of a single run: its label,
    `NAME/LABEL`, its file or its folder. The kind says which, where a notebook and a paper have
    the same name.

    Raises:
        ValueError: No run has such a name, or the runs cannot be compared.
    """
    chosen: dict[Path, Run] = {}
    for name in names:
        own = [run for run in found if name in (run.name, run.label, f"{run.name}/{run.label}")]
        at = Path(name).resolve()
        own = own or [run for run in found if at in (p := run.path.resolve(), *p.parents)]
        if not own:
            _names.known("run", name, {r.name for r in found} | {r.label for r in found})
        chosen |= {run.path: run for run in own if kind in (None, run.kind)}
    several = dict.fromkeys(f"{run.kind} {run.name}" for run in chosen.values())
    if len(several) != 1:
        raise ValueError(
            f"{', '.join(names)}: expected runs of one notebook, or of models of one paper, got "
            f"{' and '.join(several) or f'no {kind}'}; a kind chooses one of a notebook and a paper"
        )
    return list(chosen.values())


def labels(chosen: Sequence[Run]) -> list[str]:
    """What to call each run: by its folder or, where two have the same name, by its path."""
    short = [run.label for run in chosen]
    return [str(run.path.parent) if short.count(run.label) > 1 else run.label for run in chosen]


def differences(chosen: Sequence[Run]) -> pd.DataFrame:
    """The parameters that are not the same in all runs: a row for each, a column per run.

    Among them are the set or preset, and the version of lesionlab; None where a run has no such
    parameter.
    """
    given = [{"set": r.preset, **r.parameters, "lesionlab": r.version} for r in chosen]
    every = dict.fromkeys(name for one in given for name in one)
    rows = {name: [one.get(name) for one in given] for name in every}
    differ = {name: row for name, row in rows.items() if any(v != row[0] for v in row)}
    index = pd.Index(differ, name="parameter")
    return pd.DataFrame([*differ.values()], index=index, columns=labels(chosen), dtype=object)


def scores(chosen: Sequence[Run], patterns: Sequence[str] = ()) -> pd.DataFrame:
    """The scores of runs, one below the other.

    Args:
        chosen: Runs from `choose`.
        patterns: Parts of the names of the scores that are wanted, where `*` stands for anything.
            By default all except those of baselines.

    Returns:
        Columns score, run (its label), group (what is the same for runs that differ only in the
        seed), seed and those of `Run.scores`, in the order of the first run that has the score.
    """
    apart = differences(chosen).drop(index="seed", errors="ignore").astype(str)
    parts = []
    for label, run in zip(labels(chosen), chosen, strict=True):
        group = ", ".join(f"{name}={value}" for name, value in apart[label].items()) or run.name
        seed = run.parameters.get("seed")
        parts.append(run.scores.reset_index().assign(run=label, group=group, seed=seed))
    every = pd.concat(parts, ignore_index=True)
    names = list(dict.fromkeys(every["score"]))
    wanted = [name for name in names if _matches(name, patterns)]
    if not wanted:
        told = f"no score is called {' or '.join(map(repr, patterns))}"
        close = _names.close((*patterns, "")[0], names)
        raise ValueError(f"{told}{close}" if patterns else "the runs have no scores")
    found = every.set_index("score").loc[wanted].reset_index()
    return found[["score", "run", "group", "seed", *_SCORE]]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    if not patterns:
        return not name.endswith(")")  # a baseline
    return any(fnmatch.fnmatchcase(name, p) or p in name for p in patterns)


def over_seeds(found: pd.DataFrame) -> pd.DataFrame:
    """Mean, SD (of the sample) and n over the seeds of the runs in `scores` that differ in no more.

    The index is (score, group), only where there are two seeds or more.
    """
    grouped = found.dropna(subset="value").groupby(["score", "group"], sort=False)
    made = grouped.agg(mean=("value", "mean"), sd=("value", "std"), n=("seed", "nunique"))
    return made[made["n"] > 1]


def plot(found: pd.DataFrame) -> Figure:
    """The result of `scores` as a panel per score: a point per run, mean and SD of runs alike."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    n_scores, groups = found["score"].nunique(), list(dict.fromkeys(found["group"]))
    if n_scores > MOST_PANELS:
        raise ValueError(
            f"{n_scores} scores to plot: expected at most {MOST_PANELS}, choose with a pattern"
        )
    how: dict[str, Any] = {"x": "group", "y": "value", "order": groups}
    grid = sns.catplot(
        found, **how, kind="strip", size=6, alpha=0.6, jitter=0.1, sharey=False, height=2.5,
        col="score", col_wrap=min(3, n_scores), aspect=max(1.0, 0.24 * len(groups) + 0.6),
    )  # fmt: skip
    line: dict[str, Any] = {"linestyle": "none", "marker": "_", "errorbar": "sd", "capsize": 0.1}
    grid.map_dataframe(sns.pointplot, **how, **line, color="black")
    grid.set_titles("{col_name}").set_axis_labels("", "").tick_params(axis="x", rotation=30)
    plt.close(grid.figure)  # or pyplot would show it a second time
    figure: Figure = grid.figure
    return figure
