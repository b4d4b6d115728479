"""What the attention weights of Fu et al. 2021 say (4.1, Fig. 5 and 6).

    seen = Attention.join(describe(f.experiment, f.weights, f.samples) for f in folds)
    ends_against_middle(seen.slices, table["patient"])             # Fig. 5, "4.7 times"
    attention_agreement(seen.matrices, correlations, ATTRIBUTES)   # Fig. 6

A model is described by the lesions that it has not seen. Attention says what a model weighs, not
why it is right. Intervals are from resampling patients, as often and with the seed that `**how`
gives: `n_resamples`, `level` and `seed`. A lesion without a patient is refused with `ValueError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from lesionlab.crops.sampling import Samples
from lesionlab.statistics.correlation import matrix_agreement
from lesionlab.statistics.intervals import Array, Resampling, bootstrap_weights_over_groups
from lesionlab.statistics.scoring import check_columns
from lesionlab.training.devices import resolve
from lesionlab.training.prediction import trained_model

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
        """Put the test parts of several folds of one kind of model together."""
        some = list(parts)
        lesions = tuple(name for part in some for name in part.lesion_ids)
        if not some or len(set(lesions)) < len(lesions):
            raise ValueError(f"parts: expected lesions, each once, got {len(lesions)}")

        def joined(name: str) -> Any:
            found = [getattr(part, name) for part in some]
            if found[0] is None:
                return None
            return (
                pd.concat(found, ignore_index=True) if name == "slices" else np.concatenate(found)
            )

        arrays = {name: joined(name) for name in ("final", "auxiliary", "slices", "matrices")}
        return Attention(lesion_ids=lesions, attributes=some[0].attributes, **arrays)


def describe(
    experiment: Any,
    weights: Mapping[str, torch.Tensor],
    samples: Samples,
    *,
    batch_size: int = 32,
    device: str = "auto",
) -> Attention:
    """Run a model over lesions and keep its attention with its scores.

    Args:
        experiment: The `Fu2021` that makes the model.
        weights: The model's: `checkpoints.load_weights(folder)`, `studies.Trained.weights`.
        samples: Normalised as those of the training were.
        batch_size: Lesions at once.
        device: As in `lesionlab.training.prediction.predict`.
    """
    place = resolve(device)
    model = trained_model(experiment, weights).to(place)
    parts: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for batch in samples.to(place).split(batch_size):
            outputs = experiment.forward(model, batch)
            auxiliary = outputs.auxiliary
            found = {
                "final": experiment.predict(outputs),
                "auxiliary": None if auxiliary is None else experiment.to_ratings(auxiliary),
                "slices": outputs.slice_weights,
                "matrices": outputs.attribute_weights,
            }
            for name, value in found.items():
                if value is not None:
                    parts.setdefault(name, []).append(value)
    arrays = {name: torch.cat(some).double().cpu().numpy() for name, some in parts.items()}
    return Attention(
        lesion_ids=samples.lesion_ids,
        attributes=tuple(target.name for target in experiment.targets),
        final=arrays["final"],
        auxiliary=arrays.get("auxiliary"),
        slices=slice_table(samples, arrays["slices"]) if "slices" in arrays else None,
        matrices=arrays.get("matrices"),
    )


def slice_table(samples: Samples, weights: npt.ArrayLike) -> pd.DataFrame:
    """Weights of packed slices, (slice,) with the sum 1 in each lesion, as `Attention.slices`."""
    values = np.asarray(weights, dtype=float)
    n = samples.lengths.cpu().numpy()
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
    slices: pd.DataFrame, patients: pd.Series[str], **how: Unpack[Resampling]
) -> pd.DataFrame:
    """Weights of the first and last slices against those between them (4.1, Fig. 5).

    Weights are scaled so that slices of equal importance have 1, as in the paper, which prints
    0.28 for the ends, 1.32 for the others, and 4.7 for their ratio. Means are over slices, not
    over nodules: only so do the printed numbers have the mean of 1 that the scaling gives, at the
    6.46 slices that the nodules of three slices and more have on average in its cohort
    (2/6.46 × 0.28 + 4.46/6.46 × 1.32 = 1.00). Nodules with fewer slices are left out.

    Returns:
        Rows end, inner (mean relative weights), ratio (inner / end), inner_above_end (share of
        nodules whose inner slices have the higher mean); columns value, low, high, n (nodules),
        n_groups (patients).
    """
    long = _long(slices, patients)
    at_end = (long["slice"] == 0) | (long["slice"] == long["n_slices"] - 1)
    parts = long.assign(end=long["relative"].where(at_end), inner=long["relative"].where(~at_end))
    of_lesion = parts.groupby("lesion_id", sort=True)
    sums = of_lesion[["end", "inner"]].sum()
    n_inner = (of_lesion["n_slices"].first() - 2).to_numpy(dtype=float)
    end, inner = (sums[name].to_numpy(dtype=float) for name in ("end", "inner"))
    above = inner / n_inner > end / 2 + 1e-6  # equal weights differ by rounding

    def statistics(weights: Array) -> dict[str, Array]:
        ends = weights @ end / (2 * weights.sum(1))
        inners = weights @ inner / (weights @ n_inner)
        ratio = np.divide(inners, ends, out=np.full_like(ends, np.nan), where=ends > 0)
        share = weights @ above / weights.sum(1)
        return {"end": ends, "inner": inners, "ratio": ratio, "inner_above_end": share}

    return _intervals(statistics, of_lesion["patient"].first(), how)


def position_profile(
    slices: pd.DataFrame, patients: pd.Series[str], *, bins: int = 7, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """The mean relative weight from the first slice of a nodule to the last.

    Each slice counts to the nearest of `bins` positions, evenly spaced from 0 to 1. Of short
    nodules the first slice alone falls into the first bin, of nodules with more than
    `2 * bins - 1` slices its neighbours do, too. 1,000 resamples by default.

    Returns:
        Index position, without the positions that no slice is near to; columns value, low, high,
        n (slices), n_groups (patients).
    """
    long = _long(slices, patients)
    at = np.rint(long["position"] * (bins - 1)).astype(int)
    sums = pd.crosstab(long["lesion_id"], at, long["relative"], aggfunc="sum").fillna(0.0)
    counts = pd.crosstab(long["lesion_id"], at)
    of_lesion, total = sums.to_numpy(dtype=float), counts.to_numpy(dtype=float)

    def statistics(weights: Array) -> dict[str, Array]:
        n = weights @ total
        means = np.divide(weights @ of_lesion, n, out=np.full_like(n, np.nan), where=n > 0)
        return {str(k): means[:, i] for i, k in enumerate(sums.columns)}

    patient = long.groupby("lesion_id")["patient"].first()
    found = _intervals(statistics, patient, {"n_resamples": 1000, **how})
    found.index = pd.Index(sums.columns.to_numpy() / (bins - 1), name="position")
    return found.assign(n=counts.sum().to_numpy())


def _long(slices: pd.DataFrame, patients: pd.Series[str]) -> pd.DataFrame:
    """Slices of the nodules with so many of them that they have a middle, with their patient."""
    check_columns(slices, ["lesion_id", "slice", "n_slices", "position", "relative"])
    patient = slices["lesion_id"].map(patients)
    if patient.isna().any():
        raise ValueError(f"patients: none for {slices['lesion_id'][patient.isna()].iloc[0]!r}")
    long = slices.assign(patient=patient)[slices["n_slices"] >= MIN_SLICES]
    if long.empty:
        raise ValueError(f"slices: no nodule has {MIN_SLICES} slices or more")
    return long


def _intervals(statistics: Any, patients: pd.Series[str], how: Resampling) -> pd.DataFrame:
    found = bootstrap_weights_over_groups(statistics, patients, **how)
    ends = ("value", "low", "high", "n", "n_groups")
    rows = {name: {end: getattr(e, end) for end in ends} for name, e in found.items()}
    return pd.DataFrame(rows).T.astype({"n": int, "n_groups": int})


def mean_weights(matrices: Array, attributes: Sequence[str]) -> pd.DataFrame:
    """The weight of each attribute for each, as magnitudes with rows of sum 1 (Fig. 6b, c).

    The mean over lesions is taken first, and then each row is normalised: "normalised mean CAAM
    weights". So weights of different signs cancel out. Row t, column k: "the weight of attribute
    j for attribute i".
    """
    magnitude = np.abs(_matrices(matrices, attributes).mean(axis=0))
    total = magnitude.sum(axis=-1, keepdims=True)
    shares = np.divide(magnitude, total, out=np.full_like(magnitude, np.nan), where=total > 0)
    return _square(shares, attributes)


def profile_correlations(matrices: Array, attributes: Sequence[str]) -> pd.DataFrame:
    """How alike two attributes' weights are: their correlation per nodule, averaged (Fig. 6d, e).

    The paper shows "normalised mean correlations" without a formula; here they are the mean of
    Pearson's r over the nodules. A nodule counts for the pairs in which neither attribute has the
    same weight for all; NaN where no nodule does.
    """
    values = _matrices(matrices, attributes)
    centred = values - values.mean(axis=-1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=-1, keepdims=True))
    flat = length <= 1e-12 * np.abs(values).max(axis=-1, keepdims=True)
    unit = np.divide(centred, length, out=np.full_like(values, np.nan), where=~flat)
    r = np.clip(unit @ unit.transpose(0, 2, 1), -1, 1)  # (lesion, t, t')
    known = np.isfinite(r)
    n, total = known.sum(axis=0), np.where(known, r, 0.0).sum(axis=0)
    mean = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
    return _square(mean, attributes)


def attention_agreement(
    matrices: Array,
    correlations: pd.DataFrame,
    attributes: Sequence[str],
    *,
    n_resamples: int = 9_999,
    seed: int = 0,
) -> pd.DataFrame:
    """How far the attention weights resemble the correlations of the readers' ratings (Fig. 6).

    The paper compares by eye; here by `statistics.correlation.matrix_agreement`, against the
    magnitudes of the readers' correlations that its Fig. 6a shows. The diagonal does not count,
    and the weights are averaged with their transpose, as Mantel's test wants symmetric matrices.
    `n_resamples` are its random relabellings.

    Returns:
        Rows weights (Fig. 6b, c) and profiles (the magnitudes of Fig. 6d, e); columns pearson,
        pearson_p, spearman, spearman_p, n (pairs), n_attributes. An attribute without
        correlations (a constant rating) is left out; `ValueError` if fewer than three are left.
    """
    names = list(attributes)
    readers = correlations.loc[names, names].abs()
    seen = {
        "weights": mean_weights(matrices, names),
        "profiles": profile_correlations(matrices, names).abs(),
    }
    rows = {}
    for what, matrix in seen.items():
        symmetric = (matrix + matrix.T) / 2
        known = [n for n in names if not _undefined(n, readers) and not _undefined(n, symmetric)]
        if len(known) < 3:
            raise ValueError(f"{what}: {len(known)} attributes have correlations, expected 3")
        found = matrix_agreement(
            symmetric.loc[known, known], readers.loc[known, known],
            n_resamples=n_resamples, seed=seed,
        )  # fmt: skip
        rows[what] = found | {"n_attributes": len(known)}
    return pd.DataFrame(rows).T.astype({"n": int, "n_attributes": int})


def _undefined(name: str, matrix: pd.DataFrame) -> bool:
    return bool(matrix.loc[name].drop(name).isna().all())


def _matrices(matrices: Array, attributes: Sequence[str]) -> Array:
    values, k = np.asarray(matrices, dtype=float), len(attributes)
    if values.ndim != 3 or values.shape[1:] != (k, k) or not np.isfinite(values).all():
        raise ValueError(
            f"matrices: shape {values.shape}, expected finite values (lesion, {k}, {k})"
        )
    return values


def _square(values: Array, attributes: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(values, index=list(attributes), columns=list(attributes))
