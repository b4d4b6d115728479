"""What came of a cross-validation: scores beside their baselines, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import lesionlab
from lesionlab import _files, results
from lesionlab.statistics.baselines import (
    OTHER_RATINGS,
    Baseline,
    constant_error,
    diameter_classifier,
    diameter_regression,
    majority_classifier,
    ratings_classifier,
)
from lesionlab.statistics.intervals import Estimate, bootstrap_weights_over_groups
from lesionlab.statistics.scoring import score_classification, score_regression, skills
from lesionlab.training.experiments import Task

RESULTS = "results.json"
PREDICTIONS = "predictions.csv"


@dataclass(frozen=True)
class Data:
    """What a result rests on.

    Attributes:
        name: What it is, in words, with its version.
        tier: One of `lesionlab.results.TIERS`.
        checksum: SHA-256 of the file that was read; None for phantoms.

    Raises:
        ValueError: The tier is another word.
    """

    name: str
    tier: str
    checksum: str | None = None

    def __post_init__(self) -> None:
        if self.tier not in results.TIERS:
            raise ValueError(f"tier={self.tier!r}: expected one of {', '.join(results.TIERS)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """A cross-validation that is done.

    Attributes:
        predictions: One row per lesion, each predicted by the model that has not seen it:
            lesion_id, patient, fold, a column of predictions for each target under its name, and
            the truth under `…_truth`.
        scores: One row per target, predictor (`model` and the baselines) and metric: value, low,
            high, n lesions, n_groups patients. The target `mean` is the mean over the ratings.
        folds: Per fold, what its `result.json` says: counts, best epoch, metric, history, seconds.
        path: The JSON file with all but the predictions, which are in a CSV file beside it.
    """

    predictions: pd.DataFrame
    scores: pd.DataFrame
    folds: list[dict[str, Any]]
    path: Path


def score(
    predictions: pd.DataFrame,
    table: pd.DataFrame,
    truths: pd.DataFrame,
    folds: pd.Series[int],
    tasks: Mapping[str, Task],
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Score a model and its baselines on the same lesions.

    Baselines are fitted on all folds but the one they predict, also where the model was trained
    for some folds only, and scored on the lesions that the model predicted.

    Args:
        predictions: As in `Outcome`.
        table: One row per lesion, index `lesion_id`: patient; with `diameter` (mm) there is a
            baseline of the diameter alone, with the readers' ratings one of these.
        truths: One row per lesion, index `lesion_id`, a column per target.
        folds: lesion_id -> fold.
        tasks: Of the targets.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        As `Outcome.scores`.

    Raises:
        ValueError: As the functions of `statistics.baselines` and `statistics.scoring`, or a
            baseline does not cover the lesions of the model.
    """
    how: Any = {"n_resamples": n_resamples, "seed": seed}
    rows: list[dict[str, Any]] = []
    ratings: dict[str, dict[str, pd.DataFrame]] = {}
    for target, task in tasks.items():
        scoring = score_regression if task == "regression" else score_classification
        frames = dict(_predictors(target, task, predictions, table, truths, folds))
        if task == "regression":
            ratings[target] = frames
        for predictor, frame in frames.items():
            rows += _rows(target, predictor, scoring(frame, **how))
    if len(ratings) > 1:
        for predictor in next(iter(ratings.values())):
            frames = {target: frames[predictor] for target, frames in ratings.items()}
            rows += _rows("mean", predictor, _mean(frames, **how))
    return pd.DataFrame(rows)


def _predictors(
    target: str,
    task: Task,
    predictions: pd.DataFrame,
    table: pd.DataFrame,
    truths: pd.DataFrame,
    folds: pd.Series[int],
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The model's predictions of one target, and the baselines', on the model's lesions."""
    column: Literal["prediction", "score"] = "prediction" if task == "regression" else "score"
    renamed = {target: column, f"{target}_truth": "truth"}
    model = predictions[["lesion_id", "patient", *renamed]].rename(columns=renamed)
    frames = {
        baseline.name: _on(model, baseline.predictions)
        for baseline in _baselines(target, task, table, truths[target], folds)
    }
    if task == "regression":
        frames["constant"] = frames.pop("median")
        model = model.assign(constant=frames["constant"]["prediction"])
    yield "model", model
    yield from frames.items()


def _baselines(
    target: str,
    task: Task,
    table: pd.DataFrame,
    truth: pd.Series[float],
    folds: pd.Series[int],
) -> Iterator[Baseline]:
    # their own intervals are not used: they are scored again on the model's lesions
    how: Any = {"folds": folds, "n_resamples": 1}
    nodules = table.rename_axis("lesion_id")
    if task == "regression":
        nodules = nodules.assign(**{target: truth})
        yield constant_error(nodules, target, **how)
        if "diameter" in nodules and target != "diameter":
            yield diameter_regression(nodules, target, **how)
        return
    yield majority_classifier(nodules, truth, **how)
    if "diameter" in nodules:
        yield diameter_classifier(nodules, truth, **how)
    ratings = nodules.reindex(columns=[*OTHER_RATINGS])
    if target == "malignancy" and ratings.notna().all(axis=None):
        yield ratings_classifier(nodules, truth, **how)


def _on(model: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """A baseline's rows for the lesions of the model, in their order."""
    found = baseline.set_index("lesion_id").reindex(model["lesion_id"]).reset_index()
    if found["truth"].isna().any():
        raise ValueError(
            f"{int(found['truth'].isna().sum())} lesions have no baseline's prediction"
        )
    found.index = model.index
    if not (found["truth"] - model["truth"]).abs().lt(1e-6).all():
        raise ValueError("model and baseline are scored on different truths")
    return found


def _mean(
    frames: Mapping[str, pd.DataFrame], *, n_resamples: int, seed: int
) -> dict[str, Estimate]:
    """The mean absolute error over the ratings, and its skill, of one predictor."""
    errors = {
        column: pd.concat(
            [(frame[column] - frame["truth"]).abs() for frame in frames.values()], axis=1
        ).mean(axis=1)
        for column in ("prediction", "constant")
    }
    mean = {column: values.to_numpy(dtype=float) for column, values in errors.items()}

    def metrics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        n = weights.sum(1)
        mae, constant = weights @ mean["prediction"] / n, weights @ mean["constant"] / n
        return {"mae": mae, "mae_constant": constant, "skill": skills(mae, constant)}

    patients = next(iter(frames.values()))["patient"]
    return bootstrap_weights_over_groups(
        metrics, patients, n_resamples=n_resamples, seed=seed, undefined="nan"
    )


def _rows(target: str, predictor: str, scores: Mapping[str, Estimate]) -> list[dict[str, Any]]:
    return [
        {
            "target": target,
            "predictor": predictor,
            "metric": metric,
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "n": found.n,
            "n_groups": found.n_groups,
        }
        for metric, found in scores.items()
    ]


def write(
    folder: Path,
    *,
    about: Mapping[str, Any],
    data: Sequence[Data],
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    folds: list[dict[str, Any]],
) -> Outcome:
    """Write `predictions.csv`, then `results.json`, with the provenance of both.

    Args:
        folder: Where to.
        about: Experiment, recipe, split and cohort; they come first in the file.
        data: What the result rests on.
        predictions: As in `Outcome`.
        scores: As in `Outcome`.
        folds: As in `Outcome`.

    Raises:
        OSError: A file cannot be written.
    """
    path = _files.write_text(folder / PREDICTIONS, csv(predictions))
    found = results.provenance(Path(lesionlab.__file__).resolve().parents[1])
    for name in ("lightning-fabric", "safetensors"):
        found["versions"][name] = metadata.version(name)
    content = {
        **about,
        "data": list(data),
        "device": sorted({fold["device"] for fold in folds}),
        "seconds": sum(fold["seconds"] for fold in folds),
        **found,
        "predictions": {"file": PREDICTIONS, "sha256": _files.sha256(path)},
        "results": scores,
        "folds": folds,
    }
    path = _files.write_json(folder / RESULTS, results.jsonable(content))
    return Outcome(predictions=predictions, scores=scores, folds=folds, path=path)


def csv(predictions: pd.DataFrame) -> str:
    """A table of predictions as text that reads back exactly."""
    return predictions.to_csv(index=False, lineterminator="\n")


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read a table of predictions back, bit for bit.

    Raises:
        FileNotFoundError: There is no such file.
        KeyError: It has not the columns of one.
    """
    # as text, and then by Python's float: what pandas makes of numbers is not exact in all versions
    found = pd.read_csv(path, dtype=str)
    numbers = found.columns.drop(["lesion_id", "patient"])
    exact = {name: [float(value) for value in found[name]] for name in numbers}
    return found.assign(**exact).astype({"fold": "int64"})
