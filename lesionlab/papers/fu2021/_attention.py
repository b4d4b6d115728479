"""Fu 2021, what the attention weights say (4.1): see `lesionlab.papers.fu2021.analyses`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from lesionlab.crops.sampling import Samples
from lesionlab.papers.fu2021 import Fu2021
from lesionlab.statistics.intervals import Estimate, bootstrap_many_over_groups
from lesionlab.statistics.scoring import check_columns
from lesionlab.training._devices import resolve

Array = npt.NDArray[np.float64]

MIN_SLICES = 3
"""The paper compares ends with the rest in stacks of at least so many slices (4.1)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention:
    """What a model says of some lesions, and what it looked at.

    Attributes:
        lesion_ids: The lesions.
        attributes: What is scored.
        final: (lesion, attribute), in rating steps; a class as the probability of 1.
        auxiliary: The same of the auxiliary heads (ASCMM); None without.
        slices: One row per slice: lesion_id, slice (counted from 0 among the lesion's slices),
            n_slices, position (0 the first, 1 the last, 0.5 the only one), weight (of sum 1 per
            lesion), relative (weight × n_slices, 1 where all are equal). None for the 3D network.
        matrices: (lesion, attribute t, attribute k), weight of k for t as in eq. 5, any sign;
            None without cross-attribute attention.
    """

    lesion_ids: tuple[str, ...]
    attributes: tuple[str, ...]
    final: Array
    auxiliary: Array | None
    slices: pd.DataFrame | None
    matrices: Array | None

    @staticmethod
    def join(parts: Iterable[Attention]) -> Attention:
        """Put the test parts of several folds together.

        Raises:
            ValueError: No part, parts of different models, or a lesion in two of them.
        """
        some = list(parts)
        if not some:
            raise ValueError("parts: expected at least one, got none")
        kinds = {
            (p.attributes, p.auxiliary is None, p.slices is None, p.matrices is None) for p in some
        }
        if len(kinds) > 1:
            raise ValueError("parts: expected those of one kind of model, got several")
        lesions = tuple(name for part in some for name in part.lesion_ids)
        if len(set(lesions)) < len(lesions):
            raise ValueError("parts: a lesion is in two of them")
        auxiliary = [p.auxiliary for p in some if p.auxiliary is not None]
        slices = [p.slices for p in some if p.slices is not None]
        matrices = [p.matrices for p in some if p.matrices is not None]
        return Attention(
            lesion_ids=lesions,
            attributes=some[0].attributes,
            final=np.concatenate([p.final for p in some]),
            auxiliary=np.concatenate(auxiliary) if auxiliary else None,
            slices=pd.concat(slices, ignore_index=True) if slices else None,
            matrices=np.concatenate(matrices) if matrices else None,
        )


def describe(
    experiment: Fu2021,
    weights: Mapping[str, torch.Tensor],
    samples: Samples,
    *,
    batch_size: int = 32,
    device: str = "auto",
) -> Attention:
    """Run a model over lesions and keep its attention with its scores.

    Args:
        experiment: Makes the model.
        weights: Of the model: `checkpoints.load_weights(folder)`, `studies.Trained.weights`.
        samples: Normalised as those of the training were.
        batch_size: Lesions at once.
        device: As in `lesionlab.training.prediction.predict`.

    Returns:
        As `Attention`; what the variant does not have is None.

    Raises:
        ValueError: No lesions, or the device is not there.
        RuntimeError: The weights are of another model.
    """
    if not samples.lesion_ids:
        raise ValueError("samples: expected at least one lesion, got none")
    place = resolve(device)
    with torch.random.fork_rng(devices=[]):  # the weights are replaced, the seed does not matter
        model = experiment.model(0)
    model.load_state_dict(dict(weights))
    model.to(place).eval()
    final, auxiliary, slices, matrices = [], [], [], []
    with torch.no_grad():
        for batch in samples.to(place).split(batch_size):
            outputs = experiment.forward(model, batch)
            final.append(experiment.predict(outputs))
            if outputs.auxiliary is not None:
                auxiliary.append(experiment.to_ratings(outputs.auxiliary))
            if outputs.slice_weights is not None:
                slices.append(outputs.slice_weights)
            if outputs.attribute_weights is not None:
                matrices.append(outputs.attribute_weights)
    return Attention(
        lesion_ids=samples.lesion_ids,
        attributes=tuple(experiment.tasks),
        final=_array(final),
        auxiliary=_array(auxiliary) if auxiliary else None,
        slices=slice_table(samples, _array(slices)) if slices else None,
        matrices=_array(matrices) if matrices else None,
    )


def _array(parts: Sequence[torch.Tensor]) -> Array:
    return torch.cat(list(parts)).double().cpu().numpy()


def slice_table(samples: Samples, weights: npt.ArrayLike) -> pd.DataFrame:
    """Weights of packed slices as a table, see `Attention.slices`.

    Args:
        samples: Whose slices they are.
        weights: (slice,), of sum 1 in each lesion.

    Raises:
        ValueError: There is not one weight per slice.
    """
    values = np.asarray(weights, dtype=float)
    n = samples.lengths.cpu().numpy()
    if values.shape != (n.sum(),):
        raise ValueError(
            f"weights: shape {values.shape}, expected one for each of {n.sum()} slices"
        )
    lesion, length = np.repeat(np.arange(len(n)), n), np.repeat(n, n)
    number = np.arange(len(values)) - np.repeat(np.cumsum(n) - n, n)
    position = np.where(length > 1, number / np.maximum(length - 1, 1), 0.5)
    return pd.DataFrame(
        {
            "lesion_id": np.array(samples.lesion_ids, dtype=object)[lesion],
            "slice": number,
            "n_slices": length,
            "position": position,
            "weight": values,
            "relative": values * length,
        }
    )


def ends_against_middle(
    slices: pd.DataFrame,
    patients: pd.Series[str],
    *,
    min_slices: int = MIN_SLICES,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Weights of the first and last slices against those between them (4.1, Fig. 5).

    Weights are scaled so that slices of equal importance have 1, as in the paper, which prints
    0.28 for the ends, 1.32 for the others, and 4.7 for their ratio. Means are over slices, not
    over nodules: only so do the printed numbers have the mean of 1 that the scaling gives, at the
    6.46 slices that the nodules of three slices and more have on average in its cohort
    (2/6.46 × 0.28 + 4.46/6.46 × 1.32 = 1.00).

    Args:
        slices: `Attention.slices`.
        patients: lesion_id -> patient.
        min_slices: Nodules with fewer slices are left out; at least 3.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        Rows end, inner (mean relative weights), ratio (inner / end), inner_above_end (share of
        nodules whose inner slices have the higher mean); columns value, low, high, n (nodules),
        n_groups (patients).

    Raises:
        KeyError: A column is missing.
        ValueError: `min_slices` is below 3, a lesion has no patient or weights whose sum is not
            1, no nodule is left, or as in `intervals.bootstrap_over_groups`.
    """
    if min_slices < 3:
        raise ValueError(f"min_slices={min_slices!r}: expected 3 or more, or there is no middle")
    checked = _with_patients(slices, patients)
    long = checked[checked["n_slices"] >= min_slices]
    if long.empty:
        raise ValueError(f"slices: no nodule has {min_slices} slices or more")
    end = (long["slice"] == 0) | (long["slice"] == long["n_slices"] - 1)
    parts = long.assign(end=long["relative"].where(end), inner=long["relative"].where(~end))
    of_lesion = parts.groupby("lesion_id", sort=True)
    sums = (
        of_lesion[["end", "inner"]]
        .sum()
        .assign(n_inner=of_lesion["n_slices"].first() - 2, patient=of_lesion["patient"].first())
    )
    # equal weights differ by rounding
    sums["above"] = sums["inner"] / sums["n_inner"] > sums["end"] / 2 + 1e-6

    def statistics(rows: pd.DataFrame) -> Mapping[str, float]:
        ends = rows["end"].sum() / (2 * len(rows))
        inner = rows["inner"].sum() / rows["n_inner"].sum()
        ratio = inner / ends if ends > 0 else float("nan")
        above = float(rows["above"].mean())
        return {"end": ends, "inner": inner, "ratio": ratio, "inner_above_end": above}

    return _table(
        bootstrap_many_over_groups(
            statistics, sums.reset_index(), n_resamples=n_resamples, seed=seed, undefined="nan"
        )
    )


def position_profile(
    slices: pd.DataFrame,
    patients: pd.Series[str],
    *,
    bins: int = 7,
    min_slices: int = MIN_SLICES,
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """The mean relative weight from the first slice of a nodule to the last.

    Args:
        slices: `Attention.slices`.
        patients: lesion_id -> patient.
        bins: Evenly spaced positions from 0 to 1; each slice counts to the nearest. Of short
            nodules the first slice alone falls into the first bin, of nodules with more than
            `2 * bins - 1` slices its neighbours do, too.
        min_slices: Nodules with fewer slices are left out.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.

    Returns:
        Index position, without the positions that no slice is near to; columns value, low, high,
        n (slices), n_groups (patients).

    Raises:
        KeyError: A column is missing.
        ValueError: `bins` is below 3, or as in `ends_against_middle`.
    """
    if bins < 3:
        raise ValueError(f"bins={bins!r}: expected 3 or more")
    checked = _with_patients(slices, patients)
    long = checked[checked["n_slices"] >= min_slices]
    if long.empty:
        raise ValueError(f"slices: no nodule has {min_slices} slices or more")
    at = np.rint(long["position"] * (bins - 1)).astype(int)
    sums = pd.crosstab(long["lesion_id"], at, long["relative"], aggfunc="sum").fillna(0.0)
    counts = pd.crosstab(long["lesion_id"], at)
    table = sums.add_prefix("sum").join(counts.add_prefix("n"))
    patient = long.groupby("lesion_id")["patient"].first()
    there = [int(k) for k in sums.columns]

    def statistics(rows: pd.DataFrame) -> Mapping[str, float]:
        n = rows[[f"n{k}" for k in there]].sum().to_numpy(dtype=float)
        total = rows[[f"sum{k}" for k in there]].sum().to_numpy(dtype=float)
        means = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
        return dict(zip(map(str, there), means.tolist(), strict=True))

    found = _table(
        bootstrap_many_over_groups(
            statistics,
            table.assign(patient=patient).reset_index(),
            n_resamples=n_resamples,
            seed=seed,
            undefined="nan",
        )
    )
    found.index = pd.Index([k / (bins - 1) for k in there], name="position")
    return found.assign(n=[int(counts[k].sum()) for k in there])


def _with_patients(slices: pd.DataFrame, patients: pd.Series[str]) -> pd.DataFrame:
    check_columns(slices, ["lesion_id", "slice", "n_slices", "position", "weight", "relative"])
    patient = slices["lesion_id"].map(patients)
    if patient.isna().any():
        raise ValueError(
            f"patients has no patient for {slices['lesion_id'][patient.isna()].iloc[0]!r}"
        )
    sums = slices["weight"].groupby(slices["lesion_id"]).sum(skipna=False)
    wrong = ~((sums - 1).abs() < 1e-3)  # NaN is wrong, too
    if wrong.any():
        worst = str(wrong.idxmax())
        raise ValueError(f"slices: the weights of {worst!r} have the sum {sums[worst]:g}, not 1")
    return slices.assign(patient=patient)


def _table(estimates: Mapping[str, Estimate]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "n_groups": e.n_groups}
            for name, e in estimates.items()
        }
    ).T.astype({"n": int, "n_groups": int})
