"""Lei 2020, its activation maps: made, held against the readers' outlines, and shown (4.3 to 4.6).

    fold = next(studies.trained(plan))
    seen = explain(fold.experiment, fold.model(), fold.samples)        # all maps of the network
    drawn = lei2020.outlines(store.crops(seen.lesion_ids))     # the readers', on its pixels
    mean_shares(lesion_shares(seen.maps, seen.lesion_ids, drawn), patients)   # on margins?
    gallery(7, folds, lesion_id)                                       # Figures 5 to 8

The paper judges its maps by eye, on nodules that it chose; here they are measured over all lesions
of a drawn set, against a map that is the same everywhere, against a network that has learned
nothing, and by what the network predicts when places are taken away. `**how` is the `Resampling`
of the patients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import pandas as pd
import torch
from torch import nn

from lesionlab.attention import (
    ActivationMaps,
    activation_maps,
    deletion_curve,
    insertion_curve,
    randomisation_test,
    region_shares,
)
from lesionlab.attention.regions import REGIONS
from lesionlab.attributes import RATING_NAMES
from lesionlab.crops import resampling
from lesionlab.crops.sampling import Samples, to_unit
from lesionlab.papers import _shared
from lesionlab.papers.lei2020 import TABLES, WINDOW, Lei2020, Outline, lidc_crops, outlines
from lesionlab.papers.lei2020.analyses import ENDS, classification, sample_lesions
from lesionlab.statistics.intervals import Resampling

if TYPE_CHECKING:
    from lesionlab.figures.samples import Picture
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

    `maps` are by name, such as `"HESAM, exact"`, (lesion, y, x) of the images' size; in three axes
    the middle slice. The others are (lesion,): a probability or a rating, and as in
    `attention.ActivationMaps` the same-named parts of a logit.
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
    which: Any = {"target": 1}
    if experiment.design.ratings:
        which = {"head": RATING_NAMES.index("malignancy")}
    batches, wanted = samples.split(batch_size), experiment.maps()
    found: dict[str, list[ActivationMaps]] = {name: [] for name in wanted}
    for exact in sorted({exact for _, exact in wanted.values()}):  # one pass for each
        names = {method: name for name, (method, kind) in wanted.items() if kind == exact}
        how = which | {"weights": "exact" if exact else "paper"}
        for batch in batches:
            for method, one in activation_maps(model, batch.images, [*names], **how).items():
                found[names[method]].append(one)

    def joined(name: str, part: str) -> Any:
        values = [getattr(one, part) for one in found[name]]
        return None if any(value is None for value in values) else torch.cat(values)

    maps = {name: joined(name, "maps") for name in wanted}
    first, score = next(iter(wanted)), malignancy(experiment, model)
    return Maps(
        lesion_ids=samples.lesion_ids,
        maps={n: m[:, m.shape[1] // 2] if m.ndim == 4 else m for n, m in maps.items()},
        malignancy=torch.cat([score(batch.images) for batch in batches]),
        bias=joined(first, "bias"),
        high_level_share=joined(first, "high_level_share"),
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
    left out. The margin reaches `band` mm to either side of an outline. Index (method, lesion_id),
    columns as `attention.region_shares`; NaN for a map without positive values.
    """
    rows = {
        (method, name): region_shares(
            values[i].detach().double().numpy(), one.masks, (one.pixel, one.pixel), band=band
        )
        for method, values in maps.items()
        for i, name in enumerate(lesion_ids)
        if (one := drawn.get(name))
    }
    if not rows:
        raise ValueError(f"drawn: none of {len(lesion_ids)} lesions has an outline")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["method", "lesion_id"])


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
    for method, of_method in table.groupby(level="method", sort=False):
        known = of_method.dropna(subset=list(REGIONS)).droplevel("method")
        if known.empty:
            continue
        patient, share = _shared.patients_of(known.index, patients), known[list(REGIONS)]
        uniform = known[[f"uniform_{region}" for region in REGIONS]].set_axis(REGIONS, axis=1)
        part = _shared.ratios(share, 1.0, patient, **how)
        times = _shared.ratios(share, uniform, patient, **how)[ENDS]
        times.columns = pd.Index(["times", "times_low", "times_high"])
        parts[method] = part[ENDS].assign(uniform=uniform.mean()).join(times)
        parts[method][["n", "n_groups"]] = part[["n", "n_groups"]]
    means: pd.DataFrame = pd.concat(parts, names=["method", "region"])
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

    `score` is that of `malignancy`; `images` are (lesion, slice, y, x), `maps` by name (lesion, y,
    x). Lung comes in place of what is deleted. `seed` is for the order among equal values. Index
    (method, lesion_id), columns deletion and insertion: the mean prediction on the way.
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
        found = _shared.ratios(own - chance, 1.0, of_lesion, **how)
        areas = pd.DataFrame({"area": own.mean(), "random": chance.mean()})
        parts[method] = areas.join(found.rename(columns={"value": "difference"}))
    gaps: pd.DataFrame = pd.concat(parts, names=["method", "curve"])
    return gaps


def randomised(
    experiment: Lei2020, model: nn.Module, samples: Samples, *, seed: int = 0
) -> pd.DataFrame:
    """How alike each map is to that of the same network with all its weights shuffled.

    By method: similarity (mean of Spearman's ρ over the lesions), magnitude (mean of its
    magnitude), n (lesions whose two maps can be compared).
    """
    names = list(experiment.maps())

    def every(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        seen = explain(experiment, network, replace(samples, images=images))
        return torch.cat([seen.maps[name] for name in names])  # as if of so many lesions more

    found = randomisation_test(model, samples.images, every, cascade=False, seed=seed)
    rho = pd.DataFrame(found.to_numpy().reshape(len(names), -1), index=names).T
    parts = {"similarity": rho.mean(), "magnitude": rho.abs().mean(), "n": rho.count()}
    return pd.DataFrame(parts).rename_axis("method")


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
    `n_curves` of them get deletion and insertion curves and a randomised network.

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
    parts: dict[str, list[Any]] = defaultdict(list)
    for fold in folds:
        at = [i for i, name in enumerate(fold.samples.lesion_ids) if name in drawn]
        if not isinstance(fold.experiment, Lei2020) or not at:
            continue
        samples, network = fold.samples.select(at), fold.model()
        seen = explain(fold.experiment, network, samples)
        marked = outlines(lidc_crops(samples.lesion_ids))
        parts["regions"].append(lesion_shares(seen.maps, seen.lesion_ids, marked))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            untrained = fold.experiment.model(seed).eval()
        blank = explain(fold.experiment, untrained, samples).maps
        parts["regions_untrained"].append(lesion_shares(blank, seen.lesion_ids, marked))
        few = samples.select(range(min(len(at), max(2, round(n_curves * len(at) / len(drawn))))))
        score, its = malignancy(fold.experiment, network), seen.of(few.lesion_ids)
        parts["curves"].append(faithfulness(score, few.images, its, few.lesion_ids, seed=seed))
        parts["randomised"].append(randomised(fold.experiment, network, few, seed=seed))
        if fold.experiment.design.high_level and seen.high_level_share is not None:
            parts["high_level"].append(pd.Series(seen.high_level_share.double().numpy()))
    for name, several in parts.items():
        found = pd.concat(several)
        if name == "curves":
            tables[name] = against_random(found, patients, **how)
        elif name == "randomised":  # folds have about as many lesions
            tables[name] = found.groupby(level=0, sort=False).mean()
        elif name == "high_level":
            quantiles = found.quantile([0.1, 0.5, 0.9])
            tables[name] = quantiles.rename_axis("quantile").to_frame("share")
        else:
            tables[name] = mean_shares(found, patients, **how)
    return tables


# --- shown ----------------------------------------------------------------------------------------


def overview(
    seen: Mapping[str, Maps],
    samples: Samples,
    drawn: Mapping[str, Outline],
    lesions: Mapping[str, bool],
) -> dict[str, list[Picture]]:
    """Rows of pictures of some lesions: the readers' outlines, then every map of every network.

    `seen` are the maps of all `samples` by network; `lesions` say of each whether it is malignant.
    Images are the middle slice. Above a map stands the probability of malignant, which is wrong on
    the other side of 0.5 than the truth.
    """
    from lesionlab.figures.samples import Picture

    rows: dict[str, list[Picture]] = defaultdict(list)
    for name, malignant in lesions.items():
        at, outline = samples.lesion_ids.index(name), drawn[name]
        image = samples.images[at, samples.images.shape[1] // 2]
        title = f"{'malignant' if malignant else 'benign'}\n{name.removeprefix('LIDC-IDRI-')}"
        pixel = outline.pixel, outline.pixel
        rows["readers"].append(Picture(image, pixel, title, outline.masks))
        for one in seen.values():
            p = float(one.malignancy[at])
            told: Any = {"title": f"{p:.2f}", "wrong": (p >= 0.5) != malignant}
            for method, heat in one.maps.items():
                marked = outline.consensus()[None]
                rows[method].append(Picture(image, outline=marked, map=heat[at], **told))
    return dict(rows)


def gallery(
    figure: int | str, folds: Mapping[str, Trained], lesion_id: str, *, n: int = 5
) -> dict[str, list[Picture]]:
    """The rows of Figure 5, 6, 7 or 8 for one nodule, as far as there are models for them.

    `folds` are by variant trained folds that have tested the lesion. The first `n` pictures of a
    row are of single slices, evenly spaced, each put into all channels ("5 of 11"); the last one is
    of the whole volume, on its middle slice, which Figures 6 and 8 show alone (`n=0`). Titles are
    what the network predicts; it is wrong on the other side of 0.5 than the truth.
    """
    from lesionlab.figures.samples import Picture

    rows: dict[str, list[Picture]] = {}
    seen: dict[str, Maps] = {}  # two rows may be of one network
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
        if variant not in seen:
            given = replace(one, images=images)
            seen[variant] = explain(fold.experiment, fold.model(), given)
        its, malignant = seen[variant], bool(fold.labels[at, 0] == 1)
        shown = zip([*picked, count // 2], its.maps[method], its.malignancy.tolist(), strict=True)
        rows[row] = [
            Picture(one.images[0, k], title=f"{p:.2f}", map=heat, wrong=(p >= 0.5) != malignant)
            for k, heat, p in shown
        ]
    if not rows:
        raise ValueError(f"folds: no model for figure {figure}, got {list(folds)}")
    return rows
