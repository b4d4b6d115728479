"""Runs that were made: what each was given, what came of it, and in what they differ.

found = runs.find("runs")                    # a row per notebook that was run, and per training
chosen = runs.choose(found, ["fu2021"], kind="notebook")
runs.differences(chosen)                     # the parameters that are not the same in all
runs.scores(chosen, ["errors.*.mae"])        # a row per score and run
runs.over_seeds(runs.scores(chosen))         # mean and SD where only the seed differs
"""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lesionlab import _names
from lesionlab._files import SEAL, read_json
from lesionlab.chapters import notebooks, parameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 12
KINDS = ("notebook", "training")  # a notebook that was executed, or one model that was trained
COLUMNS = (
    *("kind", "name", "set", "run", "changed", "when", "seconds", "commit", "dirty", "version"),
    *("state", "path", "parameters", "scores"),
)

# as in `lesionlab.training`, which takes seconds to import; a paper says itself which variant and
# which data it takes first
_RESULTS, _FOLD = "results.json", "fold-"
_DEFAULTS = {"by": "patient", "seed": 0, "n_lesions": None, "epochs": None, "data_seed": 0}
_SCORE = ["value", "low", "high", "fold_mean", "fold_sd"]
_TYPES: dict[str, Any] = {
    "set": str, "commit": str, "dirty": bool, "seconds": (int, float), "version": str,
}  # fmt: skip


def find(folder: str | Path = "runs") -> pd.DataFrame:
    """All runs below a folder, also those that failed, are unfinished, or are damaged.

    Returns:
        One row per run, with `COLUMNS`; None for what its files do not say.

        - `kind` is one of `KINDS`; `name` is the notebook, or the paper whose model was trained;
          `set` is the notebook's set of parameters, or the training's preset.
        - `run` is what its folder is called, such as `smoke-b00ddc95`. `path` is its file of
          results or, without one, the file or folder that says how far it got.
        - `changed` tells the parameters that differ from the notebook's, or from those of
          `lesionlab train`.
        - `when` is when its file was last written, in the time of this machine.
        - `dirty` says whether files differed from the commit.
        - `state` is `complete`, `failed`, or `unfinished: …` and `damaged: …` with the reason.
        - `parameters` are by name; a recipe's are called like `recipe.schedule.kind`, or
          `recipe.2.schedule.kind` in the second of several stages.
        - `scores` are the rows of the table that `scores` makes.

    Raises:
        FileNotFoundError: There is no run, or no such folder.
    """
    there = list(_below(folder))
    files = [path for path in there if path.suffix == ".json" and path.is_file()]  # and no pipe
    rows = [row for path in files for row in _read(path)]
    for path in there:
        if path.name.endswith(notebooks.FAILED):
            name = path.name.removesuffix(notebooks.FAILED)
            rows.append(_row(path, "notebook", name, path.parent.name, state="failed"))
    for path in {fold.parent for fold in there if fold.name.startswith(_FOLD)}:
        if not (path / _RESULTS).exists():
            done = ", ".join(p.parent.name for p in sorted(path.glob(f"{_FOLD}*/result.json")))
            state = f"unfinished: not scored; done: {done or 'no fold'}"
            name, label = path.absolute().parts[-2:]
            rows.append(_row(path, "training", name, label, state=state))
    if not rows:
        raise FileNotFoundError(
            f"there are no runs in {str(folder)!r}; `lesionlab notebooks run NAME -p …` and "
            "`lesionlab train PAPER` make some in runs/"
        )
    rows.sort(key=lambda row: row["path"])
    declared = {row["name"]: _declared(row["name"]) for row in rows if row["kind"] == "notebook"}
    for row in rows:
        given, defaults = row["parameters"], declared.get(row["name"], {})
        if row["kind"] == "training":
            given = {k: v for k, v in given.items() if k in ("variant", "data", *_DEFAULTS)}
            defaults = _DEFAULTS
        changed = [f"{k}={v}" for k, v in given.items() if k not in defaults or v != defaults[k]]
        row["changed"] = ", ".join(changed)
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object)


def _declared(name: str) -> dict[str, Any]:
    """The parameters that a notebook declares; none where there is nothing to compare with."""
    with contextlib.suppress(OSError, ValueError):  # also a name that is too long
        return parameters.declared(notebooks.default_folder() / f"{Path(name).name}.ipynb")
    return {}


def _below(folder: str | Path) -> Iterator[Path]:
    """Files and folders at any depth, but none that is hidden or inside a fold of a training."""
    for path in Path(folder).rglob("*"):
        *folders, name = path.relative_to(folder).parts
        if not name.startswith(".") and not any(f.startswith((".", _FOLD)) for f in folders):
            yield path


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """The run that a JSON file describes; none if it describes something else."""
    trained, label = path.name == _RESULTS, path.absolute().parent.name
    try:
        if not isinstance(content := read_json(path), dict):
            return
        about: dict[str, Any] = {key: content.get(key) for key in ("commit", "dirty", "seconds")}
        about["version"] = content.get("versions", {}).get("lesionlab")
        if {"notebook", "parameters", "results"} <= set(content):
            scores = [{"score": k, "value": v} for k, v in _numbers(content["results"], "")]
            about |= {"set": content.get("set"), "scores": scores}
            given = dict(content["parameters"])
            yield _row(path, "notebook", str(content["notebook"]), label, given, **_typed(about))
        elif {"experiment", "variant", "folds", "results"} <= set(content):
            if SEAL in content:
                content = read_json(path, sealed=True)
            # a training that the book keeps is one file among others
            label = label if trained else path.stem
            about |= {"set": content.get("plan", {}).get("preset"), "scores": _scores(content)}
            given = _training(content)
            yield _row(path, "training", str(content["experiment"]), label, given, **_typed(about))
    # whatever is in the file: what was made of it by then can be of any type
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
            RuntimeError) as error:  # fmt: skip
        kind, name = KINDS[trained], path.parent.parent.name if trained else path.stem
        why = str(error) if str(path) in str(error) else f"{path}: {error!r}"
        yield _row(path, kind, name, label, state=f"damaged: {why}")


def _typed(about: dict[str, Any]) -> dict[str, Any]:
    """The same; a TypeError for what a table cannot hold."""
    numbers = [(f"{row['score']}, {k}", row.get(k)) for row in about["scores"] for k in _SCORE]
    for key, value in [*about.items(), *numbers]:
        if value is not None and not isinstance(value, _TYPES.get(key, (int, float, list))):
            raise TypeError(f"{key} is {value!r:.60}")
    return about


def _row(
    path: Path, kind: str, name: str, run: str, given: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    when = datetime.datetime.fromtimestamp(path.stat().st_mtime)
    found = {"kind": kind, "name": name, "run": run, "path": path, "parameters": given or {}}
    found |= {"when": when, "state": "complete", "scores": []}
    return dict.fromkeys(COLUMNS) | found | more


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
    """What a model was trained with."""
    plan, split, recipe = content.get("plan", {}), content["split"], content["recipe"]
    if isinstance(recipe, list):  # of several stages
        recipe = dict(enumerate(recipe, 1))
    return {
        "variant": content["variant"],
        **{k: v for k, v in plan.items() if k not in ("paper", "folds", "preset")},
        "by": split["by"],
        "seed": content["seed"],
        "folds": split["trained"],
        "lesions": content["cohort"]["lesions"],
        "precision": content["folds"][0]["identity"]["precision"],
        **pd.json_normalize({"recipe": recipe}).to_dict("records")[0],
    }


def _scores(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for row in content["results"]:
        by = "" if row["predictor"] == "model" else f" ({row['predictor']})"
        rows.append(row | {"score": f"{row['target']}/{row['metric']}{by}"})
    return rows


def choose(found: pd.DataFrame, names: Sequence[str], *, kind: str | None = None) -> pd.DataFrame:
    """The runs that are asked for, which must be of one notebook, or of one paper's models.

    A name is that of a notebook or a paper, for all its runs; or of a single run: what its folder
    is called, `NAME/FOLDER`, its file or its path. The kind says which, where a notebook and a
    paper have the same name.

    Returns:
        Rows of `found`. The index says what to call each run: its `run` or, where two have the same
        one, its folder.

    Raises:
        ValueError: No run has such a name, or the runs cannot be compared.
    """
    if kind is not None:
        _names.one_of("kind", kind, KINDS)
    rows: list[int] = []
    for name in names:
        own = (found["name"] == name) | (found["run"] == name)
        own |= found["name"] + "/" + found["run"] == name
        if not own.any():
            at = Path(name).resolve()
            own = found["path"].map(lambda path, at=at: path.resolve().is_relative_to(at))
        if not own.any():
            _names.known("run", name, {*found["name"], *found["run"]})
        rows += found.index[own].tolist()
    chosen = found.loc[list(dict.fromkeys(rows))]
    if kind is not None:
        chosen = chosen[chosen["kind"] == kind]
    several = (chosen["kind"] + " " + chosen["name"]).unique()
    if len(several) != 1:
        raise ValueError(
            f"{', '.join(names)}: expected runs of one notebook, or of models of one paper, got "
            f"{' and '.join(several) or f'no {kind}'}; a kind chooses one of a notebook and a paper"
        )
    places = chosen["path"].map(lambda path: str(path.parent))
    return chosen.set_index(chosen["run"].mask(chosen["run"].duplicated(keep=False), places))


def differences(chosen: pd.DataFrame) -> pd.DataFrame:
    """The parameters that are not the same in all runs: a row for each, a column per run.

    Among them are the set or preset, and the version of lesionlab; None where a run has no such
    parameter.
    """
    runs = chosen.to_dict("records")
    given = [{"set": r["set"], **r["parameters"], "lesionlab": r["version"]} for r in runs]
    every = dict.fromkeys(name for one in given for name in one)
    rows = {name: [one.get(name) for one in given] for name in every}
    differ = {name: row for name, row in rows.items() if any(v != row[0] for v in row)}
    index = pd.Index(differ, name="parameter")
    return pd.DataFrame([*differ.values()], index=index, columns=[*chosen.index], dtype=object)


def scores(chosen: pd.DataFrame, patterns: Sequence[str] = ()) -> pd.DataFrame:
    """The scores of runs, one below the other.

    A notebook names its scores itself, like `errors.margin.mae`. Those of a training are called
    `margin/mae`, or `margin/mae (diameter)` for a baseline.

    Args:
        chosen: Runs from `choose`.
        patterns: Parts of the names of the scores that are wanted, where `*` stands for anything.
            By default all except those of baselines.

    Returns:
        Columns `score`, `run` (its name in `chosen`), `group` (what is the same for runs that
        differ only in the seed), `seed`, `value`, and of a training `low`, `high`, `fold_mean` and
        `fold_sd`, in the order of the first run that has the score.
    """
    apart = differences(chosen).drop(index="seed", errors="ignore").astype(str)
    rows = []
    for run, facts in chosen.iterrows():
        group = ", ".join(f"{k}={v}" for k, v in apart[run].items()) or facts["name"]
        about = {"run": run, "group": group, "seed": facts["parameters"].get("seed")}
        rows += [score | about for score in facts["scores"]]
    every = pd.DataFrame(rows, columns=["score", "run", "group", "seed", *_SCORE])
    every = every.drop_duplicates(["score", "run"]).astype(dict.fromkeys(_SCORE, float))
    names = every["score"].unique().tolist()
    wanted = [name for name in names if not name.endswith(")")]  # as a baseline's does
    if patterns:
        wanted = [n for n in names if any(p in n or fnmatch.fnmatchcase(n, p) for p in patterns)]
    if not wanted and patterns:
        told = f"no score is called {' or '.join(map(repr, patterns))}"
        raise ValueError(f"{told}{_names.close(patterns[0], names)}")
    if not wanted:
        raise ValueError("the runs have no scores")
    return every.set_index("score").loc[wanted].reset_index()


def over_seeds(found: pd.DataFrame) -> pd.DataFrame:
    """Mean, SD (of the sample) and n over the seeds of the runs in `scores` that differ in no more.

    The index is (score, group), only where there are two seeds or more.
    """
    # as text: a notebook may call a list of numbers its seed
    seeds = found["seed"].map(str, na_action="ignore")
    numbers = found.assign(seed=seeds).dropna(subset="value")
    grouped = numbers.groupby(["score", "group"], sort=False)
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
