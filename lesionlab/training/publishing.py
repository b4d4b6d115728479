"""Results to keep with the book: the numbers of a run, without its weights.

    publish(plan, outcome, "book/results/fu2021", loaded=loaded)
    found = published(shipped("book", "results", "fu2021"), data="slices", by="patient")
    found["full"].scores

A file `NAME.json` has the scores, the folds, the provenance and what the paper's file has to say
about the trained models (its attention, for one); `NAME.csv` has the predictions. Where a variant
was run in several ways, the run on more folds counts, then the one of more epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lesionlab import __version__, _files
from lesionlab.results import jsonable
from lesionlab.training import outcomes
from lesionlab.training.checkpoints import CheckpointError
from lesionlab.training.outcomes import Outcome
from lesionlab.training.plans import Plan, study
from lesionlab.training.studies import Loaded, trained


@dataclass(frozen=True, eq=False)
class Published:
    """A run that was kept.

    Attributes:
        path: Its JSON file.
        about: All that is in it.
        scores: As `Outcome.scores`.
        predictions: As `Outcome.predictions`.
    """

    path: Path
    about: dict[str, Any]
    scores: pd.DataFrame
    predictions: pd.DataFrame

    @property
    def variant(self) -> str:
        """Which model."""
        return str(self.about["variant"])

    @property
    def epochs(self) -> int:
        """Of the recipe."""
        return int(self.about["recipe"]["epochs"])

    @property
    def folds(self) -> list[dict[str, Any]]:
        """As `Outcome.folds`."""
        return list(self.about["folds"])

    def table(self, name: str) -> pd.DataFrame:
        """One table of the paper's analysis, its first column as the index.

        Raises:
            KeyError: The analysis has no such table.
        """
        rows = pd.DataFrame(self.about["analysis"][name])
        return rows.set_index(rows.columns[0])


def publish(
    plan: Plan, outcome: Outcome, folder: str | Path, *, loaded: Loaded | None = None
) -> Path:
    """Keep the numbers of a finished run in a folder.

    Args:
        plan: What was run.
        outcome: What came of it.
        folder: Where to; a file of the same name is replaced.
        loaded: As in `studies.run`.

    Returns:
        The JSON file.

    Raises:
        OSError: A file cannot be written.
    """
    content = _files.read_json(outcome.path)
    analyse = study(plan.paper).analyse
    if analyse is not None:
        folds = trained(plan, loaded=loaded, folder=outcome.path.parent)
        content["analysis"] = jsonable(analyse(folds, outcome.predictions))
    content["plan"] = jsonable(asdict(plan))  # runs before 0.1 have not said
    target = Path(folder) / f"{plan.name}.json"
    table = _files.write_text(target.with_suffix(".csv"), outcomes.csv(outcome.predictions))
    content["predictions"] = {"file": table.name, "sha256": _files.sha256(table)}
    return _files.write_json(target, content)


def published(
    folder: str | Path, *, data: str = "slices", by: str = "patient"
) -> Mapping[str, Published]:
    """The runs that were kept on one data set and one kind of folds, by variant.

    Args:
        folder: Where they are.
        data: The data set that they were trained on, as in `Plan`.
        by: What the folds were made by, as in `Plan`.

    Raises:
        FileNotFoundError: There is no run of this kind in the folder.
        ValueError: A file was written by a version of lesionlab that kept other things.
        CheckpointError: A file of predictions is not the one that its JSON file was written with.
    """
    found: dict[str, Published] = {}
    for path in sorted(Path(folder).glob("*.json")):
        about = _about(path)
        plan = about["plan"]
        if (plan.get("data"), plan.get("by")) != (data, by):
            continue
        table = path.parent / about["predictions"]["file"]
        if not table.exists() or _files.sha256(table) != about["predictions"]["sha256"]:
            raise CheckpointError(f"{table} is not what {path.name} was written with")
        one = Published(
            path, about, pd.DataFrame(about["results"]), outcomes.read_predictions(table)
        )
        other = found.get(one.variant)
        if other is None or _effort(one) > _effort(other):
            found[one.variant] = one
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no run with data={data!r} and folds by {by!r}. Results that are shown "
            "come with the checkout and the wheel; runs of your own are put into a folder by "
            "`lesionlab train PAPER --publish FOLDER`"
        )
    return found


def _about(path: Path) -> dict[str, Any]:
    about = _files.read_json(path)
    needed = {"plan", "variant", "recipe", "folds", "results", "predictions"}
    if not isinstance(about, dict) or (missing := sorted(needed - about.keys())):
        told = f"has no {', '.join(missing)}" if isinstance(about, dict) else "is no table of them"
        raise ValueError(
            f"{path} does not hold the results of a run as lesionlab {__version__} keeps them: it "
            f"{told}. Train again with --publish, or take the file that came with this version"
        )
    return about


def _effort(run: Published) -> tuple[int, int]:
    return len(run.folds), run.epochs
