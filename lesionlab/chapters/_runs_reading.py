"""Runs that were made, as their files describe them: see `lesionlab.chapters.runs`."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lesionlab._files import read_json
from lesionlab.chapters import notebooks

Kind = Literal["notebook", "training"]
State = Literal["complete", "unfinished", "failed", "damaged"]

# as in `lesionlab.training`, which takes seconds to import
_RESULTS, _FOLD = "results.json", "fold-"
_FAILED = ".failed.ipynb"
_PLAN = {"data": "phantom", "by": "patient", "seed": 0, "n_lesions": None, "epochs": None,
         "data_seed": 0}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """One run, as its files describe it.

    Attributes:
        kind: `"notebook"`, or `"training"` of one model.
        name: The notebook, or the paper whose model was trained.
        label: What its folder is called, such as `smoke-b00ddc95`.
        path: Its file of results; without one, the file or folder that says how far it got.
        state: `"complete"`, `"unfinished"` (some folds are trained), `"failed"` or `"damaged"`.
        why: What is unfinished or damaged, in words.
        preset: The set of parameters of the notebook, or the preset of the training.
        parameters: By name; of a recipe as `schedule.kind`.
        scores: Index score; columns value, low, high (NaN where there is no interval). Scores of a
            notebook have the names that it records, `errors.margin.mae`; those of a training are
            `margin/mae`, and `margin/mae (diameter)` for a baseline.
        when: When the file was written.
        seconds: How long it took; None where that is not known.
        commit: Of the library; None outside of a checkout.
        dirty: Whether files differed from that commit.
        version: Of the library.
    """

    kind: Kind
    name: str
    label: str
    path: Path
    state: State = "complete"
    why: str = ""
    preset: str | None = None
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scores: pd.DataFrame = dataclasses.field(default_factory=lambda: _as_scores([]))
    seconds: float | None = None
    commit: str | None = None
    dirty: bool | None = None
    version: str | None = None

    @property
    def when(self) -> datetime.datetime:
        """When its file was last written, in the time of this machine."""
        return datetime.datetime.fromtimestamp(self.path.stat().st_mtime)

    @property
    def changed(self) -> dict[str, Any]:
        """The parameters that differ from the notebook's, or from those of `lesionlab train`."""
        if self.kind == "training":
            defaults: Mapping[str, Any] = _PLAN
            given = {k: v for k, v in self.parameters.items() if k in ("variant", *_PLAN)}
        else:
            try:
                file = notebooks.default_folder() / f"{self.name}.ipynb"
                defaults, given = notebooks.parameters(file), dict(self.parameters)
            except (FileNotFoundError, ValueError):  # nothing to compare with
                defaults, given = {}, dict(self.parameters)
        return {k: v for k, v in given.items() if k not in defaults or v != defaults[k]}


def find(folder: str | Path = "runs") -> list[Run]:
    """All runs below a folder, also those that failed, are unfinished, or are damaged.

    Args:
        folder: Such as `runs`, one run, or `book/results`.

    Returns:
        In the order of their paths.

    Raises:
        FileNotFoundError: There is no such folder, or no run in it.
    """
    made = "`lesionlab notebooks run NAME -p …` and `lesionlab train PAPER` make some"
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r} of runs; {made} in runs/")
    found: list[Run] = []
    for at, folders, files in os.walk(folder):
        folds = sorted(name for name in folders if name.startswith(_FOLD))
        folders[:] = sorted(n for n in folders if not n.startswith((".", _FOLD)))
        place = Path(at)
        for name in sorted(n for n in files if not n.startswith(".")):
            if name.endswith(_FAILED):
                found.append(_failed(place / name))
            elif name.endswith(".json"):
                found += _read(place / name)
        if folds and _RESULTS not in files:
            found.append(_unfinished(place, folds))
    if not found:
        raise FileNotFoundError(f"there are no runs in {str(folder)!r}; {made}")
    return found


def _read(path: Path) -> Iterator[Run]:
    """The run that a JSON file is of; none if it is of something else."""
    try:
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("results"), (dict, list)):
            return
        if {"notebook", "parameters"} <= content.keys():
            yield _notebook(path, content)
        elif {"experiment", "variant", "folds"} <= content.keys():
            yield _training(path, content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        kind: Kind = "training" if path.name == _RESULTS else "notebook"
        why = str(error) if str(path) in str(error) else f"{path}: {error!r}"
        name = path.parent.parent.name if kind == "training" else path.stem
        label = path.parent.name
        yield Run(kind=kind, name=name, label=label, path=path, state="damaged", why=why)


def _failed(path: Path) -> Run:
    name, label = path.name.removesuffix(_FAILED), path.parent.name
    preset = label.rpartition("-")[0] or None
    return Run(kind="notebook", name=name, label=label, path=path, state="failed", preset=preset)


def _unfinished(folder: Path, folds: list[str]) -> Run:
    done = [name.removeprefix(_FOLD) for name in folds if (folder / name / "result.json").exists()]
    why = f"not scored; folds that are done: {', '.join(done) or 'none'}"
    name, label = folder.absolute().parent.name, folder.absolute().name
    return Run(kind="training", name=name, label=label, path=folder, state="unfinished", why=why)


def _origin(content: Mapping[str, Any]) -> dict[str, Any]:
    """What both kinds say of where they come from."""
    seconds = content.get("seconds")
    return {
        "seconds": None if seconds is None else float(seconds),
        "commit": content.get("commit") and str(content["commit"]),
        "dirty": content.get("dirty"),
        "version": content.get("versions", {}).get("lesionlab"),
    }


def _notebook(path: Path, content: Mapping[str, Any]) -> Run:
    rows = [(name, value, None, None) for name, value in _numbers(content["results"], "")]
    return Run(
        kind="notebook",
        name=str(content["notebook"]),
        label=path.absolute().parent.name,
        path=path,
        preset=content.get("set", content.get("preset")),  # what a set was called before 0.1
        parameters=dict(content["parameters"]),
        scores=_as_scores(rows),
        **_origin(content),
    )


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Every number that a notebook recorded, under a name with dots; not curves."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for i, row in enumerate(item for item in value if isinstance(item, dict)):
            # a row of a table: what is text in it says which row it is
            words = [str(v) for v in row.values() if isinstance(v, str)] or [str(i)]
            numbers = {k: v for k, v in row.items() if not isinstance(v, str)}
            yield from _numbers(numbers, ".".join([name, *words]))


def _training(path: Path, content: Mapping[str, Any]) -> Run:
    plan = {k: v for k, v in content.get("plan", {}).items() if k not in ("paper", "folds")}
    recipe = dict(_flat(content["recipe"]))
    folds = content["split"]["trained"]
    rows = []
    for row in content["results"]:
        by = "" if row["predictor"] == "model" else f" ({row['predictor']})"
        ends = (row.get("low"), row.get("high"))
        rows.append((f"{row['target']}/{row['metric']}{by}", row["value"], *ends))
    return Run(
        kind="training",
        name=str(content["experiment"]),
        label=path.absolute().parent.name if path.name == _RESULTS else path.stem,
        path=path,
        preset=plan.pop("preset", None),
        parameters={
            "variant": content["variant"],
            **plan,
            "by": content["split"]["by"],
            "seed": content["seed"],
            "folds": folds,
            "lesions": content["cohort"]["lesions"],
            "precision": content["folds"][0]["identity"]["precision"],
            **{f"recipe.{key}": value for key, value in recipe.items()},
        },
        scores=_as_scores(rows),
        **_origin(content),
    )


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _as_scores(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    found = pd.DataFrame(rows, columns=["score", "value", "low", "high"]).set_index("score")
    return found[~found.index.duplicated()].astype(float)
