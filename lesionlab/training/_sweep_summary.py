"""What came of the plans of a sweep, read from their folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lesionlab import _files
from lesionlab.training._sweep_jobs import folder_of, jobs_of
from lesionlab.training.crossval import RESULT
from lesionlab.training.outcomes import RESULTS
from lesionlab.training.plans import Plan
from lesionlab.training.studies import finished


def scored(folder: Path) -> bool:
    """Whether a plan's scores are those of the folds that are there."""
    try:
        there = _files.read_json(folder / RESULTS)["folds"]
        here = [_files.read_json(folder / f"fold-{k}" / RESULT) for k in finished(folder)]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(there == here)


def summary(plan: Plan, out: Path, failed: set[str]) -> dict[str, Any]:
    """A plan, which folds are done, and its scores if all are that were asked for.

    Args:
        plan: Which.
        out: The folder of the sweep.
        failed: Names of plans and folds whose files do not count.
    """
    folder = folder_of(plan, out)
    name = folder.relative_to(out).as_posix()
    jobs = jobs_of(plan, out)
    done = [job.fold for job in jobs if job.done and job.name not in failed]
    about = {
        field: getattr(plan, field)
        for field in ("paper", "variant", "data", "preset", "by", "seed", "data_seed")
    }
    about |= {"n_lesions": plan.size, "epochs": plan.recipe.epochs, "folder": name}
    about |= {"folds": done, "of": len(jobs), "scores": [], "seconds": None}
    if len(done) == len(jobs) and name not in failed:
        there = _files.read_json(folder / RESULTS)
        about["folds"] = there["split"]["trained"]  # others may have been trained before
        about["of"] = len(about["folds"])
        about["scores"] = list(_headline(there["results"]))
        about["seconds"] = there["seconds"]
        about["data_sets"], about["device"] = there["data"], there["device"]
    return about


def _headline(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The mean absolute error, over all ratings where there are several, and the AUC."""
    own = [row for row in rows if row["predictor"] == "model"]
    errors = [row for row in own if row["metric"] == "mae"]
    for row in errors:
        if row["target"] == "mean" or len(errors) == 1:
            yield row
    yield from [row for row in own if row["metric"] == "auc"][:1]


def as_table(plans: list[dict[str, Any]]) -> pd.DataFrame:
    """`Sweep.table` of what `summary` says of each plan."""
    rows = []
    for about in plans:
        row = {name: about[name] for name in ("paper", "variant", "seed")}
        row |= {"folds": len(about["folds"]), "of": about["of"]}
        for metric in ("mae", "auc"):
            own = [score for score in about["scores"] if score["metric"] == metric]
            found: dict[str, Any] = own[0] if own else {}
            row |= {metric: found.get("value"), f"{metric}_low": found.get("low")}
            row[f"{metric}_high"] = found.get("high")
        rows.append(row | {"seconds": about["seconds"]})
    numbers = [f"{metric}{end}" for metric in ("mae", "auc") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows).astype(dict.fromkeys([*numbers, "seconds"], float))
