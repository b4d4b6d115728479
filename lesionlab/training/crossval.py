"""Cross-validation: train on all folds but one, select on a part of them, predict the one.

A fold that is done is skipped when the same call is made again, and one that was killed goes on
from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pandas as pd
import torch

from lesionlab import _files, splits
from lesionlab.crops.sampling import Samples
from lesionlab.results import jsonable
from lesionlab.training import outcomes
from lesionlab.training._checks import check_classes, check_part, checksum
from lesionlab.training._devices import Precision
from lesionlab.training._parts import Lesions, Parts, align, split
from lesionlab.training.checkpoints import CheckpointError, differences, versions
from lesionlab.training.experiments import Experiment
from lesionlab.training.loop import Fitted, fit
from lesionlab.training.outcomes import PREDICTIONS, Data, Outcome
from lesionlab.training.prediction import predict
from lesionlab.training.recipes import Recipe, SelectOn

RESULT = "result.json"
VALIDATION_SHARE = 0.1
Make = Callable[[Samples, torch.Tensor], Experiment]


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


def cross_validate(
    make: Make,
    samples: Samples,
    targets: torch.Tensor,
    table: pd.DataFrame,
    folds: pd.Series[int],
    *,
    recipe: Recipe,
    folder: str | Path,
    data: Sequence[Data],
    seed: int = 0,
    only: Sequence[int] | None = None,
    by: splits.By = "patient",
    validation_share: float = VALIDATION_SHARE,
    n_resamples: int = 2000,
    about: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Outcome:
    """Train and predict fold by fold, and score all predictions together.

    Args:
        make: Makes the experiment from a training part, not yet normalised, and its targets: what
            is measured there (class weights) sees nothing of the other parts.
        samples: Prepared samples of all lesions, not yet normalised.
        targets: (lesion, target), in the units that are to be reported.
        table: One row per lesion at least, index `lesion_id`: patient; `diameter` and ratings for
            the baselines; `label` or `malignancy` to stratify the validation part by.
        folds: lesion_id -> fold, as `splits.folds`.
        recipe: How to train; `select_on="test"` gives the test part to `fit` as what selects.
        folder: Where checkpoints, predictions and results go, a folder per fold.
        data: What the result rests on.
        seed: Of the runs, the validation parts and the resamples.
        only: Train for these folds only; all if None.
        by: What the validation part is drawn by; `patient` also demands it of the folds.
        validation_share: Share of the training part that becomes the validation part.
        n_resamples: Resamples of patients for the intervals.
        about: What else to keep in `results.json`, such as the plan that this is a run of.
        **options: See `Options`.

    Returns:
        The outcome, also in `results.json` and `predictions.csv` under `folder`.

    Raises:
        ValueError: Data, folds or arguments do not go together, a class has no lesion in a part,
            or as in `loop.fit`.
        CheckpointError: A fold's result or checkpoint is of another run, or damaged.
        TrainingError: As in `loop.fit`.
        OSError: A file cannot be written.
    """
    work = _Work.of(make, samples, targets, table, folds, recipe, seed, only, by, validation_share)
    done = work.train(Path(folder), options)
    table, folds, targets, experiment = work.table, work.folds, work.targets, work.experiment
    predictions = pd.concat([rows for _, rows in done], ignore_index=True)
    truths = pd.DataFrame(targets.double().numpy(), index=table.index, columns=[*experiment.tasks])
    scores = outcomes.score(
        predictions, table, truths, folds, experiment.tasks, n_resamples=n_resamples, seed=seed
    )
    about = {
        **(about or {}),
        "experiment": experiment.name,
        "variant": experiment.variant,
        "settings": experiment.settings(),
        "recipe": recipe,
        "seed": seed,
        "split": {
            "by": by,
            "folds": int(folds.nunique()),
            "trained": [*work.parts],
            "validation_share": work.share,
        },
        "cohort": {"patients": int(table["patient"].nunique()), **samples.report()},
    }
    return outcomes.write(
        Path(folder),
        about=about,
        data=data,
        predictions=predictions,
        scores=scores,
        folds=[found for found, _ in done],
    )


def train_folds(
    make: Make,
    samples: Samples,
    targets: torch.Tensor,
    table: pd.DataFrame,
    folds: pd.Series[int],
    *,
    recipe: Recipe,
    folder: str | Path,
    seed: int = 0,
    only: Sequence[int] | None = None,
    by: splits.By = "patient",
    validation_share: float = VALIDATION_SHARE,
    **options: Unpack[Options],
) -> list[dict[str, Any]]:
    """Train and predict some folds as `cross_validate` does, and score nothing yet.

    It writes to `fold-…` of these folds and to nothing else, so that several processes can work on
    the folds of one run, each on its own. `cross_validate` then reads what they have left.

    Args:
        make: As in `cross_validate`, as all that follow.
        samples: Of all lesions, not of these folds alone.
        targets: (lesion, target).
        table: One row per lesion at least.
        folds: lesion_id -> fold.
        recipe: How to train.
        folder: Of the whole run.
        seed: Of the run.
        only: Which folds; all if None.
        by: What the validation part is drawn by.
        validation_share: Share of the training part that becomes the validation part.
        **options: See `Options`.

    Returns:
        Per fold, what its `result.json` says.

    Raises:
        ValueError: As `cross_validate`.
        CheckpointError: As `cross_validate`.
        TrainingError: As `loop.fit`.
        OSError: A file cannot be written.
    """
    work = _Work.of(make, samples, targets, table, folds, recipe, seed, only, by, validation_share)
    return [found for found, _ in work.train(Path(folder), options)]


@dataclass(frozen=True)
class _Work:
    """What is to be trained, once all of it has been checked."""

    make: Make
    samples: Samples
    targets: torch.Tensor
    table: pd.DataFrame
    folds: pd.Series[int]
    recipe: Recipe
    seed: int
    share: float | None
    parts: dict[int, Parts]
    experiment: Experiment  # for its names; each fold has its own

    @classmethod
    def of(
        cls,
        make: Make,
        samples: Samples,
        targets: torch.Tensor,
        table: pd.DataFrame,
        folds: pd.Series[int],
        recipe: Recipe,
        seed: int,
        only: Sequence[int] | None,
        by: splits.By,
        validation_share: float,
    ) -> _Work:
        """Check it all, before hours go into the first fold; errors as `cross_validate`."""
        targets = targets.detach().float().cpu()
        table, folds, chosen = align(samples, table, folds, only, by)
        if len(targets) != len(table):
            raise ValueError(f"targets: {len(targets)} rows, expected {len(table)}, one per lesion")
        share = validation_share if recipe.select_on == "validation" else None
        every = {k: split(table, folds, k, by=by, share=share, seed=seed) for k in chosen}
        first = every[chosen[0]].training
        experiment = make(samples.select(first), targets[first])
        check_part("samples", (samples, targets), experiment)
        for fold, parts in every.items():
            for name in ("training", "validation", "test"):
                if lesions := getattr(parts, name):
                    check_classes(f"{name} part of fold {fold}", targets[lesions], experiment)
        return cls(make, samples, targets, table, folds, recipe, seed, share, every, experiment)

    def train(self, folder: Path, options: Options) -> list[tuple[dict[str, Any], pd.DataFrame]]:
        """Result and predictions of fold after fold; those that are done are read."""
        everything = checksum([(self.samples, self.targets)])
        done = []
        for fold, parts in self.parts.items():
            place = folder / f"fold-{fold}"
            common = {"fold": fold, "seed": self.seed, "data": everything, "parts": parts.digest()}
            given = (self.make, self.samples, self.targets, self.table, self.recipe)
            done.append(_Fold(*given, parts, place, common, options).result())
        return done


@dataclass(frozen=True)
class _Fold:
    """One fold: how to get its result, from the disk or by training."""

    make: Make
    samples: Samples
    targets: torch.Tensor
    table: pd.DataFrame
    recipe: Recipe
    parts: Parts
    folder: Path
    common: dict[str, Any]
    options: Options

    def result(self) -> tuple[dict[str, Any], pd.DataFrame]:
        training, targets = self._of(self.parts.training)
        experiment = self.make(training, targets)
        identity = jsonable(
            {
                **self.common,
                "experiment": experiment.name,
                "variant": experiment.variant,
                "settings": experiment.settings(),
                "recipe": self.recipe,
                "precision": self.options.get("precision", "32-true"),
                "versions": versions(),
            }
        )
        if (self.folder / RESULT).exists() and self.options.get("resume", True):
            return self._read(identity)
        normalise = experiment.normalisation(training)
        selecting = self._selecting(self.recipe.select_on)
        fitted = fit(
            experiment,
            normalise(training),
            targets,
            validation=selecting and (normalise(selecting[0]), selecting[1]),
            recipe=self.recipe,
            seed=self.common["seed"],
            folder=self.folder,
            **self.options,
        )
        test, truth = self._of(self.parts.test)
        predicted = predict(
            experiment,
            fitted.state,
            normalise(test),
            batch_size=self.recipe.evaluation_batch,
            device=self.options.get("device", "auto"),
            precision=self.options.get("precision", "32-true"),
        )
        predictions = self._table(list(experiment.tasks), predicted, truth)
        measured = experiment.metric(predicted, truth)
        content = self._content(identity, experiment, normalise, fitted, measured)
        return self._write(content, predictions), predictions

    def _of(self, lesions: Lesions) -> tuple[Samples, torch.Tensor]:
        return self.samples.select(lesions), self.targets[lesions]

    def _selecting(self, select_on: SelectOn) -> tuple[Samples, torch.Tensor] | None:
        lesions = self.parts.test if select_on == "test" else self.parts.validation
        return self._of(lesions) if lesions and select_on != "last" else None

    def _table(
        self, names: list[str], predicted: torch.Tensor, truth: torch.Tensor
    ) -> pd.DataFrame:
        rows = self.table.iloc[self.parts.test]
        columns: dict[str, Any] = {
            "lesion_id": rows.index.to_numpy(),
            "patient": rows["patient"].astype(str).to_numpy(),
            "fold": self.common["fold"],
        }
        columns |= {name: predicted[:, i].double().numpy() for i, name in enumerate(names)}
        columns |= {f"{name}_truth": truth[:, i].double().numpy() for i, name in enumerate(names)}
        return pd.DataFrame(columns)

    def _content(
        self,
        identity: dict[str, Any],
        experiment: Experiment,
        normalise: Any,
        fitted: Fitted,
        measured: float,
    ) -> dict[str, Any]:
        patient = self.table["patient"]
        counts = {
            name: {"lesions": len(some), "patients": int(patient.iloc[some].nunique())}
            for name, some in asdict(self.parts).items()
        }
        return {
            "identity": identity,
            "fold": self.common["fold"],
            **counts,
            "best_epoch": fitted.best_epoch,
            f"test_{experiment.metric_name}": measured,
            "normalisation": normalise if is_dataclass(normalise) else None,
            "device": fitted.device,
            "seconds": fitted.seconds,
            "history": fitted.history.reset_index(),
        }

    def _write(self, content: dict[str, Any], predictions: pd.DataFrame) -> dict[str, Any]:
        """Predictions first: where there is a result, they are there, too."""
        path = _files.write_text(self.folder / PREDICTIONS, outcomes.csv(predictions))
        content["predictions"] = {"file": PREDICTIONS, "sha256": _files.sha256(path)}
        found: dict[str, Any] = jsonable(content)
        _files.write_json(self.folder / RESULT, found)
        return found

    def _read(self, identity: dict[str, Any]) -> tuple[dict[str, Any], pd.DataFrame]:
        path = self.folder / RESULT
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
        table = self.folder / PREDICTIONS
        if not table.exists() or _files.sha256(table) != kept:
            raise CheckpointError(f"{table} is not what {RESULT} was written with; remove both")
        return found, outcomes.read_predictions(table)
