"""What the attention weights of Fu et al. 2021 say (4.1, Fig. 5 and 6).

    seen = describe(studies.trained(plan))
    ends_against_middle(seen.slices, table["patient"])             # Fig. 5, "4.7 times"
    attention_agreement(seen.matrices, correlations, ATTRIBUTES)   # Fig. 6

A model is described by the lesions that it has not seen. Attention says what a model weighs, not
why it is right. Intervals are from resampling patients, as often and with the seed that `**how`
gives: `n_resamples`, `level` and `seed`. A lesion without a patient is refused with `ValueError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from lesionlab.papers._shared import intervals, patients_of, ratios
from lesionlab.statistics.correlation import matrix_agreement
from lesionlab.statistics.intervals import Array, Resampling
from lesionlab.statistics.scoring import check_columns
from lesionlab.training.devices import resolve

if TYPE_CHECKING:
    from lesionlab.papers.fu2021.model import Branches, Network
    from lesionlab.training.studies import Trained

MIN_SLICES = 3
"""The paper compares ends with the rest in stacks of at least so many slices (4.1)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention:
    """What a model says of some lesions, and what it looked at; None where it has no such part.

    Attributes:
        final: (lesion, attribute), in rating steps; a class as the probability of 1.
        auxiliary: The same of the auxiliary heads (ASCMM).
        slices: One row per slice: lesion_id, slice (counted from 0 among the lesion's slices),
            n_slices, position (0 the first, 1 the last, 0.5 the only one), weight (of sum 1 per
            lesion), relative (weight × n_slices, 1 where all are equal).
        matrices: (lesion, attribute t, attribute k), weight of k for t as in eq. 5, any sign.
    """

    lesion_ids: tuple[str, ...]
    attributes: tuple[str, ...]
    final: Array
    auxiliary: Array | None
    slices: pd.DataFrame | None
    matrices: Array | None


def describe(folds: Iterable[Trained], *, batch_size: int = 32, device: str = "auto") -> Attention:
    """Run the models of one variant, from `studies.trained`, over their test lesions."""
    place = resolve(device)
    lesion_ids: tuple[str, ...] = ()
    parts: dict[str, list[torch.Tensor]] = {}
    for fold in folds:
        experiment: Any = fold.experiment  # a `Fu2021`
        if several := set(lesion_ids).intersection(fold.samples.lesion_ids):
            raise ValueError(f"folds: expected different lesions, got {min(several)!r} in several")
        lesion_ids += fold.samples.lesion_ids
        model = fold.model().to(place)
        for batch in fold.samples.to(place).split(batch_size):
            with torch.no_grad():
                outputs = experiment.forward(model, batch)
            auxiliary = outputs.auxiliary
            found = {
                "final": experiment.predict(outputs),
                "auxiliary": None if auxiliary is None else experiment.to_ratings(auxiliary),
                "slices": outputs.slice_weights,
                "matrices": outputs.attribute_weights,
                "lengths": batch.lengths,
            }
            for name, value in found.items():
                if value is not None:
                    parts.setdefault(name, []).append(value)
    if not lesion_ids:
        raise ValueError("folds: expected one or more, got none")
    arrays: dict[str, Any] = {
        name: torch.cat(values).double().cpu().numpy() for name, values in parts.items()
    }
    lengths, weights = arrays["lengths"].astype(int), arrays.get("slices")
    return Attention(
        lesion_ids=lesion_ids,
        attributes=tuple(target.name for target in experiment.targets),
        final=arrays["final"],
        auxiliary=arrays.get("auxiliary"),
        slices=None if weights is None else slice_table(lesion_ids, lengths, weights),
        matrices=arrays.get("matrices"),
    )


def slice_table(
    lesion_ids: Sequence[str], lengths: npt.ArrayLike, weights: npt.ArrayLike
) -> pd.DataFrame:
    """Weights of packed slices, (slice,) with the sum 1 in each lesion, as `Attention.slices`."""
    n = np.asarray(lengths)
    table = pd.DataFrame({"lesion_id": np.repeat(np.array(lesion_ids, dtype=object), n)})
    table["slice"] = np.concatenate([np.arange(k) for k in n])
    table["n_slices"] = np.repeat(n, n)
    last = table["n_slices"] - 1
    table["position"] = (table["slice"] / last.clip(lower=1)).where(last > 0, 0.5)
    table["weight"] = np.asarray(weights, dtype=float)
    table["relative"] = table["weight"] * table["n_slices"]
    return table


def ends_against_middle(
    slices: pd.DataFrame, patients: pd.Series[str], **how: Unpack[Resampling]
) -> pd.DataFrame:
    """Weights of the first and last slices against those between them (4.1, Fig. 5).

    Weights are scaled so that slices of equal importance have 1, as in the paper, which prints
    0.28 for the ends, 1.32 for the others, and 4.7 for their ratio. Means are over slices, not
    over nodules: only so do the printed numbers have the mean of 1 that the scaling gives
    (2/6.46 × 0.28 + 4.46/6.46 × 1.32 = 1.00, at 6.46 slices a nodule). Nodules of fewer than three
    slices are left out.

    Returns:
        Rows end, inner (mean relative weights), ratio (inner / end), inner_above_end (share of
        nodules whose inner slices have the higher mean); columns value, low, high, n (nodules),
        n_groups (patients).
    """
    long = _long(slices, patients)
    at_end = (long["slice"] == 0) | (long["slice"] == long["n_slices"] - 1)
    parts = long.assign(end=long["relative"].where(at_end), inner=long["relative"].where(~at_end))
    of_lesion = parts.groupby("lesion_id")
    end, inner = of_lesion[["end", "inner"]].sum().to_numpy().T
    n_inner = of_lesion["n_slices"].first().to_numpy() - 2.0
    above = inner / n_inner > end / 2 + 1e-6  # equal weights differ by rounding

    def statistics(weights: Array) -> dict[str, Array]:
        ends = weights @ end / (2 * weights.sum(1))
        inners = weights @ inner / (weights @ n_inner)
        ratio = np.divide(inners, ends, out=np.full_like(ends, np.nan), where=ends > 0)
        share = weights @ above / weights.sum(1)
        return {"end": ends, "inner": inners, "ratio": ratio, "inner_above_end": share}

    return intervals(statistics, of_lesion["patient"].first(), **how)


def position_profile(
    slices: pd.DataFrame, patients: pd.Series[str], *, bins: int = 7, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """The mean relative weight from the first slice of a nodule to the last.

    Each slice counts to the nearest of `bins` positions, evenly spaced from 0 to 1. 1,000
    resamples by default.

    Returns:
        Index position, without the positions that no slice is near to; columns value, low, high,
        n (slices), n_groups (patients).
    """
    long = _long(slices, patients)
    at = np.rint(long["position"] * (bins - 1)).astype(int)
    sums = pd.crosstab(long["lesion_id"], at, long["relative"], aggfunc="sum").fillna(0.0)
    counts = pd.crosstab(long["lesion_id"], at)
    patient = long.groupby("lesion_id")["patient"].first()
    found = ratios(sums, counts, patient, **(Resampling(n_resamples=1000) | how))
    found.index = pd.Index(sums.columns / (bins - 1), name="position")
    return found.assign(n=counts.sum().to_numpy())


def _long(slices: pd.DataFrame, patients: pd.Series[str]) -> pd.DataFrame:
    """Slices of the nodules with so many of them that they have a middle, with their patient."""
    check_columns(slices, ["lesion_id", "slice", "n_slices", "position", "relative"])
    patient = patients_of(slices["lesion_id"], patients).to_numpy()
    long = slices.assign(patient=patient)[slices["n_slices"] >= MIN_SLICES]
    if long.empty:
        raise ValueError(f"slices: no nodule has {MIN_SLICES} slices or more")
    return long


def mean_weights(matrices: Array, attributes: Sequence[str]) -> pd.DataFrame:
    """The weight of each attribute k (column) for each t (row), rows of sum 1 (Fig. 6b, c).

    The mean over the lesions of `matrices`, (lesion, t, k), is taken first, and then each row of
    magnitudes is normalised: "normalised mean CAAM weights". So different signs cancel out.
    """
    magnitude = np.abs(matrices.mean(axis=0))
    total = magnitude.sum(axis=-1, keepdims=True)
    shares = np.divide(magnitude, total, out=np.full_like(magnitude, np.nan), where=total > 0)
    return pd.DataFrame(shares, index=list(attributes), columns=list(attributes))


def profile_correlations(matrices: Array, attributes: Sequence[str]) -> pd.DataFrame:
    """How alike two attributes' weights are: Pearson's r per nodule, averaged (Fig. 6d, e).

    The paper shows "normalised mean correlations" without a formula. A nodule counts for the pairs
    in which neither attribute has the same weight for all; NaN where no nodule does.
    """
    centred = matrices - matrices.mean(axis=-1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=-1, keepdims=True))
    flat = length <= 1e-12 * np.abs(matrices).max(axis=-1, keepdims=True)
    unit = np.divide(centred, length, out=np.full_like(centred, np.nan), where=~flat)
    r = np.clip(unit @ unit.transpose(0, 2, 1), -1, 1)  # (lesion, t, t')
    n = np.isfinite(r).sum(axis=0)
    mean = np.divide(np.nansum(r, axis=0), n, out=np.full(n.shape, np.nan), where=n > 0)
    return pd.DataFrame(mean, index=list(attributes), columns=list(attributes))


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
    compared = {
        "weights": mean_weights(matrices, names),
        "profiles": profile_correlations(matrices, names).abs(),
    }
    rows = {}
    for what, matrix in compared.items():
        symmetric = (matrix + matrix.T) / 2
        both = (readers + symmetric).mask(np.eye(len(names), dtype=bool))
        known = both.index[both.notna().any(axis=1)]
        if len(known) < 3:
            raise ValueError(f"{what}: {len(known)} attributes have correlations, expected 3")
        found = matrix_agreement(
            symmetric.loc[known, known], readers.loc[known, known],
            n_resamples=n_resamples, seed=seed,
        )  # fmt: skip
        rows[what] = found | {"n_attributes": len(known)}
    return pd.DataFrame.from_dict(rows, orient="index")


class LiveHead(nn.Module):
    """What comes after the feature maps of one nodule, with Grad-CAM of every score.

    A page runs it where there is no gradient. So the chain rule is written out, from the scores
    back through eq. 6 to 1. The model needs all three modules. `to_ratings` is `Fu2021`'s.
    """

    def __init__(
        self, network: Network, size: int, to_ratings: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        super().__init__()
        self.network, self.size, self.to_ratings = network, size, to_ratings

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """From (slice, 256, y, x) to ratings, maps, slice weights and the weights q of eq. 5.

        Ratings are (attribute,), maps (attribute, slice, size, size).
        """
        net: Any = self.network
        x = maps.flatten(2).mean(2)  # (slice, 256)
        hidden = net.slices.w0(x).relu()
        alpha = net.slices.w1(hidden).squeeze(1).softmax(0)  # eq. 1 and 2, of one nodule
        content = alpha @ x
        vectors = net.modulation.specialise(content[None])  # (k, 256)
        mixtures, q = (of[0] for of in net.attention(vectors[None]))  # (t, 256), (t, k)
        scores = net.heads(mixtures[None])[0]
        of_mixture = _slope(net.heads.first, net.heads.last, mixtures[:, None])[:, 0]
        of_mixture = (scores * (1 - scores))[:, None] * of_mixture  # (t, 256), the sigmoid's, too
        # a vector counts by its weight (eq. 6), and through the weight that it is given (eq. 5)
        given = _slope(net.attention.w0, net.attention.w1, vectors.expand(len(q), -1, -1))
        given = (of_mixture @ vectors.T)[..., None] * given
        of_vectors = q[..., None] * of_mixture[:, None] + given  # (t, k, 256)
        of_content = torch.einsum("tko,koi->ti", of_vectors, net.modulation.specialise.weight)
        # so does a slice (eq. 3, and 1 with 2)
        given = (hidden > 0) * net.slices.w1.weight @ net.slices.w0.weight  # (slice, 256)
        given = (of_content @ (x - content).T)[..., None] * given
        of_slices = alpha[:, None] * (of_content[:, None] + given)  # (t, slice, 256)
        places = maps.shape[2] * maps.shape[3]  # whose mean is x
        cam = torch.einsum("tsc,scyx->tsyx", of_slices / places, maps).relu()
        cam = functional.interpolate(cam, size=(self.size, self.size), mode="bilinear")
        return self.to_ratings(scores), cam, alpha, q


def _slope(first: Branches, last: Branches, vectors: torch.Tensor) -> torch.Tensor:
    """The gradient of two layers with a ReLU between them, at (t, vector, 256)."""
    bias = cast(torch.Tensor, first.bias)[:, None]
    hidden = torch.einsum("tki,toi->tko", vectors, first.weight) + bias
    return (hidden > 0) * last.weight @ first.weight
