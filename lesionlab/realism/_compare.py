"""All measures of realism at once, on the public slices, and the file that keeps them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from tqdm.auto import tqdm

from lesionlab import results
from lesionlab._files import write_json
from lesionlab.crops import Crop
from lesionlab.realism import _measures as measures
from lesionlab.realism._measures import FEATURES, Array, View
from lesionlab.sources import lidc, phantom
from lesionlab.statistics.intervals import Estimate
from lesionlab.statistics.scoring import score_binary

Model = Literal["boosting", "logistic"]
TIERS = ("phantom", "slices")
LEVELS = 255  # steps of an 8-bit picture between its darkest and its brightest pixel
MODELS: tuple[Model, ...] = ("boosting", "logistic")
RATINGS = ("texture", "margin", "subtlety", "calcification", "spiculation", "lobulation")

COUNTS = ("n_lesions", "n_patients", "n_slices", "n_left_out")
_FRAMES = ("histograms", "distances", "edges", "noise", "features", "ratings")


# --- Told apart ---------------------------------------------------------------------------------


def classifier_auc(
    phantoms: pd.DataFrame,
    real: pd.DataFrame,
    patients: pd.Series[str],
    *,
    model: Model = "boosting",
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[Estimate, pd.DataFrame]:
    """How well a classifier tells phantoms from real crops: the area under its curve.

    Cross-validated in five folds, all crops of a patient, phantom and real, in one of them.
    Probabilities of the folds are pooled. The interval is from resampling patients, with the
    predictions fixed.

    Args:
        phantoms: `features` of crops of one tier, which are paired with `real` (see `pair`).
        real: `features` of the same lesions of the other tier.
        patients: lesion_id -> patient.
        model: Gradient boosting, which sees interactions, or logistic regression.
        n_resamples: Resamples of patients.
        seed: Seed of the model and of the resamples.

    Returns:
        The AUC with its interval (1.0: told apart without fault, 0.5: not at all), and a table of
        the AUC that each feature reaches alone (`feature`, `auc`, at least 0.5), largest first.

    Raises:
        ValueError: The tables are not paired, or there are fewer patients than folds.
        KeyError: A lesion has no patient, or the model is unknown.
    """
    if phantoms["lesion_id"].tolist() != real["lesion_id"].tolist():
        raise ValueError("phantoms and real are not the same lesions in the same order; see pair()")
    table = pd.concat([phantoms, real], ignore_index=True)
    table["truth"] = np.repeat([1, 0], [len(phantoms), len(real)])  # 1 is the phantom
    table["patient"] = patients.loc[table["lesion_id"]].to_numpy()
    classifier = {
        "boosting": HistGradientBoostingClassifier(max_iter=150, random_state=seed),
        "logistic": make_pipeline(
            SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(max_iter=2000)
        ),
    }[model]
    X, y = table[list(FEATURES)].to_numpy(float), table["truth"].to_numpy()
    scores: Array = np.full(len(table), np.nan)
    # one thread: sums in another order would be other numbers
    with threadpool_limits(1, user_api="openmp"):
        for train, test in GroupKFold(5).split(X, y, table["patient"]):
            known = ~np.isnan(X[train]).all(axis=0)  # no model can place a column without a value
            classifier.fit(X[train][:, known], y[train])
            scores[test] = classifier.predict_proba(X[test][:, known])[:, 1]
    table["score"] = scores
    auc = score_binary(table, n_resamples=n_resamples, seed=seed)["auc"]
    return auc, _single(table)


def _single(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for name in FEATURES:
        known = table[["truth", name]].dropna()
        both = known["truth"].nunique() == 2
        auc = float(roc_auc_score(known["truth"], known[name])) if both else 0.5
        rows.append({"feature": name, "auc": max(auc, 1 - auc)})
    found = pd.DataFrame(rows).sort_values("auc", ascending=False, kind="stable")
    return found.reset_index(drop=True)


# --- The same lesions, slices and pixels of two sources -----------------------------------------


def pair(phantoms: Iterable[Crop], real: Iterable[Crop]) -> tuple[list[Crop], list[Crop]]:
    """Cut two sets of crops to the lesions, calibrated slices, rows and columns that both have.

    Args:
        phantoms: Crops of one source.
        real: Crops of another, of some of the same lesions.

    Returns:
        Two lists of equal length, lesion by lesion in the order of `real`, of equal shapes. A
        lesion without a common slice, or without a consensus voxel on one, is left out.

    Raises:
        ValueError: A lesion occurs twice in one set, or its masks or spacing differ.
    """
    by_id = _by_id("phantoms", phantoms)
    left, right = [], []
    for lesion_id, theirs in _by_id("real", real).items():
        if lesion_id not in by_id:
            continue
        ours = by_id[lesion_id]
        if not np.allclose(ours.spacing, theirs.spacing):
            raise ValueError(
                f"spacing of {lesion_id} is {ours.spacing} in phantoms and {theirs.spacing} in "
                "real; expected the same"
            )
        slices = np.intersect1d(
            ours.slice_index[ours.calibrated], theirs.slice_index[theirs.calibrated]
        )
        top, left_edge = np.maximum(ours.corner, theirs.corner)
        bottom = min(c.corner[0] + c.hu.shape[1] for c in (ours, theirs))
        right_edge = min(c.corner[1] + c.hu.shape[2] for c in (ours, theirs))
        if not len(slices) or bottom <= top or right_edge <= left_edge:
            continue
        box = (int(top), int(bottom), int(left_edge), int(right_edge))
        a, b = _cut(ours, slices, box), _cut(theirs, slices, box)
        if a.masks.shape != b.masks.shape or (a.masks != b.masks).any():
            raise ValueError(f"masks of {lesion_id} differ between phantoms and real")
        if a.consensus().any():
            left.append(a)
            right.append(b)
    return left, right


def _by_id(name: str, crops: Iterable[Crop]) -> dict[str, Crop]:
    found: dict[str, Crop] = {}
    for crop in crops:
        if crop.lesion_id in found:
            raise ValueError(f"{name} has {crop.lesion_id} twice; expected each lesion once")
        found[crop.lesion_id] = crop
    return found


def _cut(crop: Crop, slices: npt.NDArray[np.int64], box: tuple[int, int, int, int]) -> Crop:
    at = np.searchsorted(crop.slice_index, slices)
    rows = slice(box[0] - crop.corner[0], box[1] - crop.corner[0])
    columns = slice(box[2] - crop.corner[1], box[3] - crop.corner[1])
    return replace(
        crop,
        hu=crop.hu[at, rows, columns],
        masks=crop.masks[:, at, rows, columns],
        slice_index=crop.slice_index[at],
        corner=(box[0], box[2]),
        calibrated=crop.calibrated[at],
    )


def through_eight_bits(crop: Crop) -> Crop:
    """The crop as it would be after being saved like the real slices, and put back into HU.

    Each slice is scaled so that its smallest value is 0 and its largest 255, and rounded. What
    remains different is the error of the table that puts the real ones back (median 6 to 37 HU).
    """
    hu = crop.hu.astype(float)
    low = hu.min(axis=(1, 2), keepdims=True)
    step = np.maximum(hu.max(axis=(1, 2), keepdims=True) - low, 1e-9) / LEVELS
    return replace(crop, hu=np.rint(np.rint((hu - low) / step) * step + low).astype(np.int16))


# --- All of it ----------------------------------------------------------------------------------


class RealSlices(Protocol):
    """What `measure` asks of the real crops: `lesionlab.sources.slices.Slices` has it."""

    @property
    def lesion_ids(self) -> list[str]:
        """The lesions that have a crop."""

    @property
    def checksum(self) -> str:
        """SHA-256 of the set."""

    def crop(self, lesion_id: str) -> Crop:
        """The voxels of one lesion."""


@dataclass(frozen=True)
class Realism:
    """How far the phantoms are from the real slices of the same lesions.

    Attributes:
        n_lesions: Lesions compared.
        n_patients: Their patients.
        n_slices: Slices of each of the two tiers.
        n_left_out: Lesions without a calibrated slice, or without consensus on one.
        seed: Seed of the phantoms, of the choice of lesions, of the models and of the resamples.
        checksum: SHA-256 of the slices set.
        seconds: How long it took.
        histograms: `lesionlab.realism.histograms` of both tiers.
        distances: `histogram_distances`.
        edges: `edge_widths` of both tiers: `tier` and `width` (mm), a row per lesion measured.
        noise: `noise_power` of both tiers.
        features: One row per feature, the most telling first: `feature`, `auc` (of the feature
            alone, at least 0.5), and for each tier the quartiles over lesions, `phantom_low`,
            `phantom_median`, `phantom_high`, `slices_low`, `slices_median`, `slices_high`.
        ratings: What the readers' ratings do to the pixels, in both tiers: one row per `rating`
            and `value` (the readers' mean, rounded) with `lesions` and, for each tier, the median
            over lesions of `inside_mean` (HU), `inside_sd` (HU) and `edge_gradient` (HU/mm), e.g.
            `phantom_inside_mean`.
        together: Model to its AUC: 0.5, phantoms cannot be told from real slices; 1, always.
    """

    n_lesions: int
    n_patients: int
    n_slices: int
    n_left_out: int
    seed: int
    checksum: str
    seconds: float
    histograms: pd.DataFrame
    distances: pd.DataFrame
    edges: pd.DataFrame
    noise: pd.DataFrame
    features: pd.DataFrame
    ratings: pd.DataFrame
    together: Mapping[str, Estimate]

    def record(self) -> dict[str, Any]:
        """All of it in the types that JSON has, tables column by column, rounded to 5 digits."""
        widths = self.edges.groupby(["tier", "width"]).size().rename("lesions").reset_index()
        told = {name: getattr(self, name) for name in _FRAMES} | {"edges": widths}
        tables = {
            name: {column: _rounded(values) for column, values in table.items()}
            for name, table in told.items()
        }
        found: dict[str, Any] = results.jsonable(
            {name: getattr(self, name) for name in COUNTS}
            | {"classifiers": dict(self.together)}
            | tables
        )
        return found


def _rounded(values: pd.Series[Any]) -> list[Any]:
    if values.dtype.kind != "f":
        return list(values)
    return [float(f"{value:.5g}") for value in values]


def write(found: Realism, path: str | Path, *, root: str | Path = ".") -> Path:
    """Keep what was measured as JSON, with where it came from, in the form of `results.read`.

    Args:
        found: From `measure`.
        path: The file, `book/results/phantoms/realism.json`.
        root: The checkout, for the commit.
    """
    data = [
        {"name": "LIDC-IDRI slices", "tier": "real", "checksum": found.checksum},
        {"name": "Phantoms around LIDC-IDRI contours", "tier": "phantom", "checksum": None},
    ]
    head = {"notebook": None, "set": "paper", "parameters": {"seed": found.seed}}
    origin = {"seconds": round(found.seconds, 1), **results.provenance(root)}
    return write_json(path, head | origin | {"data": data, "results": found.record()})


def read(path: str | Path) -> Realism:
    """What `write` kept. Numbers have 5 digits, and `edges` no longer says which lesion is which.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a file of `write`.
    """
    kept = results.read(path)
    told = kept["results"]
    try:
        frames: dict[str, Any] = {name: pd.DataFrame(told[name]) for name in _FRAMES}
        widths = frames["edges"]
        repeated = widths.loc[widths.index.repeat(widths["lesions"]), ["tier", "width"]]
        return Realism(
            **{name: told[name] for name in COUNTS},
            seed=kept["parameters"]["seed"],
            checksum=kept["data"][0]["checksum"],
            seconds=kept["seconds"],
            **frames | {"edges": repeated.reset_index(drop=True)},
            together={name: Estimate(**each) for name, each in told["classifiers"].items()},
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} holds no measure of realism: {error!r}") from error


@dataclass(frozen=True)
class _Facts:
    """What is kept of one crop."""

    n_slices: int
    shares: Array
    medians: dict[str, float]
    width: float | None
    spectrum: measures.Spectrum
    features: dict[str, float]


def measure(
    slices: RealSlices,
    *,
    seed: int = 0,
    n: int | None = None,
    processes: int = 1,
    n_resamples: int = 1000,
    progress: bool = False,
) -> Realism:
    """Compare phantoms with the real slices of the same lesions.

    Both are cut to the slices and pixels that they share, and phantoms pass through the same 8
    bits as the real slices (`through_eight_bits`). One lesion is in memory at a time.

    Args:
        slices: `lesionlab.sources.slices.Slices`.
        seed: Seed of phantoms, choice, models and resamples.
        n: Compare only so many lesions, drawn at random; all if None.
        processes: How many render and measure at the same time; the numbers do not depend on it.
        n_resamples: Resamples of patients for the intervals.
        progress: Show a bar.

    Raises:
        ValueError: `n` is not from 1 to the number of lesions, or too few to cross-validate.
        LookupError: A lesion of `slices` is not in the database.
    """
    start = time.monotonic()
    ids = slices.lesion_ids
    if n is not None:
        if not 1 <= n <= len(ids):
            raise ValueError(f"n={n!r}: expected 1 to {len(ids)}, the lesions that have slices")
        chosen = np.sort(np.random.default_rng(seed).choice(len(ids), n, replace=False))
        ids = [ids[i] for i in chosen]
    nodules = lidc.nodules()
    each = zip(ids, _compare_all(slices, ids, seed, processes, progress), strict=True)
    compared = {lesion_id: facts for lesion_id, facts in each if facts is not None}
    if not compared:
        raise ValueError("slices: no lesion has a calibrated slice with a consensus")
    parts = {tier: [facts[side] for facts in compared.values()] for side, tier in enumerate(TIERS)}

    def both(table: Callable[[str, list[_Facts]], pd.DataFrame]) -> pd.DataFrame:
        return pd.concat([table(*item) for item in parts.items()], ignore_index=True)

    histograms = [
        measures.histogram_table(tier, [f.shares for f in facts]) for tier, facts in parts.items()
    ]
    medians = [pd.DataFrame([f.medians for f in facts]) for facts in parts.values()]
    described = {tier: _described(tier, list(compared), facts) for tier, facts in parts.items()}
    patients = nodules.loc[list(compared), "patient"]
    together: dict[str, Estimate] = {}
    for model in MODELS:
        together[model], single = classifier_auc(
            described["phantom"],
            described["slices"],
            patients,
            model=model,
            n_resamples=n_resamples,
            seed=seed,
        )
    return Realism(
        n_lesions=len(compared),
        n_patients=patients.nunique(),
        n_slices=sum(facts.n_slices for facts in parts["slices"]),
        n_left_out=len(ids) - len(compared),
        seed=seed,
        checksum=slices.checksum,
        seconds=time.monotonic() - start,
        histograms=pd.concat(histograms, ignore_index=True),
        distances=measures.distances(*histograms, *medians),
        edges=both(_widths),
        noise=both(lambda tier, facts: measures.noise_table(tier, [f.spectrum for f in facts])),
        features=_quartiles(single, described),
        ratings=_by_rating(described, nodules),
        together=together,
    )


def _compare_all(
    slices: RealSlices, ids: Sequence[str], seed: int, processes: int, progress: bool
) -> Iterator[tuple[_Facts, _Facts] | None]:
    work = partial(_compare, slices, seed)
    bar = partial(tqdm, desc="realism", total=len(ids), disable=not progress, unit="lesion")
    if processes == 1:
        yield from bar(map(work, ids))
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from bar(pool.map(work, ids, chunksize=16))


def _compare(slices: RealSlices, seed: int, lesion_id: str) -> tuple[_Facts, _Facts] | None:
    """The facts of a lesion's phantom and of its real slices, over what they share."""
    rendered = phantom.phantom(lesion_id, seed=seed)
    ours, theirs = pair([rendered], [slices.crop(lesion_id)])
    return (_facts(through_eight_bits(ours[0])), _facts(theirs[0])) if ours else None


def _facts(crop: Crop) -> _Facts:
    view = View(crop)
    edge = measures.edge(view)
    return _Facts(
        n_slices=len(crop.hu),
        shares=measures.shares(view),
        medians=measures.medians(view),
        width=None if edge is None else edge["width"],
        spectrum=measures.spectrum(view),
        features=measures.describe(view),
    )


def _described(tier: str, ids: list[str], facts: list[_Facts]) -> pd.DataFrame:
    columns = ["lesion_id", "tier", *FEATURES]
    rows = [{"lesion_id": i, "tier": tier} | f.features for i, f in zip(ids, facts, strict=True)]
    return pd.DataFrame(rows, columns=columns)


def _widths(tier: str, facts: list[_Facts]) -> pd.DataFrame:
    widths = [round(f.width, 1) for f in facts if f.width is not None]
    return pd.DataFrame({"tier": tier, "width": widths})


def _quartiles(single: pd.DataFrame, described: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    out = single.copy()
    for tier, table in described.items():
        for name, share in (("low", 0.25), ("median", 0.5), ("high", 0.75)):
            out[f"{tier}_{name}"] = table[list(FEATURES)].quantile(share)[out["feature"]].to_numpy()
    return out


def _by_rating(described: Mapping[str, pd.DataFrame], nodules: pd.DataFrame) -> pd.DataFrame:
    shown = ("inside_mean", "inside_sd", "edge_gradient")
    rows = []
    for rating in RATINGS:
        joined = {}
        for tier, table in described.items():
            value = table["lesion_id"].map(nodules[rating]).round()
            grouped = table.groupby(value.rename("value"))
            joined["lesions"] = grouped.size()
            joined |= {f"{tier}_{name}": grouped[name].median() for name in shown}
        of_rating = pd.DataFrame(joined).reset_index()
        of_rating.insert(0, "rating", rating)
        rows.append(of_rating)
    return pd.concat(rows, ignore_index=True)
