"""Train on a part of the lesions, select on another, predict the rest: fold by fold, or once.

A fold that is done is skipped when the same call is made again, and one that was killed goes on
from its checkpoint.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pandas as pd
import torch

from lesionlab import _files, splits
from lesionlab.crops.sampling import Samples
from lesionlab.results import jsonable
from lesionlab.training import outcomes
from lesionlab.training.checkpoints import CheckpointError, differences, versions
from lesionlab.training.devices import Precision
from lesionlab.training.loop import fit
from lesionlab.training.outcomes import Outcome
from lesionlab.training.paper import Experiment, RestsOn
from lesionlab.training.parts import Part, Stream, changed, check_part, checksum, part
from lesionlab.training.prediction import predict
from lesionlab.training.recipes import Recipe, stages_of, validates
from lesionlab.training.targets import check_labels, read_predictions, to_frame, write_predictions

RESULT = "result.json"
PREDICTIONS = "predictions.csv"
VALIDATION_SHARE = 0.1


class Options(TypedDict, total=False):
    """Arguments that go on to `loop.fit`."""

    device: str
    devices: int
    precision: Precision
    deterministic: bool
    progress: bool
    resume: bool
    every_epochs: int
    every_steps: int | None


@dataclass(frozen=True)
class Split:
    """The lesions of a fold, by position: no lesion stands in two of the three lists.

    Attributes:
        training: Lesions to learn from.
        validation: Lesions to select by; empty where the last epoch is kept or the test part
            selects.
        test: Lesions to predict.
    """

    training: list[int]
    validation: list[int]
    test: list[int]

    def digest(self) -> str:
        """SHA-256 of the three lists."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Lesions to train, select and test on.

    Attributes:
        samples: Prepared, not normalised.
        labels: (lesion, target); NaN where a label is missing.
        table: One row per lesion, in the order of the samples: patient; `diameter` and ratings for
            the baselines; `label` or `malignancy` to stratify the validation part by.
        folds: lesion_id -> fold; None for hold-out splits.
        by: `"patient"`, or `"nodule"` as some papers did.
        holdout: Shares of the training, validation and test parts; None for folds.
        rests_on: What a result on these lesions rests on.
        cohort: The paper's cohort, with its flow of counts; the lesions are drawn from it.
        excluded: lesion_id -> why it is in the cohort and not in the samples.

    Raises:
        ValueError: The attributes do not go together.
    """

    samples: Samples | Stream
    labels: torch.Tensor
    table: pd.DataFrame
    folds: pd.Series[int] | None
    by: splits.By = "patient"
    holdout: tuple[float, float, float] | None = None
    rests_on: tuple[RestsOn, ...] = ()
    cohort: Any = None
    excluded: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = list(self.samples.lesion_ids)
        if not ids or len(set(ids)) < len(ids):
            raise ValueError(f"samples: expected lesions, each once, got {len(ids)}")
        if len(self.labels) != len(ids):
            raise ValueError(f"labels: {len(self.labels)} rows, expected {len(ids)}")
        if list(self.table.index) != ids:
            raise ValueError("table: expected one row for each lesion of the samples, in order")
        if (self.folds is None) == (self.holdout is None):
            raise ValueError("expected either folds or the shares of a hold-out split")
        if self.folds is None:
            return
        if list(self.folds.index) != ids or self.folds.nunique() < 2:
            raise ValueError("folds: expected two or more, one for each lesion, in order")
        shared = self.folds.groupby(self.table["patient"]).nunique() > 1
        if self.by == "patient" and shared.any():
            raise ValueError(
                f"folds: patient {shared.idxmax()!r} is in more than one; make them by patient, "
                "or say by='nodule'"
            )

    @property
    def n_folds(self) -> int:
        """How many folds there are; of hold-out splits there are as many as seeds."""
        return 0 if self.folds is None else int(self.folds.nunique())

    def split(self, fold: int, *, validate: bool = True, seed: int = 0) -> Split:
        """The parts of a fold.

        Args:
            fold: Which. It is the test part, and of the others a tenth validates; or it is the
                seed of a hold-out split.
            validate: Whether a validation part is wanted; its lesions train otherwise.
            seed: Seed of the draw of the validation part.

        Raises:
            ValueError: There is too little to take a part from.
        """
        if self.holdout is not None:
            drawn = splits.holdout(
                self.table, self.holdout, seed=fold, label=self.table.get("label")
            ).replace("train", "training")
            named = {
                name: (drawn == name).to_numpy().nonzero()[0].tolist()
                for name in ("training", "validation", "test")
            }
            if not validate:
                named["training"] = sorted(named["training"] + named["validation"])
                named["validation"] = []
            return Split(**named)
        inside = (pd.Series(self.folds) == fold).to_numpy()
        rest, test = self.table[~inside], inside.nonzero()[0].tolist()
        places = (~inside).nonzero()[0]
        if not validate:
            return Split(places.tolist(), [], test)
        units = rest["patient"].nunique() if self.by == "patient" else len(rest)
        if units < 2 or not test:
            raise ValueError(f"fold {fold}: {units} {self.by} to train on and {len(test)} to test")
        n_folds = min(round(1 / VALIDATION_SHARE), units)
        with warnings.catch_warnings():
            # a class may be too small to be in every part: only one part is used
            warnings.filterwarnings("ignore", message="The least populated", category=UserWarning)
            strata = _strata(rest, n_folds)
            drawn = splits.folds(rest, by=self.by, n_folds=n_folds, stratify=strata, seed=seed)
        kept = (drawn != 0).to_numpy()
        return Split(places[kept].tolist(), places[~kept].tolist(), test)

    def part(self, lesions: Sequence[int]) -> Part:
        """Samples and labels of some lesions, by position."""
        return part(self.samples, lesions), self.labels[list(lesions)]


def _strata(rest: pd.DataFrame, n_folds: int) -> pd.Series[int]:
    """Classes to stratify by: label, else malignancy; one, if there are none or all are small."""
    name = next((name for name in ("label", "malignancy") if name in rest), None)
    if name is not None and rest[name].notna().all():
        classes = rest[name].round().astype(int)
        if classes.value_counts().max() >= n_folds:
            return classes
    return pd.Series(0, index=rest.index)


def cross_validate(
    experiment: Experiment,
    dataset: Dataset,
    *,
    recipe: Recipe | Sequence[Recipe],
    folder: str | Path,
    seed: int = 0,
    only: Sequence[int] | None = None,
    n_resamples: int = 2000,
    about: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Outcome:
    """Train and predict fold by fold, and score all predictions together.

    Args:
        experiment: The model, its loss and its targets.
        dataset: The lesions and their folds.
        recipe: How to train; several are stages. `select_on="test"` gives the test part to `fit`
            as what selects.
        folder: Where checkpoints, predictions and results go, a folder per fold.
        seed: Seed of the runs, the validation parts and the resamples.
        only: Train for these folds only; all if None (of a hold-out split the first).
        n_resamples: Resamples of patients for the intervals.
        about: What else to keep in `results.json`, such as the plan that this is a run of.
        **options: See `Options`.

    Returns:
        The outcome, also in `results.json` and `predictions.csv` under `folder`.

    Raises:
        ValueError: Data, folds or arguments do not go together, a target has no label or a class
            no lesion in a part, or as in `loop.fit`.
        CheckpointError: A fold's result or checkpoint is of another run, or damaged.
        TrainingError: As in `loop.fit`.
        OSError: A file cannot be written.
    """
    folds = _Folds(experiment, dataset, recipe, Path(folder), seed, only, options)
    done = folds.train()
    predictions = pd.concat([rows for _, rows in done], ignore_index=True)
    scores = outcomes.score(
        predictions, dataset.table, dataset.labels, experiment.targets,
        n_resamples=n_resamples, seed=seed,
    )  # fmt: skip
    return outcomes.write(
        Path(folder),
        about={
            **(about or {}),
            "experiment": experiment.name,
            "variant": experiment.variant,
            "settings": experiment.settings(),
            "targets": list(experiment.targets),
            "recipe": folds.recipe,
            "seed": seed,
            "split": {
                "by": dataset.by,
                "folds": dataset.n_folds,
                "holdout": dataset.holdout,
                "trained": [*folds.splits],
                "validation_share": VALIDATION_SHARE if folds.validate else None,
            },
            "cohort": {
                "patients": int(dataset.table["patient"].nunique()),
                **dataset.samples.report(),
            },
        },
        rests_on=dataset.rests_on,
        predictions=predictions,
        scores=scores,
        folds=[found for found, _ in done],
    )


def train_folds(
    experiment: Experiment,
    dataset: Dataset,
    *,
    recipe: Recipe | Sequence[Recipe],
    folder: str | Path,
    seed: int = 0,
    only: Sequence[int] | None = None,
    **options: Unpack[Options],
) -> list[dict[str, Any]]:
    """Train and predict some folds as `cross_validate` does, and score nothing yet.

    It writes to `fold-…` of these folds and to nothing else, so that several processes can work on
    the folds of one run. `cross_validate` then reads what they have left. Arguments and errors are
    those of `cross_validate`; `dataset` has all lesions, not those of these folds alone.

    Returns:
        What `result.json` of each fold says.
    """
    folds = _Folds(experiment, dataset, recipe, Path(folder), seed, only, options)
    return [found for found, _ in folds.train()]


class _Folds:
    """The folds of a run, once all of it has been checked: before hours go into the first."""

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        recipe: Recipe | Sequence[Recipe],
        folder: Path,
        seed: int,
        only: Sequence[int] | None,
        options: Options,
    ) -> None:
        self.experiment, self.dataset, self.folder = experiment, dataset, folder
        self.recipes = stages_of(recipe)
        self.recipe = self.recipes[0] if len(self.recipes) == 1 else self.recipes  # as it is kept
        self.seed, self.options = seed, options
        self.select_on = self.recipes[-1].select_on
        self.validate = validates(self.recipes)
        there = [0] if dataset.folds is None else sorted(int(k) for k in dataset.folds.unique())
        chosen = there if only is None else list(only)
        if not chosen or (dataset.folds is not None and not set(chosen) <= set(there)):
            raise ValueError(f"only={only!r}: expected some of {there}")
        check_part("samples", (dataset.samples, dataset.labels), experiment)
        self.splits = {k: dataset.split(k, validate=self.validate, seed=seed) for k in chosen}
        for fold, split in self.splits.items():
            for name in ("training", "validation", "test"):
                if lesions := getattr(split, name):
                    words = f"{name} part of fold {fold}"
                    labels = dataset.labels[lesions]
                    check_labels(words, experiment.targets, labels, dataset.labels)
        tested = sorted({i for split in self.splits.values() for i in split.test})
        if (n := dataset.table["patient"].iloc[tested].nunique()) < 2:
            raise ValueError(f"table: {n} patient to predict, an interval needs two or more")

    def train(self) -> list[tuple[dict[str, Any], pd.DataFrame]]:
        """Result and predictions of fold after fold; those that are done are read."""
        everything = checksum([(self.dataset.samples, self.dataset.labels)])
        return [self._fold(fold, split, everything) for fold, split in self.splits.items()]

    def _fold(self, fold: int, split: Split, data: str) -> tuple[dict[str, Any], pd.DataFrame]:
        experiment, place = self.experiment, self.folder / f"fold-{fold}"
        identity = jsonable(
            {
                "fold": fold,
                "seed": self.seed,
                "data": data,
                "parts": split.digest(),
                "experiment": experiment.name,
                "variant": experiment.variant,
                "settings": experiment.settings(),
                "recipe": self.recipe,
                "precision": self.options.get("precision", "32-true"),
                "versions": versions(),
            }
        )
        if (place / RESULT).exists() and self.options.get("resume", True):
            return _read(place, identity)
        training, labels = self.dataset.part(split.training)
        normalise = experiment.normalisation(training)  # type: ignore[arg-type]
        selecting = split.test if self.select_on == "test" else split.validation
        validation = None
        if selecting:
            samples, theirs = self.dataset.part(selecting)
            validation = (changed(samples, normalise), theirs)
        fitted = fit(
            experiment,
            (changed(training, normalise), labels),
            validation=validation,
            recipe=self.recipes,
            seed=self.seed,
            folder=place,
            **self.options,
        )
        test, truth = self.dataset.part(split.test)
        predicted = predict(
            experiment,
            fitted.state,
            changed(test, normalise),
            batch_size=self.recipes[-1].evaluation_batch,
            device=self.options.get("device", "auto"),
            precision=self.options.get("precision", "32-true"),
        )
        rows = self.dataset.table.iloc[split.test]
        keys = {"lesion_id": rows.index.to_numpy(), "patient": rows["patient"].astype(str).array}
        frame = to_frame(experiment.targets, pd.DataFrame({**keys, "fold": fold}), predicted, truth)
        # predictions first: where there is a result, they are there, too
        path = write_predictions(place / PREDICTIONS, frame)
        patient, metric = self.dataset.table["patient"], experiment.metric
        content = jsonable(
            {
                "identity": identity,
                "fold": fold,
                **{
                    name: {"lesions": len(some), "patients": int(patient.iloc[some].nunique())}
                    for name, some in vars(split).items()
                },
                "best_epoch": fitted.best_epoch,
                f"test_{metric}": None
                if metric == "loss"
                else experiment.measure(metric, predicted, truth),
                "normalisation": normalise if is_dataclass(normalise) else None,
                "device": fitted.device,
                "seconds": fitted.seconds,
                "history": fitted.history.reset_index(),
                "predictions": {"file": PREDICTIONS, "sha256": _files.sha256(path)},
            }
        )
        _files.write_json(place / RESULT, content)
        return content, frame


def _read(place: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], pd.DataFrame]:
    """What a finished fold has left, if it is of this run."""
    path, table = place / RESULT, place / PREDICTIONS
    try:
        found = _files.read_json(path)
        there, kept = found["identity"], found["predictions"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): remove it to do the fold again"
        ) from error
    if words := differences(there, identity):
        raise CheckpointError(
            f"{path} is of another run: {'; '.join(words)}. Use another folder, "
            "or do it anew with resume=False (--restart)"
        )
    if not table.exists() or _files.sha256(table) != kept:
        raise CheckpointError(f"{table} is not what {RESULT} was written with; remove both")
    return found, read_predictions(table)
