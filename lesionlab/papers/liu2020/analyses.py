"""What Liu 2020 does with its models (III.C and D), and what it leaves out.

    ranked_pairs(mtmr, without_ranking)     # does the ranking part what the classifier confuses?
    look_alikes(predictions)                # Fig. 6, by a rule
    embeddings(predictions)                 # Fig. 5, t-SNE with two seeds, and PCA
    interventions(folds)                    # attributes replaced by the readers' own

Predictions are those of `lesionlab.training.outcomes.Outcome`; `tables` has the paper's tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from lesionlab.attributes import rating
from lesionlab.papers._shared import intervals
from lesionlab.papers.liu2020 import ATTRIBUTES, tables
from lesionlab.papers.liu2020.tables import importance
from lesionlab.statistics.intervals import Array, Resampling
from lesionlab.statistics.paired import paired_auc
from lesionlab.statistics.scoring import check_columns

if TYPE_CHECKING:
    from lesionlab.training.studies import Trained

BELOW_AVERAGE = ("internal_structure", "sphericity", "texture")
"""Table IV's attributes whose relatedness is below the average."""


def scores_of(predictions: pd.DataFrame, *, readers: bool = False) -> pd.DataFrame:
    """The eight scores of each lesion on scales of 0 to 1, predicted or the readers' means."""
    check_columns(predictions, ["lesion_id", *ATTRIBUTES])
    rows = predictions.set_index("lesion_id")
    found = rows[[f"{name}_truth" if readers else name for name in ATTRIBUTES]]
    ends = [(of.minimum, of.maximum) for of in map(rating, ATTRIBUTES)]
    low, high = np.array(ends, dtype=float).T
    unit: pd.DataFrame = (found.set_axis(list(ATTRIBUTES), axis=1) - low) / (high - low)
    return unit


def ranked_pairs(
    ranked: pd.DataFrame, plain: pd.DataFrame, *, width: float = 1.0, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """Whether a model with the ranking loss orders pairs that one without it confuses.

    A pair is a benign and a malignant nodule of one fold. Of two models that differ by chance alone
    each also gets right some pairs that the other has wrong, so that both ways are told. Marginal
    nodules have a mean malignancy within `width` rating steps of 3.

    Returns:
        Index nodules, all and marginal; columns n, n_groups, auc_ranked, auc_plain, difference with
        low and high (`statistics.paired.paired_auc`), and shares of pairs: won (ranked alone has
        them right), lost (plain alone). A tie is wrong.
    """
    found = {}
    other = plain.set_index("lesion_id")["malignancy"]
    gap = ranked["malignancy_rating_truth"].sub(3).abs()
    near = set(ranked.loc[gap <= width, "lesion_id"])
    for name in ("all", "marginal"):
        a, b = (f[f["lesion_id"].isin(near)] if name == "marginal" else f for f in (ranked, plain))
        aucs = paired_auc(a, b, **how)
        won = lost = pairs = 0
        for _, part in a.assign(plain=a["lesion_id"].map(other)).groupby("fold"):
            malignant = part["malignancy_truth"] == 1
            one, two = (
                part.loc[malignant, c].to_numpy()[:, None] > part.loc[~malignant, c].to_numpy()
                for c in ("malignancy", "plain")
            )
            won, lost = won + (one & ~two).sum(), lost + (two & ~one).sum()
            pairs += one.size
        end = aucs["difference"]
        found[name] = {
            "n": end.n, "n_groups": end.n_groups,
            "auc_ranked": aucs["auc_a"].value, "auc_plain": aucs["auc_b"].value,
            "difference": end.value, "low": end.low, "high": end.high,
            "won": won / pairs, "lost": lost / pairs,
        }  # fmt: skip
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("nodules")


def look_alikes(
    predictions: pd.DataFrame, others: Mapping[str, pd.DataFrame] | None = None, *, n: int = 6
) -> pd.DataFrame:
    """Pairs of a benign and a malignant nodule that the readers describe alike (Fig. 6).

    The paper shows one pair, chosen. Here it is the nearest pairs by the readers' eight mean
    scores, each brought to 0 to 1, of one fold, so that one network scores both; a nodule serves
    once.

    Args:
        predictions: Of a model.
        others: Further models by name, on the same lesions.
        n: How many pairs.

    Returns:
        benign, malignant (lesions), fold, distance, and p_benign and p_malignant, the probabilities
        of malignant, and called (both right, at 0.5); of the others under `…: called`.
    """
    scores = scores_of(predictions, readers=True).dropna()
    rows = predictions.set_index("lesion_id").loc[scores.index]
    parts = []
    for fold, part in rows.groupby("fold"):
        malignant = part.index[part["malignancy_truth"] == 1]
        benign = part.index[part["malignancy_truth"] == 0]
        gaps = cdist(scores.loc[benign], scores.loc[malignant])
        pairs = pd.MultiIndex.from_product([benign, malignant], names=["benign", "malignant"])
        parts.append(pairs.to_frame(index=False).assign(distance=gaps.ravel(), fold=fold))
    every = pd.concat(parts).sort_values(["distance", "benign", "malignant"])
    picked, used = list[int](), set[Any]()
    for row, pair in enumerate(every[["benign", "malignant"]].itertuples(index=False)):
        if len(picked) < n and used.isdisjoint(pair):
            picked.append(row)
            used.update(pair)
    found: pd.DataFrame = every.iloc[picked].reset_index(drop=True)
    for name, frame in {"": predictions, **(others or {})}.items():
        p = frame.set_index("lesion_id")["malignancy"]
        low, high = (found[end].map(p) for end in ("benign", "malignant"))
        if not name:
            found = found.assign(p_benign=low, p_malignant=high)
        found[f"{name}: called" if name else "called"] = (low < 0.5) & (high >= 0.5)
    return found


def embeddings(
    predictions: pd.DataFrame,
    *,
    below: Sequence[str] = BELOW_AVERAGE,
    seeds: Sequence[int] = (0, 1),
    readers: bool = False,
) -> pd.DataFrame:
    """The nodules in two dimensions by the attributes below average, and by all eight (Fig. 5).

    The paper shows one t-SNE of each. Its shape hangs on the seed, so here are several, and PCA,
    which has none. The two sets have different numbers of attributes: that more of them part the
    classes better says nothing of which ones.

    Returns:
        A row for each lesion in each picture: lesion_id, malignant, attributes (`below average` or
        `all eight`), method, x, y.
    """
    scores = scores_of(predictions, readers=readers).dropna()
    malignant = predictions.set_index("lesion_id")["malignancy_truth"].loc[scores.index] == 1
    parts = []
    for name, some in {"below average": list(below), "all eight": list(ATTRIBUTES)}.items():
        X = scores[some].to_numpy()
        how = {"perplexity": min(30, (len(X) - 1) // 3), "init": "random"}
        methods: dict[str, Any] = {f"t-SNE, seed {k}": TSNE(random_state=k, **how) for k in seeds}
        for method, model in (methods | {"PCA": PCA(2)}).items():
            x, y = model.fit_transform(X).T
            about = {"lesion_id": scores.index, "malignant": malignant.to_numpy()}
            parts.append(
                pd.DataFrame(about | {"attributes": name, "method": method, "x": x, "y": y})
            )
    return pd.concat(parts, ignore_index=True)


def intervene(fold: Trained, attributes: Sequence[str] = ATTRIBUTES) -> torch.Tensor:
    """(lesion,) the probability of malignant with the readers' own scores in some of its places.

    See `model.Heads.intervene`. A score that the readers did not give stays as predicted.
    """
    return _replaced(fold, {"": attributes})[""]


def _replaced(fold: Trained, choices: Mapping[str, Sequence[str]]) -> dict[str, torch.Tensor]:
    """`intervene` for several choices of attributes, by name; the images are seen once."""
    experiment, model = fold.experiment, fold.model()
    heads: Any = model.heads
    names = [target.name for target in experiment.targets]
    low, span = experiment.scale(fold.labels)  # type: ignore[attr-defined]
    truth = (fold.labels - low) / span
    wanted = {k: torch.full((len(truth), len(ATTRIBUTES)), torch.nan) for k in choices}
    for choice, attributes in choices.items():
        for name in attributes:
            wanted[choice][:, ATTRIBUTES.index(name)] = truth[:, names.index(name)]
    found: dict[str, list[torch.Tensor]] = {choice: [] for choice in choices}
    first = 0
    with torch.no_grad():
        for batch in fold.samples.split(32):
            outputs = experiment.forward(model, batch)
            rows = slice(first, first := first + len(batch.lesion_ids))
            for choice, asked in wanted.items():
                found[choice].append(heads.intervene(outputs, asked[rows]).probability)
    return {choice: torch.cat(parts) for choice, parts in found.items()}


def interventions(folds: Iterable[Trained], **how: Unpack[Resampling]) -> pd.DataFrame:
    """Which calls change where predicted scores are replaced by the readers' own.

    Index attribute, and `all eight`; columns changed, gained (to the right call), lost (to the
    wrong one), each a share of the nodules at the threshold 0.5, shift (mean |change| of the
    probability) with low and high over patients, n, n_groups. `ValueError` if the model has not
    learned the scores.
    """
    choices = {name: (name,) for name in ATTRIBUTES} | {"all eight": ATTRIBUTES}
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in choices}
    for fold in folds:
        if ATTRIBUTES[0] not in {target.name for target in fold.experiment.targets}:
            raise ValueError(f"variant={fold.experiment.variant!r}: it has not learned the scores")
        probabilities = _replaced(fold, {"before": (), **choices})
        malignant, before = fold.labels[:, 0] == 1, probabilities.pop("before")
        for name, after in probabilities.items():
            was, now = (before >= 0.5) == malignant, (after >= 0.5) == malignant
            parts = {"changed": was != now, "gained": ~was & now, "lost": was & ~now}
            values = {k: v.float() for k, v in parts.items()} | {"shift": (after - before).abs()}
            frame = pd.DataFrame({k: v.numpy() for k, v in values.items()}, dtype=float)
            rows[name].append(frame.assign(patient=fold.table["patient"].to_numpy()))
    found = {}
    for name, some_rows in rows.items():
        every = pd.concat(some_rows, ignore_index=True)
        shift = every["shift"].to_numpy()

        def mean(weights: Array, shift: Any = shift) -> dict[Any, Array]:
            return {"shift": weights @ shift / weights.sum(1)}

        ends = intervals(mean, every["patient"], **how).loc["shift"].rename({"value": "shift"})
        found[name] = every[["changed", "gained", "lost"]].mean().to_dict() | ends.to_dict()
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("attribute")


def what_if(fold: Trained, lesion_id: str) -> tuple[pd.DataFrame, list[float]]:
    """What `explorer.what_if` needs of one of the fold's lesions: its scores, and its log odds.

    In steps of each rating; the log odds are those of each slice.
    """
    row = list(fold.table.index).index(lesion_id)
    found = fold.experiment.what_if(fold.model(), fold.samples.select([row]))
    if found is None:
        raise ValueError(f"variant={fold.experiment.variant!r}: it has not learned the scores")
    scores, log_odds = found
    readers = fold.table.iloc[row][list(ATTRIBUTES)].astype(float)
    return scores.assign(readers=readers), log_odds


def summary(folds: Iterable[Trained], predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What is kept of a run that has learned the scores.

    `importance`, on predicted scores and on the readers' own; `interventions`; on kept features
    `probe`; and where the crops are there `linear`, mean absolute errors in rating steps.
    """
    if ATTRIBUTES[0] not in predictions:
        return {}
    found = {"importance": importance(predictions)}
    found["importance_readers"] = importance(predictions, readers=True)
    features: list[Trained] = []

    def passing() -> Iterable[Trained]:
        for fold in folds:
            features.extend([fold] * (fold.samples.images.ndim == 2))  # images would be too large
            yield fold

    found["interventions"] = interventions(passing())
    if len(features) > 1:
        found["probe"] = tables.probe(features).set_index("lesion_id")[["malignancy"]].round(4)
        if read := features[0].crops:
            table = pd.concat([fold.table for fold in features])
            simple = tables.image_features(read(list(table.index)))
            found["linear"] = tables.mean_errors(tables.linear(simple, table, predictions))
    return {name: table.reset_index() for name, table in found.items()}
