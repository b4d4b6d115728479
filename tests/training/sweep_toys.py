"""The toy as a paper that a sweep can train; a worker of Dask imports this before it begins."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch
import training_toys as toys

from lesionlab import cohorts, splits
from lesionlab.training import _sweep_jobs, plans, studies
from lesionlab.training.outcomes import Data

N_FOLDS = plans.N_FOLDS
SLOWLY = "LESIONLAB_TEST_SECONDS"
"""Seconds that every batch takes longer, so that there is time to kill a worker."""


@dataclasses.dataclass(frozen=True)
class Broken(toys.Toy):
    """Has no loss."""

    def loss(self, outputs: Any, targets: torch.Tensor) -> Any:
        raise RuntimeError("no loss,\nnone at all")


@dataclasses.dataclass(frozen=True)
class Slow(toys.Toy):
    """Takes its time."""

    def loss(self, outputs: Any, targets: torch.Tensor) -> Any:
        time.sleep(float(os.environ.get(SLOWLY, "0")))
        return super().loss(outputs, targets)


@dataclasses.dataclass(frozen=True)
class Deadly(toys.Toy):
    """Ends the process that it is trained in."""

    def loss(self, outputs: Any, targets: torch.Tensor) -> Any:
        time.sleep(0.5)  # what dies before Dask has seen it live may stay dead
        os._exit(1)


KINDS = {"slow": Slow, "other": Slow, "broken": Broken, "deadly": Deadly}
loads: list[str] = []


def load(plan: plans.Plan, *, progress: bool = True) -> studies.Loaded:
    """In place of `studies.load`: forty lesions in five folds."""
    loads.append(plan.model)
    samples, targets = toys.lesions(plan.size or 40)
    table = toys.table(samples, targets)
    return studies.Loaded(
        samples=samples,
        targets=targets,
        table=table,
        folds=splits.folds(table, n_folds=N_FOLDS),
        cohort=cohorts.Cohort.__new__(cohorts.Cohort),
        data=(Data("toys", "phantom"),),
    )


def unused(*arguments: Any) -> Any:
    raise AssertionError("a toy is not loaded like this")


STUDY = plans.Study(
    name="toy",
    variants=tuple(KINDS),
    presets={"smoke": plans.Preset(recipe=dataclasses.replace(toys.RECIPE, epochs=3), n_folds=2)},
    cohort=unused,
    prepare=unused,
    targets=unused,
    make=lambda variant: lambda training, targets: KINDS[variant](variant=variant),
)

if "toy" not in plans.PAPERS:
    paper = types.ModuleType("lesionlab.papers.toy")
    paper.STUDY = STUDY  # type: ignore[attr-defined]
    paper.TABLES = {"1": {"Slow": "slow", "Broken": "broken"}}  # type: ignore[attr-defined]
    sys.modules[paper.__name__] = paper
    plans.PAPERS = (*plans.PAPERS, "toy")  # type: ignore[assignment]
    _sweep_jobs.load = load


def seen(folder: Path) -> dict[str, int]:
    """Every file of a sweep, and when it was written."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}
