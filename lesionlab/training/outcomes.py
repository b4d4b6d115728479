"""What came of a run: scores beside their baselines, where they come from, and how to keep them.

    keep(plan, outcome, "book/results/fu2021", dataset=dataset)
    found = kept(chapter.results(), data="slices", by="patient")
    found["full"].scores

A kept file `NAME.json` has the scores, the folds, the provenance and what the paper's analysis says
of the trained models; `NAME.csv` has the predictions. Neither has weights. Where a variant was run
in several ways, the run on more folds counts, then the one of more epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import lesionlab
from lesionlab import __version__, _files, results
from lesionlab.statistics import baselines as predictors
from lesionlab.statistics import scoring
from lesionlab.statistics.intervals import Estimate, bootstrap_weights_over_groups
from lesionlab.training.checkpoints import CheckpointError
from lesionlab.training.paper import RestsOn
from lesionlab.training.targets import (
    COUNTS,
    KEYS,
    Target,
    Targets,
    read_predictions,
    write_predictions,
)

RESULTS = "results.json"
PREDICTIONS = "predictions.csv"


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """A run that is done, or one that was kept.

    Attributes:
        predictions: One row per lesion, each predicted by a model that has not seen it:
            lesion_id, patient, fold, the predictions under `targets.columns`, and the truths under
            `…_truth`.
        scores: One row per target, predictor (`model` and the baselines) and metric: value, low,
            high, n lesions, n_groups patients, and the mean and standard deviation over the folds
            (fold_mean, fold_sd). The target `mean` is the mean over the ratings.
        about: All that is in the JSON file.
        path: The JSON file with all but the predictions, which are in a CSV file beside it.
    """

    predictions: pd.DataFrame
    scores: pd.DataFrame
    about: dict[str, Any]
    path: Path

    @property
    def folds(self) -> list[dict[str, Any]]:
        """What `result.json` of each fold says: counts, best epoch, metric, history, seconds."""
        return list(self.about["folds"])

    @property
    def variant(self) -> str:
        """Which model."""
        return str(self.about["variant"])

    @property
    def epochs(self) -> int:
        """Epochs of the recipe, over all its stages."""
        recipe = self.about["recipe"]
        stages = recipe if isinstance(recipe, list | tuple) else [recipe]
        return sum(int(stage["epochs"]) for stage in stages)

    def table(self, name: str) -> pd.DataFrame:
        """One table of the paper's analysis, its first column as the index.

        Raises:
            KeyError: The analysis has no such table.
        """
        rows = pd.DataFrame(self.about["analysis"][name])
        return rows.set_index(rows.columns[0])


# --- scores -------------------------------------------------------------------------------------


def score(
    predictions: pd.DataFrame,
    table: pd.DataFrame,
    labels: torch.Tensor,
    targets: Targets,
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Score a model and its baselines on the same lesions.

    For each fold, baselines are fitted on the lesions that it does not test. An area under the ROC
    curve is the mean of the folds' own, as networks of different folds are calibrated differently.

    Args:
        predictions: As in `Outcome`.
        table: One row per lesion, index `lesion_id`: patient; with `diameter` (mm) there is a
            baseline of the diameter alone, with the readers' ratings one of these.
        labels: (lesion, target), in the order of the table.
        targets: What the columns are.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        As `Outcome.scores`.

    Raises:
        ValueError: As the functions of `statistics.baselines` and `statistics.scoring`.
    """
    how: Any = {"n_resamples": n_resamples, "seed": seed}
    rows: list[dict[str, Any]] = []
    ratings: dict[str, dict[str, pd.DataFrame]] = {}
    for number, target in enumerate(targets):
        truth = pd.Series(labels[:, number].double().numpy(), index=table.index)
        truth = truth.where(target.known(labels[:, number]).numpy())
        frames = _frames(target, predictions, table, truth)
        if target.kind == "regression":
            ratings[target.name] = frames
        for predictor, frame in frames.items():
            found = _score(target, frame, how)
            rows += _rows(target.name, predictor, found, _over_folds(target, frame))
    if len(ratings) > 1:
        for predictor in next(iter(ratings.values())):
            every = [frames[predictor] for frames in ratings.values()]
            folds = [_mean([f[f["fold"] == k] for f in every], n_resamples=1, seed=0)
                     for k in sorted(every[0]["fold"].unique())]  # fmt: skip
            rows += _rows("mean", predictor, _mean(every, **how), folds)
    return pd.DataFrame(rows)


def _over_folds(target: Target, frame: pd.DataFrame) -> list[dict[str, Estimate]]:
    """The scores of each fold by itself; their intervals are not used."""
    return [_score(target, part, {"n_resamples": 1}) for _, part in frame.groupby("fold")]


def _score(target: Target, frame: pd.DataFrame, how: Any) -> dict[str, Estimate]:
    if target.kind == "regression":
        return scoring.score_regression(frame, **how)
    if target.kind == "binary":
        return scoring.score_binary(frame, **how)
    if target.kind == "multiclass":
        return scoring.score_multiclass(frame, target.codes, **how)
    return scoring.score_dice(frame, **how)


def _frames(
    target: Target, predictions: pd.DataFrame, table: pd.DataFrame, truth: pd.Series[float]
) -> dict[str, pd.DataFrame]:
    """The model's predictions of one target, and the baselines', on the lesions with a label."""
    model = predictions[KEYS].assign(truth=predictions["lesion_id"].map(truth))
    if target.kind == "multiclass":
        for code, name in zip(target.codes, target.columns, strict=True):
            model[code] = predictions[name]
    elif target.kind == "segmentation":
        for name, count in zip(target.columns, COUNTS, strict=True):
            model[count] = predictions[name]
        model = model.rename(columns={"predicted": "prediction"})
        model["truth"] = model.pop("reference").where(model["truth"].notna())
    else:
        kind = "prediction" if target.kind == "regression" else "score"
        model[kind] = predictions[target.columns[0]]
    model = model[model["truth"].notna()]
    if target.kind == "segmentation":
        return {"model": model}
    frames: dict[str, list[pd.DataFrame]] = {}
    nodules = table.assign(truth=truth)[truth.notna()].rename_axis("lesion_id")
    for _, tested in model.groupby("fold"):
        inside = pd.Series(nodules.index.isin(tested["lesion_id"]), index=nodules.index)
        for baseline in _baselines(target, nodules, inside.astype(int)):
            found = baseline.predictions.set_index("lesion_id").loc[tested["lesion_id"]]
            part = tested[KEYS].assign(truth=tested["truth"])
            for column in found.columns:
                if column not in (*KEYS, "truth"):
                    part[column] = found[column].to_numpy()
            frames.setdefault(baseline.name, []).append(part)
    made = {name: pd.concat(parts).loc[model.index] for name, parts in frames.items()}
    if target.kind == "regression":
        made = {"constant" if name == "median" else name: frame for name, frame in made.items()}
        constant = made["constant"]["prediction"]
        made = {name: frame.assign(constant=constant) for name, frame in made.items()}
        model = model.assign(constant=constant)
    return {"model": model, **made}


def _baselines(
    target: Target, nodules: pd.DataFrame, inside: pd.Series[int]
) -> Iterator[predictors.Baseline]:
    # their own intervals are not used: they are scored again on the model's lesions
    how: Any = {"folds": inside, "n_resamples": 1}
    truth = nodules["truth"]
    if target.kind == "multiclass":
        yield predictors.majority_multiclass(nodules, truth, classes=target.codes, **how)
    elif target.kind == "regression":
        rated = nodules.assign(**{target.name: truth})
        yield predictors.constant_error(rated, target.name, **how)
        if "diameter" in nodules and target.name != "diameter":
            yield predictors.diameter_regression(rated, target.name, **how)
    else:
        yield predictors.majority_classifier(nodules, truth, **how)
        if "diameter" in nodules:
            yield predictors.diameter_classifier(nodules, truth, **how)
        ratings = nodules.reindex(columns=[*predictors.OTHER_RATINGS])
        if target.name == "malignancy" and ratings.notna().all(axis=None):
            yield predictors.ratings_classifier(nodules, truth, **how)


def _mean(frames: Sequence[pd.DataFrame], *, n_resamples: int, seed: int) -> dict[str, Estimate]:
    """The mean absolute error over the ratings, and its skill, of one predictor.

    Each lesion counts with the mean over those of its ratings that are known.
    """
    mean = {
        column: pd.concat([(frame[column] - frame["truth"]).abs() for frame in frames], axis=1)
        .mean(axis=1)
        .to_numpy(dtype=float)
        for column in ("prediction", "constant")
    }

    def metrics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        n = weights.sum(1)
        mae, constant = weights @ mean["prediction"] / n, weights @ mean["constant"] / n
        skill = scoring.skill(mae, constant)
        return {"mae": mae, "mae_constant": constant, "skill": skill}

    patients = pd.concat([frame["patient"] for frame in frames], axis=1).bfill(axis=1).iloc[:, 0]
    return bootstrap_weights_over_groups(metrics, patients, n_resamples=n_resamples, seed=seed)


def _rows(
    target: str,
    predictor: str,
    scores: Mapping[str, Estimate],
    folds: Sequence[Mapping[str, Estimate]],
) -> list[dict[str, Any]]:
    rows = []
    for metric, found in scores.items():
        alone = pd.Series([fold[metric].value for fold in folds if metric in fold], dtype=float)
        row = {"target": target, "predictor": predictor, "metric": metric}
        row |= {end: getattr(found, end) for end in ("value", "low", "high", "n", "n_groups")}
        rows.append(row | {"fold_mean": alone.mean(), "fold_sd": alone.std()})
    return rows


# --- files --------------------------------------------------------------------------------------


def write(
    folder: Path,
    *,
    about: Mapping[str, Any],
    rests_on: Sequence[RestsOn],
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    folds: list[dict[str, Any]],
) -> Outcome:
    """Write `predictions.csv`, then `results.json`, with the provenance of both.

    Args:
        folder: Where to.
        about: Experiment, recipe, split and cohort; they come first in the file.
        rests_on: What the result rests on.
        predictions: As in `Outcome`.
        scores: As in `Outcome`.
        folds: As in `Outcome`.

    Raises:
        OSError: A file cannot be written.
    """
    path = write_predictions(folder / PREDICTIONS, predictions)
    found = results.provenance(Path(lesionlab.__file__).resolve().parents[1])
    for name in ("lightning-fabric", "safetensors"):
        found["versions"][name] = metadata.version(name)
    content = results.jsonable(
        {
            **about,
            "data": list(rests_on),
            "device": sorted({fold["device"] for fold in folds}),
            "seconds": sum(fold["seconds"] for fold in folds),
            **found,
            "predictions": {"file": PREDICTIONS, "sha256": _files.sha256(path)},
            "results": scores,
            "folds": folds,
        }
    )
    path = _files.write_json(folder / RESULTS, content)
    return Outcome(predictions=predictions, scores=scores, about=content, path=path)


def keep(
    name: str, outcome: Outcome, folder: str | Path, *, analysis: Mapping[str, Any] | None = None
) -> Path:
    """Keep the numbers of a finished run in a folder, without its weights.

    Args:
        name: What the files are called, without an ending.
        outcome: What came of the run.
        folder: Where to; files of the same name are replaced.
        analysis: Tables by name that the paper makes of the trained models.

    Returns:
        The JSON file.

    Raises:
        OSError: A file cannot be written.
    """
    content = dict(outcome.about)
    if analysis is not None:
        content["analysis"] = results.jsonable(analysis)
    target = Path(folder) / f"{name}.json"
    table = write_predictions(target.with_suffix(".csv"), outcome.predictions)
    content["predictions"] = {"file": table.name, "sha256": _files.sha256(table)}
    return _files.write_json(target, content)


def kept(folder: str | Path, *, data: str = "slices", by: str = "patient") -> dict[str, Outcome]:
    """The runs that were kept on one data set and one kind of folds, by variant.

    Args:
        folder: Where they are.
        data: The data set that they were trained on, as in `studies.Plan`.
        by: What the folds were made by, as in `studies.Plan`.

    Raises:
        FileNotFoundError: There is no run of this kind in the folder.
        ValueError: A file was written by a version of lesionlab that kept other things.
        CheckpointError: A file of predictions is not the one that its JSON file was written with.
    """
    found: dict[str, Outcome] = {}
    for path in sorted(Path(folder).glob("*.json")):
        about = _about(path)
        if (about["plan"].get("data"), about["plan"].get("by")) != (data, by):
            continue
        table = path.parent / Path(about["predictions"]["file"]).name
        if not table.exists() or _files.sha256(table) != about["predictions"]["sha256"]:
            raise CheckpointError(f"{table} is not what {path.name} was written with")
        one = Outcome(
            predictions=read_predictions(table),
            scores=pd.DataFrame(about["results"]),
            about=about,
            path=path,
        )
        other = found.get(one.variant)
        if other is None or (len(one.folds), one.epochs) > (len(other.folds), other.epochs):
            found[one.variant] = one
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no run with data={data!r} and folds by {by!r}. Results that are shown "
            "come with the checkout and the wheel; runs of your own are put into a folder by "
            "`lesionlab train PAPER --keep FOLDER`"
        )
    return found


def _about(path: Path) -> dict[str, Any]:
    about = _files.read_json(path)
    needed = {"plan", "variant", "recipe", "folds", "results", "predictions"}
    missing = sorted(needed - about.keys()) if isinstance(about, dict) else sorted(needed)
    if missing:
        raise ValueError(
            f"{path} does not hold the results of a run as lesionlab {__version__} keeps them: it "
            f"has no {', '.join(missing)}. Train again with --keep, or take the file that came "
            "with this version"
        )
    return dict(about)
