"""Lei 2020, where maps lie and whether they matter: see `lesionlab.papers.lei2020.analyses`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from lesionlab.attention import deletion_curve, insertion_curve, randomisation_test, region_table
from lesionlab.attention.regions import REGIONS
from lesionlab.crops import resampling
from lesionlab.crops.sampling import Samples, to_unit
from lesionlab.papers.lei2020 import Lei2020
from lesionlab.papers.lei2020._maps import look
from lesionlab.papers.lei2020._outlines import Outlines
from lesionlab.papers.lei2020._samples import WINDOW
from lesionlab.statistics.intervals import Estimate, bootstrap_weights_over_groups

LUNG = float(to_unit(torch.tensor(resampling.LUNG), WINDOW))
"""What deleted places become: lung, in the unit of the samples."""

RANDOM = "random order"


def where(
    maps: Mapping[str, torch.Tensor],
    lesion_ids: Sequence[str],
    drawn: Outlines,
    *,
    band: float = 2.0,
) -> pd.DataFrame:
    """How the positive values of each map are divided, lesion by lesion.

    Args:
        maps: Name to (lesion, y, x).
        lesion_ids: Whose they are.
        drawn: Outlines of these lesions; lesions without any are left out.
        band: Of the margin, mm on either side of an outline.

    Returns:
        Index (method, lesion_id), columns as `attention.region_table`: inside, margin, outside,
        and what a uniform map has. NaN for a map without positive values.

    Raises:
        ValueError: None of the lesions has an outline, or as `region_table`.
    """
    at = {name: i for i, name in enumerate(drawn.lesion_ids)}
    rows = [(i, at[name]) for i, name in enumerate(lesion_ids) if name in at]
    if not rows:
        raise ValueError(f"drawn: none of {len(lesion_ids)} lesions has an outline")
    ids = [drawn.lesion_ids[j] for _, j in rows]
    masks = [drawn.masks[j] for _, j in rows]
    spacing = [(drawn.pixel[j], drawn.pixel[j]) for _, j in rows]
    tables = {
        name: region_table(
            [found[i].detach().double().numpy() for i, _ in rows],
            masks, spacing, band=band, lesion_ids=ids,
        )
        for name, found in maps.items()
    }  # fmt: skip
    return pd.concat(tables, names=["method", "lesion_id"])


def shares(
    table: pd.DataFrame, patients: pd.Series[str], *, n_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """The mean shares of each method beside a uniform map's, over lesions.

    Args:
        table: Of `where`.
        patients: lesion_id -> patient.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        Index (method, region); columns value, low, high (mean share of the map), uniform (the mean
        share of a uniform map), times (value / uniform) with times_low and times_high, n (lesions),
        n_groups (patients). Lesions whose map has no positive value are left out of both; where
        those of one patient are left, the intervals are NaN.

    Raises:
        ValueError: A lesion has no patient.
    """
    rows = {}
    for method, found in table.groupby(level="method", sort=False):
        known = found.dropna(subset=list(REGIONS)).droplevel("method")
        if known.empty:
            continue
        patient = _patients(known.index, patients)
        for region in REGIONS:
            share, chance = (
                known[name].to_numpy(dtype=float) for name in (region, f"uniform_{region}")
            )

            def means(
                weights: npt.NDArray[np.float64],
                share: npt.NDArray[np.float64] = share,
                chance: npt.NDArray[np.float64] = chance,
            ) -> dict[str, npt.NDArray[np.float64]]:
                with np.errstate(divide="ignore", invalid="ignore"):
                    times = (weights @ share) / (weights @ chance)
                return {"value": weights @ share / weights.sum(1), "times": times}

            if patient.nunique() > 1:
                estimates = bootstrap_weights_over_groups(
                    means, patient, n_resamples=n_resamples, seed=seed, undefined="nan"
                )
            else:  # a network with nothing to show for itself must not stop the others' tables
                estimates = {
                    name: _alone(float(of_all[0]), len(known))
                    for name, of_all in means(np.ones((1, len(known)))).items()
                }
            value, times = estimates["value"], estimates["times"]
            rows[str(method), region] = {
                "value": value.value, "low": value.low, "high": value.high,
                "uniform": float(chance.mean()),
                "times": times.value, "times_low": times.low, "times_high": times.high,
                "n": value.n, "n_groups": value.n_groups,
            }  # fmt: skip
    return _frame(rows, ["method", "region"])


def _alone(value: float, n: int) -> Estimate:
    """Lesions of one patient say nothing of others."""
    nan = float("nan")
    return Estimate(
        value=value, low=nan, high=nan, level=0.95, n=n, n_groups=1, method="none, one patient"
    )


def faithfulness(
    score: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    maps: Mapping[str, torch.Tensor],
    lesion_ids: Sequence[str],
    *,
    fill: float | torch.Tensor = LUNG,
    steps: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Areas under the deletion and the insertion curve of each map, and of a random order.

    Args:
        score: From images to what is predicted, as `malignancy`.
        images: (lesion, slice, y, x).
        maps: Name to (lesion, y, x).
        lesion_ids: Whose they are.
        fill: As in `attention.deletion_curve`.
        steps: As there.
        seed: As there.

    Returns:
        Index (method, lesion_id), columns deletion and insertion: the mean prediction on the way.

    Raises:
        ValueError: As `attention.deletion_curve`.
    """
    rows = {}
    for name, found in {**maps, RANDOM: None}.items():
        how = {"fill": fill, "steps": steps, "seed": seed}
        areas = {
            kind: curve(score, images, found, **how).auc.double().cpu().numpy()  # type: ignore[arg-type]
            for kind, curve in (("deletion", deletion_curve), ("insertion", insertion_curve))
        }
        rows[name] = pd.DataFrame(areas, index=pd.Index(lesion_ids, name="lesion_id"))
    return pd.concat(rows, names=["method", "lesion_id"])


def against_random(
    table: pd.DataFrame, patients: pd.Series[str], *, n_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """The areas of each map less those of a random order on the same lesions.

    Args:
        table: Of `faithfulness`.
        patients: lesion_id -> patient.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        Index (method, curve); columns area, random, difference (area − random: below 0 for
        deletion and above 0 for insertion where the map's places matter more to "malignant"), low,
        high, n, n_groups.

    Raises:
        KeyError: The table has no random order.
        ValueError: A lesion has no patient, or too few patients.
    """
    chance = table.loc[RANDOM]
    patient = _patients(chance.index, patients)
    rows = {}
    for method in table.index.get_level_values("method").unique().drop(RANDOM):
        own = table.loc[method].loc[chance.index]
        for curve in ("deletion", "insertion"):
            gap = (own[curve] - chance[curve]).to_numpy(dtype=float)
            found = _mean(gap, patient, n_resamples, seed)
            rows[str(method), curve] = {
                "area": float(own[curve].mean()), "random": float(chance[curve].mean()),
                "difference": found.value, "low": found.low, "high": found.high,
                "n": found.n, "n_groups": found.n_groups,
            }  # fmt: skip
    return _frame(rows, ["method", "curve"])


def randomised(
    experiment: Lei2020, model: nn.Module, samples: Samples, *, seed: int = 0
) -> pd.DataFrame:
    """How alike each map is to that of the same network with all its weights shuffled.

    Returns:
        Index method; columns similarity (mean of Spearman's over the lesions), magnitude (mean of
        its magnitude), n (lesions whose two maps can be compared).

    Raises:
        ValueError: As `attention.randomisation_test`.
    """
    rows = {}
    for name in experiment.maps():

        def explain(network: nn.Module, images: torch.Tensor, name: str = name) -> torch.Tensor:
            return look(experiment, network, replace(samples, images=images)).maps[name]

        found = randomisation_test(model, samples.images, explain, cascade=False, seed=seed)
        values = found.similarity[-1][~np.isnan(found.similarity[-1])]
        rows[name] = {
            "similarity": float(values.mean()) if len(values) else float("nan"),
            "magnitude": float(np.abs(values).mean()) if len(values) else float("nan"),
            "n": len(values),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _patients(lesions: pd.Index[str], patients: pd.Series[str]) -> pd.Series[str]:
    found = pd.Series(patients.reindex(lesions).to_numpy(), index=lesions, name="patient")
    if found.isna().any():
        raise ValueError(f"patients has no patient for {found.index[found.isna()][0]!r}")
    return found


def _mean(
    values: npt.NDArray[np.float64], patients: pd.Series[str], n_resamples: int, seed: int
) -> Estimate:
    return bootstrap_weights_over_groups(
        lambda weights: {"mean": weights @ values / weights.sum(1)},
        patients, n_resamples=n_resamples, seed=seed, undefined="nan",
    )["mean"]  # fmt: skip


def _frame(rows: Mapping[tuple[str, str], Mapping[str, float]], names: list[str]) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(list(rows), names=names)
    frame = pd.DataFrame(list(rows.values()), index=index)
    return frame.astype({name: int for name in ("n", "n_groups") if name in frame})
