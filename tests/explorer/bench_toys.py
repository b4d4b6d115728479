"""Three phantom lesions and untrained models of two papers, small where the paper allows it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from lesionlab import papers
from lesionlab.crops import Crop
from lesionlab.crops.sampling import Samples
from lesionlab.papers import fu2021, lei2020, li2021, wang2021
from lesionlab.papers.fu2021 import Fu2021
from lesionlab.papers.lei2020 import Lei2020, Network
from lesionlab.papers.liu2020 import Liu2020
from lesionlab.sources import lidc, phantom
from lesionlab.training.studies import Trained

IDS = ("LIDC-IDRI-0005-S0016-N02", "LIDC-IDRI-0006-S0017-N04", "LIDC-IDRI-0078-S0001-N02")
TESTED = IDS[:2]
"""The fold of each model has been tested on these."""


class Small(Lei2020):
    """An experiment whose network is small; everything else is the variant's."""

    def model(self, seed: int) -> Network:
        return Network(replace(self.design, width=4, outputs=8), size=self.size)


@cache
def _crop(lesion_id: str) -> Crop:
    return phantom.phantom(lesion_id)


def crops() -> dict[str, Crop]:
    return {name: _crop(name) for name in IDS}


def fold(
    experiment: Any, prepare: Any, ids: tuple[str, ...] = TESTED, seed: int = 0, rows: Any = None
) -> Trained:
    raw = prepare([_crop(name) for name in ids])
    normalise = experiment.normalisation(raw)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = experiment.model(seed).state_dict()
    table = (lidc.nodules() if rows is None else rows).loc[list(ids)]
    truth = [
        (table[target.name] > 3).astype(float) if target.kind == "binary" else table[target.name]
        for target in experiment.targets
    ]
    return Trained(
        fold=0,
        experiment=experiment,
        weights=weights,
        samples=normalise(raw),
        labels=torch.tensor([list(column) for column in truth]).T.float(),
        table=table,
        normalise=normalise,
    )


def lei(variant: str = "hesam", ids: tuple[str, ...] = TESTED, seed: int = 0) -> Trained:
    return fold(Small(variant), lei2020.prepare, ids, seed)


def fu(variant: str = "full", ids: tuple[str, ...] = TESTED, depth: int = 64) -> Trained:
    return fold(Fu2021(variant, depth=depth), fu2021.prepare, ids)


def liu(variant: str = "features_random") -> Trained:
    """Heads of features that are kept; here the features are of nothing."""
    experiment, rows = Liu2020(variant), lidc.nodules().loc[list(TESTED)]
    zeros = torch.zeros(2)
    samples = Samples(torch.zeros(2, 1280), torch.arange(2), TESTED, zeros, zeros.long(), zeros)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = experiment.model(0).state_dict()
    return Trained(0, experiment, weights, samples, Liu2020.labels(rows, variant), rows)


def wang(variant: str = "masked_type_narrow") -> Trained:
    rows = lidc.nodules()
    prepare = partial(papers.get("wang2021").prepare, variant=variant)
    torch.manual_seed(0)
    return fold(wang2021.Wang2021(variant), prepare, rows=rows.assign(type=1.0, mask=1.0))


def li(variant: str = "soft_2d") -> Trained:
    """Six heads, as LIDC's lesions have them."""
    rows = li2021.cohort(lidc.nodules()).table
    prepare = partial(papers.get("li2021").prepare, variant=variant)
    return fold(li2021.Li2021(variant).on("phantom"), prepare, rows=rows)
