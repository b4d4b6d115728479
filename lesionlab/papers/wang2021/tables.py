"""Wang 2021: its Tables 1 to 6 beside ours, means and standard deviations over runs.

A run is an `lesionlab.training.outcomes.Outcome`; those of one model differ in their seed. Phantoms
stand in for the private nodules, so that numbers of the two sides are alike in kind alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from lesionlab import published
from lesionlab.crops import Tier
from lesionlab.papers import _shared
from lesionlab.papers.wang2021 import LAMBDAS, MODELS, TABLES, TYPES
from lesionlab.papers.wang2021.analyses import class_frame, confusion_of
from lesionlab.statistics.scoring import score_multiclass
from lesionlab.training.folds import Dataset
from lesionlab.training.outcomes import Outcome

F1 = Literal["weighted", "macro"]
Predictions = Sequence[pd.DataFrame]

SVM_TASKS: Mapping[str, str] = {
    "AAH, AIS, MIA, IAC": "types",
    "AIS, MIA": "4",
    "AAH+AIS, MIA+IAC": "2",
}
"""By row of Table 6: the task."""


def measures(predictions: pd.DataFrame, task: str, *, f1: F1 = "weighted") -> dict[str, float]:
    """Accuracy and average F1 in %, MCC and AUC × 10, as Table 2 prints them (3.3).

    What the paper averages F1 over is not said. By its confusion matrices it is `"weighted"`: by
    the nodules of each class; `"macro"` is the plain mean over classes. MCC is the correlation for
    several classes (Gorodkin 2004), AUC that of two classes.
    """
    frame, target = class_frame(predictions, task)
    found = score_multiclass(frame, target.codes, n_resamples=1)
    named = {"accuracy": ("accuracy", 100), "f1": (f"{f1}_f1", 100), "mcc": ("mcc", 10)}
    if len(target.codes) == 2:
        named["auc"] = ("auc", 10)
    return {name: factor * found[metric].value for name, (metric, factor) in named.items()}


def over_runs(
    runs: Predictions, task: str, *, best: bool = False, f1: F1 = "weighted"
) -> dict[str, float]:
    """`measures` of several runs of a model: their means, and `…_sd`, NaN of one run.

    `best` takes the run of the highest accuracy on the test lesions instead of the means, as the
    paper does (3.2): what that alone adds, shows the comparison. `ValueError` if the runs are not
    on the same lesions.
    """
    lesions = {tuple(sorted(class_frame(run, task)[0]["lesion_id"])) for run in runs}
    if len(lesions) != 1:
        raise ValueError(f"task {task}: the {len(runs)} runs are not on the same lesions")
    table = pd.DataFrame([measures(run, task, f1=f1) for run in runs])
    value: Any = table.iloc[int(table["accuracy"].argmax())] if best else table.mean()
    sd: Any = table.std().add_suffix("_sd")
    return {**value.to_dict(), **sd.to_dict(), "lesions": len(next(iter(lesions)))}


def counts(dataset: Dataset, *, tier: Tier, split: int = 0) -> pd.DataFrame:
    """Table 1, the nodules of each type for training (with validation) and testing, beside ours."""
    printed = published.table("wang2021", 1).set_index("category")
    parts = dataset.split(split)
    kinds = dataset.table["pathology"]
    found = {
        "training": kinds.iloc[parts["training"] + parts["validation"]].value_counts(),
        "testing": kinds.iloc[parts["test"]].value_counts(),
        "total": kinds.value_counts(),
    }
    ours = pd.DataFrame(found).reindex(list(TYPES)).fillna(0).astype(int)
    ours.loc["Total"] = ours.sum()
    return _shared.joined(printed, ours, tier=tier)


def classification(
    runs: Mapping[str, Predictions],
    *,
    tier: Tier,
    split: int = 1,
    change: str = "",
    best: bool = False,
    f1: F1 = "weighted",
) -> pd.DataFrame:
    """Table 2, or of the second split Table 3: five models on four tasks, with ours beside.

    Args:
        runs: Variant to the predictions of its runs; models of one task are on the same lesions.
        tier: What the voxels were.
        split: 1 or 2, the paper's.
        change: What the variants' names end in: `"_narrow"`.
        best: See `over_runs`.
        f1: See `measures`.
    """
    printed = published.table("wang2021", {1: 2, 2: 3}[split])
    names = printed["model"].astype(str) + ", task " + printed["task"].astype(str)
    wanted = {row: f"{v}{change}" for row, v in TABLES["2"].items() if f"{v}{change}" in runs}
    ours = {row: over_runs(runs[v], row[-1], best=best, f1=f1) for row, v in wanted.items()}
    for task in "1234":
        sizes = {row: one["lesions"] for row, one in ours.items() if row.endswith(task)}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"task {task}: the models are not on the same lesions: {sizes}")
    return _beside(printed.drop(columns=["task", "model"]).set_axis(names), ours, tier)


def on_predicted(
    runs: Mapping[str, Predictions], *, tier: Tier, split: int = 1, **how: Any
) -> pd.DataFrame:
    """Table 4 beside ours: task to what `analyses.on_predicted_masks` gave, of several runs."""
    printed = published.table("wang2021", 4)
    printed = printed[printed["split"] == split].assign(task=printed["task"].astype(str))
    ours = {task: over_runs(some, task, **how) for task, some in runs.items()}
    return _beside(printed.set_index("task").drop(columns="split"), ours, tier)


def weights(runs: Mapping[str, Predictions], *, tier: Tier, **how: Any) -> pd.DataFrame:
    """Table 5 beside ours: model (d) on task 2 with other λ, by variant."""
    printed = published.table("wang2021", 5).set_index("lambda")
    rows = dict(zip(LAMBDAS, TABLES["5"].values(), strict=True))
    ours = {row: over_runs(runs[v], "2", **how) for row, v in rows.items() if v in runs}
    return _beside(printed, ours, tier)


def by_hand(
    runs: Mapping[str, Predictions], svms: Mapping[str, pd.DataFrame], *, tier: Tier
) -> pd.DataFrame:
    """Table 6, accuracies in %, beside ours; the paper's are those of other volumes.

    `runs` are by variant, of model (d); `svms`, by task, what `analyses.svm` gave on their lesions.
    """
    printed = published.table("wang2021", 6).set_index("task")
    ours: dict[str, dict[str, float]] = {}
    for row, task in SVM_TASKS.items():
        if task in svms:
            ours.setdefault(row, {})["svm"] = measures(svms[task], task)["accuracy"]
        if f"joint_{task}" in runs:
            found = over_runs(runs[f"joint_{task}"], task)
            ours.setdefault(row, {}).update(ours=found["accuracy"], ours_sd=found["accuracy_sd"])
    return _beside(printed, ours, tier)


def confusions(runs: Mapping[str, Outcome], *, tier: Tier, change: str = "") -> pd.DataFrame:
    """Fig. 4, the calls of five models on task 1, beside ours, by variant."""
    printed = published.table("wang2021", "Fig. 4")
    index = pd.MultiIndex.from_frame(printed[["model", "ground_truth"]])
    columns = ["aah_ais", "mia", "iac"]
    parts = {
        letter: confusion_of(runs[v].predictions, "1").set_axis(columns, axis=1)
        for letter, model in MODELS.items()
        if (v := f"{model}_1{change}") in runs
    }
    ours = pd.concat(parts, names=["model", "ground_truth"])
    return _shared.joined(_like(printed[columns].set_axis(index), printed), ours, tier=tier)


def _beside(printed: pd.DataFrame, ours: Mapping[Any, Any], tier: Tier) -> pd.DataFrame:
    table = pd.DataFrame(dict(ours)).T
    if "lesions" in table:
        table = table.astype({"lesions": "Int64"})
    return _shared.joined(printed, table, tier=tier)


def _like(table: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    table.attrs = printed.attrs
    return table
