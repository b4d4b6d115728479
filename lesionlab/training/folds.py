"""Train on a part of the lesions, select on another, predict the rest: fold by fold, or once.

A fold that is done is skipped when the same call is made again, and one that was killed goes on
from its checkpoint.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from lesionlab import _files, _names, results, splits
from lesionlab.crops.sampling import Samples
from lesionlab.splits import PARTS
from lesionlab.training.checkpoints import CheckpointError, check_same
from lesionlab.training.loop import fit, identity_of, predict
from lesionlab.training.outcomes import PREDICTIONS, RESULTS, Outcome, score
from lesionlab.training.paper import Experiment, Part, Stream, checked, unchanged
from lesionlab.training.recipes import Recipe, stages_of, validates
from lesionlab.training.targets import check_labels, read_predictions, to_frame, write_predictions

if TYPE_CHECKING:
    from lesionlab.crops import Crop
    from lesionlab.crops.datasets import Basis

RESULT = "result.json"
VALIDATION_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Dataset:
    """Lesions to train, select and test on; `ValueError` if the attributes do not go together.

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
        crops: Reads the crops of some lesions, in their order; None where there are none.
    """

    samples: Samples | Stream
    labels: torch.Tensor
    table: pd.DataFrame
    folds: pd.Series[int] | None
    by: splits.By = "patient"
    holdout: tuple[float, float, float] | None = None
    rests_on: Sequence[Basis] = ()
    cohort: Any = None
    excluded: Mapping[str, str] = field(default_factory=dict)
    crops: Callable[[Sequence[str]], Iterable[Crop]] | None = None

    def __post_init__(self) -> None:
        for basis in self.rests_on:
            _names.one_of("tier", basis.tier, results.TIERS)
        ids = list(self.samples.lesion_ids)
        if not ids or len(set(ids)) < len(ids):
            raise ValueError(f"samples: expected lesions, each once, got {len(ids)}")
        if list(self.table.index) != ids:
            raise ValueError("table: expected one row for each lesion of the samples, in order")
        if (self.folds is None) == (self.holdout is None):
            raise ValueError("expected either folds or the shares of a hold-out split")
        if self.folds is None:
            return
        if list(self.folds.index) != ids:
            raise ValueError("folds: expected one for each lesion, in order")
        shared = self.folds.groupby(self.table["patient"]).nunique() > 1
        if self.by == "patient" and shared.any():
            raise ValueError(
                f"folds: patient {shared.idxmax()!r} is in more than one; make them by patient, "
                "or say by='nodule'"
            )

    def split(self, fold: int, *, validate: bool = True, seed: int = 0) -> dict[str, list[int]]:
        """The lesions of the three `PARTS`, by position; no lesion is in two of them.

        Args:
            fold: Which. It is the test part, and of the others a tenth validates; or it is the
                seed of a hold-out split.
            validate: Whether a validation part is wanted; its lesions train otherwise.
            seed: Seed of the draw of the validation part.
        """
        if self.holdout is not None:
            label = self.table.get("label")
            drawn = splits.holdout(self.table, self.holdout, seed=fold, label=label)
        else:
            inside = (pd.Series(self.folds) == fold).to_numpy()
            if not 0 < (tested := int(inside.sum())) < len(inside):
                raise ValueError(f"fold {fold}: {tested} of {len(inside)} lesions to test")
            drawn = pd.Series("training", self.table.index).mask(inside, "test")
            if validate:
                drawn[self._validation(self.table[~inside], fold, seed)] = "validation"
        if not validate:
            drawn = drawn.replace("validation", "training")
        return {name: (drawn == name).to_numpy().nonzero()[0].tolist() for name in PARTS}

    def _validation(self, rest: pd.DataFrame, fold: int, seed: int) -> pd.Index[Any]:
        """The lesions outside of a fold that validate."""
        unit = rest["patient"] if self.by == "patient" else rest.index.to_series()
        units = unit.nunique()
        if units < 2:
            raise ValueError(f"fold {fold}: {units} {self.by} to train on, expected two or more")
        n_folds, alike = min(round(1 / VALIDATION_SHARE), units), pd.Series(0, index=rest.index)
        classes = rest.get("label", rest.get("malignancy", alike)).round()
        if classes.isna().any() or unit.groupby(classes).nunique().max() < n_folds:
            classes = alike
        with warnings.catch_warnings():
            # a class may be too small to be in every part: only one part is used
            warnings.filterwarnings("ignore", message="The least populated", category=UserWarning)
            drawn = splits.folds(rest, by=self.by, n_folds=n_folds, stratify=classes, seed=seed)
        return drawn.index[drawn == 0]

    def part(
        self, lesions: Sequence[int], normalise: Callable[[Samples], Samples] = unchanged
    ) -> Part:
        """Normalised samples, and labels, of some lesions, by position; a stream prepares later."""
        samples, labels = self.samples, self.labels[list(lesions)]
        if isinstance(samples, Samples):
            return normalise(samples.select(lesions)), labels
        ids, prepare = tuple(samples.lesion_ids[i] for i in lesions), samples.prepare
        return replace(samples, lesion_ids=ids, prepare=lambda of: normalise(prepare(of))), labels


def cross_validate(
    experiment: Experiment,
    dataset: Dataset,
    *,
    folder: str | Path,
    n_resamples: int = 2000,
    about: Mapping[str, Any] | None = None,
    **options: Any,
) -> Outcome:
    """Train and predict fold by fold (`train_folds`), and score all predictions together.

    The arguments are those of `train_folds`, and the number of resamples of patients for the
    intervals, and `about`, what else to keep, such as the plan that this is a run of. The outcome
    is also in `results.json` and `predictions.csv` under `folder`.
    """
    done = train_folds(experiment, dataset, folder=folder, **options)
    folds = [fold for fold, _ in done]
    predictions = pd.concat([rows for _, rows in done], ignore_index=True)
    same, validated = folds[0]["identity"], any(fold["validation"]["lesions"] for fold in folds)
    how: Any = {"n_resamples": n_resamples, "seed": same["seed"]}
    scores = score(predictions, dataset.table, dataset.labels, experiment.targets, **how)
    path = Path(folder) / PREDICTIONS
    entry = write_predictions(path, predictions)
    content = {
        **(about or {}),
        **{key: same[key] for key in ("experiment", "variant", "settings", "recipe", "seed")},
        "targets": list(experiment.targets),
        "split": {
            "by": dataset.by,
            "folds": 0 if dataset.folds is None else int(dataset.folds.nunique()),
            "holdout": dataset.holdout,
            "trained": [fold["fold"] for fold in folds],
            "validation_share": VALIDATION_SHARE if validated else None,
        },
        "cohort": {"patients": dataset.table["patient"].nunique(), **dataset.samples.report()},
        "data": [basis._asdict() for basis in dataset.rests_on],
        "device": sorted({fold["device"] for fold in folds}),
        "seconds": sum(fold["seconds"] for fold in folds),
        **results.provenance(results.ROOT, "lightning-fabric", "safetensors"),
        "predictions": entry,
        "results": scores,
        "folds": folds,
    }
    content = results.jsonable(content)
    path = _files.write_json(path.with_name(RESULTS), content, sealed=True)
    return Outcome(predictions=predictions, scores=scores, about=content, path=path)


def train_folds(
    experiment: Experiment,
    dataset: Dataset,
    *,
    recipe: Recipe | Sequence[Recipe],
    folder: str | Path,
    seed: int = 0,
    only: Sequence[int] | None = None,
    **options: Any,
) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Train for some folds and predict their test parts; folds that are done are read.

    It writes to `fold-…` of these folds and to nothing else, so that several processes can work on
    the folds of one run. All is checked before the first fold is trained.

    Args:
        experiment: The model, its loss and its targets.
        dataset: All lesions, not those of these folds alone.
        recipe: How to train; several are stages. `select_on="test"` gives the test part to `fit`
            as what selects.
        folder: Where to.
        seed: Seed of the runs and of the validation parts.
        only: Which folds; all if None (of a hold-out split the first).
        **options: The other arguments of `loop.fit`: device, precision, progress, resume.

    Returns:
        What `result.json` of each fold says, and its predictions as in `Outcome`.

    Raises:
        ValueError: Data, folds or arguments do not go together, or a target has no label or a class
            no lesion in a part.
        CheckpointError: A fold's result or checkpoint is of another run, or damaged.
    """
    there = [0] if dataset.folds is None else sorted(int(k) for k in dataset.folds.unique())
    chosen = there if only is None else list(only)
    if not chosen or (dataset.folds is not None and not set(chosen) <= set(there)):
        raise ValueError(f"only={only!r}: expected some of {there}")
    everything, stages = (dataset.samples, dataset.labels), stages_of(recipe)
    checked("samples", everything, experiment.targets)
    validate = validates(stages)
    parts = {fold: dataset.split(fold, validate=validate, seed=seed) for fold in chosen}
    for fold, split in parts.items():
        for name, lesions in split.items():
            if lesions:
                words, labels = f"{name} part of fold {fold}", dataset.labels[lesions]
                check_labels(words, experiment.targets, labels, dataset.labels)
    tested = sorted({i for split in parts.values() for i in split["test"]})
    if (n := dataset.table["patient"].iloc[tested].nunique()) < 2:
        raise ValueError(f"table: {n} patient to predict, an interval needs two or more")
    kept = stages if len(stages) > 1 else stages[0]  # files have a list of several stages
    precision = options.get("precision", "32-true")
    common = identity_of(experiment, kept, seed, precision, [everything])
    done = []
    for fold, split in parts.items():
        place = Path(folder) / f"fold-{fold}"
        identity = results.jsonable({**common, "fold": fold, "parts": digest(split)})
        if (place / RESULT).exists() and options.get("resume", True):
            done.append(_read(place, identity))
        else:
            done.append(_train(experiment, dataset, split, stages, place, identity, options))
    return done


def digest(split: Mapping[str, list[int]]) -> str:
    """SHA-256 of the three parts of a fold."""
    return hashlib.sha256(repr(tuple(split[name] for name in PARTS)).encode()).hexdigest()


def _train(
    experiment: Experiment,
    dataset: Dataset,
    split: Mapping[str, list[int]],
    stages: Sequence[Recipe],
    place: Path,
    identity: dict[str, Any],
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train for one fold, predict its test part, and write both into the fold's folder."""
    normalise = experiment.normalisation(dataset.part(split["training"])[0])
    selecting = split["test" if stages[-1].select_on == "test" else "validation"]
    fitted = fit(
        experiment,
        dataset.part(split["training"], normalise),
        validation=dataset.part(selecting, normalise) if selecting else None,
        recipe=stages,
        seed=identity["seed"],
        folder=place,
        **options,
    )
    test, truth = dataset.part(split["test"], normalise)
    predicted = predict(
        experiment,
        fitted.state,
        test,
        batch_size=stages[-1].evaluation_batch,
        device=options.get("device", "auto"),
        precision=options.get("precision", "32-true"),
    )
    patients, fold = dataset.table["patient"].astype(str), identity["fold"]
    tested = patients.iloc[split["test"]].rename_axis("lesion_id").reset_index().assign(fold=fold)
    frame = to_frame(experiment.targets, tested, predicted, truth)
    # predictions first: where there is a result, they are there, too
    entry = write_predictions(place / PREDICTIONS, frame)
    metric = experiment.metric
    measured = None if metric == "loss" else experiment.measure(metric, predicted, truth)
    content = results.jsonable(
        {
            "identity": identity,
            "fold": fold,
            **{
                name: {"lesions": len(some), "patients": patients.iloc[some].nunique()}
                for name, some in split.items()
            },
            "best_epoch": fitted.best_epoch,
            f"test_{metric}": measured,
            "normalisation": normalise if is_dataclass(normalise) else None,
            "device": fitted.device,
            "seconds": fitted.seconds,
            "history": fitted.history.reset_index(),
            "predictions": entry,
        }
    )
    _files.write_json(place / RESULT, content, sealed=True)
    return content, frame


def _read(place: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], pd.DataFrame]:
    """What a finished fold has left, if it is of this run."""
    path = place / RESULT
    try:
        found = _files.read_json(path, sealed=True)
        there, entry = found["identity"], dict(found["predictions"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is damaged ({error}): remove it to do the fold again"
        raise CheckpointError(message) from error
    check_same(path, there, identity)
    return found, read_predictions(place, entry)
