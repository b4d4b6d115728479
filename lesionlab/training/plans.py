"""What to train, by name: a paper's model, a data set, and how much work it is.

What a paper has to say for it is the `STUDY` at the end of its file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from lesionlab import splits
from lesionlab.cli import _names
from lesionlab.cohorts import Cohort
from lesionlab.crops.sampling import Samples
from lesionlab.training.crossval import Make
from lesionlab.training.recipes import Recipe

if TYPE_CHECKING:
    from lesionlab.crops import Crop
    from lesionlab.training.studies import Trained

PAPERS = ("fu2021", "lei2020")
"""Papers with a model to train, by their module in `lesionlab.papers`."""

N_FOLDS = 5
DATA = ("phantom", "slices", "dicom")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How much work a run is.

    Attributes:
        recipe: How to train.
        n_lesions: Lesions drawn from the cohort, over all folds; all of them if None.
        n_folds: How many of the folds to train for, unless asked otherwise.
        enriched: Draw lesions of unusual ratings more often, see `studies.drawn`.
    """

    recipe: Recipe
    n_lesions: int | None = None
    n_folds: int = 1
    enriched: bool = False


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a paper's file offers for training by name.

    Attributes:
        name: The paper, as its module.
        variants: Its models; the first one is the paper's own.
        presets: By name: smoke, book, paper, and what else there is.
        cohort: From the table of all nodules to the paper's, for a variant.
        prepare: From crops to samples, for a variant.
        targets: From a table to (lesion, target), for a variant.
        make: The maker of the experiment of a variant, as `crossval.cross_validate` wants it.
        analyse: From the trained models of a run and its predictions to tables by name, to be kept
            beside the scores; None for none.
    """

    name: str
    variants: Sequence[str]
    presets: Mapping[str, Preset]
    cohort: Callable[[pd.DataFrame, str], Cohort]
    prepare: Callable[[Iterator[Crop], str], Samples]
    targets: Callable[[pd.DataFrame, str], torch.Tensor]
    make: Callable[[str], Make]
    analyse: Callable[[Iterator[Trained], pd.DataFrame], dict[str, Any]] | None = None


def study(paper: str) -> Study:
    """The study of a paper.

    Raises:
        ValueError: There is no such paper, or it has no model yet.
    """
    if paper not in PAPERS:
        raise ValueError(f"paper={paper!r}: expected one of {', '.join(PAPERS)}")
    found: Study = importlib.import_module(f"lesionlab.papers.{paper}").STUDY
    return found


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One model of one paper on one data set.

    Attributes:
        paper: As its module: `"fu2021"`.
        variant: Which of the paper's models; the paper's own if None.
        data: `"phantom"`, `"slices"` or `"dicom"`.
        preset: How long, and on how many lesions.
        by: Folds by `"patient"`, or by `"nodule"` as the papers did.
        seed: Of weights, order and augmentation. The folds do not depend on it.
        folds: Which of the five folds to train for; by the preset if None.
        n_lesions: In place of the preset's; 0 for all.
        epochs: In place of the recipe's.
        data_seed: Of the phantoms.

    Raises:
        ValueError: A field is out of range.
    """

    paper: str
    variant: str | None = None
    data: str = "phantom"
    preset: str = "book"
    by: splits.By = "patient"
    seed: int = 0
    folds: tuple[int, ...] | None = None
    n_lesions: int | None = None
    epochs: int | None = None
    data_seed: int = 0

    def __post_init__(self) -> None:
        of = study(self.paper)
        if self.variant is None:
            object.__setattr__(self, "variant", of.variants[0])
        for name, expected in (
            ("variant", tuple(of.variants)),
            ("data", DATA),
            ("preset", tuple(of.presets)),
            ("by", ("patient", "nodule")),
        ):
            if (value := getattr(self, name)) not in expected:
                raise ValueError(
                    f"{name}={value!r}: expected one of {_names.listed(expected)}"
                    f"{_names.close(value, expected)}"
                )
        if self.folds is None:
            object.__setattr__(self, "folds", tuple(range(of.presets[self.preset].n_folds)))
        if not self.chosen or not set(self.chosen) <= set(range(N_FOLDS)):
            raise ValueError(f"folds={self.folds!r}: expected some of 0 to {N_FOLDS - 1}")
        for name, least in (("seed", 0), ("data_seed", 0), ("n_lesions", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value!r}: expected {least} or more")

    @property
    def chosen(self) -> tuple[int, ...]:
        """The folds to train for, each once, in order."""
        return tuple(sorted(set(self.folds or ())))

    @property
    def model(self) -> str:
        """The variant, where it has been filled in."""
        return self.variant or ""

    @property
    def recipe(self) -> Recipe:
        """How to train: the preset's recipe, over another number of epochs if asked for."""
        recipe = study(self.paper).presets[self.preset].recipe
        return recipe if self.epochs is None else recipe.lasting(self.epochs)

    @property
    def size(self) -> int | None:
        """Lesions to draw from the cohort; None for all."""
        if self.n_lesions is None:
            return study(self.paper).presets[self.preset].n_lesions
        return self.n_lesions or None

    @property
    def enriched(self) -> bool:
        """Whether lesions are drawn, and those of unusual ratings more often."""
        return self.size is not None and study(self.paper).presets[self.preset].enriched

    @property
    def name(self) -> str:
        """What sets a run apart, for a folder: other settings, another name."""
        parts = [self.model, self.data, self.preset, self.by, f"seed{self.seed}"]
        changed = {
            "n": self.n_lesions,
            "epochs": self.epochs,
            "data": self.data_seed or None,
        }
        parts += [f"{name}{value}" for name, value in changed.items() if value is not None]
        return "-".join(parts)

    @property
    def folder(self) -> Path:
        """Where a run goes unless it is told otherwise, under the working directory."""
        return Path("runs", self.paper, self.name)
