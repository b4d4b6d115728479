"""How much of the readers' agreement is more than chance: kappa, Krippendorff's alpha, ICC.

A mean difference between readers is small when everybody says the same of every nodule,
as for internal structure, although the readings then tell no nodule from another. The
three measures here compare the disagreement within nodules with the one between them.

Readers are anonymous and differ from nodule to nodule, nodules with a single reading are
left out, and a missing rating (NaN) is left out for its attribute alone. Arguments, counts and
errors are those of `agreement`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from lesionlab.attributes import LIDC_RATINGS, RATING_NAMES
from lesionlab.statistics.agreement import Ratings, per_attribute

Level = Literal["nominal", "ordinal", "interval"]


def weighted_kappa(
    readings: pd.DataFrame,
    attributes: Sequence[str] = RATING_NAMES,
    *,
    weights: Literal["linear", "quadratic"] | None = "linear",
) -> pd.DataFrame:
    """Cohen's kappa over all reader pairs, each counted in both orders.

    Kappa is 1 - (observed disagreement) / (disagreement expected from the margins). Since
    nobody knows who is reader 1, each pair enters as (a, b) and as (b, a), which makes both
    margins the same.

    Args:
        readings: As in `agreement`; whole numbers.
        attributes: Columns of ratings.
        weights: How a disagreement of d steps counts: d (`linear`), d^2 (`quadratic`), or all
            alike (None), which is the one for nominal attributes.

    Returns:
        Index attribute; columns value, n_pairs, n_nodules, n_missing. The value is NaN when all
        ratings in pairs are the same, since nothing could disagree.
    """
    from sklearn.metrics import cohen_kappa_score

    if weights not in ("linear", "quadratic", None):
        raise ValueError(f"weights must be 'linear', 'quadratic' or None, got {weights!r}")

    def row(ratings: Ratings) -> dict[str, Any]:
        _, first, second = ratings.pairs()
        a, b = np.concatenate([first, second]), np.concatenate([second, first])
        value = float("nan")
        if len(a) and np.ptp(a) > 0:
            if (a % 1 != 0).any():
                raise ValueError(
                    f"kappa of {ratings.attribute!r} needs whole numbers, got {a[a % 1 != 0][0]}"
                )
            # the whole range, since scikit-learn counts steps by position among the labels:
            # without an unused 3 it would take 2 and 4 for neighbours
            steps = np.arange(int(a.min()), int(a.max()) + 1)
            value = float(
                cohen_kappa_score(a.astype(int), b.astype(int), labels=steps, weights=weights)
            )
        return {"value": value, "n_pairs": len(first)}

    return per_attribute(readings, attributes, row)


def krippendorff_alpha(
    readings: pd.DataFrame,
    attributes: Sequence[str] = RATING_NAMES,
    *,
    level: Level | Mapping[str, Level] | None = None,
) -> pd.DataFrame:
    r"""Krippendorff's alpha, which takes any number of readers per nodule.

    Alpha is 1 - D_o / D_e: the disagreement found within nodules over the one expected if all
    ratings were dealt out at random. With n_uc the number of readers who gave nodule u the
    value c, m_u its readers, n_c and n the sums over nodules, and d2 the squared distance of
    two values (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"):

        D_o = sum_u sum_ck n_uc n_uk d2_ck / (m_u - 1),   D_e = sum_ck n_c n_k d2_ck / (n - 1)

    d2 is 1 for unequal values (nominal), (c - k)^2 (interval), or
    (n_c / 2 + [counts of the values between] + n_k / 2)^2 (ordinal).

    Args:
        readings: As in `agreement`.
        attributes: Columns of ratings.
        level: One level of measurement for all, or a mapping for some of the attributes. By
            default nominal for internal structure and calcification, ordinal for the others.

    Returns:
        Index attribute; columns value, level, n_readings, n_nodules, n_missing. The value is NaN
        when all ratings are the same.
    """
    nominal = {a.name for a in LIDC_RATINGS if a.kind == "nominal"}
    levels: dict[str, Level] = {a: "nominal" if a in nominal else "ordinal" for a in attributes}
    if level is not None:
        levels |= level if isinstance(level, Mapping) else dict.fromkeys(attributes, level)
    for name, given in levels.items():
        if given not in ("nominal", "ordinal", "interval"):
            raise ValueError(
                f"level of {name!r} must be 'nominal', 'ordinal' or 'interval', got {given!r}"
            )

    def row(ratings: Ratings) -> dict[str, Any]:
        chosen = levels[ratings.attribute]
        # nodules by values that occur, n_uc
        counts = pd.crosstab(ratings.nodule, ratings.values)
        domain, n_uc, n_c = counts.columns.to_numpy(), counts.to_numpy(), counts.sum().to_numpy()
        value = float("nan")
        if len(domain) > 1:
            d2 = _squared_distance(domain, n_c, chosen)
            within = np.einsum("uc,ck,uk->u", n_uc, d2, n_uc)
            observed = (within / (n_uc.sum(axis=1) - 1)).sum()
            expected = n_c @ d2 @ n_c / (n_c.sum() - 1)
            value = float(1 - observed / expected)
        return {"value": value, "level": chosen, "n_readings": len(ratings.values)}

    return per_attribute(readings, attributes, row)


def icc(
    readings: pd.DataFrame,
    attributes: Sequence[str] = RATING_NAMES,
    *,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Intraclass correlation ICC(1,1): the share of variance that is between nodules.

    One-way random effects, the only model for readers without identity (Shrout and Fleiss
    1979, case 1). With n nodules of k_i readers, N readings, and the mean squares between and
    within nodules of a one-way analysis of variance:

        ICC = (MSB - MSW) / (MSB + (k0 - 1) MSW),   k0 = (N - sum k_i^2 / N) / (n - 1)

    The interval divides F = MSB / MSW by quantiles of its distribution with n - 1 and N - n
    degrees of freedom: low = (F / F_upper - 1) / (F / F_upper + k0 - 1), and high likewise. It
    is exact for normal ratings and equal k_i, and an approximation for unequal ones.

    Args:
        readings: As in `agreement`.
        attributes: Columns of ratings; ratings are treated as numbers, so that it means little
            for nominal ones.
        confidence: Nominal coverage of the interval, inside (0, 1).

    Returns:
        Index attribute; columns value, low, high, k0, n_readings, n_nodules, n_missing. NaN with
        fewer than two nodules or when all ratings are the same.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be inside (0, 1), got {confidence}")

    def row(ratings: Ratings) -> dict[str, Any]:
        n, total = ratings.n_nodules, len(ratings.values)
        value = low = high = k0 = float("nan")
        if n >= 2 and np.ptp(ratings.values) > 0:
            k = np.bincount(ratings.nodule)
            means = np.bincount(ratings.nodule, weights=ratings.values) / k
            between = (k * (means - ratings.values.mean()) ** 2).sum() / (n - 1)
            within = ((ratings.values - means[ratings.nodule]) ** 2).sum() / (total - n)
            k0 = float((total - (k**2).sum() / total) / (n - 1))
            f = between / within if within > 0 else np.inf
            tail = (1 - confidence) / 2
            ends = stats.f.isf([tail, 1 - tail], n - 1, total - n)
            value, low, high = (
                1.0 if np.isinf(x) else float((x - 1) / (x + k0 - 1))
                for x in (f, f / ends[0], f / ends[1])
            )
        return {"value": value, "low": low, "high": high, "k0": k0, "n_readings": total}

    return per_attribute(readings, attributes, row)


def _squared_distance(
    domain: NDArray[np.float64], of_value: NDArray[np.int64], level: Level
) -> NDArray[np.float64]:
    if level == "nominal":
        return 1 - np.eye(len(domain))
    # between two values lie half of the ratings at each end and all in the middle, which is
    # the distance of their mid-ranks
    place = domain if level == "interval" else np.cumsum(of_value) - of_value / 2
    squared: NDArray[np.float64] = (place[:, None] - place) ** 2
    return squared
