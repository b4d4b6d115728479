"""What came of a run: scores beside their baselines, and where they come from.

    studies.keep(plan, outcome, "book/results/fu2021", dataset=dataset)
    found = kept(chapter.results(), data="slices", by="patient")
    found["full"].scores

A kept file `NAME.json` has the scores, the folds, the provenance and what the paper's analysis says
of the trained models; `NAME.csv` has the predictions. Neither has weights. Where a variant was run
in several ways, the run on more folds counts, then the one of more epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from lesionlab import __version__, _files
from lesionlab.statistics import baselines as predictors
from lesionlab.statistics import scoring
from lesionlab.statistics.intervals import Estimate, bootstrap_weights_over_groups
from lesionlab.training.targets import (
    KEYS,
    Target,
    Targets,
    read_predictions,
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
        """One table of the paper's analysis, its first column as the index."""
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
        predictions: Those of `Outcome`.
        table: One row per lesion, index `lesion_id`: patient; with `diameter` (mm) there is a
            baseline of the diameter alone, with the readers' ratings one of these.
        labels: (lesion, target), in the order of the table.
        targets: What the columns are.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        The scores of `Outcome`.
    """
    how: Any = {"n_resamples": n_resamples, "seed": seed}
    rows: list[dict[str, Any]] = []
    ratings: list[dict[str, pd.DataFrame]] = []
    for number, target in enumerate(targets):
        truth = pd.Series(labels[:, number].double().numpy(), index=table.index)
        truth = truth.where(target.known(labels[:, number]).numpy())
        frames = _frames(target, predictions, table, truth)
        if target.kind == "regression":
            ratings.append(frames)
        for predictor, frame in frames.items():
            folds = [_score(target, part, {"n_resamples": 1}) for _, part in frame.groupby("fold")]
            rows += _rows(target.name, predictor, _score(target, frame, how), folds)
    if len(ratings) > 1:
        for predictor in ratings[0]:
            every = pd.concat([frames[predictor] for frames in ratings])
            folds = [_mean(part, {"n_resamples": 1}) for _, part in every.groupby("fold")]
            rows += _rows("mean", predictor, _mean(every, how), folds)
    return pd.DataFrame(rows)


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
    names: Sequence[Any] = {
        "regression": ["prediction"],
        "binary": ["score"],
        "multiclass": target.codes,
        "segmentation": ["intersection", "prediction", "truth"],
    }[target.kind]
    model = predictions[KEYS].assign(truth=predictions["lesion_id"].map(truth))
    model = model[model["truth"].notna()].copy()
    model[[*names]] = predictions.loc[model.index, [*target.columns]].to_numpy()
    if target.kind == "segmentation":
        return {"model": model}
    found: dict[str, list[pd.DataFrame]] = {}
    nodules = table.assign(truth=truth)[truth.notna()].rename_axis("lesion_id")
    for _, tested in model.groupby("fold"):
        inside = pd.Series(nodules.index.isin(tested["lesion_id"]), index=nodules.index)
        for name, said in _baselines(target, nodules, inside.astype(int)).items():
            said = said.set_index("lesion_id").drop(columns=["patient", "fold"])
            found.setdefault(name, []).append(tested[KEYS].join(said, on="lesion_id"))
    frames = {name: pd.concat(parts).loc[model.index] for name, parts in found.items()}
    if target.kind == "regression":
        constant = frames["constant"]["prediction"]
        frames = {"model": model, **frames}
        return {name: frame.assign(constant=constant) for name, frame in frames.items()}
    return {"model": model, **frames}


def _baselines(
    target: Target, nodules: pd.DataFrame, folds: pd.Series[int]
) -> dict[str, pd.DataFrame]:
    """What each baseline predicts, by its name."""
    truth = nodules["truth"]
    if target.kind == "multiclass":
        said = predictors.majority_multiclass(nodules, truth, folds=folds, classes=target.codes)
        return {"majority": said}
    if target.kind == "regression":
        rated = nodules.assign(**{target.name: truth})
        found = {"constant": predictors.constant_regression(rated, target.name, folds=folds)}
        if "diameter" in nodules and target.name != "diameter":
            found["diameter"] = predictors.diameter_regression(rated, target.name, folds=folds)
        return found
    found = {"majority": predictors.majority_classifier(nodules, truth, folds=folds)}
    if "diameter" in nodules:
        found["diameter"] = predictors.diameter_classifier(nodules, truth, folds=folds)
    ratings = nodules.reindex(columns=[*predictors.OTHER_RATINGS])
    if target.name == "malignancy" and ratings.notna().all(axis=None):
        found["ratings"] = predictors.ratings_classifier(nodules, truth, folds=folds)
    return found


def _mean(frame: pd.DataFrame, how: Any) -> dict[str, Estimate]:
    """The mean absolute error over the ratings, which are one below the other, and its skill.

    Each lesion counts with the mean over those of its ratings that are known.
    """
    gaps = frame[["prediction", "constant"]].sub(frame["truth"], axis=0).abs()
    lesions = gaps.assign(patient=frame["patient"]).groupby(level=0)
    model, fixed = lesions[["prediction", "constant"]].mean().to_numpy().T

    def metrics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        n = weights.sum(1)
        mae, constant = weights @ model / n, weights @ fixed / n
        return {"mae": mae, "mae_constant": constant, "skill": scoring.skill(mae, constant)}

    return bootstrap_weights_over_groups(metrics, lesions["patient"].first(), **how)


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


def kept(folder: str | Path, *, data: str = "slices", by: str = "patient") -> dict[str, Outcome]:
    """The runs that were kept on one data set and one kind of folds, by variant.

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
        one = Outcome(
            predictions=read_predictions(path.parent, about["predictions"]),
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
