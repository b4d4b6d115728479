"""Lei 2020, its activation maps: made, held against the readers' outlines, and shown (4.3 to 4.6).

    fold = next(studies.trained(plan))
    seen = explain(fold.experiment, fold.model(), fold.samples)        # all maps of the network
    drawn = lei2020.outlines(store.crops(seen.lesion_ids))     # the readers', on its pixels
    mean_shares(lesion_shares(seen.maps, seen.lesion_ids, drawn), patients)   # on margins?
    gallery(7, folds, lesion_id)                                       # Figures 5 to 8

A model is shown by lesions that it has not seen. The paper judges its maps by eye, on nodules that
it chose; here they are measured over all lesions of a drawn set, against a map that is the same
everywhere, against a network that has learned nothing, and by what the network predicts when
places are taken away. Intervals are from resampling patients, as often and with the seed that
`**how` gives: `n_resamples`, `level` and `seed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
import torch
from torch import nn

from lesionlab.attention import (
    ActivationMaps,
    activation_maps,
    deletion_curve,
    insertion_curve,
    randomisation_test,
    region_table,
)
from lesionlab.attention.regions import REGIONS
from lesionlab.attributes import RATING_NAMES
from lesionlab.crops import resampling
from lesionlab.crops.sampling import Samples, to_unit
from lesionlab.papers import _shared
from lesionlab.papers.lei2020 import TABLES, WINDOW, Lei2020, Outline, lidc_crops, outlines
from lesionlab.papers.lei2020.analyses import ENDS, classification, sample_lesions
from lesionlab.statistics.intervals import Array, Resampling

if TYPE_CHECKING:
    from lesionlab.training.studies import Trained

LUNG = float(to_unit(torch.tensor(resampling.LUNG), WINDOW))
"""What deleted places become: lung, in the unit of the samples."""

RANDOM = "random order"

FIGURES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "5": {
        f"{network}, {row}": (f"{network.lower()}_{head}", row)
        for network in ("ResNet18", "ResNet34", "VGG16")
        for row, head in (("CAM", "cam"), ("Grad-CAM", "cam"), ("SAM", "sam"))
    },
    "6": {
        row: ("hecam" if row.startswith("HE-") else "cam", row)
        for row in ("CAM", "HE-CAM", "Grad-CAM", "HE-Grad-CAM")
    },
    "7": {
        row: (row.removeprefix("Grad-").lower(), row) for row in ("CAM", "Grad-CAM", "SAM", "HESAM")
    },
    "8": {row: (variant, "HESAM") for row, variant in TABLES["3"].items()},
}
"""Rows of the paper's figures of maps: the variant, and which of its maps."""


# --- maps of a network ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Maps:
    """What a network predicts for some lesions, and its maps for "malignant".

    Attributes:
        lesion_ids: The lesions.
        maps: Name, such as `"HESAM, exact"`, to (lesion, y, x) of the images' size. In three axes
            it is the middle slice of the map.
        malignancy: (lesion,) what is predicted: a probability, or a rating.
        bias: (lesion,) the part of the logit that is the same for all lesions; None for a head
            that is not linear.
        high_level_share: (lesion,) as `attention.ActivationMaps.high_level_share`.
    """

    lesion_ids: tuple[str, ...]
    maps: Mapping[str, torch.Tensor]
    malignancy: torch.Tensor
    bias: torch.Tensor | None
    high_level_share: torch.Tensor | None

    def of(self, lesion_ids: Sequence[str]) -> dict[str, torch.Tensor]:
        """The maps of some of the lesions, in the order asked for."""
        at = [self.lesion_ids.index(name) for name in lesion_ids]
        return {name: maps[at] for name, maps in self.maps.items()}


def explain(
    experiment: Lei2020, model: nn.Module, samples: Samples, *, batch_size: int = 32
) -> Maps:
    """Run a network, on the CPU, over lesions and make all the maps that it has.

    They are those of the class "malignant", or of the malignancy rating.
    """
    wanted = experiment.maps()
    which: Any = {"target": 1}
    if experiment.design.ratings:
        which = {"head": RATING_NAMES.index("malignancy")}
    parts: dict[str, list[ActivationMaps]] = {name: [] for name in wanted}
    batches = samples.split(batch_size)
    for batch in batches:
        for exact in (False, True):
            methods = {name: m for name, (m, is_exact) in wanted.items() if is_exact == exact}
            if methods:
                which["weights"] = "exact" if exact else "paper"
                found = activation_maps(model, batch.images, list(methods.values()), **which)
                for name, method in methods.items():
                    parts[name].append(found[method])

    def joined(name: str) -> torch.Tensor | None:
        values = [getattr(one, name) for one in next(iter(parts.values()))]
        return None if values[0] is None else torch.cat(values)

    maps = {name: torch.cat([one.maps for one in several]) for name, several in parts.items()}
    score = malignancy(experiment, model)
    return Maps(
        lesion_ids=samples.lesion_ids,
        maps={n: m[:, m.shape[1] // 2] if m.ndim == 4 else m for n, m in maps.items()},
        malignancy=torch.cat([score(batch.images) for batch in batches]),
        bias=joined("bias"),
        high_level_share=joined("high_level_share"),
    )


def malignancy(experiment: Lei2020, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """From images to what a network, put in evaluation mode, predicts of malignancy, (lesion,)."""
    column = RATING_NAMES.index("malignancy") if experiment.design.ratings else 0

    def score(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return experiment.predict(model.eval()(images))[:, column]

    return score


# --- what the maps are worth ----------------------------------------------------------------------


def lesion_shares(
    maps: Mapping[str, torch.Tensor],
    lesion_ids: Sequence[str],
    drawn: Mapping[str, Outline],
    *,
    band: float = 2.0,
) -> pd.DataFrame:
    """How the positive values of each map are divided, lesion by lesion.

    `maps` are by name (lesion, y, x), of these lesions; those without an outline in `drawn` are
    left out. The margin reaches `band` mm to either side of an outline.

    Returns:
        Index (method, lesion_id), columns as `attention.region_table`; NaN for a map without
        positive values.
    """
    rows = [(i, name) for i, name in enumerate(lesion_ids) if name in drawn]
    if not rows:
        raise ValueError(f"drawn: none of {len(lesion_ids)} lesions has an outline")
    found = [drawn[name] for _, name in rows]
    tables = {
        method: region_table(
            [values[i].detach().double().numpy() for i, _ in rows],
            [one.masks for one in found],
            [(one.pixel, one.pixel) for one in found],
            band=band,
            lesion_ids=[name for _, name in rows],
        )
        for method, values in maps.items()
    }
    return pd.concat(tables, names=["method", "lesion_id"])


def mean_shares(
    table: pd.DataFrame, patients: pd.Series[str], **how: Unpack[Resampling]
) -> pd.DataFrame:
    """The mean shares of each method, from `lesion_shares`, beside a uniform map's, over lesions.

    Returns:
        Index (method, region); columns value, low, high (mean share of the map), uniform (the mean
        share of a uniform map), times (value / uniform) with times_low and times_high, n (lesions),
        n_groups (patients). Lesions whose map has no positive value are left out of both; where
        those of one patient are left, the intervals are NaN.
    """
    parts: dict[Any, pd.DataFrame] = {}
    uniform_regions = [f"uniform_{region}" for region in REGIONS]
    for method, of_method in table.groupby(level="method", sort=False):
        known = of_method.dropna(subset=list(REGIONS)).droplevel("method")
        if known.empty:
            continue
        share, uniform = known[list(REGIONS)].to_numpy(), known[uniform_regions].to_numpy()

        def statistics(
            weights: Array, share: Array = share, uniform: Array = uniform
        ) -> dict[str, Array]:
            with np.errstate(divide="ignore", invalid="ignore"):
                means = weights @ share / weights.sum(1, keepdims=True)
                times = (weights @ share) / (weights @ uniform)
            names = [*REGIONS, *uniform_regions]
            return dict(zip(names, np.concatenate([means, times], axis=1).T, strict=True))

        found = _shared.intervals(statistics, _shared.patients_of(known.index, patients), **how)
        part = found.loc[list(REGIONS)].assign(uniform=uniform.mean(axis=0))
        times = found.loc[uniform_regions, list(ENDS)].to_numpy()
        part[["times", "times_low", "times_high"]] = times
        parts[method] = part
    columns = [*ENDS, "uniform", "times", "times_low", "times_high", "n", "n_groups"]
    means: pd.DataFrame = pd.concat(parts, names=["method", "region"])[columns]
    return means


def faithfulness(
    score: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    maps: Mapping[str, torch.Tensor],
    lesion_ids: Sequence[str],
    *,
    steps: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Areas under the deletion and the insertion curve of each map, and of a random order.

    `score` is from images to what is predicted, as `malignancy` gives it; `images` are (lesion,
    slice, y, x), `maps` by name (lesion, y, x). Lung comes in place of what is deleted. `seed` is
    for the order among equal values.

    Returns:
        Index (method, lesion_id), columns deletion and insertion: the mean prediction on the way.
    """
    rows = {}
    how: Any = {"fill": LUNG, "steps": steps, "seed": seed}
    for name, found in {**maps, RANDOM: None}.items():
        areas = {
            kind: curve(score, images, found, **how).auc.double().cpu().numpy()
            for kind, curve in (("deletion", deletion_curve), ("insertion", insertion_curve))
        }
        rows[name] = pd.DataFrame(areas, index=pd.Index(lesion_ids, name="lesion_id"))
    return pd.concat(rows, names=["method", "lesion_id"])


def against_random(
    table: pd.DataFrame, patients: pd.Series[str], **how: Unpack[Resampling]
) -> pd.DataFrame:
    """The areas of each map, from `faithfulness`, less those of a random order on the same lesions.

    Returns:
        Index (method, curve); columns area, random, difference (area − random: below 0 for
        deletion and above 0 for insertion where the map's places matter more to "malignant"), low,
        high, n, n_groups.
    """
    chance = table.loc[RANDOM]
    of_lesion = _shared.patients_of(chance.index, patients)
    parts = {}
    for method in table.index.get_level_values("method").unique().drop(RANDOM):
        own = table.loc[method].loc[chance.index]
        gap = (own - chance).to_numpy(dtype=float)

        def statistics(weights: Array, gap: Array = gap) -> dict[str, Array]:
            means = weights @ gap / weights.sum(1, keepdims=True)
            return dict(zip(chance.columns, means.T, strict=True))

        found = _shared.intervals(statistics, of_lesion, **how)
        parts[method] = found.assign(area=own.mean(), random=chance.mean())
    columns = ["area", "random", "difference", "low", "high", "n", "n_groups"]
    gaps: pd.DataFrame = pd.concat(parts, names=["method", "curve"])
    return gaps.rename(columns={"value": "difference"})[columns]


def randomised(
    experiment: Lei2020, model: nn.Module, samples: Samples, *, seed: int = 0
) -> pd.DataFrame:
    """How alike each map is to that of the same network with all its weights shuffled.

    By method: similarity (mean of Spearman's ρ over the lesions), magnitude (mean of its
    magnitude), n (lesions whose two maps can be compared).
    """
    rows = {}
    for name in experiment.maps():

        def one(network: nn.Module, images: torch.Tensor, name: str = name) -> torch.Tensor:
            return explain(experiment, network, replace(samples, images=images)).maps[name]

        found = randomisation_test(model, samples.images, one, cascade=False, seed=seed)
        rho = found.iloc[-1].dropna()
        rows[name] = {"similarity": rho.mean(), "magnitude": rho.abs().mean(), "n": len(rho)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def analyse(
    folds: Iterable[Trained],
    predictions: pd.DataFrame,
    *,
    n_lesions: int = 60,
    n_curves: int = 30,
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """What the models of a run look at, as the tables that its figures need.

    Maps are made of `n_lesions` test lesions over all folds, drawn alike for all variants. About
    `n_curves` of them get deletion and insertion curves and a randomised network, which take most
    of the time.

    Returns:
        classes (`classification`; not for the nine ratings), regions and regions_untrained
        (`mean_shares`, of the network and of one that has learned nothing), curves
        (`against_random`), randomised, high_level (quantiles of the part of a logit that no map
        shows; where there is one).
    """
    drawn = set(sample_lesions(predictions["lesion_id"], n_lesions, seed=seed))
    patients = predictions.set_index("lesion_id")["patient"]
    how: Resampling = {"n_resamples": n_resamples, "seed": seed}
    tables: dict[str, pd.DataFrame] = {}
    if predictions["malignancy_truth"].isin([0, 1]).all():
        tables["classes"] = classification(predictions, **how)
    regions, blank, curves, shuffled, high = [], [], [], [], []
    for fold in folds:
        at = [i for i, name in enumerate(fold.samples.lesion_ids) if name in drawn]
        if not isinstance(fold.experiment, Lei2020) or not at:
            continue
        samples, network = fold.samples.select(at), fold.model()
        seen = explain(fold.experiment, network, samples)
        marked = outlines(lidc_crops(samples.lesion_ids))
        regions.append(lesion_shares(seen.maps, seen.lesion_ids, marked))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            untrained = fold.experiment.model(seed).eval()
        of_untrained = explain(fold.experiment, untrained, samples).maps
        blank.append(lesion_shares(of_untrained, seen.lesion_ids, marked))
        few = samples.select(range(min(len(at), max(2, round(n_curves * len(at) / len(drawn))))))
        score = malignancy(fold.experiment, network)
        few_maps = seen.of(few.lesion_ids)
        curves.append(faithfulness(score, few.images, few_maps, few.lesion_ids, seed=seed))
        shuffled.append(randomised(fold.experiment, network, few, seed=seed))
        if fold.experiment.design.high_level and seen.high_level_share is not None:
            high.append(pd.Series(seen.high_level_share.double().numpy()))
    if not regions:
        return tables
    tables["regions"] = mean_shares(pd.concat(regions), patients, **how)
    tables["regions_untrained"] = mean_shares(pd.concat(blank), patients, **how)
    tables["curves"] = against_random(pd.concat(curves), patients, **how)
    # folds have about as many lesions
    tables["randomised"] = pd.concat(shuffled).groupby(level=0, sort=False).mean()
    if high:
        quantiles = pd.concat(high).quantile([0.1, 0.5, 0.9])
        tables["high_level"] = quantiles.rename_axis("quantile").to_frame("share")
    return tables


# --- Figures 5 to 8 -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture of Figures 5 to 8."""

    image: torch.Tensor  # (y, x) the slice that is shown
    map: torch.Tensor  # (y, x), not scaled
    malignancy: float  # a probability, for what the network was fed
    wrong: bool  # whether it is on the other side of 0.5 than the truth


def gallery(
    figure: int | str, folds: Mapping[str, Trained], lesion_id: str, *, n: int = 5
) -> dict[str, list[Cell]]:
    """The rows of Figure 5, 6, 7 or 8 for one nodule, as far as there are models for them.

    `folds` are by variant trained folds that have tested the lesion. The first `n` pictures of a
    row are of single slices, evenly spaced, each put into all channels ("5 of 11"); the last one is
    of the whole volume, on its middle slice, which Figures 6 and 8 show alone (`n=0`).
    """
    rows: dict[str, list[Cell]] = {}
    for row, (variant, method) in FIGURES[str(figure)].items():
        if variant not in folds:
            continue
        fold = folds[variant]
        if lesion_id not in fold.samples.lesion_ids or not isinstance(fold.experiment, Lei2020):
            raise ValueError(f"lesion_id={lesion_id!r}: {variant!r} did not test it")
        at = fold.samples.lesion_ids.index(lesion_id)
        one = fold.samples.select([at] * (n + 1))
        count = one.images.shape[1]
        # inside of the ends, where most volumes have left the nodule
        picked = [round((i + 0.5) * count / n - 0.5) for i in range(n)]
        images = one.images.clone()
        for i, k in enumerate(picked):
            images[i] = one.images[i, k]  # in all channels
        seen = explain(fold.experiment, fold.model(), replace(one, images=images))
        malignant = bool(fold.labels[at, 0] == 1)
        shown = zip([*picked, count // 2], seen.maps[method], seen.malignancy.tolist(), strict=True)
        rows[row] = [
            Cell(one.images[0, k], values, p, (p >= 0.5) != malignant) for k, values, p in shown
        ]
    if not rows:
        raise ValueError(f"folds: no model for figure {figure}, got {list(folds)}")
    return rows
