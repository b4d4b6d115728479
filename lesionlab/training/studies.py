"""Train a paper's model by name: which lesions, which model, how long, where to.

    plan = Plan(paper="fu2021", variant="full", data="phantom", preset="book")
    outcome = run(plan)                        # runs/fu2021/full-phantom-book-patient-seed0/
    for fold in trained(plan):
        fold.predict()                         # or look at what fold.experiment attends to

The command `lesionlab train`, the sweeps and the chapters all come here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lesionlab import _files, _names, papers, splits
from lesionlab.crops import Crop, datasets
from lesionlab.crops.sampling import Samples
from lesionlab.results import jsonable
from lesionlab.training import checkpoints
from lesionlab.training.devices import Precision, resolve
from lesionlab.training.devices import quickest as quickest
from lesionlab.training.folds import RESULT, Dataset, cross_validate, digest
from lesionlab.training.loop import predict, trained_model
from lesionlab.training.outcomes import Outcome
from lesionlab.training.paper import Experiment, Lesions, Preset, Stream, unchanged
from lesionlab.training.recipes import Recipe, stages_of, validates
from lesionlab.training.targets import labelled, to_frame, write_predictions

N_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One model of one paper on one data set; `ValueError` if a field is out of range.

    Attributes:
        paper: The paper's name in the registry: `"fu2021"`.
        variant: Which of the paper's models; the paper's own if empty.
        data: Which of the paper's data sets; its first one if empty.
        preset: How long, and on how many lesions.
        by: Folds by `"patient"`, or by `"nodule"` as the papers did.
        seed: Seed for weights, order and augmentation. The folds do not depend on it.
        folds: Which of the folds to train for; by the preset if None.
        n_lesions: In place of the preset's; 0 for all.
        epochs: In place of the recipe's.
        data_seed: Seed of the phantoms.
        hu_error: Leave out lesions on a slice whose HU may be further off (`Crop.hu_error`).
    """

    paper: str
    variant: str = ""
    data: str = ""
    preset: str = "book"
    by: splits.By = "patient"
    seed: int = 0
    folds: tuple[int, ...] | None = None
    n_lesions: int | None = None
    epochs: int | None = None
    data_seed: int = 0
    hu_error: float | None = None

    def __post_init__(self) -> None:
        paper = papers.get(self.paper)
        known = {"variant": paper.variants, "data": paper.data, "preset": paper.presets}
        for name, expected in (known | {"by": ("patient", "nodule")}).items():
            value = getattr(self, name) or next(iter(expected))
            _names.one_of(name, value, expected)
            object.__setattr__(self, name, value)  # the class is frozen
        preset = paper.presets[self.preset]
        some = range(preset.n_folds) if self.folds is None else self.folds
        object.__setattr__(self, "folds", tuple(some))
        chosen = self.chosen or (-1,)
        if chosen[0] < 0 or (not preset.holdout and chosen[-1] >= N_FOLDS):
            raise ValueError(f"folds={self.folds!r}: expected some of 0 to {N_FOLDS - 1}")
        for name, least in (("seed", 0), ("data_seed", 0), ("n_lesions", 0), ("epochs", 1)):
            if (value := getattr(self, name)) is not None:
                _names.whole(least, **{name: value})
        if self.hu_error is not None and not 0 <= self.hu_error < np.inf:
            raise ValueError(f"hu_error={self.hu_error!r}: expected HU, 0 or more")

    @property
    def _preset(self) -> Preset:
        return papers.get(self.paper).presets[self.preset]

    @property
    def chosen(self) -> tuple[int, ...]:
        """The folds to train for, each once, in order."""
        return tuple(sorted(set(self.folds or ())))

    @property
    def stages(self) -> tuple[Recipe, ...]:
        """The preset's recipes for the variant, over another number of epochs if asked for."""
        found = tuple(self.experiment.stages(stages_of(self._preset.recipe)))
        return found if self.epochs is None else tuple(s.lasting(self.epochs) for s in found)

    @property
    def recipe(self) -> Recipe:
        """How to train, where there is one stage; how the last one is trained otherwise."""
        return self.stages[-1]

    @property
    def experiment(self) -> Experiment:
        """The model, its loss and its targets."""
        return papers.get(self.paper).experiment(self.variant).on(self.data)

    @property
    def size(self) -> int | None:
        """Lesions to draw from the cohort; None for all."""
        return self._preset.n_lesions if self.n_lesions is None else self.n_lesions or None

    @property
    def name(self) -> str:
        """What sets a run apart, for a folder: other settings, another name."""
        parts = [self.variant, self.data, self.preset, self.by, f"seed{self.seed}"]
        changes = {"n": self.n_lesions, "epochs": self.epochs, "data": self.data_seed or None}
        every: dict[str, float | None] = {**changes, "hu": self.hu_error}
        parts += [f"{name}{value}" for name, value in every.items() if value is not None]
        return "-".join(parts)

    @property
    def folder(self) -> Path:
        """Where a run goes unless it is told otherwise, under the working directory."""
        return Path("runs", self.paper, self.name)


# --- lesions ------------------------------------------------------------------------------------


def library_data(*names: str) -> dict[str, Callable[[int, bool], Lesions]]:
    """Data sets of `lesionlab.crops.datasets` by name, for `Paper.data`."""
    return {name: partial(_library_lesions, name) for name in names}


def _library_lesions(name: str, seed: int, progress: bool) -> Lesions:
    of = datasets.get(name, seed=seed)
    opened = partial(datasets.crops, name, seed=seed, progress=progress)
    return Lesions(table=of.table(), open=opened, rests_on=of.rests_on)


def load(
    plan: Plan,
    *,
    patients: Collection[str] | None = None,
    n_lesions: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Prepare the samples of a plan; crops that are not there yet are made.

    Folds are those of the whole cohort, so that a plan on fewer lesions, or on another data set,
    tests none that another one has trained on. A lesion is left out if none of its labels is known.

    Args:
        plan: What is to be trained.
        patients: Take only the lesions of these patients.
        n_lesions: Draw so many of what is left, if there are more.
        progress: Show a bar.

    Raises:
        ValueError: No lesion is left.
        FileNotFoundError: The data set is not set up.
        RuntimeError: Another process still makes crops of this data set, or one cannot be made.
    """
    paper, preset = papers.get(plan.paper), plan._preset
    lesions = paper.data[plan.data](plan.data_seed, progress)
    cohort = paper.cohort(lesions.table, plan.variant)
    if cohort.table.empty:
        raise ValueError(f"the cohort of {plan.paper} is empty")
    folds = None if preset.holdout else cohort.folds(by=plan.by, n_folds=N_FOLDS)
    wanted = draw(cohort.table, plan.size)
    if patients is not None:
        wanted = wanted[wanted["patient"].isin(patients)]
    if n_lesions is not None and n_lesions < len(wanted):
        wanted = draw(wanted, n_lesions)
    known = labelled(plan.experiment.targets, paper.labels(wanted, plan.variant)).numpy()
    excluded = dict.fromkeys(wanted.index[~known], "no label is known")
    wanted = wanted[known]
    store = lesions.open(list(wanted.index))
    missing = [lesion for lesion in wanted.index if lesion not in store]
    excluded |= {lesion: str(store.exclusions.get(lesion, "not in the set")) for lesion in missing}
    wanted = wanted.drop(missing)
    if plan.hu_error is not None:
        off = {crop.lesion_id: crop.hu_error.max() for crop in store.crops(wanted.index)}
        wide = {i: hu for i, hu in off.items() if hu > plan.hu_error}
        excluded |= {i: f"its HU may be {hu:g} off" for i, hu in wide.items()}
        wanted = wanted.drop(list(wide))
    if wanted.empty:
        raise ValueError(f"data={plan.data!r}: none of the {len(excluded)} lesions is there")
    basis = tuple(lesions.rests_on())

    def prepare(some: Sequence[str]) -> Samples:
        return paper.prepare(iter(store.crops(some)), plan.variant)

    ids = list(wanted.index)
    key = f"{plan.paper} {plan.variant} {plan.data} {plan.data_seed} {basis}"
    samples = Stream(tuple(ids), prepare, key) if preset.streamed else prepare(ids)
    table = wanted.loc[list(samples.lesion_ids)]
    return Dataset(
        samples=samples,
        labels=paper.labels(table, plan.variant),
        table=table,
        folds=None if folds is None else folds.loc[table.index],
        by=plan.by,
        holdout=preset.holdout,
        rests_on=basis,
        cohort=cohort,
        excluded=excluded,
        crops=store.crops,
    )


def draw(table: pd.DataFrame, n: int | None) -> pd.DataFrame:
    """`n` lesions, always the same, in the table's order; all if None, `ValueError` if too many."""
    if n is None:
        return table
    if not 0 < n <= len(table):
        raise ValueError(f"n_lesions={n!r}: expected 1 to {len(table)}, the size of the cohort")
    return table[table.index.isin(table.sample(n, random_state=0).index)]


# --- runs ---------------------------------------------------------------------------------------


def run(
    plan: Plan,
    *,
    dataset: Dataset | None = None,
    folder: str | Path | None = None,
    **options: Any,
) -> Outcome:
    """Train a plan's model and score it; folds that are done already are read, not trained.

    Args:
        plan: What to train.
        dataset: What `load` gave for this plan, or for one with the same data; loaded if None.
        folder: Where to; `plan.folder` if None. Folds that are in it count, also those that the
            plan does not ask for: the scores are those of all.
        **options: Arguments of `loop.fit` (device, precision, progress, resume), and
            `n_resamples`, the number of resamples of patients for the intervals.

    It raises what `load`, `train_folds` and `loop.fit` do.
    """
    resolve(options.get("device", "auto"))  # before minutes go into the samples
    place = Path(folder) if folder is not None else plan.folder
    if dataset is None:
        dataset = load(plan, progress=options.get("progress", True))
    done = finished(place) if options.get("resume", True) else ()
    return cross_validate(
        plan.experiment,
        dataset,
        recipe=plan.stages,
        folder=place,
        seed=plan.seed,
        only=sorted({*plan.chosen, *done}),
        about={"plan": asdict(plan)},
        **options,
    )


def finished(folder: str | Path) -> tuple[int, ...]:
    """The folds that have a result in a run's folder."""
    found = (path.parent.name for path in Path(folder).glob(f"fold-*/{RESULT}"))
    return tuple(sorted(int(name.removeprefix("fold-")) for name in found))


def keep(
    plan: Plan, outcome: Outcome, folder: str | Path, *, dataset: Dataset | None = None
) -> Path:
    """Keep the numbers of a finished run in a folder, with what the paper's analysis says of it.

    Files of the same name are replaced. The data set is loaded if None. Gives the JSON file.
    """
    content = dict(outcome.about)
    module, _, function = papers.get(plan.paper).analyse.partition(":")
    if module:
        folds = trained(plan, dataset=dataset, folder=outcome.path.parent)
        analysis = getattr(importlib.import_module(module), function)(folds, outcome.predictions)
        content["analysis"] = jsonable(analysis)
    path = Path(folder) / f"{plan.name}.json"
    content["predictions"] = write_predictions(path.with_suffix(".csv.gz"), outcome.predictions)
    return _files.write_json(path, content, sealed=True)


@dataclass(frozen=True, eq=False)
class Trained:
    """The model of one fold, and the lesions that it has not seen: their samples, labels and rows.

    `normalise` was done to the samples after `Paper.prepare`, and has to be done to more of them.
    `crops` is that of the data set.
    """

    fold: int
    experiment: Experiment
    weights: checkpoints.Tensors
    samples: Samples
    labels: torch.Tensor
    table: pd.DataFrame
    precision: Precision = "32-true"
    normalise: Callable[[Samples], Samples] = unchanged
    crops: Callable[[Sequence[str]], Iterable[Crop]] | None = None

    def model(self) -> torch.nn.Module:
        """The model with its weights, in evaluation mode, on the CPU."""
        return trained_model(self.experiment, self.weights)

    def predict(self, *, batch_size: int = 32, device: str = "auto") -> torch.Tensor:
        """(lesion, column) as the run predicted them."""
        how: Any = {"batch_size": batch_size, "device": device, "precision": self.precision}
        return predict(self.experiment, self.weights, self.samples, **how)

    def predictions(self, **how: Any) -> pd.DataFrame:
        """What `predict` gives, with the truths, as the table of `Outcome.predictions`."""
        rows = self.table["patient"].astype(str).rename_axis("lesion_id").reset_index()
        rows["fold"] = self.fold
        return to_frame(self.experiment.targets, rows, self.predict(**how), self.labels)


def trained(
    plan: Plan, *, dataset: Dataset | None = None, folder: str | Path | None = None
) -> Iterator[Trained]:
    """The models of a run, fold by fold; what is None is `load(plan)` and `plan.folder`.

    Raises:
        FileNotFoundError: The folder has no finished fold.
        CheckpointError: The folder holds another run, or a damaged one.
    """
    place = Path(folder) if folder is not None else plan.folder
    done = finished(place)
    if not done:
        raise FileNotFoundError(f"{place} has no finished fold")
    dataset = dataset if dataset is not None else load(plan)
    experiment = plan.experiment
    validate = validates(plan.stages)
    for fold in done:
        split, path = dataset.split(fold, validate=validate, seed=plan.seed), place / f"fold-{fold}"
        there: dict[str, Any] = _files.read_json(path / RESULT, sealed=True)["identity"]
        own = {"variant": plan.variant, "parts": digest(split)}  # what says which lesions it tests
        checkpoints.check_same(path / RESULT, {name: there[name] for name in own}, own)
        normalise = experiment.normalisation(dataset.part(split["training"])[0])
        samples, labels = dataset.part(split["test"], normalise)
        yield Trained(
            fold=fold,
            experiment=experiment,
            weights=checkpoints.load_weights(path),
            samples=samples.select(range(len(labels))),
            labels=labels,
            table=dataset.table.iloc[split["test"]],
            precision=there["precision"],
            normalise=normalise,
            crops=dataset.crops,
        )
